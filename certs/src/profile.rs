//! The X509-SVID leaf profile (X509-SVID §2 to §5), checked on the DER.
//!
//! rustls-webpki validates the path but accepts a leaf without a URI SAN, with two of them, or
//! without KeyUsage; these rules are ours. Nothing here says that a certificate is trusted.

use std::time::{Duration, SystemTime};

use wayleave_identity::{SpiffeId, SpiffeIdError};
use x509_parser::certificate::{BasicExtension, X509Certificate};
use x509_parser::extensions::{GeneralName, KeyUsage};
use x509_parser::prelude::FromDer;
use x509_parser::time::ASN1Time;

use crate::distinguished_name;

/// The tag of `uniformResourceIdentifier` among the general names (RFC 5280 §4.2.1.6).
const URI_TAG: u32 = 6;

/// What a leaf that keeps the profile says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaf {
    /// The one URI SAN.
    pub id: SpiffeId,
    /// The serial number as in the DER, without the sign octet.
    pub serial: Vec<u8>,
    /// The issuer's name as DER.
    pub issuer: Vec<u8>,
    /// The subject in the form of RFC 4514, for example `CN=cart,O=shop`; printable ASCII.
    pub subject: String,
    /// The first moment at which the certificate is valid.
    pub not_before: SystemTime,
    /// The last moment at which the certificate is valid.
    pub not_after: SystemTime,
}

/// The rule of the X509-SVID profile that a certificate breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProfileError {
    /// The bytes are not one certificate in DER.
    #[error("certificate is not valid DER: {detail}")]
    Malformed {
        /// What the decoder says.
        detail: String,
    },
    /// An extension is malformed or present twice (RFC 5280 §4.2).
    #[error("certificate has a malformed or repeated {extension} extension (RFC 5280 4.2)")]
    BadExtension {
        /// Which extension.
        extension: &'static str,
    },
    /// There is no URI SAN.
    #[error("certificate has no URI SAN; exactly one with the SPIFFE ID is required (X509-SVID 2)")]
    NoUriSan,
    /// There are several URI SANs.
    #[error("certificate has {count} URI SANs; exactly one is allowed (X509-SVID 2)")]
    MultipleUriSans {
        /// How many there are.
        count: usize,
    },
    /// The URI SAN is not a SPIFFE ID.
    #[error("certificate's URI SAN {uri:?} is not a SPIFFE ID: {source}")]
    InvalidSpiffeId {
        /// The URI as it stands in the certificate.
        uri: String,
        /// The rule that it breaks.
        source: SpiffeIdError,
    },
    /// The SPIFFE ID has no path, so it is that of a signing certificate.
    #[error("certificate's SPIFFE ID `{id}` has no path; a leaf names a workload (X509-SVID 5.2)")]
    RootSpiffeId {
        /// The ID.
        id: SpiffeId,
    },
    /// Basic constraints say `cA`.
    #[error(
        "certificate is a CA (cA is true); a signing certificate never authenticates (X509-SVID 4.1)"
    )]
    CaCertificate,
    /// There is no key usage extension.
    #[error("certificate has no KeyUsage extension; it is required (X509-SVID 4.3)")]
    NoKeyUsage,
    /// The key usage extension is not marked critical.
    #[error("certificate's KeyUsage extension is not critical (X509-SVID 4.3)")]
    KeyUsageNotCritical,
    /// The key usage lacks `digitalSignature`.
    #[error("certificate's KeyUsage lacks digitalSignature (X509-SVID 4.3)")]
    NoDigitalSignature,
    /// The key usage has `keyCertSign`.
    #[error("certificate's KeyUsage has keyCertSign; a leaf must not (X509-SVID 4.3)")]
    KeyCertSign,
    /// The key usage has `cRLSign`.
    #[error("certificate's KeyUsage has cRLSign; a leaf must not (X509-SVID 4.3)")]
    CrlSign,
    /// Extended key usage is present and lacks one of the two uses.
    #[error(
        "certificate's ExtendedKeyUsage lacks {missing}; if present it has serverAuth and clientAuth (X509-SVID 4.4)"
    )]
    ExtendedKeyUsage {
        /// The use that is not there.
        missing: &'static str,
    },
}

impl ProfileError {
    /// A stable name of the rule for logs and metrics.
    #[must_use]
    pub fn reason_code(&self) -> &'static str {
        match self {
            Self::Malformed { .. } => "malformed_certificate",
            Self::BadExtension { .. } => "bad_extension",
            Self::NoUriSan => "no_uri_san",
            Self::MultipleUriSans { .. } => "multiple_uri_sans",
            Self::InvalidSpiffeId { .. } => "invalid_spiffe_id",
            Self::RootSpiffeId { .. } => "root_spiffe_id",
            Self::CaCertificate => "ca_certificate",
            Self::NoKeyUsage => "no_key_usage",
            Self::KeyUsageNotCritical => "key_usage_not_critical",
            Self::NoDigitalSignature => "no_digital_signature",
            Self::KeyCertSign => "key_cert_sign",
            Self::CrlSign => "crl_sign",
            Self::ExtendedKeyUsage { .. } => "extended_key_usage",
        }
    }
}

