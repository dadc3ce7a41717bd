//! Behaviour is evidence: what policies read of it is counted once a call, on every connection and
//! worker alike, and what crosses their limits denies, quarantines and ends.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};

use crate::support::client;
use crate::support::process::wayleave;
use crate::support::service::{Asked, Body, How, Service};
use crate::support::setup::{POLICY, Setup, Sidecar};
use crate::support::tool::run;
use crate::support::{eventually, within};

const FRONTEND: &str = "spiffe://test.example/ns/default/sa/frontend";

/// `frontend` and `backend` may do what they like, unless this forbids it.
fn policy(forbid: &str) -> String {
    let backend = POLICY
        .replace("sa/frontend", "sa/backend")
        .replace("frontend-calls-app", "backend-calls-app");
    format!("{POLICY}{backend}{forbid}")
}

/// `/ticks` never ends; anything else is answered at once.
async fn answer(asked: Asked) -> Response<Body> {
    if !asked.path.starts_with("/ticks") {
        return Response::new(Full::from("ok").boxed_unsync());
    }
    let ticks = futures_util::stream::unfold((), |()| async {
        tokio::time::sleep(Duration::from_millis(5)).await;
        let tick = Ok::<_, Infallible>(Frame::data(Bytes::from_static(&[b'x'; 1000])));
        Some((tick, ()))
    });
    Response::new(StreamBody::new(ticks).boxed_unsync())
}

async fn start(forbid: &str, keys: Vec<&'static str>) -> (Sidecar, Service) {
    let service = Service::start(How::http1(), answer).await;
    let mut setup = Setup::new(&service.address);
    setup.write_policy(&policy(forbid));
    setup.keys = keys;
    let text = setup.config("127.0.0.1:0").replace(
        "admin: { listen: \"127.0.0.1:0\" }",
        "admin: { listen: \"127.0.0.1:0\", socket: admin.sock }",
    );
    setup.text = Some(text);
    (setup.start().await, service)
}

type Stream = (client::Http2<Full<Bytes>>, Response<Incoming>);

async fn open(sidecar: &Sidecar, caller: &str) -> Stream {
    let mut http2 = sidecar.http2(caller).await;
    let sent = http2.0.send_request(client::get(&sidecar.url("/ticks")));
    let response = within("the head", sent).await.unwrap();
    assert_eq!(response.status(), 200);
    (http2, response)
}

async fn ticks(response: &mut Response<Incoming>, count: usize) {
    for _ in 0..count {
        let frame = within("a tick", response.frame()).await;
        assert!(frame.unwrap().unwrap().is_data());
    }
}

/// Reads on until the answer is cut.
async fn cut(response: &mut Response<Incoming>) {
    let reading = async { while let Some(Ok(_)) = response.frame().await {} };
    within("the cut", reading).await;
}

#[tokio::test]
async fn the_call_after_the_last_of_a_burst_is_the_first_denied_on_whatever_connection() {
    let forbid = r#"
@id("slow-down") @status("429")
forbid (principal, action, resource) when { context.signals.calls_per_hour > 50 };
"#;
    let (sidecar, service) = start(forbid, vec!["runtime: { workers: 2 }"]).await;
    let url = sidecar.url("/any");
    let mut callers = Vec::new();
    for _ in 0..20 {
        let (mut http2, url) = (sidecar.http2("frontend").await, url.clone());
        callers.push(tokio::spawn(async move {
            let mut statuses = Vec::new();
            for _ in 0..50 {
                let sent = http2.0.send_request(client::get(&url));
                statuses.push(sent.await.unwrap().status().as_u16());
            }
            statuses
        }));
    }
    let mut statuses = Vec::new();
    for caller in callers {
        statuses.extend(within("the burst", caller).await.unwrap());
    }
    let count = |status: u16| statuses.iter().filter(|each| **each == status).count();
    assert_eq!((count(200), count(429)), (50, 950));
    assert_eq!(service.requests(), 50);
    assert_eq!(sidecar.get("backend", "/any").await.status, 200);
    let record = sidecar.record(|record| record["status"] == 429).await;
    assert!(
        record["signals"]["calls_per_hour"].as_i64().unwrap() > 50,
        "{record}"
    );
}

#[tokio::test]
async fn who_waits_as_long_as_it_was_told_is_let_in() {
    let forbid = r#"
@id("slow-down") @status("429")
forbid (principal, action, resource) when { context.signals.calls_per_second > 3 };
"#;
    let (sidecar, _service) = start(forbid, Vec::new()).await;
    let mut http1 = sidecar.http1("frontend").await;
    let mut answers = Vec::new();
    for _ in 0..20 {
        answers.push(http1.send(client::get("/any")).await);
    }
    let denied = answers.iter().rfind(|answer| answer.status == 429);
    let told = denied
        .expect("20 calls within a second")
        .header("retry-after");
    let seconds: u64 = told.parse().unwrap();
    assert!((1..=2).contains(&seconds), "{seconds}");
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    assert_eq!(http1.send(client::get("/any")).await.status, 200);
}

