//! HTTP/2 towards an upstream: several connections when one is full, none lost when a server
//! leaves, and none waited for that is dead.

use std::sync::Arc;

use bytes::Bytes;
use http::Method;
use http_body_util::Full;
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
