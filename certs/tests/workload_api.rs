//! The Workload API source against servers that behave and misbehave, and the development
//! directory's own Workload API.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests say what went wrong by panicking"
)]

mod support;

use std::future::Future;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use support::{Chain, HOUR, Root};
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use wayleave_certs::source::dev::{DevDirectory, DevError, DevOptions, DevWorkload};
use wayleave_certs::source::workload_api::{SvidChoice, WorkloadApiConfig, WorkloadApiSource};
use wayleave_certs::workload_api::{Client, Endpoint, FetchError, Served, X509Svid, serve};
use wayleave_certs::{Identity, IdentityReader};

const CART: &str = "spiffe://shop.example/ns/web/sa/cart";
const ORDERS: &str = "spiffe://shop.example/ns/web/sa/orders";

fn message(root: &Root, chain: &Chain, hint: &str) -> X509Svid {
    X509Svid {
        spiffe_id: chain.svid().id().to_string(),
        x509_svid: chain
            .certificates
            .iter()
            .flat_map(|der| der.to_vec())
            .collect(),
        x509_svid_key: chain.key.serialize_der(),
        bundle: root.certificate.to_vec(),
        hint: hint.to_owned(),
    }
}

fn state(svids: Vec<X509Svid>) -> Served {
    Served {
        svids,
        ..Served::default()
    }
}

/// An agent whose state the test changes, and a source that follows it.
struct Agent {
    dir: tempfile::TempDir,
    state: watch::Sender<Served>,
    server: Option<JoinHandle<()>>,
    source: JoinHandle<String>,
    reader: IdentityReader,
}

impl Agent {
    fn start(first: Served, choice: SvidChoice) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let endpoint = Endpoint::Unix(dir.path().join("agent.sock"));
        let source = WorkloadApiSource::new(WorkloadApiConfig { endpoint, choice });
        let reader = source.reader();
        let run = async { source.run().await.unwrap_err().to_string() };
        let mut agent = Self {
            dir,
            state: watch::Sender::new(first),
            server: None,
            source: tokio::spawn(run),
            reader,
        };
        agent.listen();
        agent
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("agent.sock")
    }

    fn listen(&mut self) {
        let listener = UnixListener::bind(self.path()).unwrap();
        self.server = Some(tokio::spawn(serve(listener, self.state.subscribe())));
    }

    async fn stop_listening(&mut self) {
        let server = self.server.take().unwrap();
        server.abort();
        let _ = server.await;
        std::fs::remove_file(self.path()).unwrap();
    }

    async fn shows(&mut self, what: impl Fn(&Identity) -> bool) {
        let reader = &mut self.reader;
        let wait = async {
            while !reader.current().is_some_and(|identity| what(&identity)) {
                reader.changed().await;
            }
        };
        within(wait).await;
    }

    async fn shows_chain(&mut self, chain: &Chain) {
        self.shows(|identity| identity.svid().chain() == chain.certificates)
            .await;
    }

    async fn shows_nothing(&mut self) {
        let reader = &mut self.reader;
        let wait = async {
            while reader.current().is_some() {
                reader.changed().await;
            }
        };
        within(wait).await;
    }

    async fn fails_with(&self, words: &str) {
        let failed = || self.reader.status().last_failure;
        let wait = async {
            while !failed().is_some_and(|failure| failure.message.contains(words)) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        within(wait).await;
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.source.abort();
        if let Some(server) = &self.server {
            server.abort();
        }
    }
}

async fn within<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), what)
        .await
        .unwrap()
}

#[tokio::test]
async fn publishes_each_state_in_full() {
    let (shop, partner) = (Root::new("shop.example"), Root::new("partner.example"));
    let (first, second) = (shop.issue(CART), shop.issue(CART));
    let mut served = state(vec![message(&shop, &first, "")]);
    let partner_id = "spiffe://partner.example".to_owned();
    served
        .federated_bundles
        .insert(partner_id, partner.certificate.to_vec());
    let mut agent = Agent::start(served, SvidChoice::First);
    agent.shows_chain(&first).await;
    let identity = agent.reader.current().unwrap();
    assert_eq!(identity.bundles().len(), 2);

    agent
        .state
        .send_replace(state(vec![message(&shop, &second, "")]));
    agent.shows_chain(&second).await;
    let identity = agent.reader.current().unwrap();
    assert_eq!(
        identity.bundles().len(),
        1,
        "a bundle that is not sent is taken away"
    );
}

