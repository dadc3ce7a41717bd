//! One certificate: what it says, and which of its rules it keeps.

use std::fmt;
use std::net::IpAddr;
use std::time::SystemTime;

use wayleave_identity::{SpiffeId, TrustDomain};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::public_key::PublicKey;

use super::Check;
use crate::distinguished_name;
use crate::profile::{self, LEAF_RULES, ProfileError};
use crate::svid::hex;
use crate::verify::sha256;

/// Where a certificate stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The first of a chain: an X509-SVID.
    Leaf,
    /// Further on in a chain, counted from 1.
    Intermediate(usize),
    /// In a trust bundle, counted from 1.
    Authority(usize),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Leaf => f.write_str("leaf"),
            Self::Intermediate(position) => write!(f, "intermediate {position}"),
            Self::Authority(position) => write!(f, "authority {position}"),
        }
    }
}

/// A certificate as it was found.
#[derive(Debug, Clone)]
pub struct CertificateReport {
    /// Where it stands.
    pub place: Place,
    /// What it says; none when it cannot be read.
    pub facts: Option<Facts>,
    /// Every rule for a certificate in this place.
    pub checks: Vec<Check>,
}

/// What a certificate says, believed or not.
#[derive(Debug, Clone)]
pub struct Facts {
    /// The SPIFFE ID, where there is exactly one URI SAN and it is one.
    pub id: Option<SpiffeId>,
    /// All URI SANs as they stand there, escaped.
    pub uris: Vec<String>,
    /// The DNS names among the SANs, escaped.
    pub dns_names: Vec<String>,
    /// The IP addresses among the SANs.
    pub ip_addresses: Vec<IpAddr>,
    /// The subject (RFC 4514).
    pub subject: String,
    /// The issuer (RFC 4514).
    pub issuer: String,
    /// The serial number in lower-case hexadecimal.
    pub serial: String,
    /// The first moment at which it is valid.
    pub not_before: SystemTime,
    /// The last moment at which it is valid.
    pub not_after: SystemTime,
    /// The kind of its key, for example `EC P-256`.
    pub key: String,
    /// The SHA-256 of its DER in lower-case hexadecimal.
    pub sha256: String,
}

impl CertificateReport {
    /// Looks at one certificate. `trust_domain` is the one that a signing certificate must be
    /// of, where it is known.
    #[must_use]
    pub fn new(
        der: &[u8],
        place: Place,
        trust_domain: Option<&TrustDomain>,
        now: SystemTime,
    ) -> Self {
        const RULE: &str = "is one certificate in DER";
        const SECTION: &str = "RFC 5280 4.1";
        match profile::parse(der) {
            Err(error) => Self {
                place,
                facts: None,
                checks: vec![Check::new(RULE, SECTION, Err(error))],
            },
            Ok(certificate) => {
                let mut checks = vec![Check::new(RULE, SECTION, Ok::<_, ProfileError>(()))];
                match place {
                    Place::Leaf => checks.extend(leaf_checks(&certificate)),
                    _ => checks.extend(signing_checks(&certificate, trust_domain)),
                }
                checks.push(time_check(&certificate, now));
                Self {
                    place,
                    facts: Some(Facts::new(der, &certificate)),
                    checks,
                }
            }
        }
    }
}

fn leaf_checks(certificate: &X509Certificate<'_>) -> Vec<Check> {
    let rules = LEAF_RULES.iter();
    told_once(rules.map(|rule| (rule.text, rule.section, (rule.check)(certificate))))
}

/// The rules for a certificate that signs others (X509-SVID §3.2, §4).
fn signing_checks(
    certificate: &X509Certificate<'_>,
    trust_domain: Option<&TrustDomain>,
) -> Vec<Check> {
    let broken = |words: &str| SigningError::Words(words.to_owned());
    let usage = profile::key_usage(certificate);
    let id = profile::uri_san(certificate);
    let is_ca = match profile::is_ca(certificate) {
        Ok(true) => Ok(()),
        Ok(false) => Err(broken(
            "cA is not true, so it cannot sign other certificates",
        )),
        Err(error) => Err(error.into()),
    };
    let can_sign = match &usage {
        Ok(Some(usage)) if usage.value.key_cert_sign() => Ok(()),
        Ok(Some(_)) => Err(broken("KeyUsage lacks keyCertSign")),
        Ok(None) => Err(broken("there is no KeyUsage extension")),
        Err(error) => Err(error.clone().into()),
    };
    let critical = match &usage {
        Ok(Some(usage)) if !usage.critical => Err(broken("KeyUsage is not marked critical")),
        _ => Ok(()),
    };
    let one_uri = id.clone().map(|_| ()).map_err(SigningError::from);
    let no_path = match &id {
        Ok(Some(id)) if !id.is_root() => Err(broken(&format!(
            "`{id}` has a path; that of a signing certificate is the trust domain alone"
        ))),
        _ => Ok(()),
    };
    let own = match (&id, trust_domain) {
        (Ok(Some(id)), Some(own)) if id.trust_domain() != own => {
            Err(broken(&format!("`{id}` is not in trust domain `{own}`")))
        }
        _ => Ok(()),
    };
    told_once(
        [
            ("is a CA (cA is true)", "X509-SVID 4.1", is_ca),
            ("has keyCertSign in KeyUsage", "X509-SVID 4.3", can_sign),
            ("has KeyUsage marked critical", "X509-SVID 4.3", critical),
            ("has no URI SAN but one SPIFFE ID", "X509-SVID 2", one_uri),
            (
                "has a SPIFFE ID without a path, if any",
                "X509-SVID 3.2",
                no_path,
            ),
            ("is of the same trust domain", "X509-SVID 5.1", own),
        ]
        .into_iter(),
    )
}

