//! `wayleave status`: identity, bundles, policies and listeners of a running sidecar, and the
//! metrics that go with them.

use serde_json::Value;

use crate::support::eventually;
use crate::support::pki::{Leaf, workload};
use crate::support::process::wayleave;
use crate::support::setup::{POLICY, Setup, Sidecar};
use crate::support::tool::{self, Finished};

async fn sidecar() -> Sidecar {
    let mut setup = Setup::new("127.0.0.1:9");
    setup
        .inbound_keys
        .push("tls: { require_post_quantum: true }");
    setup.start().await
}

async fn ask(admin: &str, more: &[&str]) -> Finished {
    let mut command = wayleave();
    command.args(["status", "--admin", admin]).args(more);
    tool::run(&mut command).await
}

async fn text(sidecar: &Sidecar) -> String {
    let told = ask(&sidecar.admin.to_string(), &[]).await;
    told.successful().stdout()
}

async fn json(sidecar: &Sidecar) -> Value {
    let told = ask(&sidecar.admin.to_string(), &["--format", "json"]).await;
    serde_json::from_str(&told.successful().stdout()).unwrap()
}

#[tokio::test]
async fn tells_who_it_is_whom_it_trusts_and_where_it_listens() {
    let sidecar = sidecar().await;
    let status = json(&sidecar).await;
    assert_eq!(status["ready"], true);
    let svid = &status["identity"]["svid"];
    assert_eq!(svid["id"], workload("app"));
    let left = svid["expires_in_seconds"].as_i64().unwrap();
    assert!((1..=3_600).contains(&left), "{left}");
    let bundle = &status["identity"]["bundles"][0];
    assert_eq!(bundle["trust_domain"], "test.example");
    assert_eq!(bundle["authorities"], 1);
    assert_eq!(bundle["sequence"], Value::Null);
    assert_eq!(status["policies"]["count"], 1);
    let listener = &status["listeners"][0];
    assert_eq!(listener["address"], sidecar.inbound.to_string());
    assert_eq!(listener["mode"], "enforce");

    let told = text(&sidecar).await;
    for words in [
        &workload("app"),
        "test.example  1 authority",
        "1 policy",
        "post-quantum only",
    ] {
        assert!(told.contains(words), "no `{words}` in {told}");
    }
}

#[tokio::test]
async fn a_broken_policy_edit_is_told_with_its_place_until_it_is_mended() {
    let sidecar = sidecar().await;
    let before = json(&sidecar).await;
    sidecar.setup.write_policy("permit (principal, action);\n");
    let failed = eventually("the failed load", || async {
        let status = json(&sidecar).await;
        (!status["policies"]["failed_load"].is_null()).then_some(status)
    })
    .await;
    let policies = &failed["policies"];
    let problem = policies["failed_load"]["problems"][0].as_str().unwrap();
    assert!(problem.contains("main.cedar:1:"), "{problem}");
    assert_eq!(policies["revision"], before["policies"]["revision"]);
    let told = text(&sidecar).await;
    assert!(told.contains("FAILED") && told.contains(problem), "{told}");

    sidecar.setup.write_policy(POLICY);
    eventually("the mended policy", || async {
        let status = json(&sidecar).await;
        status["policies"]["failed_load"].is_null().then_some(())
    })
    .await;
}

/// The value of a metric without labels.
async fn metric(sidecar: &Sidecar, name: &str) -> f64 {
    let text = sidecar.admin_get("/metrics").await.unwrap().text();
    let line = text.lines().find(|line| line.starts_with(name));
    let (_, value) = line.unwrap().rsplit_once(' ').unwrap();
    value.parse().unwrap()
}

#[tokio::test]
async fn a_rotation_and_a_failure_of_the_source_are_counted_and_told() {
    let sidecar = sidecar().await;
    let first = json(&sidecar).await;
    assert_eq!(
        metric(&sidecar, "wayleave_identity_updates_total").await,
        1.0
    );
    assert_eq!(metric(&sidecar, "wayleave_trust_domains").await, 1.0);
    assert_eq!(metric(&sidecar, "wayleave_trust_authorities").await, 1.0);

    let own = &sidecar.setup.own;
    let issued = sidecar.setup.ca.issue(&Leaf::svid(&workload("app")));
    std::fs::write(&own.certificate, &issued.certificate).unwrap();
    std::fs::write(&own.key, &issued.key).unwrap();
    let rotated = eventually("the rotation", || async {
        let status = json(&sidecar).await;
        (status["identity"]["source"]["updates"] == 2).then_some(status)
    })
    .await;
    let serial = |status: &Value| status["identity"]["svid"]["serial"].clone();
    assert_ne!(serial(&first), serial(&rotated));
    assert_eq!(
        first["identity"]["bundles"][0]["since"],
        rotated["identity"]["bundles"][0]["since"]
    );
    assert_eq!(
        metric(&sidecar, "wayleave_identity_updates_total").await,
        2.0
    );

    std::fs::write(&own.certificate, "cut off").unwrap();
    eventually("the failure", || async {
        let status = json(&sidecar).await;
        let failure = &status["identity"]["source"]["last_failure"]["message"];
        failure
            .as_str()
            .is_some_and(|m| m.contains("svid.pem"))
            .then_some(())
    })
    .await;
    assert!(metric(&sidecar, "wayleave_identity_failures_total").await >= 1.0);
    let told = text(&sidecar).await;
    assert!(told.contains("FAILING"), "{told}");
}

#[tokio::test]
async fn where_no_sidecar_answers_it_fails_with_one_line() {
    let finished = ask("127.0.0.1:1", &[]).await;
    let told = finished.stderr();
    assert_eq!(finished.0.status.code(), Some(1), "{told}");
    assert_eq!(told.lines().count(), 1, "{told}");
    assert!(told.contains("no answer from"), "{told}");

    let sidecar = sidecar().await;
    let finished = ask(&sidecar.inbound.to_string(), &["--timeout", "2s"]).await;
    assert_eq!(finished.0.status.code(), Some(1), "{}", finished.stdout());
}
