//! What is tried again and what never is: judged by what reached the upstream.

use bytes::Bytes;
use http::{HeaderValue, Method, Request};
use http_body_util::{BodyExt, Full};
use tokio::net::TcpListener;

use crate::support::client::{self, Answer};
use crate::support::eventually;
use crate::support::service::{How, Service, say};
use crate::support::setup::{POLICY, Setup, Sidecar};

const ON_EVERYTHING: &str = "retries: { attempts: 3, on: [connect, reset, 502, 503, 504] }";

async fn before(service: &Service, keys: &[&'static str]) -> Sidecar {
    let mut setup = Setup::new(&service.address);
    setup.upstream_keys.extend(keys);
    setup.start().await
}

/// A service that is well again after so many bad answers.
async fn recovers_after(bad: usize) -> Service {
    Service::start(How::http1(), move |asked| async move {
        match asked.number <= bad {
            true => say(503, "not now"),
            false => say(200, "well again"),
        }
    })
    .await
}

async fn send(sidecar: &Sidecar, method: Method, body: &'static [u8]) -> Answer {
    let request = Request::builder()
        .method(method)
        .uri("/")
        .header("host", "localhost")
        .body(Full::new(Bytes::from_static(body)))
        .unwrap();
    sidecar.http1("frontend").await.send(request).await
}

#[tokio::test]
async fn an_idempotent_call_is_tried_again_and_its_record_says_so() {
    let service = recovers_after(2).await;
    let sidecar = before(&service, &[ON_EVERYTHING]).await;
    let answer = send(&sidecar, Method::GET, b"").await;
    assert_eq!(
        (answer.status.as_u16(), answer.text().as_str()),
        (200, "well again")
    );
    assert_eq!(service.requests(), 3);
    let record = sidecar.record(|record| record["status"] == 200).await;
    assert_eq!(record["attempts"], 3);
    let retries = "wayleave_upstream_retries_total{service=\"app\"}";
    assert_eq!(sidecar.metric(retries).await, 2.0);
}

#[tokio::test]
async fn no_more_attempts_than_are_allowed() {
    let service = recovers_after(5).await;
    let sidecar = before(&service, &[ON_EVERYTHING]).await;
    let answer = send(&sidecar, Method::GET, b"").await;
    assert_eq!(
        (answer.status.as_u16(), answer.text().as_str()),
        (503, "not now")
    );
    assert_eq!(service.requests(), 3);
}

#[tokio::test]
async fn nothing_is_tried_again_unless_that_is_asked_for() {
    let service = recovers_after(1).await;
    let sidecar = before(&service, &[]).await;
    assert_eq!(send(&sidecar, Method::GET, b"").await.status, 503);
    assert_eq!(service.requests(), 1);
    let record = sidecar.record(|record| record["status"] == 503).await;
    assert!(record.get("attempts").is_none(), "{record}");
}

#[tokio::test]
async fn a_call_that_is_not_idempotent_is_never_sent_twice() {
    let service = recovers_after(1).await;
    let keys = ["retries: { on: [connect, reset, 503, grpc_unavailable], buffer: 1KiB }"];
    let sidecar = before(&service, &keys).await;
    for body in [&b""[..], b"order"] {
        let sent = service.requests();
        send(&sidecar, Method::POST, body).await;
        assert_eq!(service.requests(), sent + 1);
    }
    assert_eq!(send(&sidecar, Method::PATCH, b"x").await.status, 200);
    assert_eq!(service.requests(), 3);
}

#[tokio::test]
async fn a_broken_connection_is_tried_again_for_idempotent_calls_alone() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let service = Service::saying(How::http1(), 200, "ok").await;
    // Reads the request and resets.
    tokio::spawn(async move {
        use tokio::io::AsyncReadExt;
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 1024]).await;
        }
    });
    for (method, status) in [(Method::GET, 200), (Method::POST, 502)] {
        let mut setup = Setup::new(address);
        setup.more_upstreams = vec![service.address.clone()];
        setup.upstream_keys = vec!["balance: round_robin", "retries: { on: [reset] }"];
        let sidecar = setup.start().await;
        let mut statuses = Vec::new();
        for _ in 0..2 {
            statuses.push(send(&sidecar, method.clone(), b"").await.status.as_u16());
        }
        assert!(statuses.contains(&200), "{statuses:?}");
        assert!(statuses.contains(&status), "{method}: {statuses:?}");
    }
}

#[tokio::test]
async fn a_small_body_is_sent_again_as_it_was() {
    let service = recovers_after(2).await;
    let sidecar = before(
        &service,
        &["retries: { attempts: 3, on: [503], buffer: 16B }"],
    )
    .await;
    assert_eq!(
        send(&sidecar, Method::PUT, b"sixteen bytes!!!")
            .await
            .status,
        200
    );
    let bodies: Vec<_> = service.bodies();
    assert_eq!(bodies, vec![Bytes::from_static(b"sixteen bytes!!!"); 3]);
}

#[tokio::test]
async fn a_body_that_is_not_kept_is_not_sent_again() {
    for (buffer, body) in [
        (
            "retries: { on: [503], buffer: 16B }",
            &b"seventeen bytes!!"[..],
        ),
        ("retries: { on: [503] }", b"x"),
    ] {
        let service = recovers_after(1).await;
        let sidecar = before(&service, &[buffer]).await;
        assert_eq!(send(&sidecar, Method::PUT, body).await.status, 503);
        assert_eq!(service.bodies(), [Bytes::from_static(body)]);
    }
}

