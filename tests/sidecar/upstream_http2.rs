//! HTTP/2 towards an upstream: several connections when one is full, none lost when a server
//! leaves, and none waited for that is dead.

use std::sync::Arc;

use bytes::Bytes;
use http::Method;
use http_body_util::Full;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::support::client::{self, Answer, Http2};
use crate::support::eventually;
use crate::support::service::{How, Service, say};
use crate::support::setup::{Setup, Sidecar};

async fn before(service: &Service, keys: &[&'static str]) -> Arc<Sidecar> {
    let mut setup = Setup::new(&service.address);
    setup.upstream_keys.push("protocol: http2");
    setup.upstream_keys.extend(keys);
    Arc::new(setup.start().await)
}

fn begin(sidecar: &Arc<Sidecar>, path: &'static str) -> tokio::task::JoinHandle<Answer> {
    let sidecar = Arc::clone(sidecar);
    tokio::spawn(async move { sidecar.get("frontend", path).await })
}

#[tokio::test]
async fn a_full_connection_gets_company() {
    let held = Arc::new(Semaphore::new(0));
    let waiting = Arc::clone(&held);
    let service = Service::start(How::http2().streams(2), move |_| {
        let waiting = Arc::clone(&waiting);
        async move {
            waiting.acquire().await.unwrap().forget();
            say(200, "ok")
        }
    })
    .await;
    let sidecar = before(&service, &[]).await;
    let calls: Vec<_> = (0..5).map(|_| begin(&sidecar, "/")).collect();
    // All five are there at once: none waits for another to end.
    eventually("all calls", || async {
        (service.requests() == 5).then_some(())
    })
    .await;
    assert_eq!(service.connections(), 3);
    held.add_permits(5);
    for call in calls {
        assert_eq!(call.await.unwrap().status, 200);
    }
}

#[tokio::test]
async fn an_upstream_that_allows_for_no_stream_is_an_error_and_no_loop() {
    let service = Service::saying(How::http2().streams(0), 200, "never").await;
    let sidecar = before(&service, &[]).await;
    let answer = sidecar.get("frontend", "/").await;
    assert_eq!(answer.status, 502);
    assert_eq!(service.connections(), 1);
}

#[tokio::test]
async fn an_upstream_that_leaves_and_comes_back_loses_no_call() {
    let service = Arc::new(Service::saying(How::http2(), 200, "ok").await);
    let sidecar = before(&service, &[]).await;
    let mut callers = Vec::new();
    for _ in 0..4 {
        let mut client = sidecar.http2("frontend").await;
        let uri = sidecar.url("/");
        callers.push(tokio::spawn(async move {
            for _ in 0..100 {
                assert_eq!(client.send(client::get(&uri)).await.status, 200);
            }
        }));
    }
    let leaving = Arc::clone(&service);
    let restarts = tokio::spawn(async move {
        loop {
            // It leaves while calls are under way, not while it is being greeted.
            let requests = leaving.requests();
            eventually("more calls", || async {
                (leaving.requests() > requests + 10).then_some(())
            })
            .await;
            leaving.leave();
        }
    });
    for caller in callers {
        caller.await.unwrap();
    }
    restarts.abort();
    assert_eq!(service.requests(), 400);
    assert!(service.connections() > 2, "it never left");
}

#[tokio::test]
async fn a_connection_that_says_nothing_any_more_is_replaced() {
    let service = Service::saying(How::http2(), 200, "ok").await;
    let keys = ["response_timeout: 400ms", "connect_timeout: 300ms"];
    let sidecar = before(&service, &keys).await;
    assert_eq!(sidecar.get("frontend", "/").await.status, 200);
    service.freeze();
    assert_eq!(sidecar.get("frontend", "/").await.status, 504);
    assert_eq!(sidecar.get("frontend", "/").await.status, 200);
    assert_eq!(service.connections(), 2);
}

#[tokio::test]
async fn pings_find_a_dead_connection_before_any_call_does() {
    let service = Service::saying(How::http2(), 200, "ok").await;
    let sidecar = before(&service, &["keepalive: 1s"]).await;
    assert_eq!(sidecar.get("frontend", "/").await.status, 200);
    let open = "wayleave_upstream_connections{service=\"app\"}";
    assert_eq!(sidecar.metric(open).await, 1.0);
    service.freeze();
    eventually("the connection to be given up", || async {
        (sidecar.metric(open).await == 0.0).then_some(())
    })
    .await;
    assert_eq!(sidecar.get("frontend", "/").await.status, 200);
    assert_eq!(service.connections(), 2);
}

#[tokio::test]
async fn an_idle_connection_closes_after_its_time() {
    let service = Service::saying(How::http2(), 200, "ok").await;
    let sidecar = before(&service, &["pool_idle_timeout: 100ms"]).await;
    assert_eq!(sidecar.get("frontend", "/").await.status, 200);
    eventually("the idle connection to close", || async {
        (service.open() == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_upstream_that_speaks_http_1_is_told_apart_before_anything_is_sent() {
    let service = Service::saying(How::http1(), 200, "ok").await;
    let sidecar = before(&service, &[]).await;
    let mut client: Http2<Full<Bytes>> = sidecar.http2("frontend").await;
    let mut request = client::get(&sidecar.url("/"));
    *request.method_mut() = Method::POST;
    *request.body_mut() = Full::from("order");
    let answer = client.send(request).await;
    assert_eq!(answer.status, 502);
    assert_eq!(answer.json()["reason_code"], "upstream_broke");
    assert_eq!(service.bodies().len(), 0);
}

const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
const SETTINGS_ACK: &[u8] = &[0, 0, 0, 4, 1, 0, 0, 0, 0];
/// GOAWAY, NO_ERROR, and no stream was processed.
const GOAWAY: &[u8] = &[0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
/// RST_STREAM of the first stream with REFUSED_STREAM.
const REFUSED: &[u8] = &[0, 0, 4, 3, 0, 0, 0, 0, 1, 0, 0, 0, 7];
/// RST_STREAM of the first stream with INTERNAL_ERROR: it may have been processed.
const BROKEN: &[u8] = &[0, 0, 4, 3, 0, 0, 0, 0, 1, 0, 0, 0, 2];

/// Answers the first request of the first connection with these bytes and further ones with 204,
/// and passes all other connections on to `service`.
async fn refusing(frame: &'static [u8], service: &Service) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let next = service.address.clone();
    tokio::spawn(async move {
        let (first, _) = listener.accept().await.unwrap();
        let first = tokio::spawn(refuse(first, frame));
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut service = TcpStream::connect(&next).await.unwrap();
            tokio::spawn(async move {
                let _ = tokio::io::copy_bidirectional(&mut stream, &mut service).await;
            });
        }
        drop(first);
    });
    address
}

async fn refuse(mut stream: TcpStream, frame: &[u8]) {
    let mut preface = [0; 24];
    stream.read_exact(&mut preface).await.unwrap();
    stream.write_all(SETTINGS).await.unwrap();
    let mut requests = 0;
    loop {
        let mut head = [0; 9];
        if stream.read_exact(&mut head).await.is_err() {
            return;
        }
        let length = usize::from(head[1]) << 8 | usize::from(head[2]);
        stream.read_exact(&mut vec![0; length]).await.unwrap();
        match (head[3], head[4]) {
            (4, 0) => stream.write_all(SETTINGS_ACK).await.unwrap(),
            (1, _) => {
                requests += 1;
                // HEADERS that end the stream, with `:status: 204` of HPACK's static table.
                let answer = [0, 0, 1, 1, 5, head[5], head[6], head[7], head[8], 0x89];
                let frame = if requests == 1 { frame } else { &answer };
                stream.write_all(frame).await.unwrap();
            }
            _ => {}
        }
    }
}

/// What becomes of one call whose first stream ends with `frame`, and how often it was answered.
async fn after(frame: &'static [u8], method: Method, body: &'static str) -> (u16, usize) {
    let service = Service::saying(How::http2(), 200, "ok").await;
    let mut setup = Setup::new(refusing(frame, &service).await);
    setup.upstream_keys.push("protocol: http2");
    let sidecar = setup.start().await;
    let mut request = client::get(&sidecar.url("/"));
    *request.method_mut() = method;
    *request.body_mut() = Full::from(body);
    let answer = sidecar.http2("frontend").await.send(request).await;
    (answer.status.as_u16(), service.requests())
}

#[tokio::test]
async fn what_was_not_processed_is_sent_again_whatever_it_is() {
    for frame in [REFUSED, GOAWAY] {
        for method in [Method::GET, Method::POST] {
            assert_eq!(after(frame, method, "").await, (200, 1));
        }
    }
}

#[tokio::test]
async fn what_may_have_been_processed_is_not_sent_again() {
    for method in [Method::GET, Method::POST] {
        assert_eq!(after(BROKEN, method, "").await, (502, 0));
    }
    // Its body is gone.
    assert_eq!(after(REFUSED, Method::POST, "order").await, (502, 0));
}

#[tokio::test]
async fn a_stream_that_was_reset_leaves_its_connection_to_other_calls() {
    for (frame, next) in [(BROKEN, 204), (REFUSED, 200), (GOAWAY, 200)] {
        let service = Service::saying(How::http2(), 200, "ok").await;
        let mut setup = Setup::new(refusing(frame, &service).await);
        setup.upstream_keys.push("protocol: http2");
        let sidecar = setup.start().await;
        sidecar.get("frontend", "/").await;
        assert_eq!(sidecar.get("frontend", "/").await.status, next);
    }
}
