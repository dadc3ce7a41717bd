//! `wayleave inspect`: good and crafted certificates in files, and a live sidecar.

use std::path::Path;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::support::pki::{Ca, Credentials, Issued, Leaf, workload};
use crate::support::process::wayleave;
use crate::support::setup::{Setup, Sidecar};
use crate::support::tool::{self, Finished};
use crate::support::upstream::{Speaks, Upstream};

async fn inspect(arguments: &[&str]) -> Finished {
    tool::run(wayleave().arg("inspect").args(arguments)).await
}

fn status(finished: &Finished) -> i32 {
    finished.0.status.code().unwrap()
}

/// The report in JSON, with its exit status.
async fn report(arguments: &[&str]) -> (i32, Value) {
    let finished = inspect(&[arguments, &["--format", "json"]].concat()).await;
    let json = serde_json::from_str(&finished.stdout())
        .unwrap_or_else(|error| panic!("{error}: {}", finished.stderr()));
    (status(&finished), json)
}

/// The rules with this result, of the whole and of the first certificate.
fn rules(report: &Value, result: &str) -> Vec<String> {
    let lists = [&report["chain"][0]["checks"], &report["checks"]];
    let checks = lists.into_iter().filter_map(Value::as_array).flatten();
    checks
        .filter(|check| check["result"] == result)
        .map(|check| check["rule"].as_str().unwrap().to_owned())
        .collect()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

struct Folder {
    directory: tempfile::TempDir,
    ca: Ca,
}

impl Folder {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let ca = Ca::new();
        Self { directory, ca }
    }

    fn write(&self, issued: &Issued) -> Credentials {
        Credentials::write(&self.directory.path().join("svid"), issued, &self.ca.pem())
    }
}

#[tokio::test]
async fn a_good_svid_keeps_every_rule() {
    let folder = Folder::new();
    let svid = folder.write(&folder.ca.issue(&Leaf::svid(&workload("cart"))));
    let (key, bundle) = (text(&svid.key), text(&svid.bundle));
    let arguments = [text(&svid.certificate), "--key", key, "--bundle", bundle];
    let (status, report) = report(&arguments).await;
    assert_eq!(status, 0, "{report:#}");
    assert_eq!(report["chain"][0]["id"], workload("cart"));
    assert_eq!(rules(&report, "ok").len(), 15, "{report:#}");
    let told = inspect(&arguments).await.successful().stdout();
    assert!(
        told.contains("every rule that was checked is kept"),
        "{told}"
    );
}

#[tokio::test]
async fn each_broken_rule_is_named_with_its_section() {
    let two = [workload("cart"), workload("web")].to_vec();
    let good = || Leaf::svid(&workload("cart"));
    for (leaf, rule, section) in [
        (
            Leaf {
                uris: two,
                ..good()
            },
            "has exactly one URI SAN",
            "X509-SVID 2",
        ),
        (
            Leaf::svid("https://test.example/cart"),
            "has a SPIFFE ID as its URI SAN",
            "SPIFFE-ID 2",
        ),
        (
            Leaf::svid("spiffe://test.example"),
            "has a SPIFFE ID with a path",
            "X509-SVID 5.2",
        ),
        (
            Leaf {
                expired: true,
                ..good()
            },
            "is valid now",
            "RFC 5280 4.1.2.5",
        ),
    ] {
        let folder = Folder::new();
        let svid = folder.write(&folder.ca.issue(&leaf));
        let (status, report) = report(&[text(&svid.certificate)]).await;
        assert_eq!(status, 1, "{rule}");
        assert_eq!(rules(&report, "failed"), [rule]);
        let told = inspect(&[text(&svid.certificate)]).await.stdout();
        let line = told.lines().find(|line| line.contains("FAILED")).unwrap();
        assert!(line.contains(rule) && line.ends_with(section), "{line}");
    }
}

#[tokio::test]
async fn a_chain_of_another_authority_and_a_key_of_another_svid_are_told() {
    let folder = Folder::new();
    let other = folder.ca.issue(&Leaf::svid(&workload("web")));
    let issued = folder.ca.issue(&Leaf::svid(&workload("cart")));
    let svid = folder.write(&Issued {
        key: other.key,
        ..issued
    });
    std::fs::write(&svid.bundle, Ca::new().pem()).unwrap();
    let (key, bundle) = (text(&svid.key), text(&svid.bundle));
    let (status, report) =
        report(&[text(&svid.certificate), "--key", key, "--bundle", bundle]).await;
    assert_eq!(status, 1);
    assert_eq!(
        rules(&report, "failed"),
        [
            "leads to an authority in the bundle of its own trust domain",
            "has the private key that was given"
        ]
    );
}

