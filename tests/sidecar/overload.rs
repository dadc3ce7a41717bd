//! More than the sidecar takes on: refused early, told to try again, on record, and never one
//! caller at the cost of all others.

use http::Request;
use http_body_util::Full;
use tokio::io::AsyncReadExt;
use tokio::task::JoinHandle;

use crate::support::client::{self, Answer};
use crate::support::setup::{Setup, Sidecar};
use crate::support::upstream::{Speaks, Upstream};
use crate::support::{eventually, within};

/// Everybody may do everything.
const ALL: &str = r#"@id("all") permit (principal, action, resource);"#;

async fn limited(limits: &[&'static str], keys: &[&'static str]) -> (Sidecar, Upstream) {
    let upstream = Upstream::start(Speaks::Http1).await;
    let mut setup = Setup::new(upstream.address);
    setup.limits.extend(limits);
    setup.keys.extend(keys);
    setup.write_policy(ALL);
    (setup.start().await, upstream)
}

/// Calls that the upstream holds, each on a connection of its own, once it has all of them.
async fn hold(
    sidecar: &Sidecar,
    upstream: &Upstream,
    caller: &str,
    count: usize,
) -> Vec<JoinHandle<Answer>> {
    let before = upstream.seen().len();
    let mut held = Vec::new();
    for _ in 0..count {
        let mut client = sidecar.http1(caller).await;
        held.push(tokio::spawn(async move {
            client.send(client::get("/held")).await
        }));
    }
    eventually("the held calls", || async {
        (upstream.seen().len() == before + count).then_some(())
    })
    .await;
    held
}

async fn release(upstream: &Upstream, held: Vec<JoinHandle<Answer>>) {
    held.iter().for_each(|_| upstream.release());
    for call in held {
        let answer = within("a held call", call).await.unwrap();
        assert_eq!(answer.status, 200);
    }
}

