//! The certificates, policy and configuration of one run, in a folder that goes with it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig};

/// One principal may read one prefix: the rule that every proxy can express.
const POLICY: &str = r#"@id("loader-reads-api")
permit (
  principal == Workload::"spiffe://load.example/sa/loader",
  action in Action::"http:read",
  resource in Service::"app"
) when { resource.path like "/api/*" };
"#;

pub(crate) struct Papers {
    directory: tempfile::TempDir,
}

impl Papers {
    pub(crate) fn create() -> Result<Self> {
        let directory = tempfile::Builder::new()
            .prefix("wayleave-load-")
            .tempdir()?;
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        std::fs::write(directory.path().join("bundle.pem"), authority.pem())?;
        std::fs::write(directory.path().join("policy.cedar"), POLICY)?;
        for name in ["app", "loader"] {
            let key = KeyPair::generate()?;
            let certificate = leaf(name)?.signed_by(&key, &authority)?;
            std::fs::write(
                directory.path().join(format!("{name}.pem")),
                certificate.pem(),
            )?;
            std::fs::write(
                directory.path().join(format!("{name}.key")),
                key.serialize_pem(),
            )?;
        }
        Ok(Self { directory })
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Writes the sidecar's configuration, with its decision records going to `decisions`.
    pub(crate) fn config(&self, upstream: SocketAddr, decisions: &str) -> Result<PathBuf> {
        let yaml = format!(
            "identity: {{ files: {{ svid: app.pem, key: app.key, bundle: bundle.pem }} }}\n\
             policies: {{ paths: [policy.cedar] }}\n\
             admin: {{ listen: \"127.0.0.1:0\" }}\n\
             log: {{ decisions: \"{decisions}\" }}\n\
             inbound:\n  - name: app\n    listen: \"127.0.0.1:0\"\n    service: app\n    \
             upstream: {{ address: \"{upstream}\" }}\n"
        );
        let path = self.path().join("wayleave.yaml");
        std::fs::write(&path, yaml)?;
        Ok(path)
    }
}

fn leaf(name: &str) -> Result<CertificateParams> {
    let mut params = CertificateParams::default();
    let id = format!("spiffe://load.example/sa/{name}");
    params.subject_alt_names = vec![
        SanType::URI(id.as_str().try_into()?),
        SanType::DnsName("localhost".try_into()?),
        SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)),
    ];
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params.not_before = time::OffsetDateTime::now_utc() - time::Duration::minutes(5);
    params.not_after = time::OffsetDateTime::now_utc() + time::Duration::days(1);
    Ok(params)
}

type Chain = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn read(papers: &Path, name: &str) -> Result<Chain> {
    let chain = CertificateDer::pem_file_iter(papers.join(format!("{name}.pem")))?;
    let key = PrivateKeyDer::from_pem_file(papers.join(format!("{name}.key")))?;
    Ok((chain.collect::<Result<_, _>>()?, key))
}

fn roots(papers: &Path) -> Result<Arc<RootCertStore>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(papers.join("bundle.pem"))?)?;
    Ok(Arc::new(roots))
}

/// The loader's side of mutual TLS. Every handshake is a full one.
pub(crate) fn client_tls(papers: &Path, alpn: &[u8]) -> Result<ClientConfig> {
    let (chain, key) = read(papers, "loader")?;
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots(papers)?)
        .with_client_auth_cert(chain, key)?;
    config.resumption = rustls::client::Resumption::disabled();
    config.alpn_protocols = vec![alpn.to_vec()];
    Ok(config)
}

/// The bare proxy's side: stock verification, no SPIFFE rules.
pub(crate) fn server_tls(papers: &Path) -> Result<ServerConfig> {
    let (chain, key) = read(papers, "app")?;
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(
        roots(papers)?,
        Arc::clone(&provider),
    );
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier.build().context("the client verifier")?)
        .with_single_cert(chain, key)?;
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}
