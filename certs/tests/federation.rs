//! Federation against bundle endpoints that behave and misbehave.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests say what went wrong by panicking"
)]

mod support;

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use support::{Chain, Root, pem};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use wayleave_certs::bundle::BundleDocument;
use wayleave_certs::source::federation::{
    FederationConfig, FederationSource, Profile, RelationshipStatus,
};
use wayleave_certs::tls::crypto_provider;
use wayleave_certs::{IdentityPublisher, IdentityReader};

const SERVER: &str = "spiffe://partner.example/bundles";

/// What the endpoint answers next.
#[derive(Clone)]
enum Answer {
    Body(Vec<u8>),
    Status(u16),
    Redirect(u16, String),
    Hang,
}

/// A bundle endpoint whose answer the test changes.
struct Endpoint {
    address: SocketAddr,
    answer: Arc<Mutex<Answer>>,
}

impl Endpoint {
    async fn start(chain: &Chain, first: Answer) -> Self {
        let tls = ServerConfig::builder_with_provider(Arc::clone(crypto_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain.certificates.clone(), chain.key_der())
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let answer = Arc::new(Mutex::new(first));
        let answers = Arc::clone(&answer);
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let Ok(stream) = acceptor.accept(stream).await else {
                    continue;
                };
                let answers = Arc::clone(&answers);
                let service = service_fn(move |request| {
                    let answer = answers.lock().unwrap().clone();
                    respond(request, answer)
                });
                let http = hyper::server::conn::http1::Builder::new();
                tokio::spawn(http.serve_connection(TokioIo::new(stream), service));
            }
        });
        Self { address, answer }
    }

    fn answers(&self, answer: Answer) {
        *self.answer.lock().unwrap() = answer;
    }

    fn url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.address.port())
    }
}

async fn respond(
    request: http::Request<hyper::body::Incoming>,
    answer: Answer,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let response = Response::builder();
    let empty = || Full::new(Bytes::new());
    Ok(match answer {
        Answer::Body(body) => response.body(Full::new(body.into())).unwrap(),
        Answer::Status(status) => response.status(status).body(empty()).unwrap(),
        Answer::Redirect(status, to) if request.uri().path() == "/" => {
            let response = response.status(status).header("location", to);
            response.body(empty()).unwrap()
        }
        Answer::Redirect(_, body) => response.body(Full::new(body.into())).unwrap(),
        Answer::Hang => std::future::pending().await,
    })
}

fn jwks(root: &Root, sequence: Option<u64>) -> Vec<u8> {
    let document = BundleDocument {
        bundle: root.bundle().with_sequence(sequence),
        refresh_hint: Some(Duration::from_secs(1)),
    };
    document.to_jwks().into_bytes()
}

/// A workload of shop.example with nobody else trusted.
fn shop() -> (IdentityPublisher, IdentityReader) {
    let root = Root::new("shop.example");
    let (mut publisher, reader) = IdentityPublisher::new();
    let svid = root.issue("spiffe://shop.example/orders").svid();
    publisher.publish(Arc::new(svid), root.bundles());
    (publisher, reader)
}

struct Partner {
    root: Root,
    server: Chain,
    dir: tempfile::TempDir,
}

impl Partner {
    fn new() -> Self {
        let root = Root::new("partner.example");
        let server = root.issue_with(SERVER, |params| {
            let dns = rcgen::SanType::DnsName("localhost".try_into().unwrap());
            params.subject_alt_names.push(dns);
        });
        let partner = Self {
            root,
            server,
            dir: tempfile::tempdir().unwrap(),
        };
        let text = pem("CERTIFICATE", &[partner.root.certificate.as_ref()]);
        std::fs::write(partner.bootstrap(), text).unwrap();
        partner
    }

    fn bootstrap(&self) -> PathBuf {
        self.dir.path().join("bootstrap.pem")
    }

    fn spiffe(&self, id: &str) -> Profile {
        Profile::HttpsSpiffe {
            endpoint_id: id.parse().unwrap(),
            bootstrap: Some(self.bootstrap()),
        }
    }

    fn config(&self, endpoint: &Endpoint, profile: Profile) -> FederationConfig {
        let url = endpoint.url("/").parse().unwrap();
        let trust_domain = self.root.trust_domain.clone();
        let mut config = FederationConfig::new(trust_domain, url, profile);
        config.time_limit = Duration::from_millis(1500);
        config
    }
}

