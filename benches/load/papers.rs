//! The certificates, policy and configuration of one run, in a folder that goes with it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
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

/// What the upload of the bulk measurement needs beside it; no peer takes part in that.
const UPLOAD_POLICY: &str = r#"
@id("loader-writes-bulk")
permit (
  principal == Workload::"spiffe://load.example/sa/loader",
  action in Action::"http:write",
  resource in Service::"app"
) when { resource.path == "/api/bulk" };
"#;

/// Whose certificate a caller shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Caller {
    /// The one that the rule allows.
    Loader,
    /// Of the same trust domain, and allowed nothing.
    Stranger,
}

impl Caller {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Loader => "loader",
            Self::Stranger => "stranger",
        }
    }
}

pub(crate) struct Papers {
    directory: tempfile::TempDir,
    authority: CertifiedIssuer<'static, KeyPair>,
}

impl Papers {
    pub(crate) fn create() -> Result<Self> {
        let directory = tempfile::Builder::new()
            .prefix("wayleave-load-")
            .tempdir()?;
        // Not beside the papers, which the sidecar watches.
        std::fs::create_dir(directory.path().join("log"))?;
        let mut params = CertificateParams::default();
        params.distinguished_name = named("load test root");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        std::fs::write(directory.path().join("bundle.pem"), authority.pem())?;
        std::fs::write(directory.path().join("policy.cedar"), POLICY)?;
        std::fs::write(directory.path().join("upload.cedar"), UPLOAD_POLICY)?;
        let papers = Self {
            directory,
            authority,
        };
        for name in ["app", "loader", "stranger"] {
            papers.issue(name, &format!("sa/{name}"))?;
        }
        Ok(papers)
    }

    /// Issues an SVID for a path of the trust domain and writes it under a name, in place of the
    /// one that was there; first the key, then the certificate, each at once.
    pub(crate) fn issue(&self, name: &str, id: &str) -> Result<()> {
        let key = KeyPair::generate()?;
        let certificate = leaf(name, id)?.signed_by(&key, &self.authority)?;
        self.place(&format!("{name}.key"), &key.serialize_pem())?;
        self.place(&format!("{name}.pem"), &certificate.pem())?;
        // HAProxy reads both from one file.
        let both = certificate.pem() + &key.serialize_pem();
        self.place(&format!("{name}-with-key.pem"), &both)
    }

    /// Writes a file so that a reader sees the old one or the new one, and nothing between.
    pub(crate) fn place(&self, name: &str, text: &str) -> Result<()> {
        let new = self.path().join("log").join(name);
        std::fs::write(&new, text)?;
        std::fs::rename(&new, self.path().join(name))?;
        Ok(())
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Writes policies that, with the one rule, are so many; answers with their file. They are
    /// about other callers and other services, as in a fleet's common policy.
    pub(crate) fn many_policies(&self, count: usize) -> Result<&'static str> {
        let rules = wayleave_benches::rules::rules(count.saturating_sub(1));
        self.place(MANY, &wayleave_benches::rules::cedar(&rules))?;
        Ok("policy.cedar, many.cedar")
    }

    /// Writes policies beside the one rule that read signals and deny nobody.
    pub(crate) fn signal_policies(&self) -> Result<&'static str> {
        self.place(SIGNALS, SIGNAL_POLICIES)?;
        Ok("policy.cedar, signals.cedar")
    }

    /// Writes the sidecar's configuration, with its decision records going to `decisions`.
    pub(crate) fn config(
        &self,
        upstream: SocketAddr,
        decisions: &str,
        allowance: Allowance,
    ) -> Result<PathBuf> {
        let Allowance { policies, limits } = allowance;
        let yaml = format!(
            "identity: {{ files: {{ svid: app.pem, key: app.key, bundle: bundle.pem }} }}\n\
             policies: {{ paths: [{policies}] }}\n\
             admin: {{ listen: \"127.0.0.1:0\" }}\n\
             log: {{ decisions: \"{decisions}\" }}\n\
             inbound:\n  - name: app\n    listen: \"127.0.0.1:0\"\n    service: app\n    \
             limits: {{ {limits} }}\n    \
             upstream: {{ address: \"{upstream}\" }}\n"
        );
        let path = self.path().join("wayleave.yaml");
        std::fs::write(&path, yaml)?;
        Ok(path)
    }
}

/// The file of the policies that read signals.
const SIGNALS: &str = "signals.cedar";
const SIGNAL_POLICIES: &str = r#"
@id("slow-down") @status("429")
forbid (principal, action, resource)
when { context.signals.calls_per_second > 1000000000 };

@id("no-sweeping") @quarantine("60s")
forbid (principal, action, resource)
when { context.signals.endpoints_per_minute > 1000000 || context.signals.denials_per_minute > 1000000 };

@id("not-so-much")
forbid (principal, action, resource)
when { context.signals.bytes_out_per_hour > 1000000000000 };
"#;

/// The file of the policies beside the one rule.
const MANY: &str = "many.cedar";

/// What the sidecar's configuration allows beyond its defaults.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Allowance {
    policies: &'static str,
    limits: &'static str,
}

impl Allowance {
    /// The defaults, and the one rule.
    pub(crate) const RULE: Self = Self {
        policies: "policy.cedar",
        limits: "",
    };
    /// As many connections as the measurements of memory hold, and for as long.
    pub(crate) const MANY: Self = Self {
        policies: "policy.cedar",
        limits: "max_connections: 25000, header_timeout: 300s, idle_timeout: 600s",
    };
    /// The same with other policies.
    pub(crate) fn with(self, policies: &'static str) -> Self {
        Self { policies, ..self }
    }

    /// The caller may also upload.
    pub(crate) const UPLOAD: Self = Self {
        policies: "policy.cedar, upload.cedar",
        limits: "",
    };
}

fn named(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

fn leaf(name: &str, id: &str) -> Result<CertificateParams> {
    let mut params = CertificateParams::default();
    let id = format!("spiffe://load.example/{id}");
    params.distinguished_name = named(name);
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

/// TLS 1.3 with X25519 alone: the one group that every proxy in the comparison has.
fn provider() -> Arc<CryptoProvider> {
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups = vec![aws_lc_rs::kx_group::X25519];
    Arc::new(provider)
}

/// The caller's side of mutual TLS, which never resumes a session.
pub(crate) fn client_tls(papers: &Path, caller: Caller, alpn: &[u8]) -> Result<ClientConfig> {
    let mut config = client_named(papers, caller.name())?;
    config.alpn_protocols = vec![alpn.to_vec()];
    Ok(config)
}

/// The caller's side with the SVID of a name.
pub(crate) fn client_named(papers: &Path, name: &str) -> Result<ClientConfig> {
    let (chain, key) = read(papers, name)?;
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots(papers)?)
        .with_client_auth_cert(chain, key)?;
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config)
}

/// A caller without a certificate.
pub(crate) fn anonymous_tls(papers: &Path) -> Result<ClientConfig> {
    Ok(ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots(papers)?)
        .with_no_client_auth())
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
