//! Callers of other trust domains: trusted by a bundle in a file or by one that was fetched,
//! and each only by the bundle of its own.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::Response;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::PrivatePkcs8KeyDer;
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;
use wayleave_certs::TrustBundle;
use wayleave_certs::bundle::BundleDocument;

use crate::support::client::{self, Http1};
use crate::support::pki::{Ca, Credentials, Leaf};
use crate::support::setup::{Setup, Sidecar};
use crate::support::upstream::{Speaks, Upstream};
use crate::support::{eventually, within};

const CALLER: &str = "spiffe://partner.example/caller";
const ENDPOINT: &str = "spiffe://partner.example/bundles";

/// Anybody in either trust domain may call; who is let in at all is a matter of bundles.
const POLICY: &str = r#"@id("all") permit (principal, action, resource);"#;

/// A bundle endpoint of partner.example.
struct BundleEndpoint {
    address: SocketAddr,
    bundle: Arc<Mutex<String>>,
    task: JoinHandle<()>,
}

impl BundleEndpoint {
    /// Proves itself with an SVID of `ca` that names `localhost` as well.
    async fn start(ca: &Ca, bundle: String) -> Self {
        let issued = ca.issue(&Leaf::local(ENDPOINT));
        let tls = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![issued.der.into()],
                PrivatePkcs8KeyDer::from(issued.key_der).into(),
            )
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let bundle = Arc::new(Mutex::new(bundle));
        let task = tokio::spawn(answer(listener, tls, Arc::clone(&bundle)));
        Self {
            address,
            bundle,
            task,
        }
    }

    fn now_serves(&self, bundle: String) {
        *self.bundle.lock().unwrap() = bundle;
    }
}