/// Follows one relationship until `done`, and returns its status and the reader.
async fn follow(
    config: FederationConfig,
    done: impl Fn(&RelationshipStatus) -> bool,
) -> (RelationshipStatus, IdentityReader) {
    let (_publisher, inner) = shop();
    let source = FederationSource::new(inner, vec![config]).unwrap();
    let (mut status, reader) = (source.status(), source.reader());
    let run = tokio::spawn(source.run());
    let found = within(status.wait_for(|list| list.first().is_some_and(&done))).await;
    let found = found.unwrap()[0].clone();
    run.abort();
    (found, reader)
}

async fn within<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), what)
        .await
        .unwrap()
}

fn trusted(reader: &IdentityReader) -> usize {
    reader.current().unwrap().bundles().len()
}

async fn failure(config: FederationConfig) -> String {
    let (status, _) = follow(config, |status| status.failure.is_some()).await;
    status.failure.unwrap()
}

#[tokio::test]
async fn fetches_a_bundle_by_both_profiles() {
    let partner = Partner::new();
    let body = jwks(&partner.root, Some(3));
    let endpoint = Endpoint::start(&partner.server, Answer::Body(body)).await;
    let web = Profile::HttpsWeb {
        roots: Some(partner.bootstrap()),
    };
    for profile in [partner.spiffe(SERVER), web] {
        let config = partner.config(&endpoint, profile);
        let (status, reader) = follow(config, |status| status.fetched_at.is_some()).await;
        assert_eq!((status.sequence, status.authorities), (Some(3), Some(1)));
        assert_eq!(trusted(&reader), 2);
    }
}

#[tokio::test]
async fn the_latest_bundle_proves_the_endpoint_and_survives_a_restart() {
    let partner = Partner::new();
    let next = Root::new("partner.example");
    let both = BundleDocument {
        bundle: wayleave_certs::TrustBundle::from_der(
            partner.root.trust_domain.clone(),
            vec![next.certificate.clone()],
        )
        .unwrap()
        .with_sequence(Some(2)),
        refresh_hint: None,
    };
    let first = Endpoint::start(&partner.server, Answer::Body(both.to_jwks().into_bytes())).await;
    let mut config = partner.config(&first, partner.spiffe(SERVER));
    config.store = Some(partner.dir.path().join("latest.json"));
    follow(config.clone(), |status| status.fetched_at.is_some()).await;

    // The endpoint rotates to the new authority; the bootstrap bundle does not know it.
    let body = Answer::Body(jwks(&next, Some(3)));
    let second = Endpoint::start(&next.issue(SERVER), body).await;
    config.url = second.url("/").parse().unwrap();
    let (status, _) = follow(config.clone(), |status| status.fetched_at.is_some()).await;
    assert_eq!(status.sequence, Some(3));
    config.store = None;
    assert!(
        failure(config)
            .await
            .contains("does not chain to an authority")
    );
}

#[tokio::test]
async fn refuses_an_endpoint_that_is_somebody_else() {
    let partner = Partner::new();
    let body = Answer::Body(jwks(&partner.root, None));
    let endpoint = Endpoint::start(&partner.server, body.clone()).await;
    let other = partner.config(&endpoint, partner.spiffe("spiffe://partner.example/other"));
    let words = failure(other).await;
    assert!(
        words.contains("peer is `spiffe://partner.example/bundles`, not"),
        "{words}"
    );

    let forged = Endpoint::start(&Root::new("partner.example").issue(SERVER), body).await;
    let words = failure(partner.config(&forged, partner.spiffe(SERVER))).await;
    assert!(words.contains("does not chain to an authority"), "{words}");
    let web = Profile::HttpsWeb {
        roots: Some(partner.bootstrap()),
    };
    let words = failure(partner.config(&forged, web)).await;
    assert!(words.contains("TLS failed"), "{words}");
}