#[tokio::test]
async fn who_sweeps_is_put_in_quarantine_and_its_open_stream_is_cut() {
    let forbid = r#"
@id("no-sweeping") @quarantine("10m") @alert("high") @reason("sweeps")
forbid (principal, action, resource) when { context.signals.endpoints_per_minute > 20 };
"#;
    let (sidecar, _service) = start(forbid, vec!["signals: { state_dir: state }"]).await;
    let (_own, mut stream) = open(&sidecar, "frontend").await;
    let (_other, mut kept) = open(&sidecar, "backend").await;
    ticks(&mut stream, 2).await;
    let mut http1 = sidecar.http1("frontend").await;
    for path in 0..19 {
        let answer = http1.send(client::get(&format!("/orders/{path}"))).await;
        assert_eq!(answer.status, 200, "{path}");
    }
    assert_eq!(http1.send(client::get("/orders/19")).await.status, 403);
    cut(&mut stream).await;
    ticks(&mut kept, 50).await;
    let record = sidecar
        .record(|record| record["failure"] == "lease_ended")
        .await;
    assert_eq!(record["ended_by"], "quarantine", "{record}");
    let record = sidecar
        .record(|record| record["resource"]["path"] == "/orders/19")
        .await;
    assert_eq!(record["alert"], "high", "{record}");
    assert_eq!(record["policies"][0], "no-sweeping", "{record}");
    assert_eq!(
        sidecar
            .metric("wayleave_alerts_total{level=\"high\"}")
            .await,
        1.0
    );
    // What it knew already is denied it too, and a restart changes nothing.
    let denied = http1.send(client::get("/orders/0")).await;
    assert_eq!(denied.json()["reason_code"], "quarantined");
    eventually("the quarantine to be written", || async {
        let text = std::fs::read_to_string(sidecar.setup.path("state/standing.jsonl")).ok()?;
        text.contains("policy:no-sweeping").then_some(())
    })
    .await;
    let Sidecar { setup, process, .. } = sidecar;
    drop(process);
    let sidecar = setup.start().await;
    let denied = sidecar.get("frontend", "/orders/0").await;
    assert_eq!(denied.json()["reason_code"], "quarantined");
    assert_eq!(sidecar.get("backend", "/orders/0").await.status, 200);
}

#[tokio::test]
async fn a_stream_ends_when_more_has_left_than_policy_lets() {
    let forbid = r#"
@id("not-so-much")
forbid (principal, action, resource) when { context.signals.bytes_out_per_minute > 100000 };
"#;
    let (sidecar, _service) = start(forbid, Vec::new()).await;
    let (_own, mut stream) = open(&sidecar, "frontend").await;
    cut(&mut stream).await;
    let record = sidecar
        .record(|record| record["failure"] == "lease_ended")
        .await;
    assert_eq!(record["ended_by"], "signal", "{record}");
    assert!(record["bytes_out"].as_u64().unwrap() > 100_000, "{record}");
    assert_eq!(sidecar.get("frontend", "/any").await.status, 403);
    assert_eq!(sidecar.get("backend", "/any").await.status, 200);
}

#[tokio::test]
async fn a_principal_that_is_said_to_be_risky_loses_what_it_has_open() {
    let forbid = r#"
@id("too-risky")
forbid (principal, action, resource) when { context.signals.risk == "HIGH" };
"#;
    let (sidecar, _service) = start(forbid, Vec::new()).await;
    let (_own, mut stream) = open(&sidecar, "frontend").await;
    let (_other, mut kept) = open(&sidecar, "backend").await;
    ticks(&mut stream, 2).await;
    for level in ["MEDIUM", "HIGH"] {
        ticks(&mut stream, 20).await;
        let mut command = wayleave();
        command.args(["risk", "set", FRONTEND, level, "--socket"]);
        run(command.arg(sidecar.setup.path("admin.sock")))
            .await
            .successful();
    }
    cut(&mut stream).await;
    ticks(&mut kept, 50).await;
    let record = sidecar
        .record(|record| record["failure"] == "lease_ended")
        .await;
    assert_eq!(record["ended_by"], "risk", "{record}");
    assert_eq!(sidecar.get("frontend", "/any").await.status, 403);
}

#[tokio::test]
async fn calls_in_flight_are_those_that_have_not_ended() {
    let forbid = r#"
@id("two-at-once") @status("429")
forbid (principal, action, resource) when { context.signals.in_flight > 2 };
"#;
    let (sidecar, _service) = start(forbid, Vec::new()).await;
    let (_first, stream) = open(&sidecar, "frontend").await;
    let (mut second, _other) = open(&sidecar, "frontend").await;
    let url = sidecar.url("/any");
    assert_eq!(second.send(client::get(&url)).await.status, 429);
    drop(stream);
    eventually("the first to be over", || {
        let sent = second.0.send_request(client::get(&url));
        async move { (sent.await.unwrap().status() == 200).then_some(()) }
    })
    .await;
}

#[tokio::test]
async fn a_recorded_signal_explains_the_decision() {
    let forbid = r#"
@id("slow-down")
forbid (principal, action, resource) when { context.signals.calls_per_minute > 1 };
"#;
    let (sidecar, _service) = start(forbid, Vec::new()).await;
    let mut http1 = sidecar.http1("frontend").await;
    assert_eq!(http1.send(client::get("/any")).await.status, 200);
    assert_eq!(http1.send(client::get("/any")).await.status, 403);
    let record = sidecar.record(|record| record["effect"] == "deny").await;
    assert_eq!(record["signals"]["calls_per_minute"], 2, "{record}");
    let file = sidecar.setup.path("record.jsonl");
    std::fs::write(&file, record.to_string()).unwrap();
    let mut command = wayleave();
    command
        .arg("explain")
        .arg("--policies")
        .arg(sidecar.setup.path("policies"));
    let told = run(command.arg("--from-record").arg(&file)).await;
    assert!(
        told.stdout().contains("slow-down"),
        "{}{}",
        told.stdout(),
        told.stderr()
    );
    assert!(told.stdout().contains("deny"), "{}", told.stdout());
}
