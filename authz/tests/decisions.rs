//! Decision tables: what a set of policies answers to a call.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that cannot go on panics"
)]

mod support;

use support::{Call, engine};
use wayleave_authz::{Decision, ReasonCode};

const ORDERS: &str = r#"
    @id("cart-reads-orders")
    permit (
      principal == Workload::"spiffe://shop.example/ns/web/sa/cart",
      action in Action::"http:read",
      resource in Service::"orders"
    ) when { resource.path like "/orders/*" };

    @id("web-may-ping")
    permit (
      principal in SpiffePath::"spiffe://shop.example/ns/web",
      action == Action::"http:get",
      resource
    ) when { resource.path == "/ping" };

    @id("billing-calls-orders")
    permit (
      principal is Workload in SpiffePath::"spiffe://shop.example/ns/billing",
      action == Action::"grpc:call",
      resource is Endpoint in Service::"orders"
    ) when { context.rpc.service == "shop.v1.Orders" };

    @id("no-secrets")
    @reason("secrets are not served")
    @status("404")
    @alert("high")
    forbid (principal, action in [Action::"http:read", Action::"http:write"], resource)
    when { resource.path like "*/secret*" };
"#;

/// `allow` or the reason for the deny, then the determining policies.
fn answer(decision: &Decision) -> String {
    let policies: Vec<_> = decision.policies().map(|id| &**id).collect();
    [&[decision.reason().as_str()], policies.as_slice()]
        .concat()
        .join(" ")
}

#[test]
fn orders() {
    let engine = engine(ORDERS);
    let cart = "spiffe://shop.example/ns/web/sa/cart";
    let other = "spiffe://shop.example/ns/web/sa/other";
    let lookalike = "spiffe://shop.example/ns/web2/sa/cart";
    for (case, call, expected) in [
        (
            "its own orders",
            Call::http(cart, "GET", "/orders/7"),
            "policy_allow cart-reads-orders",
        ),
        (
            "head is reading",
            Call::http(cart, "HEAD", "/orders/7"),
            "policy_allow cart-reads-orders",
        ),
        (
            "writing",
            Call::http(cart, "POST", "/orders/7"),
            "no_matching_policy",
        ),
        (
            "a method nobody knows",
            Call::http(cart, "BREW", "/orders/7"),
            "no_matching_policy",
        ),
        (
            "a method in lower case",
            Call::http(cart, "get", "/orders/7"),
            "no_matching_policy",
        ),
        (
            "another path",
            Call::http(cart, "GET", "/invoices/7"),
            "no_matching_policy",
        ),
        (
            "another service",
            Call::http(cart, "GET", "/orders/7").service("pay"),
            "no_matching_policy",
        ),
        (
            "another workload",
            Call::http(other, "GET", "/orders/7"),
            "no_matching_policy",
        ),
        (
            "the whole namespace",
            Call::http(other, "GET", "/ping"),
            "policy_allow web-may-ping",
        ),
        (
            "a namespace with the same start",
            Call::http(lookalike, "GET", "/ping"),
            "no_matching_policy",
        ),
        (
            "nobody",
            Call::anonymous("GET", "/ping"),
            "no_matching_policy",
        ),
        (
            "a forbid beats a permit",
            Call::http(cart, "GET", "/orders/secret"),
            "policy_deny no-secrets",
        ),
        (
            "a gRPC method",
            Call::grpc(
                "spiffe://shop.example/ns/billing/sa/b",
                "shop.v1.Orders",
                "Get",
            ),
            "policy_allow billing-calls-orders",
        ),
        (
            "another gRPC service",
            Call::grpc(
                "spiffe://shop.example/ns/billing/sa/b",
                "shop.v1.Admin",
                "Get",
            ),
            "no_matching_policy",
        ),
        ("a bare connection", Call::tcp(cart), "no_matching_policy"),
    ] {
        assert_eq!(answer(&call.decide(&engine)), expected, "{case}");
    }
}

#[test]
fn a_deny_carries_what_its_policy_asks_for() {
    let cart = "spiffe://shop.example/ns/web/sa/cart";
    let decision = Call::http(cart, "GET", "/orders/secret").decide(&engine(ORDERS));
    let obligations = decision.obligations();
    assert_eq!(obligations.status, Some(404));
    assert_eq!(
        obligations.reason.as_deref(),
        Some("secrets are not served")
    );
    assert_eq!(obligations.alert.map(|alert| alert.as_str()), Some("high"));
}

#[test]
fn denies_when_policy_is_missing() {
    let decision = Call::anonymous("GET", "/").decide(&engine(""));
    assert!(!decision.is_allow());
    assert_eq!(decision.reason(), ReasonCode::NoPolicy);
}

