//! Groups, the user's own entities, and extensions of the schema, from entities files.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that cannot go on panics"
)]

mod support;

use support::Call;
use wayleave_authz::{Engine, Inputs, LoadErrors, PolicyFile};

fn load(policies: &str, entities: &str) -> Result<Engine, LoadErrors> {
    let file = |name: &str, text: &str| PolicyFile {
        name: name.to_owned(),
        text: text.to_owned(),
    };
    Engine::load(&Inputs {
        policies: vec![
            file("test.cedar", policies),
            file("entities.yaml", entities),
        ],
    })
}

const GROUPS: &str = r#"
groups:
  agents:
    - spiffe://shop.example/ns/agents
    - spiffe://shop.example/ns/web/sa/robot
  machines:
    - Group::"agents"
  storefront:
    - Service::"cart"
    - Service::"orders"
"#;

#[test]
fn groups_hold_workloads_services_and_groups() {
    let engine = load(
        r#"
        @id("machines-read")
        permit (principal in Group::"machines", action in Action::"http:read", resource in Group::"storefront");
        @id("not-scout")
        forbid (principal == Workload::"spiffe://shop.example/ns/agents/sa/scout", action, resource)
        unless { principal in Group::"machines" && resource in Service::"cart" };
        "#,
        GROUPS,
    )
    .unwrap();
    for (principal, service, expected) in [
        ("spiffe://shop.example/ns/agents/sa/a", "orders", true),
        ("spiffe://shop.example/ns/web/sa/robot", "cart", true),
        ("spiffe://shop.example/ns/web/sa/cart", "cart", false),
        ("spiffe://shop.example/ns/agents2/sa/a", "cart", false),
        ("spiffe://other.example/ns/agents/sa/a", "cart", false),
        ("spiffe://shop.example/ns/agents/sa/a", "payments", false),
        ("spiffe://shop.example/ns/agents/sa/scout", "cart", true),
        ("spiffe://shop.example/ns/agents/sa/scout", "orders", false),
    ] {
        let decision = Call::http(principal, "GET", "/")
            .service(service)
            .decide(&engine);
        assert_eq!(
            decision.is_allow(),
            expected,
            "{principal} {service}: {decision:?}"
        );
    }
}

#[test]
fn own_entities_carry_attributes() {
    let entities = r#"
schema:
  types: |
    entity Region in [Region] { open: Bool, ranges: Set<ipaddr>, limit?: Long };
entities:
  - uid: { type: Region, id: eu }
    attrs: { open: true, ranges: ["10.0.0.0/8"], limit: 7 }
    parents: [{ type: Region, id: world }]
  - uid: { type: Region, id: world }
    attrs: { open: false, ranges: [] }
    parents: []
"#;
    let condition =
        |text: &str| format!("@id(\"a\") permit (principal, action, resource) when {{ {text} }};");
    for (text, expected) in [
        ("Region::\"eu\".open", true),
        ("Region::\"world\".open", false),
        ("Region::\"eu\" in Region::\"world\"", true),
        ("Region::\"world\" in Region::\"eu\"", false),
        ("Region::\"eu\".ranges.contains(ip(\"10.0.0.0/8\"))", true),
        ("Region::\"eu\" has limit && Region::\"eu\".limit < 8", true),
        (
            "Region::\"world\" has limit && Region::\"world\".limit < 8",
            false,
        ),
        ("Region::\"nowhere\" has limit", false),
        // An entity that does not exist has no attributes to read: an error, so no permit.
        ("!Region::\"nowhere\".open", false),
    ] {
        let engine = load(&condition(text), entities).unwrap();
        let decision = Call::anonymous("GET", "/").decide(&engine);
        assert_eq!(decision.is_allow(), expected, "{text}: {decision:?}");
    }
}

#[test]
fn declared_headers_are_sets_of_all_their_values() {
    let entities = "schema: { headers: [x-tenant] }";
    let engine = load(
        r#"
        @id("a") permit (principal, action == Action::"http:get", resource)
        when { context.headers["x-tenant"].contains("blue") };
        "#,
        entities,
    )
    .unwrap();
    let call = Call::anonymous("GET", "/");
    assert!(!call.decide(&engine).is_allow());
    let call = call.header("x-tenant", "red");
    assert!(!call.decide(&engine).is_allow());
    assert!(call.header("x-tenant", "blue").decide(&engine).is_allow());
}

