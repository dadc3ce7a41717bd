//! Every operator, case by case as Cedar's language reference describes it, decided by the
//! compiled engine and by Cedar.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that cannot go on panics"
)]

mod support;

use std::collections::BTreeMap;

use support::{Call, generate};
use wayleave_authz::{ClaimValue, Decision, Engine, Inputs, PolicyFile, Reference};

/// The call is GET /orders/7 on orders:443 by spiffe://shop.example/ns/web/sa/robot at
/// 2026-11-22T17:54:56Z from 10.0.0.7, with claims level = 7 and scopes = [a, b], and with the
/// header x-tenant sent twice, red and blue.
const TRUE: &[&str] = &[
    // Comparison
    "resource.port == 443",
    "resource.port != 444",
    "resource.port < 444 && resource.port <= 443 && resource.port > 442 && resource.port >= 443",
    "resource.path == \"/orders/7\"",
    "principal == Workload::\"spiffe://shop.example/ns/web/sa/robot\"",
    "principal != Workload::\"spiffe://shop.example/ns/web/sa/cart\"",
    "Region::\"eu\".names == [\"/orders/7\", \"a\", \"a\"]",
    "Region::\"eu\".home == Region::\"world\"",
    // Logic
    "resource.port == 443 || resource.port * 9223372036854775807 > 0",
    "!(resource.port == 1 && resource.port * 9223372036854775807 > 0)",
    "if resource.port == 443 then true else resource.port * 9223372036854775807 > 0",
    // Arithmetic
    "resource.port + 1 == 444 && resource.port - 444 == -1 && resource.port * -2 == -886",
    "-resource.port < 0",
    // Hierarchy
    "principal in principal",
    "principal in SpiffePath::\"spiffe://shop.example\"",
    "principal in Group::\"agents\" && principal in Group::\"machines\"",
    "principal in [Group::\"empty\", Group::\"machines\"]",
    "!(principal in Group::\"storefront\")",
    "resource in Service::\"orders\" && resource in Group::\"storefront\"",
    "action in Action::\"http:read\" && action in action",
    "Region::\"eu\" in Region::\"world\"",
    "SpiffePath::\"spiffe://shop.example/ns/web\" in SpiffePath::\"spiffe://shop.example\"",
    "!(SpiffePath::\"spiffe://shop.example\" in SpiffePath::\"spiffe://shop.example/ns/web\")",
    "Region::\"eu\" in [Region::\"eu\".home, Region::\"eu\"]",
    // Types
    "principal is Workload && principal is Workload in Group::\"agents\"",
    "resource is Endpoint",
    // Attributes
    "context has tls && context.tls has version && context.tls.version == \"1.3\"",
    "!(context has query)",
    "!(resource has template)",
    "context.claims has level && context.claims.level == 7",
    "!(context.claims has tenant)",
    "context has claims.level",
    "Region::\"eu\" has limit && Region::\"eu\".limit == 7",
    "Region::\"eu\".home.home == Region::\"eu\"",
    "!(Region::\"nowhere\" has limit)",
    "Workload::\"spiffe://shop.example/ns/web/sa/cart\".path == \"/ns/web/sa/cart\"",
    // like
    "resource.path like \"/orders/*\" && resource.path like \"*7\" && resource.path like \"*/*/*\"",
    "resource.path like \"/orders/7\" && resource.path like \"*\" && resource.path like \"*/orders/7*\"",
    "!(resource.path like \"/orders\") && !(resource.path like \"*8\")",
    "!(resource.path like \"\\*\")",
    // Sets
    "context.headers[\"x-tenant\"].contains(\"red\") && context.headers[\"x-tenant\"].contains(\"blue\")",
    "context.headers[\"x-tenant\"] == [\"blue\", \"red\", \"red\"]",
    "context.headers[\"x-tenant\"].containsAll([\"red\"]) && [\"red\", \"blue\", \"x\"].containsAll(context.headers[\"x-tenant\"])",
    "context.headers[\"x-tenant\"].containsAny([\"red\", \"x\"]) && [\"x\", \"red\"].containsAny(context.headers[\"x-tenant\"])",
    "context.headers.accept.isEmpty() && !context.headers[\"x-tenant\"].isEmpty()",
    "context.claims has scopes && context.claims.scopes == [\"b\", \"a\"]",
    "[\"/orders/7\", \"x\"].contains(resource.path)",
    "[resource.path, \"x\"].contains(\"/orders/7\")",
    "[context.headers.accept, context.headers[\"x-tenant\"]].contains([\"red\", \"blue\"])",
    // ipaddr
    "context.source_ip == ip(\"10.0.0.7\") && context.source_ip == ip(\"10.0.0.7/32\")",
    "context.source_ip != ip(\"10.0.0.7/31\")",
    "context.source_ip.isInRange(ip(\"10.0.0.0/8\")) && !context.source_ip.isInRange(ip(\"11.0.0.0/8\"))",
    "context.source_ip.isIpv4() && !context.source_ip.isIpv6()",
    "!context.source_ip.isLoopback() && !context.source_ip.isMulticast()",
    "ip(\"224.0.0.1\").isMulticast() && ip(\"::1\").isLoopback() && ip(\"127.0.0.0/8\").isLoopback()",
    // decimal
    "decimal(\"1.5\").lessThan(decimal(\"1.5001\")) && decimal(\"-1.5\").greaterThanOrEqual(decimal(\"-1.5\"))",
    "decimal(\"1.50\") == decimal(\"1.5\")",
    // datetime and duration
    "context.time == datetime(\"2026-11-22T17:54:56Z\")",
    "context.time == datetime(\"2026-11-22T18:54:56+0100\")",
    "context.time.toDate() == datetime(\"2026-11-22\")",
    "context.time.toTime() == duration(\"17h54m56s\")",
    "context.time.offset(duration(\"-1h\")) < context.time",
    "context.time.durationSince(datetime(\"2026-11-22\")).toMinutes() == 1074",
    "context.time.durationSince(datetime(\"2026-11-23\")).toHours() == -6",
    "duration(\"1d2h3m4s5ms\").toMilliseconds() == 93784005 && duration(\"-36h\").toDays() == -1",
    "datetime(\"1969-12-31T23:00:00Z\").toTime() == duration(\"23h\")",
    "datetime(\"1969-12-31T23:00:00Z\").toDate() == datetime(\"1969-12-31\")",
    // What is left to Cedar
    "{path: resource.path, n: 1}.path == \"/orders/7\"",
    "[resource.path, \"x\"] == [\"x\", \"/orders/7\"]",
    "!Tagged::\"x\".hasTag(\"a\")",
];