#[tokio::test]
async fn chooses_among_several_svids() {
    let root = Root::new("shop.example");
    let (cart, orders) = (root.issue(CART), root.issue(ORDERS));
    let served = state(vec![
        message(&root, &cart, "a"),
        message(&root, &orders, "b"),
    ]);
    let table = [
        (SvidChoice::First, &cart),
        (SvidChoice::Hint("b".to_owned()), &orders),
        (SvidChoice::Id(ORDERS.parse().unwrap()), &orders),
    ];
    for (choice, expected) in table {
        let mut agent = Agent::start(served.clone(), choice);
        agent.shows_chain(expected).await;
    }
}

#[tokio::test]
async fn an_svid_that_is_no_longer_sent_is_withdrawn() {
    let root = Root::new("shop.example");
    let (cart, orders) = (root.issue(CART), root.issue(ORDERS));
    let both = state(vec![message(&root, &cart, ""), message(&root, &orders, "")]);
    let mut agent = Agent::start(both, SvidChoice::Id(ORDERS.parse().unwrap()));
    agent.shows_chain(&orders).await;
    agent
        .state
        .send_replace(state(vec![message(&root, &cart, "")]));
    agent.shows_nothing().await;
}

#[tokio::test]
async fn serves_the_last_good_identity_while_the_agent_is_away() {
    let root = Root::new("shop.example");
    let (first, second) = (root.issue(CART), root.issue(CART));
    let mut agent = Agent::start(state(vec![message(&root, &first, "")]), SvidChoice::First);
    agent.shows_chain(&first).await;
    agent.stop_listening().await;
    agent.fails_with("cannot connect to the Workload API").await;
    assert!(agent.reader.is_usable(SystemTime::now()));
    assert!(!agent.reader.is_usable(SystemTime::now() + 2 * HOUR));

    agent
        .state
        .send_replace(state(vec![message(&root, &second, "")]));
    agent.listen();
    agent.shows_chain(&second).await;
    assert_eq!(agent.reader.status().last_failure, None);
}

#[tokio::test]
async fn discards_a_bad_message_and_reads_on() {
    let root = Root::new("shop.example");
    let (first, other, last) = (root.issue(CART), root.issue(ORDERS), root.issue(CART));
    let good = message(&root, &first, "");
    type Bend = fn(&mut Served, &Chain, &Root);
    let table: [(&str, Bend); 8] = [
        ("`svids` is empty", |s, _, _| s.svids.clear()),
        ("`bundle` is empty", |s, _, _| s.svids[0].bundle.clear()),
        ("is that of", |s, _, _| {
            s.svids[0].spiffe_id = ORDERS.to_owned()
        }),
        ("does not belong to the certificate", |s, other, _| {
            s.svids[0].x509_svid_key = other.key.serialize_der();
        }),
        ("not concatenated DER", |s, _, _| {
            s.svids[0].x509_svid.truncate(9)
        }),
        ("is not a CA certificate", |s, other, _| {
            s.svids[0].bundle = other.leaf().to_vec();
        }),
        ("does not name a trust domain", |s, _, root| {
            let id = "spiffe://partner.example/path".to_owned();
            s.federated_bundles.insert(id, root.certificate.to_vec());
        }),
        ("revocation list cannot be used", |s, _, _| {
            s.crls.push(vec![1, 2, 3])
        }),
    ];
    let mut agent = Agent::start(state(vec![good.clone()]), SvidChoice::First);
    agent.shows_chain(&first).await;
    for (words, bend) in table {
        let mut served = state(vec![good.clone()]);
        bend(&mut served, &other, &root);
        agent.state.send_replace(served);
        agent.fails_with(words).await;
        assert_eq!(agent.reader.current().unwrap().generation(), 1, "{words}");
    }
    let mut forged = state(vec![good]);
    forged.crls.push(Root::new("shop.example").revoke(&[], 1));
    agent.state.send_replace(forged);
    agent
        .fails_with("was not signed with that authority's key")
        .await;

    agent
        .state
        .send_replace(state(vec![message(&root, &last, "")]));
    agent.shows_chain(&last).await;
}