#[tokio::test]
async fn refuses_what_is_not_a_bundle() {
    let partner = Partner::new();
    let foreign = Root::new("other.example");
    let endpoint = Endpoint::start(&partner.server, Answer::Hang).await;
    let config = partner.config(&endpoint, partner.spiffe(SERVER));
    let table = [
        (Answer::Hang, "no bundle within 1.5s"),
        (Answer::Status(500), "answers 500 Internal Server Error"),
        (
            Answer::Body(b"<html>".to_vec()),
            "it is not a SPIFFE bundle",
        ),
        (Answer::Body(vec![b' '; 100 << 20]), "larger than 4 MiB"),
        (
            Answer::Body(jwks(&foreign, None)),
            "says that it belongs to `spiffe://other.example`",
        ),
        (
            Answer::Redirect(301, endpoint.url("/b")),
            "permanent redirects are not followed",
        ),
        (
            Answer::Redirect(302, "http://localhost/b".to_owned()),
            "not an https URL",
        ),
        (
            Answer::Redirect(302, endpoint.url("/")),
            "redirects more than 3 times",
        ),
    ];
    for (answer, expected) in table {
        endpoint.answers(answer);
        let words = failure(config.clone()).await;
        assert!(words.contains(expected), "{words}\nexpected {expected}");
    }
}

#[tokio::test]
async fn follows_a_temporary_redirect() {
    let partner = Partner::new();
    let body = String::from_utf8(jwks(&partner.root, Some(1))).unwrap();
    let target = Endpoint::start(&partner.server, Answer::Body(body.into_bytes())).await;
    let redirect = Answer::Redirect(307, target.url("/moved"));
    let endpoint = Endpoint::start(&partner.server, redirect).await;
    let config = partner.config(&endpoint, partner.spiffe(SERVER));
    let (status, _) = follow(config, |status| status.fetched_at.is_some()).await;
    assert_eq!(status.sequence, Some(1));
}

#[tokio::test]
async fn does_not_take_back_an_older_bundle() {
    let partner = Partner::new();
    let other = Root::new("partner.example");
    let endpoint =
        Endpoint::start(&partner.server, Answer::Body(jwks(&partner.root, Some(5)))).await;
    let mut config = partner.config(&endpoint, partner.spiffe(SERVER));
    config.store = Some(partner.dir.path().join("latest.json"));
    follow(config.clone(), |status| status.fetched_at.is_some()).await;
    let table = [
        (
            jwks(&other, Some(4)),
            "serves sequence 4 after it has served 5",
        ),
        (
            jwks(&other, Some(5)),
            "another bundle under the same sequence 5",
        ),
    ];
    for (body, expected) in table {
        endpoint.answers(Answer::Body(body));
        let (status, reader) = follow(config.clone(), |status| status.failure.is_some()).await;
        let words = status.failure.unwrap();
        assert!(words.contains(expected), "{words}");
        let identity = reader.current().unwrap();
        let bundle = identity.bundles().of(&partner.root.trust_domain).unwrap();
        assert_eq!(
            bundle.authorities()[0].certificate(),
            &partner.root.certificate
        );
    }
}

#[tokio::test]
async fn a_partner_cannot_replace_our_own_bundle() {
    let root = Root::new("shop.example");
    let partner = Partner::new();
    let forged = Endpoint::start(&partner.server, Answer::Body(jwks(&root, None))).await;
    let mut config = partner.config(&forged, partner.spiffe(SERVER));
    config.trust_domain = root.trust_domain.clone();
    let (_, reader) = follow(config, |status| status.fetched_at.is_some()).await;
    let identity = reader.current().unwrap();
    let own = identity.bundles().of(&root.trust_domain).unwrap();
    assert_ne!(own.authorities()[0].certificate(), &root.certificate);
}

#[tokio::test]
async fn passes_on_what_the_other_source_does() {
    let (mut publisher, inner) = shop();
    let source = FederationSource::new(inner, Vec::new()).unwrap();
    let mut reader = source.reader();
    let run = tokio::spawn(source.run());
    let root = Root::new("shop.example");
    let svid = Arc::new(root.issue("spiffe://shop.example/orders").svid());
    publisher.publish(Arc::clone(&svid), root.bundles());
    within(async {
        while !Arc::ptr_eq(reader.current().unwrap().svid(), &svid) {
            reader.changed().await;
        }
    })
    .await;
    publisher.failed(&"away");
    assert_eq!(reader.status().failures, 1);
    publisher.withdraw();
    within(async {
        while reader.current().is_some() {
            reader.changed().await;
        }
    })
    .await;
    run.abort();
}