const FAILING: &str = r#"
    @id("anybody") permit (principal, action, resource);
    @id("overflows")
    forbid (principal, action, resource is Endpoint)
    when { resource.port + 9223372036854775807 > 0 };
"#;

#[test]
fn denies_when_a_forbid_cannot_be_evaluated() {
    let decision = Call::anonymous("GET", "/").decide(&engine(FAILING));
    assert!(!decision.is_allow());
    assert_eq!(decision.reason(), ReasonCode::PolicyError);
    assert!(decision.errors().map(|id| &**id).eq(["overflows"]));
}

#[test]
fn a_permit_that_cannot_be_evaluated_does_not_permit() {
    let permit = FAILING.replace("forbid", "permit");
    let decision = Call::anonymous("GET", "/").decide(&engine(&permit));
    assert!(decision.policies().map(|id| &**id).eq(["anybody"]));
    assert!(decision.errors().map(|id| &**id).eq(["overflows"]));
}

#[test]
fn incomplete_facts_are_denied() {
    let engine = engine("@id(\"anybody\") permit (principal, action, resource);");
    let mut call = Call::anonymous("GET", "/");
    call.method = None;
    let decision = call.decide(&engine);
    assert!(!decision.is_allow());
    assert_eq!(decision.reason(), ReasonCode::IncompleteFacts);
}

const AUDITED: &str = r#"
    @id("reads") permit (principal, action in Action::"http:read", resource);
    @id("trial-forbid") @mode("audit")
    forbid (principal, action in Action::"http:read", resource)
    when { resource.path like "/admin/*" };
    @id("trial-permit") @mode("audit")
    permit (principal, action in Action::"http:write", resource);
"#;

const CART: &str = "spiffe://shop.example/ns/web/sa/cart";

/// A caller that chooses a content type chooses no weaker policy.
#[test]
fn what_is_forbidden_to_post_or_write_is_forbidden_to_grpc() {
    for scope in [
        r#"action in Action::"http:post""#,
        r#"action in Action::"http:write""#,
        r#"action in [Action::"http:read", Action::"http:post"]"#,
    ] {
        let policies = format!(
            r#"@id("all") permit (principal, action, resource);
            @id("no") forbid (principal, {scope}, resource is Endpoint)
            when {{ resource.path like "/shop.v1.Orders/*" }};"#
        );
        let engine = engine(&policies);
        let post = Call::anonymous("POST", "/shop.v1.Orders/Delete").decide(&engine);
        assert_eq!(answer(&post), "policy_deny no", "{scope}");
        let grpc = Call::grpc(CART, "shop.v1.Orders", "Delete").decide(&engine);
        assert_eq!(answer(&grpc), "policy_deny no", "{scope}");
    }
}

#[test]
fn a_condition_on_post_holds_for_grpc() {
    let engine = engine(
        r#"@id("all") permit (principal, action, resource);
        @id("no") forbid (principal, action, resource is Endpoint)
        when { action in Action::"http:post" };"#,
    );
    let grpc = Call::grpc(CART, "shop.v1.Orders", "Delete").decide(&engine);
    assert_eq!(answer(&grpc), "policy_deny no");
}

#[test]
fn a_permit_of_exactly_post_permits_no_grpc() {
    let engine =
        engine(r#"@id("post") permit (principal, action == Action::"http:post", resource);"#);
    assert!(Call::anonymous("POST", "/a.B/C").decide(&engine).is_allow());
    let grpc = Call::grpc(CART, "a.B", "C").decide(&engine);
    assert_eq!(answer(&grpc), "no_matching_policy");
}

#[test]
fn a_forbid_in_audit_mode_is_recorded_and_not_enforced() {
    let engine = engine(AUDITED);
    let decision = Call::anonymous("GET", "/admin/x").decide(&engine);
    assert_eq!(answer(&decision), "policy_allow reads");
    assert_eq!(decision.would_have().map(|e| e.as_str()), Some("deny"));
    assert!(
        decision
            .audit_policies()
            .map(|id| &**id)
            .eq(["trial-forbid"])
    );
    assert_eq!(
        Call::anonymous("GET", "/x").decide(&engine).would_have(),
        None
    );
}

#[test]
fn a_permit_in_audit_mode_never_allows() {
    let decision = Call::anonymous("POST", "/x").decide(&engine(AUDITED));
    assert_eq!(answer(&decision), "no_matching_policy");
    assert_eq!(decision.would_have().map(|e| e.as_str()), Some("allow"));
}

#[test]
fn the_revision_follows_the_sources() {
    let one = engine(ORDERS);
    assert_eq!(one.revision(), engine(ORDERS).revision());
    assert_ne!(one.revision(), engine(FAILING).revision());
    assert_eq!(one.revision().to_string().len(), 32);
}
