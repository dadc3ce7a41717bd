//! Certificates made to order, and a TLS client that shows them.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "each test binary uses a part of this"
)]

pub mod corpus;
pub mod handshake;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use wayleave_certs::tls::crypto_provider;
use wayleave_certs::{Svid, TrustBundle, TrustBundles};
use wayleave_identity::TrustDomain;

pub const HOUR: Duration = Duration::from_secs(3600);

pub fn trust_domain(name: &str) -> TrustDomain {
    name.parse().unwrap()
}

/// PEM sections of one label.
pub fn pem(label: &str, ders: &[&[u8]]) -> String {
    use base64::Engine as _;
    let section = |der: &&[u8]| {
        let body = base64::engine::general_purpose::STANDARD.encode(der);
        format!("-----BEGIN {label}-----\n{body}\n-----END {label}-----\n")
    };
    ders.iter().map(section).collect()
}

/// A root of one trust domain.
pub struct Root {
    pub trust_domain: TrustDomain,
    pub certificate: CertificateDer<'static>,
    pub issuer: Issuer<'static, KeyPair>,
}

impl Root {
    pub fn new(name: &str) -> Self {
        Self::with(name, |_| {})
    }

    /// A root whose parameters are bent before it is signed.
    pub fn with(name: &str, bend: impl FnOnce(&mut CertificateParams)) -> Self {
        Self::with_key(name, KeyPair::generate().unwrap(), bend)
    }

    /// A root with a key of another kind.
    pub fn with_key(name: &str, key: KeyPair, bend: impl FnOnce(&mut CertificateParams)) -> Self {
        let mut params = ca_params(name);
        bend(&mut params);
        let certificate = params.self_signed(&key).unwrap().der().clone();
        Self {
            trust_domain: trust_domain(name),
            certificate,
            issuer: Issuer::new(params, key),
        }
    }

    pub fn bundle(&self) -> TrustBundle {
        TrustBundle::from_der(self.trust_domain.clone(), vec![self.certificate.clone()]).unwrap()
    }

    pub fn bundles(&self) -> TrustBundles {
        [self.bundle()].into_iter().collect()
    }

    /// A leaf that keeps every rule.
    pub fn issue(&self, id: &str) -> Chain {
        self.issue_with(id, |_| {})
    }

    /// A leaf whose parameters are bent before it is signed.
    pub fn issue_with(&self, id: &str, bend: impl FnOnce(&mut CertificateParams)) -> Chain {
        self.issue_for(id, KeyPair::generate().unwrap(), bend)
    }

    /// A leaf for a key of another kind.
    pub fn issue_for(
        &self,
        id: &str,
        key: KeyPair,
        bend: impl FnOnce(&mut CertificateParams),
    ) -> Chain {
        let mut params = leaf_params(id);
        bend(&mut params);
        let leaf = params.signed_by(&key, &self.issuer).unwrap();
        Chain {
            certificates: vec![leaf.der().clone()],
            key,
        }
    }

    /// A list that revokes these serial numbers, in DER; the next is due in `hours`.
    pub fn revoke(&self, serials: &[&[u8]], hours: i64) -> Vec<u8> {
        let now = time::OffsetDateTime::from(SystemTime::now());
        let revoked = |serial: &&[u8]| rcgen::RevokedCertParams {
            serial_number: rcgen::SerialNumber::from_slice(serial),
            revocation_time: now - time::Duration::hours(1),
            reason_code: Some(rcgen::RevocationReason::KeyCompromise),
            invalidity_date: None,
        };
        let params = rcgen::CertificateRevocationListParams {
            this_update: now - time::Duration::hours(48),
            next_update: now + time::Duration::hours(hours),
            crl_number: rcgen::SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: rcgen::KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).unwrap().der().to_vec()
    }

    /// A signing certificate below this root.
    pub fn intermediate_with(&self, bend: impl FnOnce(&mut CertificateParams)) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = ca_params(self.trust_domain.as_str());
        params.distinguished_name = distinguished_name("intermediate");
        bend(&mut params);
        let certificate = params.signed_by(&key, &self.issuer).unwrap().der().clone();
        Self {
            trust_domain: self.trust_domain.clone(),
            certificate,
            issuer: Issuer::new(params, key),
        }
    }
}

/// A chain, leaf first, with the leaf's key.
pub struct Chain {
    pub certificates: Vec<CertificateDer<'static>>,
    pub key: KeyPair,
}

impl Chain {
    pub fn leaf(&self) -> &CertificateDer<'static> {
        &self.certificates[0]
    }

    pub fn below(mut self, intermediate: &Root) -> Self {
        self.certificates.push(intermediate.certificate.clone());
        self
    }

    pub fn key_der(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.serialize_der()).into()
    }

    pub fn svid(&self) -> Svid {
        Svid::from_der(self.certificates.clone(), self.key_der()).unwrap()
    }
}

pub fn distinguished_name(text: &str) -> rcgen::DistinguishedName {
    let mut name = rcgen::DistinguishedName::new();
    name.push(rcgen::DnType::CommonName, text);
    name
}

pub fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

/// Valid from an hour ago for `hours` hours from now; negative is in the past.
pub fn expires_in(params: &mut CertificateParams, hours: i64) {
    let now = time::OffsetDateTime::from(SystemTime::now());
    params.not_before = now - time::Duration::hours(48);
    params.not_after = now + time::Duration::hours(hours);
}

fn ca_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = distinguished_name(&format!("root of {name}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.subject_alt_names = vec![uri(&format!("spiffe://{name}"))];
    expires_in(&mut params, 48);
    params
}

fn leaf_params(id: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = distinguished_name("leaf");
    params.subject_alt_names = vec![uri(id)];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    expires_in(&mut params, 1);
    params
}

/// A client that shows `chain`, or nothing, and accepts any server: it is the one under test.
pub fn client_config(chain: Option<&Chain>) -> ClientConfig {
    let builder = ClientConfig::builder_with_provider(Arc::clone(crypto_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyServer));
    match chain {
        Some(chain) => builder
            .with_client_auth_cert(chain.certificates.clone(), chain.key_der())
            .unwrap(),
        None => builder.with_no_client_auth(),
    }
}

#[derive(Debug)]
struct AnyServer;

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        crypto_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}
