//! Looks at papers without trusting them: which rules they keep, which they break, and where
//! each rule stands.
//!
//! For people who want to know why a handshake fails. Nothing here makes a [`Peer`](crate::Peer)
//! or an [`Svid`]; the rules for a leaf are the very ones that a handshake goes by.

mod bundle;
mod certificate;
mod read;

use std::fmt;
use std::time::SystemTime;

use rustls_pki_types::{CertificateDer, PrivateKeyDer};

pub use bundle::BundleReport;
pub use certificate::{CertificateReport, Facts, Place};
pub use read::{Kind, ReadError, certificates, kind_of};

use crate::verify::VerifyError;
use crate::verify::{self, Role};
use crate::{Svid, SvidError, TrustBundles};

/// A rule, where it stands, and whether it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What whoever keeps the rule does, for example `has exactly one URI SAN`.
    pub rule: &'static str,
    /// The specification and its section.
    pub section: &'static str,
    /// Whether the rule is kept.
    pub outcome: Outcome,
}

/// Whether a rule is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is.
    Kept,
    /// It is not; in words, what is wrong.
    Broken(String),
    /// It could not be looked at; in words, why.
    NotChecked(String),
}

impl Check {
    /// A rule with what a check of it said.
    pub fn new<E: fmt::Display>(
        rule: &'static str,
        section: &'static str,
        result: Result<(), E>,
    ) -> Self {
        let outcome = match result {
            Ok(()) => Outcome::Kept,
            Err(error) => Outcome::Broken(error.to_string()),
        };
        Self {
            rule,
            section,
            outcome,
        }
    }

    /// A rule that could not be looked at.
    pub fn not_checked(rule: &'static str, section: &'static str, why: impl Into<String>) -> Self {
        Self {
            rule,
            section,
            outcome: Outcome::NotChecked(why.into()),
        }
    }

    /// Whether the rule is broken.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        matches!(self.outcome, Outcome::Broken(_))
    }
}

/// The certificates of a chain, leaf first, each with its own rules.
#[must_use]
pub fn chain(chain: &[CertificateDer<'_>], now: SystemTime) -> Vec<CertificateReport> {
    let Some((leaf, intermediates)) = chain.split_first() else {
        return Vec::new();
    };
    let leaf = CertificateReport::new(leaf, Place::Leaf, None, now);
    let id = leaf.facts.as_ref().and_then(|facts| facts.id.clone());
    let trust_domain = id.as_ref().map(|id| id.trust_domain());
    let rest = (1..).zip(intermediates).map(|(position, der)| {
        CertificateReport::new(der, Place::Intermediate(position), trust_domain, now)
    });
    let rest: Vec<_> = rest.collect();
    std::iter::once(leaf).chain(rest).collect()
}

/// Whether a chain leads to an authority in the bundle of the leaf's own trust domain.
///
/// Without `bundles` the rule is not checked.
#[must_use]
pub fn path(
    chain: &[CertificateDer<'_>],
    bundles: Option<&TrustBundles>,
    role: Role,
    now: SystemTime,
) -> Check {
    const RULE: &str = "leads to an authority in the bundle of its own trust domain";
    const SECTION: &str = "X509-SVID 5.1";
    let Some(bundles) = bundles else {
        return Check::not_checked(RULE, SECTION, "no trust bundle was given");
    };
    match verify::verify(chain, bundles, role, now) {
        Err(VerifyError::Profile(_)) => {
            Check::not_checked(RULE, SECTION, "a certificate breaks a rule of its own")
        }
        verified => Check::new(RULE, SECTION, verified.map(|_| ())),
    }
}

/// Whether each certificate of a chain names the next one as its issuer.
#[must_use]
pub fn order(chain: &[CertificateDer<'_>]) -> Check {
    const RULE: &str = "has each certificate followed by its issuer";
    const SECTION: &str = "RFC 5280 6.1";
    let parsed: Result<Vec<_>, _> = chain.iter().map(|der| crate::profile::parse(der)).collect();
    let Ok(parsed) = parsed else {
        return Check::not_checked(RULE, SECTION, "a certificate cannot be read");
    };
    let strangers = (1..).zip(parsed.windows(2)).find(|(_, pair)| match pair {
        [certificate, next] => certificate.issuer().as_raw() != next.subject().as_raw(),
        _ => false,
    });
    let result = match strangers {
        None => Ok(()),
        Some((position, _)) => Err(format!(
            "certificate {} is not the issuer that certificate {position} names",
            position + 1
        )),
    };
    Check::new(RULE, SECTION, result)
}

/// Whether a private key is that of the leaf.
#[must_use]
pub fn key(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Check {
    const RULE: &str = "has the private key that was given";
    const SECTION: &str = "RFC 8446 4.4.3";
    match Svid::from_der(chain, key) {
        Err(SvidError::Profile(_)) => {
            Check::not_checked(RULE, SECTION, "the leaf breaks a rule of the profile")
        }
        svid => Check::new(RULE, SECTION, svid.map(|_| ())),
    }
}