/// One rule of the profile, with the section of the specification where it stands.
pub(crate) struct Rule {
    /// What a certificate that keeps the rule does.
    pub(crate) text: &'static str,
    pub(crate) section: &'static str,
    pub(crate) check: fn(&X509Certificate<'_>) -> Result<(), ProfileError>,
}

const fn rule(
    text: &'static str,
    section: &'static str,
    check: fn(&X509Certificate<'_>) -> Result<(), ProfileError>,
) -> Rule {
    Rule {
        text,
        section,
        check,
    }
}

/// The rules for a leaf, in the order in which they are checked. A handshake and
/// [`inspect`](crate::inspect) go by this one table.
pub(crate) const LEAF_RULES: [Rule; 10] = [
    rule("has exactly one URI SAN", "X509-SVID 2", one_uri_san),
    rule(
        "has a SPIFFE ID as its URI SAN",
        "SPIFFE-ID 2",
        spiffe_id_is_valid,
    ),
    rule(
        "has a SPIFFE ID with a path",
        "X509-SVID 5.2",
        spiffe_id_has_path,
    ),
    rule("is no CA (cA is false)", "X509-SVID 4.1", is_no_ca),
    rule("has KeyUsage", "X509-SVID 4.3", has_key_usage),
    rule(
        "has no keyCertSign in KeyUsage",
        "X509-SVID 4.3",
        no_key_cert_sign,
    ),
    rule("has no cRLSign in KeyUsage", "X509-SVID 4.3", no_crl_sign),
    rule(
        "has KeyUsage marked critical",
        "X509-SVID 4.3",
        key_usage_is_critical,
    ),
    rule(
        "has digitalSignature in KeyUsage",
        "X509-SVID 4.3",
        digital_signature,
    ),
    rule(
        "has serverAuth and clientAuth if it has ExtendedKeyUsage",
        "X509-SVID 4.4",
        extended_key_usage,
    ),
];

impl Leaf {
    /// Reads a leaf certificate and checks every rule of the profile.
    ///
    /// # Errors
    ///
    /// The first rule that the certificate breaks.
    pub fn from_der(der: &[u8]) -> Result<Self, ProfileError> {
        let certificate = parse(der)?;
        for rule in &LEAF_RULES {
            (rule.check)(&certificate)?;
        }
        Ok(Self {
            id: uri_san(&certificate)?.ok_or(ProfileError::NoUriSan)?,
            serial: unsigned(certificate.raw_serial()).to_vec(),
            issuer: certificate.issuer().as_raw().to_vec(),
            subject: distinguished_name::to_text(certificate.subject()),
            not_before: system_time(certificate.validity().not_before),
            not_after: system_time(certificate.validity().not_after),
        })
    }
}

/// Parses exactly one certificate.
pub(crate) fn parse(der: &[u8]) -> Result<X509Certificate<'_>, ProfileError> {
    let malformed = |detail: String| ProfileError::Malformed { detail };
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        Ok((rest, _)) => Err(malformed(format!("{} bytes follow it", rest.len()))),
        Err(error) => Err(malformed(error.to_string())),
    }
}

const SUBJECT_ALT_NAME: ProfileError = ProfileError::BadExtension {
    extension: "SubjectAltName",
};

/// The alternative names; none without the extension.
pub(crate) fn alternative_names<'a>(
    certificate: &'a X509Certificate<'_>,
) -> Result<&'a [GeneralName<'a>], ProfileError> {
    let names = certificate
        .subject_alternative_name()
        .map_err(|_| SUBJECT_ALT_NAME)?;
    Ok(names.map_or(&[][..], |e| &e.value.general_names))
}

/// Exactly one URI SAN (X509-SVID §2).
fn one_uri_san(certificate: &X509Certificate<'_>) -> Result<(), ProfileError> {
    let names = alternative_names(certificate)?;
    match names.iter().filter(|name| is_uri(name)).count() {
        0 => Err(ProfileError::NoUriSan),
        1 => Ok(()),
        count => Err(ProfileError::MultipleUriSans { count }),
    }
}

/// The one URI SAN is a SPIFFE ID (SPIFFE-ID §2).
fn spiffe_id_is_valid(certificate: &X509Certificate<'_>) -> Result<(), ProfileError> {
    match uri_san(certificate)? {
        Some(_) => Ok(()),
        None => Err(ProfileError::NoUriSan),
    }
}

/// The SPIFFE ID is that of a workload (X509-SVID §5.2).
fn spiffe_id_has_path(certificate: &X509Certificate<'_>) -> Result<(), ProfileError> {
    match uri_san(certificate)? {
        Some(id) if id.is_root() => Err(ProfileError::RootSpiffeId { id }),
        Some(_) => Ok(()),
        None => Err(ProfileError::NoUriSan),
    }
}

