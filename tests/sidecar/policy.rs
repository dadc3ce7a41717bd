//! Policies while the sidecar runs: edits are picked up, mistakes change nothing.

use http::HeaderValue;

use crate::support::setup::{POLICY, Setup, Sidecar};
use crate::support::upstream::{Speaks, Upstream};
use crate::support::{client, eventually, within};

/// Calls until policies that come into force meanwhile say `expected`; then once more, for a call
/// that was under way when they came is ended, and not decided anew.
async fn until_status(sidecar: &Sidecar, caller: &str, expected: u16) {
    eventually(&format!("{caller} to get {expected}"), || async {
        let mut http1 = sidecar.http1(caller).await;
        let answer = within("the answer", http1.0.send_request(client::get("/"))).await;
        (answer.ok()?.status() == expected).then_some(())
    })
    .await;
    assert_eq!(sidecar.get(caller, "/").await.status, expected);
}

fn edit(sidecar: &Sidecar, policy: &str) {
    std::fs::write(sidecar.policy_file(), policy).unwrap();
}

#[tokio::test]
async fn picks_up_an_edit_while_running() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let sidecar = Setup::new(upstream.address).start().await;
    assert_eq!(sidecar.get("agent", "/").await.status, 403);
    edit(&sidecar, &POLICY.replace("sa/frontend", "sa/agent"));
    until_status(&sidecar, "agent", 200).await;
    assert_eq!(sidecar.get("frontend", "/").await.status, 403);
    let decided = |effect: &'static str| {
        sidecar.record(move |record| {
            record["effect"] == effect && record["principal"].as_str().unwrap().ends_with("/agent")
        })
    };
    let (before, after) = (decided("deny").await, decided("allow").await);
    assert_ne!(before["policy_revision"], after["policy_revision"]);
}

#[tokio::test]
async fn picks_up_a_file_that_is_added_and_one_that_is_removed() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let sidecar = Setup::new(upstream.address).start().await;
    let extra = sidecar.setup.path("policies/quiet.cedar");
    std::fs::write(
        &extra,
        r#"@id("quiet") forbid (principal, action, resource);"#,
    )
    .unwrap();
    until_status(&sidecar, "frontend", 403).await;
    let denied = sidecar
        .record(|record| record["reason_code"] == "policy_deny")
        .await;
    assert_eq!(denied["policies"], serde_json::json!(["quiet"]));
    std::fs::remove_file(&extra).unwrap();
    until_status(&sidecar, "frontend", 200).await;
}

#[tokio::test]
async fn a_broken_edit_keeps_the_last_good_policy_and_names_its_place() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let sidecar = Setup::new(upstream.address).start().await;
    let broken = format!("{POLICY}\n@id(\"typo\")\npermit (principal, acton, resource);\n");
    let line = broken
        .lines()
        .position(|line| line.contains("acton"))
        .unwrap()
        + 1;
    edit(&sidecar, &broken);
    let logged = sidecar
        .process
        .stderr
        .contains(&format!("main.cedar:{line}:"))
        .await;
    let place = logged.split("main.cedar:").nth(1).unwrap();
    let column = place.split(':').nth(1).unwrap();
    assert!(
        column.starts_with(|c: char| c.is_ascii_digit()),
        "no column in {logged}"
    );
    assert_eq!(sidecar.get("frontend", "/").await.status, 200);
    assert_eq!(sidecar.get("agent", "/").await.status, 403);
    edit(&sidecar, &POLICY.replace("sa/frontend", "sa/agent"));
    until_status(&sidecar, "agent", 200).await;
}

#[tokio::test]
async fn emptying_the_policies_denies() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let sidecar = Setup::new(upstream.address).start().await;
    until_status(&sidecar, "frontend", 200).await;
    edit(
        &sidecar,
        "@id(\"never\") forbid (principal, action, resource);\n",
    );
    until_status(&sidecar, "frontend", 403).await;
}

#[tokio::test]
async fn a_reason_is_told_only_where_the_listener_says_so() {
    let policy = r#"@id("no-agents") @reason("agents may not call the app") @status("429")
                    forbid (principal, action, resource);"#;
    for (show, told) in [(false, false), (true, true)] {
        let upstream = Upstream::start(Speaks::Http1).await;
        let mut setup = Setup::new(upstream.address);
        setup.write_policy(policy);
        if show {
            setup.inbound_keys.push("show_reason: true");
        }
        let answer = setup.start().await.get("agent", "/").await;
        assert_eq!(answer.status, 429);
        assert!(!answer.header("retry-after").is_empty());
        assert_eq!(answer.text().contains("agents may not call the app"), told);
        assert!(
            !answer.text().contains("no-agents"),
            "a policy id was leaked"
        );
        upstream.assert_untouched();
    }
}

