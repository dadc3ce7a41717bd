//! A small issuing CA for development and tests (ECDSA P-256).
//!
//! Makes a root for one trust domain and signs X509-SVIDs that keep the profile. It has no
//! revocation, no serial book and no policy: production identities come from SPIRE or
//! cert-manager.

use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, SanType, SerialNumber,
};
use rustls_pki_types::CertificateDer;
use wayleave_identity::{SpiffeId, TrustDomain};

use crate::pem::{self, PemError};
use crate::profile::{self, ProfileError};

/// How far a new certificate reaches back, for clocks that are behind ours.
const BACKDATE: Duration = Duration::from_secs(60);

/// The last second of the year 9999, the latest moment that a certificate can say (RFC 5280
/// §4.1.2.5), since 1970.
const END_OF_TIME: Duration = Duration::from_secs(253_402_300_799);

/// The longest name that a subject may hold (RFC 5280, `ub-common-name`).
const MAX_COMMON_NAME: usize = 64;

/// Signs X509-SVIDs for one trust domain.
pub struct CertificateAuthority {
    trust_domain: TrustDomain,
    certificate: CertificateDer<'static>,
    not_after: SystemTime,
    issuer: Issuer<'static, KeyPair>,
}

/// What to issue.
#[derive(Debug, Clone)]
pub struct SvidRequest {
    /// Whom the SVID names; in the CA's trust domain, and not its root.
    pub id: SpiffeId,
    /// DNS names that go in beside the SPIFFE ID.
    pub dns_names: Vec<String>,
    /// IP addresses that go in beside the SPIFFE ID.
    pub ip_addresses: Vec<IpAddr>,
    /// How long it is valid from now; never beyond the CA's own end.
    pub lifetime: Duration,
}

impl SvidRequest {
    /// An SVID with nothing but its SPIFFE ID.
    #[must_use]
    pub fn new(id: SpiffeId, lifetime: Duration) -> Self {
        Self {
            id,
            dns_names: Vec::new(),
            ip_addresses: Vec::new(),
            lifetime,
        }
    }
}

/// An SVID as it is handed over.
pub struct IssuedSvid {
    /// The certificate in PEM.
    pub certificate_pem: String,
    /// The private key as PKCS#8 in PEM.
    pub key_pem: String,
    /// The last moment at which it is valid.
    pub not_after: SystemTime,
}

