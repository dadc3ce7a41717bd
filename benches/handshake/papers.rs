//! The certificates of the comparison, and the client that shows them.

use std::io::Write;
use std::sync::Arc;

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ClientConfig, RootCertStore};
use wayleave_certs::tls::crypto_provider;

/// A root, and a chain for each side.
pub(crate) struct Papers {
    pub(crate) root: CertificateDer<'static>,
    pub(crate) server: Chain,
    client: Chain,
}

/// A chain, leaf first, with its key.
pub(crate) struct Chain {
    pub(crate) certificates: Vec<CertificateDer<'static>>,
    key: Vec<u8>,
}

impl Chain {
    pub(crate) fn key(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.clone()).into()
    }
}

impl Papers {
    pub(crate) fn make(intermediate: bool) -> Result<Self> {
        let (root, mut issuer) = ca("root", None)?;
        let mut between = Vec::new();
        if intermediate {
            let (certificate, below) = ca("intermediate", Some(&issuer))?;
            between.push(certificate);
            issuer = below;
        }
        Ok(Self {
            root,
            server: leaf("server", &issuer, &between)?,
            client: leaf("client", &issuer, &between)?,
        })
    }

    /// A client whose own work does not count, so it verifies as any would.
    pub(crate) fn client_config(&self) -> Result<ClientConfig> {
        client_config(
            &self.root,
            self.client.certificates.clone(),
            self.client.key(),
        )
    }

    /// Writes what a client needs for [`Papers::read_client`]: three lines of hexadecimal.
    pub(crate) fn write_client(&self, out: &mut impl Write) -> Result<()> {
        let leaf = self.client.certificates.first().context("no certificate")?;
        for der in [self.root.as_ref(), leaf.as_ref(), &self.client.key] {
            let line: String = der.iter().map(|byte| format!("{byte:02x}")).collect();
            writeln!(out, "{line}")?;
        }
        Ok(())
    }

    /// Reads a client from the lines of [`Papers::write_client`].
    pub(crate) fn read_client(mut line: impl FnMut() -> Result<String>) -> Result<ClientConfig> {
        let root = CertificateDer::from(from_hex(&line()?)?);
        let leaf = CertificateDer::from(from_hex(&line()?)?);
        let key = PrivatePkcs8KeyDer::from(from_hex(&line()?)?);
        client_config(&root, vec![leaf], key.into())
    }
}

fn client_config(
    root: &CertificateDer<'static>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
) -> Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(root.clone())?;
    let mut config = ClientConfig::builder_with_provider(Arc::clone(crypto_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)?;
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config)
}

fn from_hex(line: &str) -> Result<Vec<u8>> {
    let digits = line.as_bytes().chunks(2);
    let byte = |pair: &[u8]| Ok(u8::from_str_radix(std::str::from_utf8(pair)?, 16)?);
    digits.map(byte).collect()
}

type Ca = (CertificateDer<'static>, Issuer<'static, KeyPair>);

fn ca(name: &str, above: Option<&Issuer<'_, KeyPair>>) -> Result<Ca> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let certificate = match above {
        None => params.self_signed(&key)?,
        Some(issuer) => params.signed_by(&key, issuer)?,
    };
    Ok((certificate.der().clone(), Issuer::new(params, key)))
}

fn leaf(
    name: &str,
    issuer: &Issuer<'_, KeyPair>,
    between: &[CertificateDer<'static>],
) -> Result<Chain> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    let id = format!("spiffe://bench.example/ns/default/sa/{name}");
    params.subject_alt_names = vec![
        SanType::URI(id.as_str().try_into()?),
        SanType::DnsName("localhost".try_into()?),
    ];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    let mut certificates = vec![params.signed_by(&key, issuer)?.der().clone()];
    certificates.extend_from_slice(between);
    let key = key.serialize_der();
    Ok(Chain { certificates, key })
}
