//! Policy unit tests in YAML, and what a new set of policies changes about recorded calls.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that cannot go on panics"
)]

mod support;

use support::{Call, engine};
use wayleave_authz::{Difference, PolicyFile, RecordedFacts, testing};

const POLICIES: &str = r#"
@id("cart-reads-orders")
permit (
  principal == Workload::"spiffe://shop.example/ns/web/sa/cart",
  action in Action::"http:read",
  resource in Service::"orders"
) when { resource.path like "/orders/*" };

@id("rpc")
permit (principal, action == Action::"grpc:call", resource)
when { context.rpc.service == "shop.v1.Orders" && context.headers.accept.contains("b") };

@id("database")
permit (principal, action == Action::"tcp:connect", resource == Port::"5432");

@id("never-tested")
forbid (principal is Anonymous, action, resource);
"#;

const CASES: &str = r#"
defaults: { service: orders, principal: "spiffe://shop.example/ns/web/sa/cart" }
tests:
  - name: reads
    request: { method: GET, path: /orders/7?full=1 }
    expect: allow
    by: [cart-reads-orders]
  - name: does not write
    request: { action: "http:post", path: /orders/7 }
    expect: deny
    by: []
    reason: no_matching_policy
  - name: calls
    request: { rpc: shop.v1.Orders/Get, headers: { Accept: [a, b] } }
    expect: allow
  - name: connects
    request: { action: "tcp:connect", port: 5432, tls: false, service: db }
    expect: allow
    by: [database]
"#;

fn file(text: &str) -> PolicyFile {
    PolicyFile {
        name: "orders.test.yaml".to_owned(),
        text: text.to_owned(),
    }
}

#[test]
fn tests_pass_and_tell_which_policies_decided_none() {
    let report = testing::run(&engine(POLICIES), &[file(CASES)]).unwrap();
    assert!(report.passed(), "{report}");
    assert_eq!(report.cases.len(), 4);
    assert!(
        report
            .coverage
            .never
            .iter()
            .map(|id| &**id)
            .eq(["never-tested"])
    );
    assert!(
        report
            .to_string()
            .contains("4 passed, 0 failed\n3 of 4 policies decided a test")
    );
}

#[test]
fn a_failed_test_tells_what_came_instead_and_why() {
    let cases = CASES.replace("path: /orders/7?full=1", "path: /invoices/7");
    let report = testing::run(&engine(POLICIES), &[file(&cases)]).unwrap();
    assert!(!report.passed());
    let text = report.to_string();
    for part in [
        "FAILED orders.test.yaml:4: reads",
        "expected allow, got deny",
        "expected by cart-reads-orders, got no policy",
        "`resource.path like \"/orders/*\"` is false",
        "3 passed, 1 failed",
    ] {
        assert!(text.contains(part), "{part} is missing from\n{text}");
    }
    let xml = report.junit_xml();
    assert!(xml.contains("<testsuite name=\"orders.test.yaml\" tests=\"4\" failures=\"1\">"));
    assert!(xml.contains("<testcase name=\"does not write\" classname=\"orders.test.yaml\"/>"));
    assert!(
        xml.contains("<failure message=\"expected allow, got deny; "),
        "{xml}"
    );
}

#[test]
fn mistakes_in_test_files_are_told_with_their_place() {
    for (text, expected) in [
        ("tests: []\nextra: 1", "orders.test.yaml:"),
        (
            "tests:\n  - name: a\n    expect: permit",
            "orders.test.yaml:3:",
        ),
        (
            "tests:\n  - name: a\n    expect: allow\n    by: [databse]",
            "orders.test.yaml:4:10: there is no policy `databse`",
        ),
        (
            "tests:\n  - name: a\n    expect: allow\n    request: { principal: cart }",
            "orders.test.yaml:2:11: `cart` is not a SPIFFE ID",
        ),
        (
            "tests:\n  - name: a\n    expect: allow\n    request: { action: http:gett }",
            "orders.test.yaml:2:11: there is no action `http:gett`",
        ),
        (
            "tests:\n  - name: a\n    expect: allow\n    request: { time: yesterday }",
            "orders.test.yaml:2:11: `yesterday` is not a time",
        ),
    ] {
        let errors = testing::run(&engine(POLICIES), &[file(text)]).unwrap_err();
        assert!(errors.to_string().starts_with(expected), "{text}\n{errors}");
    }
}

#[test]
fn a_difference_is_told_by_the_policy_that_makes_it() {
    let old = engine(POLICIES);
    let forbid = "@id(\"no-seven\") forbid (principal, action in Action::\"http:read\", resource) \
                  when { resource.path like \"*7\" };\n\
                  @id(\"writes\") permit (principal, action == Action::\"http:post\", resource);";
    let new = engine(
        &(POLICIES.replace("@id(\"database\")\npermit", "@id(\"database\")\nforbid") + forbid),
    );
    let cart = "spiffe://shop.example/ns/web/sa/cart";
    let calls = [
        Call::http(cart, "GET", "/orders/7"),
        Call::http(cart, "GET", "/orders/17"),
        Call::http(cart, "GET", "/orders/8"),
        Call::http(cart, "POST", "/orders/8"),
        {
            let mut call = Call::tcp(cart);
            call.port = 5432;
            call
        },
    ];
    let lines = calls.map(|call| {
        let facts = call.with_facts(|facts| RecordedFacts::of(facts, &old));
        serde_json::json!({ "decision_id": "x", "facts": facts }).to_string()
    });
    let records = lines
        .iter()
        .map(|line| RecordedFacts::from_record(line).unwrap());
    let difference = Difference::between(&old, &new, records);
    assert_eq!((difference.examined, difference.changed), (5, 4));
    assert_eq!((difference.now_denied, difference.now_allowed), (3, 1));
    let groups: Vec<_> = difference
        .by_policy
        .iter()
        .map(|(id, group)| (&**id, group.count))
        .collect();
    assert_eq!(groups, [("database", 1), ("no-seven", 2), ("writes", 1)]);
    let text = difference.to_string();
    assert!(
        text.contains("/orders/7: allow (policy_allow) -> deny (policy_deny)"),
        "{text}"
    );
}

#[test]
fn a_line_that_is_no_record_is_refused() {
    assert!(
        RecordedFacts::from_record("{")
            .unwrap_err()
            .contains("not JSON")
    );
    let error = RecordedFacts::from_record("{\"facts\": {\"action\": \"http:get\"}}").unwrap_err();
    assert!(error.contains("missing field"), "{error}");
}
