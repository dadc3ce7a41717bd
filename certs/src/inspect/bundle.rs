//! A trust bundle: its authorities, each with its rules.

use std::time::{Duration, SystemTime};

use rustls_pki_types::CertificateDer;
use wayleave_identity::TrustDomain;

use super::{CertificateReport, Check, Place};
use crate::bundle::JwksError;
use crate::bundle::jwks::{self, Unchecked};
use crate::profile;

/// The bundle of one trust domain as it was found.
#[derive(Debug, Clone)]
pub struct BundleReport {
    /// Whose it is: as was said, or as its authorities say.
    pub trust_domain: Option<TrustDomain>,
    /// The publisher's sequence number.
    pub sequence: Option<u64>,
    /// How soon the publisher wants it to be fetched again.
    pub refresh_hint: Option<Duration>,
    /// The authorities.
    pub authorities: Vec<CertificateReport>,
    /// The rules for the whole of it.
    pub checks: Vec<Check>,
}

impl BundleReport {
    /// Looks at authorities. Without `trust_domain` they must agree on the one that the first
    /// of them names.
    #[must_use]
    pub fn new(
        certificates: &[CertificateDer<'_>],
        trust_domain: Option<TrustDomain>,
        now: SystemTime,
    ) -> Self {
        let trust_domain = trust_domain.or_else(|| certificates.iter().find_map(named));
        let authorities = (1..).zip(certificates).map(|(position, der)| {
            CertificateReport::new(der, Place::Authority(position), trust_domain.as_ref(), now)
        });
        Self {
            authorities: authorities.collect(),
            trust_domain,
            sequence: None,
            refresh_hint: None,
            checks: Vec::new(),
        }
    }

    /// Looks at a JWK set, or at the map form with several.
    #[must_use]
    pub fn of_jwks(text: &[u8], trust_domain: Option<&TrustDomain>, now: SystemTime) -> Vec<Self> {
        const RULE: &str = "is in the SPIFFE bundle format";
        const SECTION: &str = "SPIFFE Trust Domain and Bundle 4";
        let read = |found: Unchecked| {
            let whose = found.trust_domain.or_else(|| trust_domain.cloned());
            let mut report = Self::new(&found.certificates, whose, now);
            report.sequence = found.sequence;
            report.refresh_hint = found.refresh_hint;
            let kept = Check::new(RULE, SECTION, Ok::<_, JwksError>(()));
            report.checks.push(kept);
            report
        };
        match jwks::read_unchecked(text) {
            Ok(found) => found.into_iter().map(read).collect(),
            Err(error) => {
                let mut report = Self::new(&[], trust_domain.cloned(), now);
                report.checks.push(Check::new(RULE, SECTION, Err(error)));
                vec![report]
            }
        }
    }
}

/// The trust domain that an authority names itself.
fn named(der: &CertificateDer<'_>) -> Option<TrustDomain> {
    let certificate = profile::parse(der).ok()?;
    let id = profile::uri_san(&certificate).ok()??;
    Some(id.trust_domain().clone())
}
