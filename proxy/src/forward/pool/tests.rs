//! Names that move, with a resolver of the test's own: no DNS is asked.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::runtime::Handle;

use super::*;
use crate::config::{Address, Balance, HostPort};
use crate::forward::metrics::UpstreamFamilies;
use crate::forward::resolve::{Resolution, Resolve};
use crate::forward::{Blueprint, Upstreams};

/// Knows what the test tells it; everything else cannot be resolved.
#[derive(Debug, Default)]
struct Zone {
    names: Mutex<HashMap<String, Vec<SocketAddr>>>,
    asked: AtomicUsize,
}

impl Zone {
    fn set(&self, name: &str, addresses: &[SocketAddr]) {
        let mut names = self.names.lock().unwrap();
        names.insert(name.to_owned(), addresses.to_vec());
    }

    fn forget(&self, name: &str) {
        self.names.lock().unwrap().remove(name);
    }
}

impl Resolve for Zone {
    fn resolve<'a>(
        &'a self,
        name: &'a HostPort,
    ) -> Pin<Box<dyn Future<Output = Resolution> + Send + 'a>> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let found = self.names.lock().unwrap().get(&name.host).cloned();
        Box::pin(async move { found.ok_or_else(|| io::Error::other("no such name")) })
    }
}

/// A server that answers with its name, and counts its open connections.
struct Server {
    address: SocketAddr,
    open: Arc<AtomicUsize>,
}