const ERRORS: &[&str] = &[
    "resource.port * 9223372036854775807 > 0",
    "resource.port + 9223372036854775807 > 0",
    "-9223372036854775807 - resource.port < 0",
    "-(resource.port - 443 - 9223372036854775807 - 1) > 0",
    "Region::\"nowhere\".open",
    "Region::\"nowhere\".home == Region::\"eu\"",
    "context.time.offset(duration(\"106751991167d\")) > context.time",
    "resource.port == 1 || Region::\"nowhere\".open",
    "[resource.port * 9223372036854775807, 1].contains(1)",
    "principal in [Region::\"nowhere\".home, Region::\"eu\"] || resource.port == 443",
];

fn call() -> Call {
    let mut call = Call::http("spiffe://shop.example/ns/web/sa/robot", "GET", "/orders/7")
        .header("x-tenant", "red")
        .header("x-tenant", "blue");
    call.claims = BTreeMap::from([
        ("level".to_owned(), ClaimValue::Long(7)),
        (
            "scopes".to_owned(),
            ClaimValue::Texts(vec!["a".to_owned(), "b".to_owned()]),
        ),
    ]);
    call
}

/// Each condition as a permit, and negated as another.
fn inputs(conditions: &[&str]) -> Inputs {
    let scope = "principal is Workload, action == Action::\"http:get\", resource is Endpoint";
    let policies: String = (0..)
        .zip(conditions)
        .map(|(n, condition)| {
            format!(
                "@id(\"yes-{n}\") permit ({scope}) when {{ {condition} }};\n\
                 @id(\"no-{n}\") permit ({scope}) unless {{ {condition} }};\n"
            )
        })
        .collect();
    let file = |name: &str, text: &str| PolicyFile {
        name: name.to_owned(),
        text: text.to_owned(),
    };
    Inputs {
        policies: vec![
            file("test.cedar", &policies),
            file("entities.yaml", generate::ENTITIES),
        ],
    }
}

/// Without the policies that validation refuses because they can never apply.
fn possible(conditions: &[&str]) -> Inputs {
    let mut inputs = inputs(conditions);
    let Err(errors) = Engine::load(&inputs) else {
        return inputs;
    };
    let impossible = |line: &usize| {
        errors.problems().iter().any(|problem| {
            assert!(problem.message().contains("impossible"), "{problem}");
            problem.line() == Some(*line)
        })
    };
    let kept: Vec<_> = (1..)
        .zip(inputs.policies[0].text.lines())
        .filter(|(line, _)| !impossible(line))
        .map(|(_, text)| text)
        .collect();
    inputs.policies[0].text = kept.join("\n");
    inputs
}

fn ids<'a>(ids: impl Iterator<Item = &'a std::sync::Arc<str>>) -> Vec<&'a str> {
    ids.map(|id| &**id).collect()
}

fn decisions(inputs: &Inputs) -> [Decision; 2] {
    let engine = Engine::load(inputs).unwrap_or_else(|errors| panic!("{errors}"));
    let reference = Reference::load(inputs).unwrap();
    [
        call().decide(&engine),
        call().with_facts(|facts| reference.decide(facts)),
    ]
}

#[test]
fn what_is_true_is_true() {
    for decision in decisions(&possible(TRUE)) {
        let determining = ids(decision.policies());
        for (n, condition) in TRUE.iter().enumerate() {
            assert!(determining.contains(&&*format!("yes-{n}")), "{condition}");
        }
        assert_eq!(determining.len(), TRUE.len(), "{determining:?}");
        assert_eq!(ids(decision.errors()), [""; 0]);
    }
}

#[test]
fn what_cannot_be_evaluated_is_an_error() {
    for decision in decisions(&inputs(ERRORS)) {
        assert_eq!(ids(decision.policies()), [""; 0]);
        assert_eq!(decision.errors().count(), 2 * ERRORS.len(), "{decision:?}");
    }
}