/// What is wrong with a signing certificate.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
enum SigningError {
    #[error("{0}")]
    Words(String),
    #[error(transparent)]
    Profile(#[from] ProfileError),
}

/// A rule that cannot be looked at because an earlier one is broken ends with the same words;
/// they are told once.
fn told_once<E: fmt::Display + PartialEq>(
    results: impl Iterator<Item = (&'static str, &'static str, Result<(), E>)>,
) -> Vec<Check> {
    let mut told: Vec<E> = Vec::new();
    let check = |(rule, section, result): (_, _, Result<(), E>)| match result {
        Err(error) if told.contains(&error) => {
            Check::not_checked(rule, section, "an earlier rule is broken")
        }
        Err(error) => {
            let check = Check::new(rule, section, Err(&error));
            told.push(error);
            check
        }
        Ok(()) => Check::new(rule, section, Ok::<_, E>(())),
    };
    results.map(check).collect()
}

fn time_check(certificate: &X509Certificate<'_>, now: SystemTime) -> Check {
    let validity = certificate.validity();
    let from = profile::system_time(validity.not_before);
    let until = profile::system_time(validity.not_after);
    let result = match (from.duration_since(now), now.duration_since(until)) {
        (Ok(left), _) if !left.is_zero() => Err(format!(
            "it is only valid in {} s; check the clocks",
            left.as_secs()
        )),
        (_, Ok(ago)) if !ago.is_zero() => Err(format!("it expired {} s ago", ago.as_secs())),
        _ => Ok(()),
    };
    Check::new("is valid now", "RFC 5280 4.1.2.5", result)
}

impl Facts {
    fn new(der: &[u8], certificate: &X509Certificate<'_>) -> Self {
        let names = profile::alternative_names(certificate).unwrap_or_default();
        let uris = names.iter().filter_map(|name| match name {
            GeneralName::URI(uri) => Some(printable(uri)),
            _ => None,
        });
        let dns_names = names.iter().filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(printable(name)),
            _ => None,
        });
        Self {
            id: profile::uri_san(certificate).ok().flatten(),
            uris: uris.collect(),
            dns_names: dns_names.collect(),
            ip_addresses: names.iter().filter_map(ip_address).collect(),
            subject: distinguished_name::to_text(certificate.subject()),
            issuer: distinguished_name::to_text(certificate.issuer()),
            serial: hex(profile::unsigned(certificate.raw_serial())),
            not_before: profile::system_time(certificate.validity().not_before),
            not_after: profile::system_time(certificate.validity().not_after),
            key: key_kind(certificate),
            sha256: hex(&sha256(der)),
        }
    }
}

/// What came from a stranger is shown without its control characters.
fn printable(text: &str) -> String {
    text.escape_debug().to_string()
}

fn ip_address(name: &GeneralName<'_>) -> Option<IpAddr> {
    let GeneralName::IPAddress(bytes) = name else {
        return None;
    };
    let v4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from))
        .ok()
}

fn key_kind(certificate: &X509Certificate<'_>) -> String {
    let key = certificate.public_key();
    let algorithm = key.algorithm.algorithm.to_id_string();
    match (algorithm.as_str(), key.parsed()) {
        ("1.3.101.112", _) => "Ed25519".to_owned(),
        ("2.16.840.1.101.3.4.3.17", _) => "ML-DSA-44".to_owned(),
        ("2.16.840.1.101.3.4.3.18", _) => "ML-DSA-65".to_owned(),
        ("2.16.840.1.101.3.4.3.19", _) => "ML-DSA-87".to_owned(),
        (_, Ok(PublicKey::RSA(rsa))) => format!("RSA {}", rsa.key_size()),
        (_, Ok(PublicKey::EC(point))) => format!("EC P-{}", point.key_size()),
        _ => algorithm,
    }
}