/// Why a CA could not be made, read, or asked to issue.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CaError {
    /// The certificate could not be read.
    #[error("the CA certificate cannot be read: {0}")]
    Pem(#[from] PemError),
    /// The certificate is malformed.
    #[error("the CA certificate cannot be used: {0}")]
    Malformed(#[from] ProfileError),
    /// The certificate is not a CA, or not one that says its trust domain.
    #[error("the certificate is not a CA with the SPIFFE ID of a trust domain as its URI SAN")]
    NotCa,
    /// The key is not that of the CA certificate.
    #[error("the CA key does not belong to the CA certificate")]
    KeyMismatch,
    /// The ID is of another trust domain.
    #[error("`{id}` is not in the CA's trust domain `{trust_domain}`")]
    OtherTrustDomain {
        /// What was asked for.
        id: SpiffeId,
        /// What the CA speaks for.
        trust_domain: TrustDomain,
    },
    /// The ID has no path.
    #[error("`{0}` has no path; an SVID names a workload, for example `{0}/ns/default/sa/web`")]
    RootId(SpiffeId),
    /// The CA is over.
    #[error("the CA has expired; make a new one")]
    Expired,
    /// A DNS name or a key could not be used.
    #[error("the certificate could not be made: {0}")]
    Generate(#[from] rcgen::Error),
    /// The moment lies outside of what a certificate can say.
    #[error("the lifetime is too long; a certificate cannot reach beyond the year 9999")]
    Lifetime,
}

impl CertificateAuthority {
    /// Makes a new root for a trust domain, valid from `now` for `lifetime`.
    ///
    /// # Errors
    ///
    /// When the key cannot be made or the lifetime is beyond what a certificate can say.
    pub fn create(
        trust_domain: &TrustDomain,
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<Self, CaError> {
        let key = KeyPair::generate()?;
        let mut params = validity(now, lifetime)?;
        params.distinguished_name = name(trust_domain.as_str(), "Wayleave CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.subject_alt_names = vec![uri_san(&SpiffeId::root_of(trust_domain))?];
        let certificate = params.self_signed(&key)?;
        Self::new(certificate.der().clone(), key)
    }

    /// Reads a CA that [`CertificateAuthority::create`] made.
    ///
    /// # Errors
    ///
    /// When certificate or key cannot be read, do not belong together, or are not a CA.
    pub fn from_pem(certificate: &[u8], key: &str) -> Result<Self, CaError> {
        let mut certificates = pem::certificates(certificate)?;
        Self::new(certificates.swap_remove(0), KeyPair::from_pem(key)?)
    }

    fn new(certificate: CertificateDer<'static>, key: KeyPair) -> Result<Self, CaError> {
        let parsed = profile::parse(&certificate)?;
        let id = profile::uri_san(&parsed)?.ok_or(CaError::NotCa)?;
        if !profile::is_ca(&parsed)? || !id.is_root() {
            return Err(CaError::NotCa);
        }
        if parsed.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
            return Err(CaError::KeyMismatch);
        }
        let not_after = profile::system_time(parsed.validity().not_after);
        let issuer = Issuer::new(issuer_params(&parsed), key);
        Ok(Self {
            trust_domain: id.trust_domain().clone(),
            certificate,
            not_after,
            issuer,
        })
    }

    /// Issues one SVID with a new key.
    ///
    /// # Errors
    ///
    /// When the ID is not a workload of this trust domain, or the CA has expired.
    pub fn issue(&self, request: &SvidRequest, now: SystemTime) -> Result<IssuedSvid, CaError> {
        self.check_id(&request.id)?;
        let left = self
            .not_after
            .duration_since(now)
            .map_err(|_| CaError::Expired)?;
        let lifetime = request.lifetime.min(left);
        let key = KeyPair::generate()?;
        let mut params = validity(now, lifetime)?;
        params.serial_number = Some(random_serial()?);
        params.distinguished_name = name(self.trust_domain.as_str(), last_segment(&request.id));
        params.subject_alt_names = subject_alt_names(request)?;
        // Said outright, as SPIRE does: there are clients that look for it.
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(IssuedSvid {
            certificate_pem: certificate.pem(),
            key_pem: key.serialize_pem(),
            not_after: now + lifetime,
        })
    }

    fn check_id(&self, id: &SpiffeId) -> Result<(), CaError> {
        if id.trust_domain() != &self.trust_domain {
            return Err(CaError::OtherTrustDomain {
                id: id.clone(),
                trust_domain: self.trust_domain.clone(),
            });
        }
        if id.is_root() {
            return Err(CaError::RootId(id.clone()));
        }
        Ok(())
    }

    /// The trust domain that it speaks for.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The last moment at which it is valid.
    #[must_use]
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// The CA certificate in DER.
    #[must_use]
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// The CA certificate in PEM.
    #[must_use]
    pub fn certificate_pem(&self) -> String {
        pem::encode("CERTIFICATE", &self.certificate)
    }

    /// The CA's private key as PKCS#8 in PEM.
    #[must_use]
    pub fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }
}

// SECURITY: written by hand so that the key cannot reach a log.
impl fmt::Debug for CertificateAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CertificateAuthority")
            .field("trust_domain", &self.trust_domain)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for IssuedSvid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IssuedSvid")
            .field("certificate_pem", &self.certificate_pem)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

/// What signing needs to know of an issuer: its name and its key identifier.
fn issuer_params(ca: &x509_parser::certificate::X509Certificate<'_>) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    for (kind, attribute) in [
        (
            DnType::OrganizationName,
            ca.subject().iter_organization().next(),
        ),
        (DnType::CommonName, ca.subject().iter_common_name().next()),
    ] {
        if let Some(text) = attribute.and_then(|a| a.as_str().ok()) {
            params.distinguished_name.push(kind, text);
        }
    }
    for extension in ca.extensions() {
        if let x509_parser::extensions::ParsedExtension::SubjectKeyIdentifier(id) =
            extension.parsed_extension()
        {
            params.key_identifier_method = KeyIdMethod::PreSpecified(id.0.to_vec());
        }
    }
    params
}

fn validity(now: SystemTime, lifetime: Duration) -> Result<CertificateParams, CaError> {
    let mut params = CertificateParams::default();
    let from = now.checked_sub(BACKDATE).ok_or(CaError::Lifetime)?;
    let until = now.checked_add(lifetime).ok_or(CaError::Lifetime)?;
    let end = SystemTime::UNIX_EPOCH + END_OF_TIME;
    if until > end {
        return Err(CaError::Lifetime);
    }
    params.not_before = from.into();
    params.not_after = until.into();
    Ok(params)
}

fn name(organization: &str, common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    if organization.len() <= MAX_COMMON_NAME {
        name.push(DnType::OrganizationName, organization);
    }
    if common_name.len() <= MAX_COMMON_NAME {
        name.push(DnType::CommonName, common_name);
    }
    name
}

fn last_segment(id: &SpiffeId) -> &str {
    id.path().rsplit('/').next().unwrap_or_default()
}

fn uri_san(id: &SpiffeId) -> Result<SanType, CaError> {
    Ok(SanType::URI(id.as_str().try_into()?))
}

fn subject_alt_names(request: &SvidRequest) -> Result<Vec<SanType>, CaError> {
    let mut names = vec![uri_san(&request.id)?];
    for dns in &request.dns_names {
        names.push(SanType::DnsName(dns.as_str().try_into()?));
    }
    names.extend(
        request
            .ip_addresses
            .iter()
            .map(|ip| SanType::IpAddress(*ip)),
    );
    Ok(names)
}

/// 127 random bits, positive and not zero (RFC 5280 §4.1.2.2).
fn random_serial() -> Result<SerialNumber, CaError> {
    let mut serial = [0_u8; 16];
    aws_lc_rs::rand::fill(&mut serial).map_err(|_| rcgen::Error::RingUnspecified)?;
    serial[0] = (serial[0] & 0x7f) | 0x40;
    Ok(SerialNumber::from_slice(&serial))
}