impl Drop for BundleEndpoint {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(listener: TcpListener, tls: ServerConfig, bundle: Arc<Mutex<String>>) {
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let (acceptor, bundle) = (acceptor.clone(), Arc::clone(&bundle));
        connections.spawn(async move {
            let Ok(stream) = acceptor.accept(stream).await else {
                return;
            };
            let service = service_fn(|_| {
                let body = Bytes::from(bundle.lock().unwrap().clone());
                async { Ok::<_, Infallible>(Response::new(Full::new(body))) }
            });
            let http = hyper::server::conn::http1::Builder::new();
            let _ = http.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

/// The bundle of partner.example in the SPIFFE format, to be fetched again soon.
fn document(authorities: &[&Ca], sequence: u64) -> String {
    let certificates = authorities.iter().map(|ca| ca.der().into()).collect();
    let trust_domain = "partner.example".parse().unwrap();
    let bundle = TrustBundle::from_der(trust_domain, certificates).unwrap();
    BundleDocument {
        bundle: bundle.with_sequence(Some(sequence)),
        refresh_hint: Some(std::time::Duration::from_secs(1)),
    }
    .to_jwks()
}

/// Ours, with the federation that is added to its identity.
async fn sidecar(upstream: &Upstream, partner: &Ca, identity: &str) -> Sidecar {
    let mut setup = Setup::new(upstream.address);
    setup.write_policy(POLICY);
    std::fs::write(setup.path("partner.pem"), partner.pem()).unwrap();
    setup.identity += identity;
    setup.start().await
}

fn caller(sidecar: &Sidecar, ca: &Ca, id: &str) -> Credentials {
    let directory = sidecar.setup.path("callers/partner");
    Credentials::write(&directory, &ca.issue(&Leaf::svid(id)), &ca.pem())
}

async fn is_let_in(sidecar: &Sidecar, caller: &Credentials) -> bool {
    let Ok(stream) = sidecar.connect(Some(caller), &["http/1.1"]).await else {
        return false;
    };
    let mut http1 = Http1::over(stream).await;
    let answer = within("an answer", http1.0.send_request(client::get("/"))).await;
    answer.is_ok_and(|answer| answer.status() == 200)
}

async fn until_let_in(sidecar: &Sidecar, caller: &Credentials) {
    eventually("the partner's caller to be let in", || async {
        is_let_in(sidecar, caller).await.then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_caller_of_a_trust_domain_in_a_file_is_let_in() {
    let (upstream, partner) = (
        Upstream::start(Speaks::Http1).await,
        Ca::of("partner.example"),
    );
    let mut setup = Setup::new(upstream.address);
    setup.write_policy(POLICY);
    std::fs::write(setup.path("partner.pem"), partner.pem()).unwrap();
    setup.identity =
        "files:\n  svid: own/svid.pem\n  key: own/key.pem\n  bundle: own/bundle.pem\n  \
                      federated: [{ trust_domain: partner.example, bundle: partner.pem }]"
            .to_owned();
    let sidecar = setup.start().await;
    let theirs = caller(&sidecar, &partner, CALLER);
    assert!(is_let_in(&sidecar, &theirs).await);
    let record = sidecar.record(|_| true).await;
    assert_eq!(record["principal"], CALLER);
}

#[tokio::test]
async fn rejects_peer_that_a_federated_authority_names_as_one_of_ours() {
    let (upstream, partner) = (
        Upstream::start(Speaks::Http1).await,
        Ca::of("partner.example"),
    );
    let endpoint = BundleEndpoint::start(&partner, document(&[&partner], 1)).await;
    let sidecar = sidecar(&upstream, &partner, &https_spiffe(&endpoint)).await;
    until_let_in(&sidecar, &caller(&sidecar, &partner, CALLER)).await;
    let seen = upstream.seen().len();
    let liar = caller(
        &sidecar,
        &partner,
        &crate::support::pki::workload("frontend"),
    );
    assert!(!is_let_in(&sidecar, &liar).await);
    assert_eq!(upstream.seen().len(), seen);
}

fn https_spiffe(endpoint: &BundleEndpoint) -> String {
    format!(
        "\nfederation:\n  - trust_domain: partner.example\n    \
         url: https://127.0.0.1:{}/bundle.json\n    profile: https_spiffe\n    \
         endpoint_id: {ENDPOINT}\n    bootstrap_bundle: partner.pem",
        endpoint.address.port(),
    )
}

/// The partner rotates its authority; what is fetched later is trusted, and what it leaves
/// out no longer is.
#[tokio::test]
async fn a_fetched_bundle_is_followed_as_it_changes() {
    let (upstream, partner) = (
        Upstream::start(Speaks::Http1).await,
        Ca::of("partner.example"),
    );
    let next = Ca::of("partner.example");
    let endpoint = BundleEndpoint::start(&partner, document(&[&partner], 1)).await;
    let sidecar = sidecar(&upstream, &partner, &https_spiffe(&endpoint)).await;
    let old = caller(&sidecar, &partner, CALLER);
    until_let_in(&sidecar, &old).await;

    endpoint.now_serves(document(&[&partner, &next], 2));
    let new = Credentials::write(
        &sidecar.setup.path("callers/next"),
        &next.issue(&Leaf::svid(CALLER)),
        &next.pem(),
    );
    until_let_in(&sidecar, &new).await;
    assert!(is_let_in(&sidecar, &old).await);

    endpoint.now_serves(document(&[&next], 3));
    eventually("the old authority to be left out", || async {
        (!is_let_in(&sidecar, &old).await).then_some(())
    })
    .await;
    assert!(is_let_in(&sidecar, &new).await);
}

#[tokio::test]
async fn a_bundle_is_fetched_from_a_host_of_the_web() {
    let (upstream, partner) = (
        Upstream::start(Speaks::Http1).await,
        Ca::of("partner.example"),
    );
    let web = Ca::of("web.example");
    let endpoint = BundleEndpoint::start(&web, document(&[&partner], 1)).await;
    let mut setup = Setup::new(upstream.address);
    setup.write_policy(POLICY);
    std::fs::write(setup.path("web.pem"), web.pem()).unwrap();
    setup.identity += &format!(
        "\nfederation:\n  - trust_domain: partner.example\n    \
         url: https://localhost:{}/\n    profile: https_web\n    roots: web.pem\n    \
         store: partner.json",
        endpoint.address.port(),
    );
    let sidecar = setup.start().await;
    until_let_in(&sidecar, &caller(&sidecar, &partner, CALLER)).await;
    let stored = std::fs::read_to_string(sidecar.setup.path("partner.json")).unwrap();
    assert!(stored.contains("spiffe_sequence"), "{stored}");
}

#[tokio::test]
async fn an_endpoint_that_is_somebody_else_gives_no_bundle() {
    let (upstream, partner) = (
        Upstream::start(Speaks::Http1).await,
        Ca::of("partner.example"),
    );
    let impostor = Ca::of("partner.example");
    let endpoint = BundleEndpoint::start(&impostor, document(&[&impostor], 9)).await;
    let sidecar = sidecar(&upstream, &partner, &https_spiffe(&endpoint)).await;
    let told = sidecar
        .process
        .stderr
        .contains("federated bundle not fetched")
        .await;
    assert!(told.contains("partner.example"), "{told}");
    let theirs = caller(&sidecar, &impostor, CALLER);
    assert!(!is_let_in(&sidecar, &theirs).await);
    upstream.assert_untouched();
}
