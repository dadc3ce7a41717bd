//! The chains that are shown.

use std::time::{Duration, SystemTime};

use anyhow::Result;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

const HOUR: Duration = Duration::from_secs(3_600);

/// Certificates, leaf first.
pub(crate) type Chain = Vec<CertificateDer<'static>>;

/// What signs.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    /// What has to be shown with the certificates that it signs.
    shown: Chain,
}

impl Authority {
    /// A root.
    pub(crate) fn root() -> Result<Self> {
        let (params, key) = (authority("root"), KeyPair::generate()?);
        let certificate = params.self_signed(&key)?.der().clone();
        Ok(Self {
            issuer: Issuer::new(params, key),
            certificate,
            shown: Vec::new(),
        })
    }

    /// An authority below this one.
    pub(crate) fn intermediate(&self) -> Result<Self> {
        let (params, key) = (authority("intermediate"), KeyPair::generate()?);
        let certificate = params.signed_by(&key, &self.issuer)?.der().clone();
        Ok(Self {
            issuer: Issuer::new(params, key),
            shown: vec![certificate.clone()],
            certificate,
        })
    }

    /// Its own certificate.
    pub(crate) fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// The chain of a workload that has these names, until an hour from now.
    pub(crate) fn chain(&self, names: &[&str]) -> Result<Chain> {
        let until = SystemTime::now() + HOUR;
        Ok(self.issue(names, until)?.0)
    }

    /// A chain that was good until a minute ago.
    pub(crate) fn expired(&self, name: &str) -> Result<Chain> {
        let until = SystemTime::now() - Duration::from_secs(60);
        Ok(self.issue(&[name], until)?.0)
    }

    /// A chain with its key.
    pub(crate) fn with_key(&self, name: &str) -> Result<(Chain, PrivateKeyDer<'static>)> {
        self.issue(&[name], SystemTime::now() + HOUR)
    }

    fn issue(&self, names: &[&str], until: SystemTime) -> Result<(Chain, PrivateKeyDer<'static>)> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "cart");
        params.not_before = (until - 2 * HOUR).into();
        params.not_after = until.into();
        for name in names {
            let uri = SanType::URI((*name).try_into()?);
            params.subject_alt_names.push(uri);
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let mut chain = vec![params.signed_by(&key, &self.issuer)?.der().clone()];
        chain.extend_from_slice(&self.shown);
        let key = PrivatePkcs8KeyDer::from(key.serialize_der());
        Ok((chain, key.into()))
    }
}

/// All roots are called the same, so that only the signature tells that another has signed.
fn authority(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}
