//! `wayleave test` and `wayleave diff`, as a pipeline runs them.

use std::path::PathBuf;

use serde_json::Value;

use crate::support::process::wayleave;
use crate::support::setup::Setup;
use crate::support::tool::{self, Finished};
use crate::support::upstream::{Speaks, Upstream};

const TESTS: &str = r#"
defaults: { service: app, principal: "spiffe://test.example/ns/default/sa/frontend" }
tests:
  - name: the frontend reads
    request: { method: GET, path: /orders/7 }
    expect: allow
    by: [frontend-calls-app]
  - name: the agent does not
    request: { principal: "spiffe://test.example/ns/default/sa/agent", method: GET, path: /orders/7 }
    expect: deny
    reason: no_matching_policy
"#;

struct Checkout {
    setup: Setup,
    tests: PathBuf,
}

impl Checkout {
    fn new(tests: &str) -> Self {
        let setup = Setup::new("127.0.0.1:9");
        let path = setup.path("policy-tests.yaml");
        std::fs::write(&path, tests).unwrap();
        Self { setup, tests: path }
    }

    async fn test(&self, more: &[&str]) -> Finished {
        let mut command = wayleave();
        command
            .arg("test")
            .arg("--config")
            .arg(self.setup.write_config());
        tool::run(command.arg(&self.tests).args(more)).await
    }
}

#[tokio::test]
async fn passing_tests_are_summed_up_with_their_coverage() {
    let checkout = Checkout::new(TESTS);
    let junit = checkout.setup.path("report.xml");
    let finished = checkout
        .test(&["--junit", junit.to_str().unwrap()])
        .await
        .successful();
    assert!(
        finished.stdout().contains("2 passed, 0 failed"),
        "{}",
        finished.stdout()
    );
    assert!(finished.stdout().contains("1 of 1 policies decided a test"));
    let report = std::fs::read_to_string(junit).unwrap();
    assert!(
        report.contains("<testsuite") && report.contains("the frontend reads"),
        "{report}"
    );
}

#[tokio::test]
async fn a_failing_test_is_explained_and_ends_with_status_1() {
    let checkout = Checkout::new(&TESTS.replace("expect: allow", "expect: deny"));
    let finished = checkout.test(&[]).await;
    assert_eq!(finished.0.status.code(), Some(1));
    let told = finished.stdout();
    assert!(
        told.contains("policy-tests.yaml:4: the frontend reads"),
        "{told}"
    );
    assert!(told.contains("1 passed, 1 failed"), "{told}");
    let json: Value =
        serde_json::from_str(&checkout.test(&["--format", "json"]).await.stdout()).unwrap();
    assert_eq!(json["cases"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn a_mistake_in_a_test_file_is_told_with_its_place() {
    let checkout = Checkout::new(&TESTS.replace("expect: allow", "expcet: allow"));
    let finished = checkout.test(&[]).await;
    assert_eq!(finished.0.status.code(), Some(2));
    let told = finished.stderr();
    assert!(
        told.contains("policy-tests.yaml:6") && told.contains("expcet"),
        "{told}"
    );
}

#[tokio::test]
async fn recorded_calls_show_what_new_policies_would_change() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let sidecar = Setup::new(upstream.address).start().await;
    assert_eq!(sidecar.get("frontend", "/orders/7").await.status, 200);
    assert_eq!(sidecar.get("agent", "/orders/7").await.status, 403);
    let allowed = sidecar.record(|record| record["effect"] == "allow").await;
    let denied = sidecar.record(|record| record["effect"] == "deny").await;
    let records = sidecar.setup.path("decisions.jsonl");
    std::fs::write(&records, format!("{allowed}\n{denied}\nnot a record\n")).unwrap();
    let new = sidecar.setup.path("new.cedar");
    let policy = crate::support::setup::POLICY
        .replace("sa/frontend", "sa/agent")
        .replace("frontend-calls-app", "agent-calls-app");
    std::fs::write(&new, policy).unwrap();
    let mut command = wayleave();
    command
        .arg("diff")
        .arg("--old")
        .arg(sidecar.setup.path("policies"));
    command
        .arg("--new")
        .arg(&new)
        .arg("--records")
        .arg(&records);
    let finished = tool::run(&mut command).await;
    assert_eq!(finished.0.status.code(), Some(1), "{}", finished.stderr());
    let told = finished.stdout();
    let summary = "2 of 2 calls change: 1 would be denied, 1 would be allowed";
    for part in [
        summary,
        "agent-calls-app: 1",
        "frontend-calls-app: 1",
        "1 line is no decision record",
    ] {
        assert!(told.contains(part), "no `{part}` in {told}");
    }
}

#[tokio::test]
async fn check_names_the_policies_that_are_left_to_cedar() {
    let setup = Setup::new("127.0.0.1:9");
    setup.write_policy(
        r#"@id("slow") forbid (principal, action, resource is Endpoint)
           when { {path: resource.path}.path == "/slow" };"#,
    );
    let mut command = wayleave();
    let finished = tool::run(
        command
            .arg("check")
            .arg("--config")
            .arg(setup.write_config()),
    )
    .await;
    let told = finished.successful().stdout();
    assert!(told.contains("slow is left to Cedar"), "{told}");
}