/// Waits until the listener is as loaded as is said.
async fn until_overloaded(sidecar: &Sidecar, overloaded: bool) {
    eventually("the load in /status and metrics", || async {
        let status = sidecar.admin_get("/status").await?.json();
        let metrics = sidecar.admin_get("/metrics").await?.text();
        let gauge = format!(
            "wayleave_overloaded{{listener=\"app\"}} {}",
            i32::from(overloaded)
        );
        let told = status["load"]["listeners"][0]["overloaded"] == overloaded;
        (told && metrics.contains(&gauge)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_call_above_the_limit_is_refused_before_policy_and_told_to_come_back() {
    let limits = ["max_requests: 3", "max_requests_per_peer: 3"];
    let (sidecar, upstream) = limited(&limits, &[]).await;
    let held = hold(&sidecar, &upstream, "frontend", 3).await;
    until_overloaded(&sidecar, true).await;
    sidecar.until_readiness_is(200).await;
    let answer = sidecar.get("agent", "/more").await;
    assert_eq!(answer.status, 503);
    assert_eq!(answer.header("retry-after"), "1");
    assert_eq!(answer.json()["reason_code"], "overloaded");
    let grpc = Request::post(sidecar.url("/a.B/C"))
        .header("content-type", "application/grpc")
        .body(Full::default())
        .unwrap();
    let answer = sidecar.http2("agent").await.send(grpc).await;
    assert_eq!(answer.header("grpc-status"), "14");
    assert_eq!(upstream.seen().len(), 3);
    let record = sidecar
        .record(|record| record["reason_code"] == "overloaded")
        .await;
    assert_eq!(record["effect"], "deny");
    assert_eq!(record["policies"], serde_json::Value::Null);
    assert_eq!(record["resource"]["refused_target"], "/more");
    let agent = "spiffe://test.example/ns/default/sa/agent";
    assert_eq!(record["principal"], agent);
    release(&upstream, held).await;
    until_overloaded(&sidecar, false).await;
    assert_eq!(sidecar.get("agent", "/now").await.status, 200);
}

#[tokio::test]
async fn one_caller_at_its_limit_leaves_the_rest_to_others() {
    let limits = ["max_requests: 4"];
    let (sidecar, upstream) = limited(&limits, &[]).await;
    let held = hold(&sidecar, &upstream, "frontend", 2).await;
    // Over all of its connections, old and new, of either protocol.
    let answer = sidecar.get("frontend", "/more").await;
    assert_eq!(answer.status, 429);
    assert_eq!(answer.header("retry-after"), "1");
    assert_eq!(answer.json()["reason_code"], "peer_limit");
    let uri = sidecar.url("/more");
    let answer = sidecar
        .http2("frontend")
        .await
        .send(client::get(&uri))
        .await;
    assert_eq!(answer.status, 429);
    sidecar
        .record(|record| record["reason_code"] == "peer_limit")
        .await;
    assert_eq!(sidecar.get("agent", "/other").await.status, 200);
    release(&upstream, held).await;
    assert_eq!(sidecar.get("frontend", "/again").await.status, 200);
}

#[tokio::test]
async fn a_refused_upload_is_not_read() {
    let limits = ["max_requests: 1", "max_requests_per_peer: 1"];
    let (sidecar, upstream) = limited(&limits, &[]).await;
    let held = hold(&sidecar, &upstream, "frontend", 1).await;
    let stream = sidecar.stream("agent", &["http/1.1"]).await;
    let head = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n\r\n";
    let answer = client::raw(stream, head).await;
    assert_eq!(client::status_of(&answer), 503);
    assert!(answer.contains("connection: close"), "{answer}");
    release(&upstream, held).await;
}

#[tokio::test]
async fn connections_of_one_caller_above_its_limit_are_closed() {
    let (sidecar, _upstream) = limited(&["max_connections_per_peer: 2"], &[]).await;
    let mut first = sidecar.http1("frontend").await;
    let second = sidecar.http2("frontend").await;
    let mut third = sidecar.stream("frontend", &["http/1.1"]).await;
    let mut rest = Vec::new();
    let _ = within("the close", third.read_to_end(&mut rest)).await;
    assert!(rest.is_empty());
    let metrics = sidecar.admin_get("/metrics").await.unwrap().text();
    let cut = "wayleave_connections_cut_total{reason_code=\"peer_limit\"} 1";
    assert!(metrics.contains(cut), "{metrics}");
    assert_eq!(first.send(client::get("/")).await.status, 200);
    assert_eq!(sidecar.get("agent", "/").await.status, 200);
    drop(second);
    eventually("a place to be free", || async {
        let mut again = sidecar.http1("frontend").await;
        let answer = again.0.send_request(client::get("/")).await;
        answer.ok().filter(|answer| answer.status() == 200)
    })
    .await;
}

/// With less memory than the process needs for itself, only the floor of 16 calls is let in.
#[tokio::test]
async fn calls_are_refused_while_memory_is_short() {
    let (sidecar, upstream) = limited(&[], &["runtime: { max_memory: 16MiB }"]).await;
    sidecar.process.stderr.contains("memory is short").await;
    let held = hold(&sidecar, &upstream, "frontend", 16).await;
    let answer = sidecar.get("agent", "/more").await;
    assert_eq!(answer.status, 503);
    assert_eq!(answer.json()["reason_code"], "overloaded");
    sidecar.until_readiness_is(200).await;
    let status = sidecar.admin_get("/status").await.unwrap().json();
    assert_eq!(status["load"]["memory_short"], true);
    assert_eq!(status["load"]["max_memory_bytes"], 16 << 20);
    release(&upstream, held).await;
    assert_eq!(sidecar.get("agent", "/now").await.status, 200);
}

/// A connection that is not looked into is one call, and refused like one.
#[tokio::test]
async fn a_tcp_connection_above_the_limit_is_closed_and_on_record() {
    let upstream = Upstream::start(Speaks::Nothing).await;
    let mut setup = Setup::new(upstream.address);
    setup.inbound_keys.push("protocol: tcp");
    setup
        .limits
        .extend(["max_requests: 1", "max_requests_per_peer: 1"]);
    setup.write_policy(ALL);
    let sidecar = setup.start().await;
    let first = sidecar.stream("frontend", &["http/1.1"]).await;
    eventually("the first connection", || async {
        (upstream.connections() == 1).then_some(())
    })
    .await;
    let mut second = sidecar.stream("agent", &["http/1.1"]).await;
    let mut rest = Vec::new();
    let _ = within("the close", second.read_to_end(&mut rest)).await;
    let record = sidecar
        .record(|record| record["reason_code"] == "overloaded")
        .await;
    assert_eq!(record["effect"], "deny");
    assert_eq!(upstream.connections(), 1);
    drop(first);
    eventually("a place to be free", || async {
        let _third = sidecar.stream("agent", &["http/1.1"]).await;
        (upstream.connections() == 2).then_some(())
    })
    .await;
}
