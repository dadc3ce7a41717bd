//! Explanations: they say what the decision says, and which part made it so.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that cannot go on panics"
)]

mod support;

use support::{Call, engine};
use wayleave_authz::{ConditionOutcome, RecordedFacts};

const POLICIES: &str = r#"
@id("cart-reads-orders")
permit (
  principal == Workload::"spiffe://shop.example/ns/web/sa/cart",
  action in Action::"http:read",
  resource in Service::"orders"
) when { resource.path like "/orders/*" && context.headers.accept.contains("text/plain") }
  unless { context has query };

@id("others")
permit (principal in SpiffePath::"spiffe://other.example", action, resource in Service::"pay");

@id("no-secrets")
forbid (principal, action, resource is Endpoint) when { resource.path like "*secret*" };

@id("left-to-cedar")
forbid (principal, action, resource is Endpoint)
when { {path: resource.path}.path == "/orders/record" && resource.port == 443 };
"#;

const CART: &str = "spiffe://shop.example/ns/web/sa/cart";

#[test]
fn an_allow_names_its_permit_and_its_true_conditions() {
    let call = Call::http(CART, "GET", "/orders/7").header("accept", "text/plain");
    let explanation = call.with_facts(|facts| engine(POLICIES).explain(facts));
    assert_eq!(
        (explanation.effect, explanation.reason),
        ("allow", "policy_allow")
    );
    let [policy] = &explanation.determining[..] else {
        panic!("{explanation}");
    };
    assert_eq!(&*policy.id, "cart-reads-orders");
    assert_eq!((&*policy.file, policy.line), ("test.cedar", 2));
    assert!(policy.text.starts_with("@id(\"cart-reads-orders\")"));
    assert_eq!(policy.conditions.len(), 3);
    assert!(
        policy
            .conditions
            .iter()
            .all(|c| c.outcome == ConditionOutcome::True)
    );
    assert!(explanation.nearest_permits.is_empty());
}

#[test]
fn a_deny_names_the_nearest_permit_and_its_first_failed_condition() {
    for (call, obstacle) in [
        (
            Call::http(CART, "GET", "/invoices/7"),
            "`resource.path like \"/orders/*\"` is false",
        ),
        (Call::http(CART, "GET", "/orders/7"), "accept"),
        (
            Call::http(CART, "POST", "/orders/7"),
            "its scope does not match the action",
        ),
        (
            Call::http("spiffe://shop.example/ns/web/sa/x", "GET", "/orders/7"),
            "its scope does not match the principal",
        ),
        (
            Call::http(CART, "GET", "/orders/7").service("cart"),
            "its scope does not match the resource",
        ),
    ] {
        let explanation = call.with_facts(|facts| engine(POLICIES).explain(facts));
        assert_eq!(explanation.reason, "no_matching_policy");
        let nearest = &explanation.nearest_permits[0];
        assert_eq!(&*nearest.id, "cart-reads-orders");
        let told = nearest.obstacle().unwrap();
        assert!(told.contains(obstacle), "{told}");
    }
}

#[test]
fn conditions_after_a_failed_one_are_not_reached() {
    let call = Call::http(CART, "GET", "/invoices/7");
    let explanation = call.with_facts(|facts| engine(POLICIES).explain(facts));
    let outcomes: Vec<_> = explanation.nearest_permits[0]
        .conditions
        .iter()
        .map(|condition| condition.outcome)
        .collect();
    use ConditionOutcome::{False, NotReached};
    assert_eq!(outcomes, [False, NotReached, NotReached]);
}

#[test]
fn a_policy_left_to_cedar_is_explained_by_cedar() {
    let engine = engine(POLICIES);
    assert!(
        engine
            .not_compiled()
            .map(|(id, _)| &**id)
            .eq(["left-to-cedar"])
    );
    let call = Call::http(CART, "GET", "/orders/record");
    let explanation = call.with_facts(|facts| engine.explain(facts));
    let [policy] = &explanation.determining[..] else {
        panic!("{explanation}");
    };
    assert_eq!(&*policy.id, "left-to-cedar");
    assert!(
        policy
            .conditions
            .iter()
            .all(|c| c.outcome == ConditionOutcome::True)
    );
}

/// Cedar decides `a > b` as `!(a <= b)` and `is … in …` as two conditions.
#[test]
fn conditions_are_told_as_they_are_written() {
    let engine = engine(
        "@id(\"a\") permit (principal, action in Action::\"http:read\", resource) when { true && \
         true && principal is Workload in SpiffePath::\"spiffe://shop.example\" } unless \
         { resource.port != 443 } when { resource.port > 443 && context has tls.version };",
    );
    let call = Call::http(CART, "GET", "/");
    let explanation = call.with_facts(|facts| engine.explain(facts));
    let told: Vec<_> = explanation.nearest_permits[0]
        .conditions
        .iter()
        .map(|condition| (condition.text.as_str(), condition.outcome))
        .collect();
    use ConditionOutcome::{False, NotReached, True};
    assert_eq!(
        told,
        [
            ("true", True),
            ("true", True),
            (
                "principal is Workload in SpiffePath::\"spiffe://shop.example\"",
                True
            ),
            ("!(resource.port != 443)", True),
            ("resource.port > 443", False),
            ("context has tls.version", NotReached),
        ]
    );
}

#[test]
fn it_is_written_for_people_and_for_machines() {
    let call = Call::http(CART, "GET", "/orders/secret");
    let explanation = call.with_facts(|facts| engine(POLICIES).explain(facts));
    let text = explanation.to_string();
    for part in [
        "deny (policy_deny)",
        "determined by: no-secrets (forbid) test.cedar:13",
        "  true   resource.path like \"*secret*\"",
    ] {
        assert!(text.contains(part), "{text}");
    }
    let json = serde_json::to_value(&explanation).unwrap();
    assert_eq!(json["determining"][0]["conditions"][0]["outcome"], "true");
}

#[test]
fn recorded_facts_give_the_same_decision_when_replayed() {
    let engine = engine(POLICIES);
    for call in [
        Call::http(CART, "GET", "/orders/7").header("accept", "text/plain"),
        Call::http(CART, "GET", "/orders/secret"),
        Call::anonymous("BREW", "/"),
        Call::tcp("spiffe://other.example/a").service("pay"),
        Call::grpc("spiffe://other.example/a", "s", "m").service("pay"),
    ] {
        let recorded = call.with_facts(|facts| RecordedFacts::of(facts, &engine));
        let json = serde_json::to_string(&recorded).unwrap();
        let read: RecordedFacts = serde_json::from_str(&json).unwrap();
        assert_eq!(read, recorded);
        let replayed = engine.decide(&read.facts());
        assert_eq!(
            format!("{replayed:?}"),
            format!("{:?}", call.decide(&engine))
        );
    }
}

#[test]
fn records_hold_only_headers_that_policies_read_and_never_credentials() {
    let engine = engine(
        "@id(\"a\") permit (principal, action == Action::\"http:get\", resource) when \
         { context.headers.authorization.isEmpty() || context.headers.accept.contains(\"x\") };",
    );
    let call = Call::http(CART, "GET", "/")
        .header("authorization", "Bearer top-secret")
        .header("accept", "x")
        .header("origin", "y");
    let recorded = call.with_facts(|facts| RecordedFacts::of(facts, &engine));
    let json = serde_json::to_string(&recorded).unwrap();
    assert!(
        !json.contains("top-secret") && !json.contains("origin"),
        "{json}"
    );
    assert_eq!(recorded.withheld, ["authorization"]);
    assert!(recorded.headers.contains_key("accept"));
}