/// The SPIFFE ID in the URI SAN of any certificate, if it has one; two are an error.
pub(crate) fn uri_san(certificate: &X509Certificate<'_>) -> Result<Option<SpiffeId>, ProfileError> {
    let names = alternative_names(certificate)?;
    let uris = || names.iter().filter(|name| is_uri(name));
    match (uris().next(), uris().count()) {
        (None, _) => Ok(None),
        (Some(GeneralName::URI(uri)), 1) => Ok(Some(parse_id(uri)?)),
        (Some(_), 1) => Err(SUBJECT_ALT_NAME),
        (Some(_), count) => Err(ProfileError::MultipleUriSans { count }),
    }
}

/// A URI that is not text still counts: it must not hide behind its encoding.
fn is_uri(name: &GeneralName<'_>) -> bool {
    match name {
        GeneralName::URI(_) => true,
        GeneralName::Invalid(tag, _) => tag.0 == URI_TAG,
        _ => false,
    }
}

fn parse_id(uri: &str) -> Result<SpiffeId, ProfileError> {
    uri.parse().map_err(|source| ProfileError::InvalidSpiffeId {
        uri: uri.to_owned(),
        source,
    })
}

/// A leaf has `cA` false or no basic constraints at all (X509-SVID §4.1).
fn is_no_ca(certificate: &X509Certificate<'_>) -> Result<(), ProfileError> {
    if is_ca(certificate)? {
        return Err(ProfileError::CaCertificate);
    }
    Ok(())
}

/// Whether basic constraints say `cA`.
pub(crate) fn is_ca(certificate: &X509Certificate<'_>) -> Result<bool, ProfileError> {
    let constraints = certificate
        .basic_constraints()
        .map_err(|_| ProfileError::BadExtension {
            extension: "BasicConstraints",
        })?;
    Ok(constraints.is_some_and(|e| e.value.ca))
}

/// The key usage extension, if present.
pub(crate) fn key_usage<'a>(
    certificate: &'a X509Certificate<'_>,
) -> Result<Option<BasicExtension<&'a KeyUsage>>, ProfileError> {
    certificate
        .key_usage()
        .map_err(|_| ProfileError::BadExtension {
            extension: "KeyUsage",
        })
}

/// Key usage is present (X509-SVID §4.3).
fn has_key_usage(certificate: &X509Certificate<'_>) -> Result<(), ProfileError> {
    present_key_usage(certificate).map(|_| ())
}

fn present_key_usage<'a>(
    certificate: &'a X509Certificate<'_>,
) -> Result<BasicExtension<&'a KeyUsage>, ProfileError> {
    key_usage(certificate)?.ok_or(ProfileError::NoKeyUsage)
}

fn no_key_cert_sign(certificate: &X509Certificate<'_>) -> Result<(), ProfileError> {
    match key_usage(certificate)? {
        Some(usage) if usage.value.key_cert_sign() => Err(ProfileError::KeyCertSign),
        _ => Ok(()),
    }
}

fn no_crl_sign(certificate: &X509Certificate<'_>) -> Result<(), ProfileError> {
    match key_usage(certificate)? {
        Some(usage) if usage.value.crl_sign() => Err(ProfileError::CrlSign),
        _ => Ok(()),
    }
}

fn key_usage_is_critical(certificate: &X509Certificate<'_>) -> Result<(), ProfileError> {
    match present_key_usage(certificate)?.critical {
        true => Ok(()),
        false => Err(ProfileError::KeyUsageNotCritical),
    }
}

fn digital_signature(certificate: &X509Certificate<'_>) -> Result<(), ProfileError> {
    match present_key_usage(certificate)?.value.digital_signature() {
        true => Ok(()),
        false => Err(ProfileError::NoDigitalSignature),
    }
}

/// If present, it has both uses (X509-SVID §4.4).
// SECURITY: `anyExtendedKeyUsage` does not stand in for the two: the specification names them.
fn extended_key_usage(certificate: &X509Certificate<'_>) -> Result<(), ProfileError> {
    let usage = certificate
        .extended_key_usage()
        .map_err(|_| ProfileError::BadExtension {
            extension: "ExtendedKeyUsage",
        })?;
    let missing = match usage {
        Some(e) if !e.value.server_auth => "serverAuth",
        Some(e) if !e.value.client_auth => "clientAuth",
        _ => return Ok(()),
    };
    Err(ProfileError::ExtendedKeyUsage { missing })
}

/// Drops the octet that only keeps a DER integer positive.
pub(crate) fn unsigned(serial: &[u8]) -> &[u8] {
    match serial {
        [0, rest @ ..] if !rest.is_empty() => rest,
        _ => serial,
    }
}

/// A moment before 1970 becomes 1970, which is over.
pub(crate) fn system_time(time: ASN1Time) -> SystemTime {
    let seconds = u64::try_from(time.timestamp()).unwrap_or(0);
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}
