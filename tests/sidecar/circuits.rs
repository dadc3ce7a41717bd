//! Limits on what is held towards an upstream: what is over them is refused at once, and what
//! waits gets its turn.

use std::sync::Arc;

use http::HeaderValue;
use tokio::sync::Semaphore;

use crate::support::client::{self, Answer};
use crate::support::eventually;
use crate::support::service::{How, Service, say};
use crate::support::setup::{Setup, Sidecar};

/// A service whose calls to `/held` end one by one, when the test says so.
async fn holding(how: How) -> (Service, Arc<Semaphore>) {
    let held = Arc::new(Semaphore::new(0));
    let waiting = Arc::clone(&held);
    let service = Service::start(how, move |asked| {
        let waiting = Arc::clone(&waiting);
        async move {
            if asked.path == "/held" {
                waiting.acquire().await.unwrap().forget();
            }
            say(200, "ok")
        }
    })
    .await;
    (service, held)
}

async fn before(service: &Service, keys: &[&'static str]) -> Arc<Sidecar> {
    let mut setup = Setup::new(&service.address);
    setup.upstream_keys.extend(keys);
    Arc::new(setup.start().await)
}

fn begin(sidecar: &Arc<Sidecar>, path: &'static str) -> tokio::task::JoinHandle<Answer> {
    let sidecar = Arc::clone(sidecar);
    tokio::spawn(async move { sidecar.get("frontend", path).await })
}

async fn until_requests(service: &Service, count: usize) {
    eventually("requests to arrive", || async {
        (service.requests() >= count).then_some(())
    })
    .await;
}

async fn until_pending(sidecar: &Sidecar, count: f64) {
    eventually("a request to wait", || async {
        let series = "wayleave_upstream_requests_pending{service=\"app\"}";
        (sidecar.metric(series).await == count).then_some(())
    })
    .await;
}

fn assert_overloaded(answer: &Answer) {
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert_eq!(answer.header("retry-after"), "1");
    assert_eq!(answer.json()["reason_code"], "upstream_overloaded");
}

#[tokio::test]
async fn a_request_over_the_limit_is_refused_at_once_and_told_as_overload() {
    let (service, held) = holding(How::http1()).await;
    let sidecar = before(&service, &["circuit: { max_requests: 1 }"]).await;
    let first = begin(&sidecar, "/held");
    until_requests(&service, 1).await;
    assert_overloaded(&sidecar.get("frontend", "/over").await);

    let mut request = client::get(&sidecar.url("/echo.Echo/Say"));
    *request.method_mut() = http::Method::POST;
    let grpc = HeaderValue::from_static("application/grpc");
    request.headers_mut().insert("content-type", grpc);
    let answer = sidecar.http2("frontend").await.send(request).await;
    assert_eq!(answer.header("grpc-status"), "14");

    held.add_permits(1);
    assert_eq!(first.await.unwrap().status, 200);
    assert_eq!(sidecar.get("frontend", "/after").await.status, 200);
    assert_eq!(
        service.requests(),
        2,
        "what was refused reached the upstream"
    );
    let record = sidecar.record(|record| record["status"] == 503).await;
    assert_eq!(record["effect"], "allow");
    assert_eq!(record["failure"], "upstream_overloaded");
    let series = "wayleave_upstream_overloaded_total{service=\"app\",limit=\"max_requests\"}";
    assert_eq!(sidecar.metric(series).await, 2.0);
}

#[tokio::test]
async fn a_denied_call_takes_no_place() {
    let (service, _held) = holding(How::http1()).await;
    let sidecar = before(&service, &["circuit: { max_requests: 1 }"]).await;
    let _first = begin(&sidecar, "/held");
    until_requests(&service, 1).await;
    assert_eq!(sidecar.get("agent", "/").await.status, 403);
}

#[tokio::test]
async fn a_request_waits_for_a_connection_and_one_too_many_is_refused() {
    let (service, held) = holding(How::http1()).await;
    let keys = ["circuit: { max_connections: 1, max_pending: 1 }"];
    let sidecar = before(&service, &keys).await;
    let first = begin(&sidecar, "/held");
    until_requests(&service, 1).await;
    let second = begin(&sidecar, "/waits");
    until_pending(&sidecar, 1.0).await;
    assert_overloaded(&sidecar.get("frontend", "/over").await);
    held.add_permits(1);
    assert_eq!(first.await.unwrap().status, 200);
    assert_eq!(second.await.unwrap().status, 200);
    assert_eq!((service.requests(), service.connections()), (2, 1));
    until_pending(&sidecar, 0.0).await;
}

#[tokio::test]
async fn a_request_that_waits_too_long_for_a_connection_is_refused() {
    let (service, _held) = holding(How::http1()).await;
    let keys = ["circuit: { max_connections: 1 }", "connect_timeout: 300ms"];
    let sidecar = before(&service, &keys).await;
    let _first = begin(&sidecar, "/held");
    until_requests(&service, 1).await;
    assert_overloaded(&sidecar.get("frontend", "/waits").await);
}

#[tokio::test]
async fn streams_of_one_http_2_connection_count_as_one_connection() {
    let (service, held) = holding(How::http2().streams(2)).await;
    let keys = [
        "protocol: http2",
        "circuit: { max_connections: 1, max_pending: 1 }",
    ];
    let sidecar = before(&service, &keys).await;
    let two = [begin(&sidecar, "/held"), begin(&sidecar, "/held")];
    until_requests(&service, 2).await;
    let third = begin(&sidecar, "/waits");
    until_pending(&sidecar, 1.0).await;
    assert_overloaded(&sidecar.get("frontend", "/over").await);
    held.add_permits(2);
    for call in two {
        assert_eq!(call.await.unwrap().status, 200);
    }
    assert_eq!(third.await.unwrap().status, 200);
    assert_eq!(service.connections(), 1);
}

#[tokio::test]
async fn an_idle_connection_elsewhere_makes_room() {
    let one = Service::saying(How::http1(), 200, "one").await;
    let two = Service::saying(How::http1(), 200, "two").await;
    let mut setup = Setup::new(&one.address);
    setup.more_upstreams = vec![two.address.clone()];
    setup.upstream_keys = vec!["balance: round_robin", "circuit: { max_connections: 1 }"];
    let sidecar = setup.start().await;
    let mut client = sidecar.http1("frontend").await;
    for _ in 0..6 {
        assert_eq!(client.send(client::get("/")).await.status, 200);
    }
    assert_eq!((one.requests(), two.requests()), (3, 3));
}

#[tokio::test]
async fn the_limit_holds_for_all_workers_together() {
    let (service, held) = holding(How::http1()).await;
    let mut setup = Setup::new(&service.address);
    setup.upstream_keys = vec!["circuit: { max_connections: 2 }"];
    setup.keys = vec!["runtime: { workers: 2 }"];
    let sidecar = Arc::new(setup.start().await);
    let calls: Vec<_> = (0..6).map(|_| begin(&sidecar, "/held")).collect();
    until_requests(&service, 2).await;
    until_pending(&sidecar, 4.0).await;
    assert_eq!(service.open(), 2);
    held.add_permits(6);
    for call in calls {
        assert_eq!(call.await.unwrap().status, 200);
    }
}