/// Each problem as `file:line:column: message`.
fn told(entities: &str) -> String {
    let policy = "@id(\"a\") permit (principal, action, resource);";
    load(policy, entities).unwrap_err().to_string()
}

#[test]
fn mistakes_are_told_with_their_place() {
    for (entities, expected) in [
        ("grups: {}", "entities.yaml:1:"),
        (
            "groups:\n  a: [\"spiffe://x y\"]",
            "entities.yaml:2:7: `spiffe://x y` is not a member",
        ),
        (
            "groups:\n  a:\n    - Group::\"b\"",
            "entities.yaml:3:7: no group is called `b`",
        ),
        (
            "groups:\n  a:\n    - Group::\"b\"\n  b:\n    - Group::\"a\"",
            "entities.yaml:3:7: the group `a` is in itself",
        ),
        (
            "schema:\n  headers: [Accept]",
            "entities.yaml:2:13: `Accept` is not a header's name",
        ),
        (
            "schema:\n  headers: [accept]",
            "entities.yaml:2:13: the header `accept` is built in",
        ),
        (
            "schema:\n  claims: { a: Text }",
            "entities.yaml:2:16: `Text` is not the type of a claim",
        ),
        (
            "schema:\n  types: entity Workload;",
            "entities.yaml:2:10: `Workload` is built in",
        ),
        ("schema:\n  types: entity Team", "entities.yaml:2:10: "),
        (
            "schema:\n  types: action x;",
            "entities.yaml:2:10: actions are built in",
        ),
        (
            "entities:\n  - uid: { type: Group, id: a }\n    attrs: {}\n    parents: []",
            "membership is written under `groups:`",
        ),
        (
            "schema: { types: \"entity Team { on: Bool };\" }\nentities:\n  - uid: { type: Team, id: a }\n    attrs: { on: 3 }\n    parents: []",
            "entities.yaml:3:5: ",
        ),
        (
            "entities:\n  - 7",
            "entities.yaml:2:5: an entity needs a `uid`",
        ),
        ("a: [", "entities.yaml:1:"),
    ] {
        let told = told(entities);
        assert!(
            told.starts_with(expected) || told.contains(expected),
            "{entities}\n{told}"
        );
    }
}

#[test]
fn policies_may_only_name_what_can_exist() {
    for (scope, expected) in [
        (
            "principal in Group::\"agnets\", action, resource",
            "1:31: no group is called `agnets`",
        ),
        (
            "principal == Workload::\"cart\", action, resource",
            "1:31: `cart` is not a SPIFFE ID",
        ),
        (
            "principal == Workload::\"spiffe://Shop.example/a\", action, resource",
            "is not written in the canonical way",
        ),
        (
            "principal == Workload::\"spiffe://shop.example\", action, resource",
            "names a trust domain, not a workload",
        ),
        (
            "principal in SpiffePath::\"spiffe://shop.example/\", action, resource",
            "is not a SPIFFE ID or the start of one",
        ),
        (
            "principal, action == Action::\"http:get\", resource == Endpoint::\"/orders\"",
            "`/orders` is not an endpoint",
        ),
        (
            "principal, action, resource == Port::\"070\"",
            "`070` is not a port",
        ),
        (
            "principal == Anonymous::\"x\", action, resource",
            "there is no anonymous peer called `x`",
        ),
    ] {
        let policy = format!("@id(\"a\") permit ({scope});");
        let told = load(&policy, GROUPS).unwrap_err().to_string();
        assert!(told.contains(expected), "{scope}\n{told}");
    }
}

#[test]
fn cedars_own_entity_format_is_read() {
    let engine = load(
        "@id(\"a\") permit (principal, action, resource) when { Region::\"eu\".open };",
        "schema: { types: \"entity Region { open: Bool };\" }",
    );
    assert!(engine.is_ok());
    let json =
        r#"[{"uid": {"type": "Region", "id": "eu"}, "attrs": {"open": true}, "parents": []}]"#;
    let file = |name: &str, text: &str| PolicyFile {
        name: name.to_owned(),
        text: text.to_owned(),
    };
    let engine = Engine::load(&Inputs {
        policies: vec![
            file(
                "a.cedar",
                "@id(\"a\") permit (principal, action, resource) when { Region::\"eu\".open };",
            ),
            file(
                "schema.entities.yaml",
                "schema: { types: \"entity Region { open: Bool };\" }",
            ),
            file("regions.entities.json", json),
        ],
    })
    .unwrap();
    assert!(Call::anonymous("GET", "/").decide(&engine).is_allow());
}