#[tokio::test]
async fn reads_revocation_lists() {
    let root = Root::new("shop.example");
    let cart = root.issue(CART);
    let mut served = state(vec![message(&root, &cart, "")]);
    let serial = cart.svid().leaf().serial.clone();
    served.crls.push(root.revoke(&[&serial], 1));
    let mut agent = Agent::start(served, SvidChoice::First);
    agent.shows_chain(&cart).await;
    let identity = agent.reader.current().unwrap();
    let role = wayleave_certs::verify::Role::Client;
    let chain = identity.svid().chain();
    let now = SystemTime::now();
    let verified = wayleave_certs::verify::verify(chain, identity.bundles(), role, now);
    assert_eq!(verified.unwrap_err().reason_code(), "revoked");
}

/// A server that answers every call with fixed bytes of HTTP/2, by hyper.
mod canned {
    use super::*;
    use bytes::Bytes;
    use http_body_util::Full;
    use hyper::service::service_fn;
    use hyper_util::rt::{TokioExecutor, TokioIo};

    pub(super) async fn agent(
        listener: UnixListener,
        headers: &'static [(&str, &str)],
        body: Vec<u8>,
    ) {
        while let Ok((stream, _)) = listener.accept().await {
            let body = body.clone();
            let service = service_fn(move |_| {
                let mut response = http::Response::new(Full::new(Bytes::from(body.clone())));
                for (name, value) in headers {
                    response.headers_mut().insert(*name, value.parse().unwrap());
                }
                async move { Ok::<_, std::convert::Infallible>(response) }
            });
            let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            let _ = server.serve_connection(TokioIo::new(stream), service).await;
        }
    }
}

type Headers = &'static [(&'static str, &'static str)];

/// What a source reports of an agent that always answers the same.
async fn reported(headers: Headers, body: &[u8]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let server = tokio::spawn(canned::agent(listener, headers, body.to_vec()));
    let client = Client::new(Endpoint::Unix(path));
    let fetch = async {
        let mut updates = client.fetch_x509().await?;
        updates.next().await
    };
    let error = within(fetch).await.unwrap_err();
    server.abort();
    error.to_string()
}

#[tokio::test]
async fn says_what_is_wrong_with_an_agent() {
    let grpc: Headers = &[("content-type", "application/grpc")];
    let table: [(Headers, &[u8], &str); 6] = [
        (&[("grpc-status", "7")], b"", "PERMISSION_DENIED"),
        (
            &[("grpc-status", "14"), ("grpc-message", "starting")],
            b"",
            "UNAVAILABLE: starting",
        ),
        (grpc, b"", "within a message or without a status"),
        (
            grpc,
            &[0, 0, 0, 0, 9, 1, 2],
            "within a message or without a status",
        ),
        (grpc, &[1, 0, 0, 0, 0], "compressed"),
        (grpc, &[0, 0x7f, 0, 0, 0], "larger than 4 MiB"),
    ];
    for (headers, body, words) in table {
        let error = reported(headers, body).await;
        assert!(error.contains(words), "{error}\nexpected {words}");
    }
}