impl Server {
    async fn start(name: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let open = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&open);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let open = Arc::clone(&counted);
                open.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(async move {
                    let mut buffer = [0; 1024];
                    while matches!(stream.read(&mut buffer).await, Ok(length) if length > 0) {
                        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n{name}");
                        stream.write_all(answer.as_bytes()).await.unwrap();
                    }
                    open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        Self { address, open }
    }
}

fn upstream(zone: &Arc<Zone>, change: impl FnOnce(&mut UpstreamConfig)) -> Arc<Upstream> {
    let mut config = UpstreamConfig::at(Address::Tcp(HostPort {
        host: "app.test".to_owned(),
        port: 80,
    }));
    config.dns_refresh = Duration::from_millis(20);
    config.balance = Balance::RoundRobin;
    change(&mut config);
    let metrics = UpstreamFamilies::default().of(&"app".into());
    let zone: Arc<dyn Resolve> = zone.clone();
    Blueprint::new(config, None, metrics, zone).start(&Handle::current())
}

fn request() -> Request<RequestBody> {
    let mut request = Request::new(RequestBody::empty());
    let host = ::http::HeaderValue::from_static("app.test");
    request.headers_mut().insert("host", host);
    request
}

/// Which server answers a call; its connection is idle afterwards.
async fn ask(pool: &Pool) -> Result<String, ForwardError> {
    let sent = pool.send(request(), &mut Tried::default()).await;
    let Answer { response, held } = sent.map_err(|unanswered| unanswered.error)?;
    let body = response.into_body().collect().await.unwrap().to_bytes();
    held.give_back();
    Ok(String::from_utf8(body.to_vec()).unwrap())
}

async fn until(what: &str, mut so: impl FnMut() -> bool) {
    let waiting = async {
        while !so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(30), waiting).await;
    waited.unwrap_or_else(|_| panic!("gave up waiting: {what}"));
}

#[tokio::test]
async fn a_name_that_moves_is_followed_and_its_old_connections_close() {
    let (old, new) = (Server::start("a").await, Server::start("b").await);
    let zone = Arc::new(Zone::default());
    zone.set("app.test", &[old.address]);
    let pool = Pool::new(upstream(&zone, |_| {}));
    tokio::spawn(Pool::tend(Arc::downgrade(&pool)));
    assert_eq!(ask(&pool).await.unwrap(), "a");
    assert_eq!(old.open.load(Ordering::SeqCst), 1, "the connection is kept");
    zone.set("app.test", &[new.address]);
    until("the old connection to close", || {
        old.open.load(Ordering::SeqCst) == 0
    })
    .await;
    assert_eq!(ask(&pool).await.unwrap(), "b");
}

#[tokio::test]
async fn a_call_in_flight_finishes_at_an_endpoint_that_is_gone() {
    let (old, new) = (Server::start("a").await, Server::start("b").await);
    let zone = Arc::new(Zone::default());
    zone.set("app.test", &[old.address]);
    let pool = Pool::new(upstream(&zone, |_| {}));
    let sent = pool.send(request(), &mut Tried::default()).await.unwrap();
    let generation = pool.upstream.generation();
    zone.set("app.test", &[new.address]);
    until("the move", || pool.upstream.generation() != generation).await;
    assert_eq!(ask(&pool).await.unwrap(), "b");
    let body = sent
        .response
        .into_body()
        .collect()
        .await
        .unwrap()
        .to_bytes();
    assert_eq!(body, "a");
    sent.held.give_back();
    until("the old connection to close", || {
        old.open.load(Ordering::SeqCst) == 0
    })
    .await;
}

#[tokio::test]
async fn a_name_that_fails_keeps_its_last_good_addresses() {
    let server = Server::start("a").await;
    let zone = Arc::new(Zone::default());
    zone.set("app.test", &[server.address]);
    let pool = Pool::new(upstream(&zone, |_| {}));
    assert_eq!(ask(&pool).await.unwrap(), "a");
    zone.forget("app.test");
    let asked = zone.asked.load(Ordering::SeqCst);
    until("a failed resolution", || {
        zone.asked.load(Ordering::SeqCst) > asked + 1
    })
    .await;
    assert_eq!(ask(&pool).await.unwrap(), "a");
}

#[tokio::test]
async fn a_name_without_an_address_is_an_error_and_no_hang() {
    let zone = Arc::new(Zone::default());
    let pool = Pool::new(upstream(&zone, |_| {}));
    assert!(matches!(ask(&pool).await, Err(ForwardError::NoAddress)));
}

#[tokio::test]
async fn several_records_are_several_endpoints() {
    let (one, two) = (Server::start("a").await, Server::start("b").await);
    let zone = Arc::new(Zone::default());
    zone.set("app.test", &[one.address, two.address]);
    let pool = Pool::new(upstream(&zone, |_| {}));
    let mut answers = Vec::new();
    for _ in 0..4 {
        answers.push(ask(&pool).await.unwrap());
    }
    answers.sort();
    assert_eq!(answers, ["a", "a", "b", "b"]);
}

#[tokio::test]
async fn an_endpoint_that_refuses_costs_the_call_nothing() {
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let refuses = nobody.local_addr().unwrap();
    drop(nobody);
    let server = Server::start("a").await;
    let zone = Arc::new(Zone::default());
    zone.set("app.test", &[refuses, server.address]);
    let pool = Pool::new(upstream(&zone, |_| {}));
    for _ in 0..10 {
        assert_eq!(ask(&pool).await.unwrap(), "a");
    }
    let status = Upstreams::default();
    status.add(&"app".into(), &pool.upstream);
    let endpoints = status.status("app");
    let ejected = endpoints.iter().filter(|one| one.health == "ejected");
    let ejected: Vec<_> = ejected.map(|one| one.address.clone()).collect();
    assert_eq!(ejected, [refuses.to_string()]);
}

#[tokio::test]
async fn an_upstream_that_nobody_uses_is_not_resolved_any_more() {
    let zone = Arc::new(Zone::default());
    let unused = upstream(&zone, |_| {});
    until("the first question", || {
        zone.asked.load(Ordering::SeqCst) > 0
    })
    .await;
    let weak = Arc::downgrade(&unused);
    drop(unused);
    until("the end", || weak.strong_count() == 0).await;
    until("the task to let go of its resolver", || {
        Arc::strong_count(&zone) == 1
    })
    .await;
}

/// A server that answers one call on a connection, takes the next one and closes instead.
async fn closes_early() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut buffer = [0; 1024];
                let read = stream.read(&mut buffer).await.unwrap();
                assert!(read > 0);
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\na";
                stream.write_all(answer).await.unwrap();
                let _ = stream.read(&mut buffer).await;
            });
        }
    });
    address
}

#[tokio::test]
async fn an_upstream_that_closes_early_costs_no_second_idempotent_call() {
    let zone = Arc::new(Zone::default());
    zone.set("app.test", &[closes_early().await]);
    let pool = Pool::new(upstream(&zone, |_| {}));
    let mut lost = 0;
    for _ in 0..40 {
        lost += u32::from(ask(&pool).await.is_err());
    }
    assert_eq!(lost, 1, "only the call that finds out is lost");
}

#[tokio::test]
async fn a_post_is_not_sent_again_to_an_upstream_that_closes_early() {
    let zone = Arc::new(Zone::default());
    zone.set("app.test", &[closes_early().await]);
    let pool = Pool::new(upstream(&zone, |_| {}));
    ask(&pool).await.unwrap();
    for _ in 0..3 {
        let mut post = request();
        *post.method_mut() = ::http::Method::POST;
        let sent = pool.send(post, &mut Tried::default()).await;
        assert!(sent.is_err(), "was sent again");
        ask(&pool).await.unwrap();
    }
}
