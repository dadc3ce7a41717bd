//! `wayleave explain`: a call by hand, and the records of a real sidecar decided again.

use serde_json::Value;

use crate::support::process::wayleave;
use crate::support::setup::Setup;
use crate::support::tool::{self, Finished};
use crate::support::upstream::{Speaks, Upstream};

const POLICY: &str = r#"@id("readers")
permit (principal, action in Action::"http:read", resource in Service::"app")
when { context.headers["user-agent"].contains("reader") && resource.path like "/orders/*"
  && context has query && context.query == "full=1" };
"#;

async fn explain(setup: &Setup, arguments: &[&str]) -> Finished {
    let config = setup.write_config();
    let mut command = wayleave();
    command.arg("explain").arg("--config").arg(config);
    tool::run(command.args(arguments)).await
}

#[tokio::test]
async fn a_deny_names_the_nearest_permit_and_the_condition_that_failed() {
    let setup = Setup::new("127.0.0.1:9");
    setup.write_policy(POLICY);
    let call = [
        "--path",
        "/orders/7?full=1",
        "--header",
        "user-agent: other",
    ];
    let told = explain(&setup, &call).await.successful().stdout();
    assert!(told.starts_with("deny (no_matching_policy)"), "{told}");
    assert!(told.contains("nearest permit: readers"), "{told}");
    assert!(told.contains(".cedar:1"), "{told}");
    assert!(told.contains("contains(\"reader\")` is false"), "{told}");
    let call = [
        "--path",
        "/orders/7?full=1",
        "--header",
        "User-Agent: reader",
        "--format",
        "json",
    ];
    let told = explain(&setup, &call).await.successful().stdout();
    let told: Value = serde_json::from_str(&told).unwrap();
    assert_eq!(told["effect"], "allow");
    assert_eq!(told["determining"][0]["id"], "readers");
}

#[tokio::test]
async fn a_record_is_decided_again_as_it_was_and_otherwise_by_other_policies() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let setup = Setup::new(upstream.address);
    setup.write_policy(POLICY);
    let sidecar = setup.start().await;
    let request = http::Request::get("/orders/7?full=1")
        .header("host", "localhost")
        .header("user-agent", "reader")
        .body(http_body_util::Full::default())
        .unwrap();
    let answer = sidecar.http1("agent").await.send(request).await;
    assert_eq!(answer.status, 200);
    assert_eq!(sidecar.get("agent", "/other").await.status, 403);
    let allowed = sidecar.record(|record| record["effect"] == "allow").await;
    let denied = sidecar.record(|record| record["effect"] == "deny").await;
    let records = sidecar.setup.path("decisions.jsonl");
    std::fs::write(&records, format!("{allowed}\n{denied}\n")).unwrap();
    let from_record = ["--from-record", records.to_str().unwrap()];
    let told = explain(&sidecar.setup, &from_record)
        .await
        .successful()
        .stdout();
    assert_eq!(told.matches("\nas recorded").count(), 2, "{told}");

    sidecar
        .setup
        .write_policy(&POLICY.replace("\"reader\"", "\"nobody\""));
    let finished = explain(&sidecar.setup, &from_record).await;
    assert_eq!(finished.0.status.code(), Some(1));
    let told = finished.stdout();
    assert!(
        told.contains("recorded otherwise: allow (policy_allow), determined by [readers]"),
        "{told}"
    );
}

#[tokio::test]
async fn a_path_that_never_reaches_a_policy_is_told_as_such() {
    let setup = Setup::new("127.0.0.1:9");
    let finished = explain(&setup, &["--path", "/a/../b"]).await;
    assert_eq!(finished.0.status.code(), Some(2));
    assert!(
        finished.stderr().contains("never reaches a policy"),
        "{}",
        finished.stderr()
    );
}