#[tokio::test]
async fn stops_where_asking_again_is_useless_and_withdraws_where_denied() {
    let root = Root::new("shop.example");
    let cart = root.issue(CART);
    let mut agent = Agent::start(state(vec![message(&root, &cart, "")]), SvidChoice::First);
    agent.shows_chain(&cart).await;
    agent.stop_listening().await;
    let listener = UnixListener::bind(agent.path()).unwrap();
    let denied = tokio::spawn(canned::agent(listener, &[("grpc-status", "7")], Vec::new()));
    agent.shows_nothing().await;

    denied.abort();
    let _ = denied.await;
    std::fs::remove_file(agent.path()).unwrap();
    let listener = UnixListener::bind(agent.path()).unwrap();
    let unknown = tokio::spawn(canned::agent(
        listener,
        &[("grpc-status", "12")],
        Vec::new(),
    ));
    let ended = within(&mut agent.source).await.unwrap();
    assert!(ended.contains("UNIMPLEMENTED"), "{ended}");
    unknown.abort();
}

fn dev_options() -> DevOptions {
    let workload = |name: &str| {
        let id = format!("spiffe://dev.wayleave/ns/default/sa/{name}");
        DevWorkload::new(name, id.parse().unwrap())
    };
    DevOptions {
        trust_domain: "dev.wayleave".parse().unwrap(),
        sidecar: workload("sidecar"),
        callers: vec![workload("frontend"), workload("agent")],
    }
}

#[tokio::test]
async fn the_development_directory_serves_each_caller_its_svid() {
    let place = tempfile::tempdir().unwrap();
    let dir = place.path().join("wayleave");
    let now = SystemTime::now();
    let mut dev = DevDirectory::open(&dir, dev_options(), now).unwrap();
    let api = dev.workload_api().unwrap();
    let paths: Vec<_> = api.paths().map(PathBuf::from).collect();
    let server = tokio::spawn(api.serve());

    let fetch = |path: &PathBuf| {
        let client = Client::new(Endpoint::Unix(path.clone()));
        async move { client.fetch_x509().await.unwrap() }
    };
    let ids = |served: &Served| -> Vec<String> {
        let name = |svid: &X509Svid| svid.spiffe_id.rsplit('/').next().unwrap().to_owned();
        served.svids.iter().map(name).collect()
    };
    let mut all = fetch(&paths[0]).await;
    assert_eq!(
        ids(&within(all.next()).await.unwrap()),
        ["frontend", "agent"]
    );
    let mut agent = fetch(&dir.join("svids/agent/workload.sock")).await;
    let before = within(agent.next()).await.unwrap();
    assert_eq!(ids(&before), ["agent"]);

    dev.renew(now + HOUR * 5 / 6).unwrap();
    let after = within(agent.next()).await.unwrap();
    assert_eq!(ids(&after), ["agent"]);
    assert_ne!(after.svids[0].x509_svid, before.svids[0].x509_svid);

    let error = dev.workload_api().unwrap_err();
    assert!(matches!(error, DevError::SocketInUse(_)), "{error}");
    server.abort();
    let _ = server.await;
    dev.workload_api().unwrap();
}

#[tokio::test]
async fn refuses_a_call_without_the_security_header() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let (_state, served) = watch::channel(Served::default());
    let server = tokio::spawn(serve(listener, served));
    let stream = tokio::net::UnixStream::connect(&path).await.unwrap();
    let executor = hyper_util::rt::TokioExecutor::new();
    let io = hyper_util::rt::TokioIo::new(stream);
    let (mut sender, connection) = hyper::client::conn::http2::handshake(executor, io)
        .await
        .unwrap();
    let connection = tokio::spawn(connection);
    let request = http::Request::post("http://localhost/SpiffeWorkloadAPI/FetchX509SVID");
    let body = http_body_util::Full::new(bytes::Bytes::from_static(&[0; 5]));
    let response = sender
        .send_request(request.body(body).unwrap())
        .await
        .unwrap();
    assert_eq!(response.headers()["grpc-status"], "3");
    connection.abort();
    server.abort();
}

#[tokio::test]
async fn says_when_nobody_listens() {
    let endpoint = Endpoint::Unix("/nonexistent/agent.sock".into());
    let error = Client::new(endpoint).fetch_x509().await.unwrap_err();
    assert!(matches!(error, FetchError::Connect(_)), "{error}");
}
