//! The decision record: every call leaves one, and it says everything.

use std::collections::BTreeSet;

use http::HeaderValue;

use crate::support::client;
use crate::support::eventually;
use crate::support::pki::workload;
use crate::support::setup::Setup;
use crate::support::upstream::{Speaks, Upstream};

#[tokio::test]
async fn says_who_asked_for_what_and_what_was_decided() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let sidecar = Setup::new(upstream.address).start().await;
    let mut request = client::get("/orders/7?token=secret");
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    request
        .headers_mut()
        .insert("traceparent", HeaderValue::from_static(trace));
    assert_eq!(
        sidecar.http1("frontend").await.send(request).await.status,
        200
    );

    let record = sidecar.record(|_| true).await;
    assert_eq!(record["principal"], workload("frontend"));
    assert_eq!(record["action"], "http:get");
    assert_eq!(record["resource"]["service"], "app");
    assert_eq!(record["resource"]["host"], "localhost");
    assert_eq!(record["resource"]["path"], "/orders/7");
    assert_eq!(record["effect"], "allow");
    assert_eq!(record["reason_code"], "policy_allow");
    assert_eq!(
        record["policies"],
        serde_json::json!(["frontend-calls-app"])
    );
    assert_eq!(record["status"], 200);
    assert_eq!(record["tls"]["version"], "1.3");
    assert_eq!(record["tls"]["key_exchange"], "X25519MLKEM768");
    assert_eq!(record["tls"]["post_quantum"], true);
    assert_eq!(record["trace_id"], "4bf92f3577b34da6a3ce929d0e0e4736");
    assert!(!record["policy_revision"].as_str().unwrap().is_empty());
    let (call, decision) = (&record["duration_us"], &record["decision_ns"]);
    assert!((call.as_u64().unwrap() + 1) * 1_000 >= decision.as_u64().unwrap());
    assert!(
        record["time"].as_str().unwrap().ends_with('Z'),
        "{}",
        record["time"]
    );
    assert!(
        !record.to_string().contains("secret"),
        "the query was recorded: {record}"
    );
}

#[tokio::test]
async fn a_denied_and_an_ambiguous_call_leave_a_record_that_the_answer_names() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let sidecar = Setup::new(upstream.address).start().await;
    for (path, status) in [("/orders", 403), ("/a/../b", 400)] {
        let answer = sidecar.get("agent", path).await;
        assert_eq!(answer.status, status);
        let problem = answer.json();
        let id = problem["instance"]
            .as_str()
            .unwrap()
            .strip_prefix("urn:uuid:")
            .unwrap()
            .to_owned();
        let record = sidecar
            .record(|record| record["decision_id"] == id.as_str())
            .await;
        assert_eq!(record["effect"], "deny");
        assert_eq!(record["status"], status);
        assert_eq!(record["reason_code"], problem["reason_code"]);
        assert_eq!(record["principal"], workload("agent"));
    }
}

#[tokio::test]
async fn every_call_has_a_record_and_an_id_of_its_own() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let sidecar = Setup::new(upstream.address).start().await;
    let mut client = sidecar.http1("frontend").await;
    for number in 0..20 {
        client.send(client::get(&format!("/{number}"))).await;
    }
    sidecar
        .record(|record| record["resource"]["path"] == "/19")
        .await;
    let id = |line: &String| {
        let record: serde_json::Value = serde_json::from_str(line).unwrap();
        record["decision_id"].as_str().unwrap().to_owned()
    };
    let ids: BTreeSet<_> = sidecar.process.stdout.all().iter().map(id).collect();
    assert_eq!(ids.len(), 20);
}

#[tokio::test]
async fn a_caller_that_goes_away_leaves_a_record() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let sidecar = Setup::new(upstream.address).start().await;
    let mut client = sidecar.http1("frontend").await;
    let call = tokio::spawn(async move { client.0.send_request(client::get("/held")).await });
    eventually("the call to be in flight", || async {
        (upstream.seen().len() == 1).then_some(())
    })
    .await;
    call.abort();
    let record = sidecar
        .record(|record| record["resource"]["path"] == "/held")
        .await;
    assert_eq!(record["failure"], "caller_gone");
}

#[tokio::test]
async fn records_go_to_a_file_where_the_config_says_so() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let mut setup = Setup::new(upstream.address);
    setup
        .keys
        .push("log: { decisions: \"file:decisions.jsonl\" }");
    let file = setup.path("decisions.jsonl");
    let mut sidecar = setup.start().await;
    assert_eq!(sidecar.get("frontend", "/filed").await.status, 200);
    sidecar.process.signal("TERM").await;
    assert_eq!(sidecar.process.ended().await.code(), Some(0));
    let written = std::fs::read_to_string(file).unwrap();
    let record: serde_json::Value = serde_json::from_str(written.trim()).unwrap();
    assert_eq!(record["resource"]["path"], "/filed");
    assert!(sidecar.process.stdout.all().is_empty());
}