#[tokio::test]
async fn what_cannot_be_read_is_one_clear_line() {
    let folder = Folder::new();
    let svid = folder.write(&folder.ca.issue(&Leaf::svid(&workload("cart"))));
    let hello = folder.directory.path().join("hello");
    std::fs::write(&hello, "hello").unwrap();
    let (certificate, key) = (text(&svid.certificate), text(&svid.key));
    for (arguments, words) in [
        (&["/no/such/file"][..], "no file"),
        (&[text(&hello)], "neither certificates"),
        (&[key], "PRIVATE KEY"),
        (&[certificate, "--bundle", text(&hello)], "not PEM"),
        (
            &[certificate, "--cert", certificate, "--key", key],
            "--cert",
        ),
        (&["127.0.0.1:1"], "cannot reach"),
    ] {
        let finished = inspect(arguments).await;
        let told = finished.stderr();
        assert_eq!(status(&finished), 2, "{told}");
        assert_eq!(told.lines().count(), 1, "{told}");
        assert!(told.contains(words), "no `{words}` in {told}");
    }
}

async fn sidecar() -> (Sidecar, Upstream, String) {
    let upstream = Upstream::start(Speaks::Http1).await;
    let sidecar = Setup::new(upstream.address).start().await;
    let address = format!("localhost:{}", sidecar.inbound.port());
    (sidecar, upstream, address)
}

#[tokio::test]
async fn a_live_sidecar_shows_its_chain_to_one_without_a_certificate() {
    let (sidecar, upstream, address) = sidecar().await;
    let bundle = &sidecar.setup.own.bundle;
    let (status, report) = report(&[&address, "--bundle", text(bundle)]).await;
    assert_eq!(status, 0, "{report:#}");
    assert_eq!(report["chain"][0]["id"], workload("app"));
    assert_eq!(report["tls"]["key_exchange"], "X25519MLKEM768");
    assert_eq!(report["tls"]["client_certificate"], "required");
    upstream.assert_untouched();
}

#[tokio::test]
async fn a_live_sidecar_does_not_refuse_a_good_certificate() {
    let (sidecar, upstream, address) = sidecar().await;
    let caller = sidecar.setup.caller("frontend");
    let (cert, key) = (text(&caller.certificate), text(&caller.key));
    let (status, report) = report(&[&address, "--cert", cert, "--key", key]).await;
    assert_eq!(status, 0, "{report:#}");
    assert_eq!(report["tls"]["client_certificate"], "not_refused");
    assert_eq!(
        rules(&report, "not_checked"),
        ["leads to an authority in the bundle of its own trust domain"]
    );
    upstream.assert_untouched();
}

#[tokio::test]
async fn a_live_sidecar_says_that_it_refuses_a_bad_certificate() {
    let (sidecar, _upstream, address) = sidecar().await;
    let leaf = Leaf {
        expired: true,
        ..Leaf::svid(&workload("frontend"))
    };
    let caller = sidecar.setup.credentials("late", &leaf);
    let (cert, key) = (text(&caller.certificate), text(&caller.key));
    let (_, report) = report(&[&address, "--cert", cert, "--key", key]).await;
    let refused = &report["tls"]["client_certificate"]["refused"];
    let alert = refused.as_str().unwrap();
    assert!(alert.contains("CertificateExpired"), "{alert}");
}

#[tokio::test]
async fn a_peer_of_another_trust_domain_leads_nowhere() {
    let (_sidecar, _upstream, address) = sidecar().await;
    let folder = tempfile::tempdir().unwrap();
    let mut init = wayleave();
    init.current_dir(folder.path()).args(["ca", "init"]);
    tool::run(init.args(["--dir", "ca", "--trust-domain", "partner.example"]))
        .await
        .successful();
    let bundle = folder.path().join("ca/bundle.pem");
    let finished = inspect(&[&address, "--bundle", text(&bundle)]).await;
    assert_eq!(status(&finished), 1);
    let told = finished.stdout();
    assert!(told.contains("no trust bundle for trust domain"), "{told}");
}

#[tokio::test]
async fn a_silent_peer_ends_with_the_time() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let finished = inspect(&[&address, "--timeout", "200ms"]).await;
    assert_eq!(status(&finished), 2);
    let told = finished.stderr();
    assert!(told.contains("did not finish a TLS handshake"), "{told}");
}

/// Serves one handshake with a certificate whose key is another's.
async fn impostor(certificate: &str, key: &str) -> String {
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    let key = provider.key_provider.load_private_key(key).unwrap();
    let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
    let own = SingleCertAndKey::from(CertifiedKey::new(chain, key));
    let config = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(own));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let _ = TlsAcceptor::from(Arc::new(config)).accept(stream).await;
    });
    address
}

#[tokio::test]
async fn a_peer_that_does_not_hold_the_key_of_its_certificate_is_told() {
    let folder = Folder::new();
    let shown = folder.ca.issue(&Leaf::svid(&workload("cart")));
    let held = folder.ca.issue(&Leaf::svid(&workload("web")));
    let svid = folder.write(&shown);
    let address = impostor(&shown.certificate, &held.key).await;
    let (status, report) = report(&[&address, "--bundle", text(&svid.bundle)]).await;
    assert_eq!(status, 1);
    assert_eq!(
        rules(&report, "failed"),
        ["proves that it holds the leaf's key"]
    );
}