#[tokio::test]
async fn a_listener_in_audit_mode_lets_a_denied_call_pass_and_records_it() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let mut setup = Setup::new(upstream.address);
    setup.inbound_keys.push("mode: audit");
    let sidecar = setup.start().await;
    assert_eq!(sidecar.get("agent", "/audited").await.status, 200);
    assert_eq!(upstream.only().target, "/audited");
    let record = sidecar
        .record(|record| record["resource"]["path"] == "/audited")
        .await;
    assert_eq!(record["effect"], "allow");
    assert_eq!(record["reason_code"], "audit_allow");
    assert_eq!(record["would_have"], "deny");
}

#[tokio::test]
async fn a_permit_in_audit_mode_allows_nothing() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let setup = Setup::new(upstream.address);
    setup.write_policy(
        r#"@id("trial") @mode("audit") permit (principal, action, resource in Service::"app");"#,
    );
    let sidecar = setup.start().await;
    assert_eq!(sidecar.get("agent", "/trial").await.status, 403);
    upstream.assert_untouched();
    let record = sidecar
        .record(|record| record["resource"]["path"] == "/trial")
        .await;
    assert_eq!(record["would_have"], "allow");
    assert_eq!(record["audit_policies"][0], "trial");
}

/// What a policy reads is what the upstream gets: a header that ends at this hop is not there
/// for either.
#[tokio::test]
async fn policy_sees_the_headers_that_are_forwarded() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let setup = Setup::new(upstream.address);
    setup.write_policy(
        r#"@id("token") permit (principal, action, resource is Endpoint)
           when { context.headers.authorization.contains("Bearer good") };"#,
    );
    let sidecar = setup.start().await;
    let request = |connection: &'static str| {
        let mut request = client::get("/");
        let headers = request.headers_mut();
        headers.insert("authorization", HeaderValue::from_static("Bearer good"));
        headers.insert("connection", HeaderValue::from_static(connection));
        request
    };
    let mut client = sidecar.http1("agent").await;
    let answer = client.send(request("keep-alive, authorization")).await;
    assert_eq!(
        answer.status, 403,
        "policy saw a header that is not forwarded"
    );
    upstream.assert_untouched();
    assert_eq!(client.send(request("keep-alive")).await.status, 200);
    assert_eq!(upstream.only().values("authorization"), ["Bearer good"]);
}

/// CVE-2020-25017: a second value of a header must not hide behind the first.
#[tokio::test]
async fn policy_sees_every_value_of_a_repeated_header() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let setup = Setup::new(upstream.address);
    let forbid = r#"@id("no-evil") forbid (principal, action, resource is Endpoint)
                    when { context.headers["user-agent"].contains("evil") };"#;
    setup.write_policy(&format!("{POLICY}{forbid}"));
    let sidecar = setup.start().await;
    for (values, expected) in [(["good", "fine"], 200), (["good", "evil"], 403)] {
        let mut request = client::get("/");
        for value in values {
            request
                .headers_mut()
                .append("user-agent", HeaderValue::from_static(value));
        }
        assert_eq!(
            sidecar.http1("frontend").await.send(request).await.status,
            expected
        );
    }
    assert_eq!(upstream.only().values("user-agent"), ["good", "fine"]);
}

/// The content type is the caller's choice, and so is the version of HTTP.
#[tokio::test]
async fn no_content_type_gets_a_post_past_a_policy() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let setup = Setup::new(upstream.address);
    setup.write_policy(
        r#"@id("all") permit (principal, action, resource);
        @id("no-writes") forbid (principal, action in Action::"http:write", resource);"#,
    );
    let sidecar = setup.start().await;
    let mut http2 = sidecar.http2("frontend").await;
    let mut http1 = sidecar.http1("frontend").await;
    for method in ["POST", "DELETE"] {
        for content_type in ["application/grpc", "Application/GRPC+proto", "text/plain"] {
            let request = |uri: &str| {
                http::Request::builder()
                    .method(method)
                    .uri(uri)
                    .header("content-type", content_type)
            };
            let body = http_body_util::Full::default();
            let over_2 = request(&sidecar.url("/a.B/C")).body(body.clone()).unwrap();
            let answer = http2.send(over_2).await;
            let denied = answer.status == 403 || answer.header("grpc-status") == "7";
            assert!(denied, "{method} {content_type}: {answer:?}");
            let over_1 = request("/a.B/C").header("host", "localhost");
            let answer = http1.send(over_1.body(body).unwrap()).await;
            // gRPC is a call over HTTP/2 or none at all.
            let unreadable = method == "POST" && content_type != "text/plain";
            let expected = if unreadable { 400 } else { 403 };
            assert_eq!(answer.status, expected, "{method} {content_type}");
        }
    }
    upstream.assert_untouched();
}
