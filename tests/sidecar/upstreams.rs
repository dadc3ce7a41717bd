//! Where calls go when there are several places: every endpoint gets its share, those in trouble
//! are left out, and a call is not lost to them.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use tokio::net::TcpListener;

use crate::support::client;
use crate::support::eventually;
use crate::support::service::{How, Service, say};
use crate::support::setup::{Setup, Sidecar};

/// A sidecar before several services.
async fn before(services: &[&str], keys: &[&'static str]) -> Sidecar {
    let mut setup = Setup::new(services[0]);
    setup.more_upstreams = services[1..].iter().map(ToString::to_string).collect();
    setup.upstream_keys.extend(keys);
    setup.start().await
}

/// An address that nobody listens on.
async fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap().to_string()
}

async fn health(sidecar: &Sidecar, address: &str) -> String {
    let endpoints = sidecar.endpoints().await;
    let mut known = endpoints.iter().filter(|one| one["address"] == address);
    known.next().unwrap()["health"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn each_endpoint_in_turn_gets_as_many_calls() {
    let one = Service::saying(How::http1().at("127.0.0.1:0"), 200, "one").await;
    let two = Service::saying(How::http1().at("127.0.0.2:0"), 200, "two").await;
    let sidecar = before(&[&one.address, &two.address], &["balance: round_robin"]).await;
    let mut client = sidecar.http1("frontend").await;
    for _ in 0..20 {
        assert_eq!(client.send(client::get("/")).await.status, 200);
    }
    assert_eq!((one.requests(), two.requests()), (10, 10));
    assert_eq!((one.connections(), two.connections()), (1, 1));
    let endpoints = sidecar.endpoints().await;
    assert_eq!(endpoints.len(), 2);
    assert!(endpoints.iter().all(|one| one["health"] == "healthy"));
}

#[tokio::test]
async fn a_busy_endpoint_is_spared_by_default() {
    let answer = |asked: crate::support::service::Asked| async move {
        if asked.path == "/held" {
            std::future::pending::<()>().await;
        }
        say(200, "ok")
    };
    let one = Service::start(How::http1().at("127.0.0.1:0"), answer).await;
    let two = Service::start(How::http1().at("127.0.0.2:0"), answer).await;
    let sidecar = before(&[&one.address, &two.address], &[]).await;
    let mut held = sidecar.http1("frontend").await;
    let held = held.0.send_request(client::get("/held"));
    let held = tokio::spawn(held);
    eventually("the held call", || async {
        (one.requests() + two.requests() == 1).then_some(())
    })
    .await;
    let free = if one.requests() == 0 { &one } else { &two };
    let mut client = sidecar.http1("frontend").await;
    for _ in 0..20 {
        assert_eq!(client.send(client::get("/")).await.status, 200);
    }
    assert_eq!(free.requests(), 20);
    held.abort();
}

#[tokio::test]
async fn an_endpoint_that_is_down_costs_no_call_and_is_ejected() {
    let (dead, alive) = (
        nobody().await,
        Service::saying(How::http1(), 200, "ok").await,
    );
    let keys = [
        "balance: round_robin",
        "outlier: { consecutive_failures: 3 }",
    ];
    let sidecar = before(&[&dead, &alive.address], &keys).await;
    let mut client = sidecar.http1("frontend").await;
    for _ in 0..20 {
        assert_eq!(client.send(client::get("/")).await.status, 200);
    }
    assert_eq!(alive.requests(), 20);
    assert_eq!(health(&sidecar, &dead).await, "ejected");
    assert_eq!(health(&sidecar, &alive.address).await, "healthy");
    let ejections = "wayleave_upstream_ejections_total{service=\"app\"}";
    assert_eq!(sidecar.metric(ejections).await, 1.0);
    let refused = "wayleave_upstream_connect_failures_total{service=\"app\",reason=\"refused\"}";
    assert_eq!(sidecar.metric(refused).await, 3.0);
}

#[tokio::test]
async fn an_endpoint_that_never_answers_is_ejected() {
    let silent = Service::start(How::http1(), |_| std::future::pending()).await;
    let well = Service::saying(How::http1(), 200, "ok").await;
    let keys = [
        "balance: round_robin",
        "response_timeout: 200ms",
        "outlier: { consecutive_failures: 2 }",
    ];
    let sidecar = before(&[&silent.address, &well.address], &keys).await;
    let mut client = sidecar.http1("frontend").await;
    for _ in 0..10 {
        client.send(client::get("/")).await;
    }
    assert_eq!((silent.requests(), well.requests()), (2, 8));
    assert_eq!(health(&sidecar, &silent.address).await, "ejected");
}

#[tokio::test]
async fn an_ejected_endpoint_is_used_again_after_its_time() {
    let status = Arc::new(AtomicU16::new(503));
    let told = Arc::clone(&status);
    let shaky = Service::start(How::http1(), move |_| {
        let status = told.load(Ordering::SeqCst);
        async move { say(status, "shaky") }
    })
    .await;
    let firm = Service::saying(How::http1(), 200, "firm").await;
    let keys = [
        "balance: round_robin",
        "outlier: { consecutive_failures: 2, ejection_time: 3s }",
    ];
    let sidecar = before(&[&shaky.address, &firm.address], &keys).await;
    let mut client = sidecar.http1("frontend").await;
    for _ in 0..6 {
        client.send(client::get("/")).await;
    }
    assert_eq!(shaky.requests(), 2, "calls went to an ejected endpoint");
    status.store(200, Ordering::SeqCst);
    eventually("the endpoint to be used again", || async {
        sidecar.get("frontend", "/").await;
        (shaky.requests() > 4).then_some(())
    })
    .await;
    assert_eq!(health(&sidecar, &shaky.address).await, "healthy");
}

#[tokio::test]
async fn all_endpoints_in_trouble_are_all_used() {
    let one = Service::saying(How::http1(), 503, "one").await;
    let two = Service::saying(How::http1(), 503, "two").await;
    let keys = [
        "balance: round_robin",
        "outlier: { consecutive_failures: 1, max_ejected_percent: 100 }",
    ];
    let sidecar = before(&[&one.address, &two.address], &keys).await;
    let mut client = sidecar.http1("frontend").await;
    for _ in 0..10 {
        assert_eq!(client.send(client::get("/")).await.status, 503);
    }
    assert_eq!(health(&sidecar, &one.address).await, "ejected");
    assert_eq!(health(&sidecar, &two.address).await, "ejected");
    assert_eq!((one.requests(), two.requests()), (5, 5));
}

#[tokio::test]
async fn a_single_endpoint_is_never_left_out() {
    let only = Service::saying(How::http1(), 503, "only").await;
    let sidecar = before(&[&only.address], &["outlier: { consecutive_failures: 1 }"]).await;
    let mut client = sidecar.http1("frontend").await;
    for _ in 0..5 {
        assert_eq!(client.send(client::get("/")).await.status, 503);
    }
    assert_eq!(only.requests(), 5);
    assert_eq!(health(&sidecar, &only.address).await, "healthy");
}

#[tokio::test]
async fn health_checks_say_who_gets_calls() {
    let well = Arc::new(AtomicU16::new(500));
    let told = Arc::clone(&well);
    let sick = Service::start(How::http1(), move |asked| {
        let check = asked.path == "/healthz";
        assert!(
            !check
                || asked.headers["user-agent"]
                    .to_str()
                    .unwrap()
                    .starts_with("wayleave")
        );
        let status = if check {
            told.load(Ordering::SeqCst)
        } else {
            200
        };
        async move { say(status, "sick") }
    })
    .await;
    let fit = Service::saying(How::http1(), 200, "fit").await;
    let keys = [
        "balance: round_robin",
        "health_check: { path: /healthz, interval: 100ms, unhealthy_after: 1, healthy_after: 2 }",
    ];
    let sidecar = before(&[&sick.address, &fit.address], &keys).await;
    eventually("the check to fail", || async {
        (health(&sidecar, &sick.address).await == "unhealthy").then_some(())
    })
    .await;
    let mut client = sidecar.http1("frontend").await;
    for _ in 0..10 {
        assert_eq!(client.send(client::get("/")).await.text(), "fit");
    }
    well.store(204, Ordering::SeqCst);
    eventually("calls to come back", || async {
        (sidecar.get("frontend", "/").await.text() == "sick").then_some(())
    })
    .await;
    assert_eq!(health(&sidecar, &sick.address).await, "healthy");
}

#[tokio::test]
async fn health_checks_speak_http_2_to_an_http_2_upstream() {
    let service = Service::start(How::http2(), |asked| async move {
        say(if asked.path == "/healthz" { 500 } else { 200 }, "ok")
    })
    .await;
    let keys = [
        "protocol: http2",
        "health_check: { path: /healthz, interval: 100ms, unhealthy_after: 1 }",
    ];
    let sidecar = before(&[&service.address], &keys).await;
    eventually("the check to fail", || async {
        (health(&sidecar, &service.address).await == "unhealthy").then_some(())
    })
    .await;
    // There is no other, so it is used all the same.
    assert_eq!(sidecar.get("frontend", "/").await.status, 200);
}

#[tokio::test]
async fn a_name_with_several_addresses_is_resolved() {
    let service = Service::saying(How::http1(), 200, "ok").await;
    let port = service.address.rsplit_once(':').unwrap().1;
    let sidecar = before(&[&format!("localhost:{port}")], &[]).await;
    for _ in 0..5 {
        assert_eq!(sidecar.get("frontend", "/").await.status, 200);
    }
    let endpoints = sidecar.endpoints().await;
    assert!(
        endpoints
            .iter()
            .any(|one| one["address"] == service.address)
    );
}

fn socket(setup: &Setup) -> PathBuf {
    setup.path("app.sock")
}

#[tokio::test]
async fn a_unix_socket_is_an_upstream_in_http_1_and_http_2() {
    for (http2, keys) in [(false, vec![]), (true, vec!["protocol: http2"])] {
        let mut setup = Setup::new("127.0.0.1:9");
        let how = if http2 { How::http2() } else { How::http1() };
        let how = how.on_socket(socket(&setup));
        let service = Service::saying(how, 200, "by socket").await;
        setup.upstream = service.address.clone();
        setup.upstream_keys = keys;
        let sidecar = setup.start().await;
        let mut client = sidecar.http2("frontend").await;
        for _ in 0..3 {
            let answer = client.send(client::get(&sidecar.url("/"))).await;
            assert_eq!(
                (answer.status.as_u16(), answer.text().as_str()),
                (200, "by socket")
            );
        }
        assert_eq!((service.requests(), service.connections()), (3, 1));
        assert_eq!(health(&sidecar, &service.address).await, "healthy");
    }
}

#[tokio::test]
async fn a_unix_socket_that_is_not_there_is_502() {
    let setup = Setup::new("127.0.0.1:9");
    let address = format!("unix:{}", socket(&setup).display());
    let sidecar = Setup {
        upstream: address,
        ..setup
    };
    let answer = sidecar.start().await.get("frontend", "/").await;
    assert_eq!(answer.status, 502);
    assert_eq!(answer.json()["reason_code"], "upstream_unreachable");
}

#[tokio::test]
async fn a_denied_call_opens_no_connection_to_any_endpoint() {
    let one = Service::saying(How::http1(), 200, "one").await;
    let two = Service::saying(How::http1(), 200, "two").await;
    let keys = ["retries: { attempts: 3, on: [connect, reset, 502, 503, 504] }"];
    let sidecar = before(&[&one.address, &two.address], &keys).await;
    assert_eq!(sidecar.get("agent", "/").await.status, 403);
    assert_eq!((one.connections(), two.connections()), (0, 0));
}