#[tokio::test]
async fn the_budget_ends_retries() {
    let service = recovers_after(100).await;
    let keys = ["retries: { attempts: 2, on: [503], budget_percent: 50, min_per_second: 0 }"];
    let sidecar = before(&service, &keys).await;
    for _ in 0..10 {
        assert_eq!(send(&sidecar, Method::GET, b"").await.status, 503);
    }
    assert_eq!(service.requests(), 15, "ten calls and five retries");
    let exhausted = "wayleave_upstream_retry_budget_exhausted_total{service=\"app\"}";
    assert_eq!(sidecar.metric(exhausted).await, 5.0);
}

#[tokio::test]
async fn each_attempt_goes_to_another_endpoint() {
    let bad = Service::saying(How::http1(), 503, "bad").await;
    let good = Service::saying(How::http1(), 200, "good").await;
    let mut setup = Setup::new(&bad.address);
    setup.more_upstreams = vec![good.address.clone()];
    setup.upstream_keys = vec![
        "balance: round_robin",
        "outlier: { max_ejected_percent: 0 }",
        "retries: { attempts: 2, on: [503] }",
    ];
    let sidecar = setup.start().await;
    for _ in 0..10 {
        assert_eq!(send(&sidecar, Method::GET, b"").await.text(), "good");
    }
    assert_eq!(good.requests(), 10);
    assert!(bad.requests() > 0, "nothing was tried again");
}

#[tokio::test]
async fn a_silent_attempt_is_given_up_in_its_own_time() {
    let service = Service::start(How::http1(), |asked| async move {
        if asked.number == 1 {
            std::future::pending::<()>().await;
        }
        say(200, "ok")
    })
    .await;
    let keys = ["retries: { on: [reset], per_try_timeout: 200ms }"];
    let sidecar = before(&service, &keys).await;
    assert_eq!(send(&sidecar, Method::GET, b"").await.status, 200);
    assert_eq!(service.requests(), 2);
}

#[tokio::test]
async fn a_connection_that_cannot_be_made_is_tried_again_for_any_call() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let mut setup = Setup::new(address);
    setup.upstream_keys = vec!["retries: { attempts: 10, on: [connect] }"];
    let sidecar = setup.start().await;
    // A POST may be tried again as well: nothing was sent.
    let answer = send(&sidecar, Method::POST, b"order").await;
    assert_eq!(answer.status, 502);
    let record = sidecar.record(|record| record["status"] == 502).await;
    assert_eq!(record["attempts"], 10);
}

fn grpc(sidecar: &Sidecar) -> Request<Full<Bytes>> {
    let mut request = client::get(&sidecar.url("/echo.Echo/Say"));
    *request.method_mut() = Method::POST;
    *request.body_mut() = Full::from("message");
    let grpc = HeaderValue::from_static("application/grpc");
    request.headers_mut().insert("content-type", grpc);
    request
}

async fn unavailable_at_first() -> Service {
    Service::start(How::http2(), |asked| async move {
        let mut response = say(200, "");
        let status = if asked.number == 1 { "14" } else { "0" };
        let headers = response.headers_mut();
        headers.insert("content-type", HeaderValue::from_static("application/grpc"));
        headers.insert("grpc-status", HeaderValue::from_static(status));
        *response.body_mut() = Full::default().boxed_unsync();
        response
    })
    .await
}

#[tokio::test]
async fn an_unavailable_grpc_call_is_tried_again_where_that_is_named() {
    for (keys, expected) in [
        ("retries: { on: [grpc_unavailable], buffer: 1KiB }", "0"),
        ("retries: { on: [503, reset], buffer: 1KiB }", "14"),
        ("retries: { on: [grpc_unavailable] }", "14"),
    ] {
        let service = unavailable_at_first().await;
        let sidecar = before(&service, &["protocol: http2", keys]).await;
        let answer = sidecar.http2("frontend").await.send(grpc(&sidecar)).await;
        assert_eq!(answer.header("grpc-status"), expected, "{keys}");
        let sent = vec![Bytes::from_static(b"message"); if expected == "0" { 2 } else { 1 }];
        assert_eq!(service.bodies(), sent, "{keys}");
    }
}

#[tokio::test]
async fn a_call_is_not_tried_again_once_the_policies_deny_it() {
    let (go, gone) = tokio::sync::watch::channel(false);
    let service = Service::start(How::http1(), move |_| {
        let mut gone = gone.clone();
        async move {
            let _ = gone.wait_for(|changed| *changed).await;
            say(503, "not now")
        }
    })
    .await;
    let sidecar = before(&service, &["retries: { attempts: 3, on: [503] }"]).await;
    let revision = async || {
        let status = sidecar.admin_get("/status").await.unwrap().json();
        status["policies"]["revision"].clone()
    };
    let before = revision().await;
    let change = async {
        eventually("the first attempt", || async {
            (service.requests() == 1).then_some(())
        })
        .await;
        sidecar
            .setup
            .write_policy(&POLICY.replace("sa/frontend", "sa/agent"));
        eventually("the new policies", || async {
            (revision().await != before).then_some(())
        })
        .await;
        go.send_replace(true);
    };
    let (answer, ()) = tokio::join!(send(&sidecar, Method::GET, b""), change);
    assert_eq!(answer.status, 403);
    assert_eq!(answer.json()["reason_code"], "lease_ended");
    assert_eq!(
        service.requests(),
        1,
        "sent again under policies that deny it"
    );
}
