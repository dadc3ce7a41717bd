//! What would make decisions slow is refused at load; what is just within the limits decides
//! as it should.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that cannot go on panics"
)]

mod support;

use support::Call;
use wayleave_authz::{Engine, Inputs, PolicyFile};

fn load(policies: &str, entities: &str) -> Result<Engine, String> {
    let file = |name: &str, text: &str| PolicyFile {
        name: name.to_owned(),
        text: text.to_owned(),
    };
    let inputs = Inputs {
        policies: vec![
            file("test.cedar", policies),
            file("entities.yaml", entities),
        ],
    };
    Engine::load(&inputs).map_err(|errors| errors.to_string())
}

fn when(condition: &str) -> String {
    format!("@id(\"a\") permit (principal, action, resource is Endpoint) when {{ {condition} }};")
}

#[test]
fn patterns_with_many_wildcards() {
    let like = |count: usize| when(&format!("resource.path like \"{}\"", "a*".repeat(count)));
    let path = "a".repeat(4096);
    let engine = load(&like(32), "").unwrap();
    assert!(Call::anonymous("GET", &path).decide(&engine).is_allow());
    assert!(
        !Call::anonymous("GET", &path[..31])
            .decide(&engine)
            .is_allow()
    );
    assert!(
        load(&like(33), "")
            .unwrap_err()
            .contains("more than 32 wildcards")
    );
}

#[test]
fn sets_with_many_members() {
    let contains = |count: usize| {
        let members: Vec<_> = (0..count).map(|n| format!("\"/{n}\"")).collect();
        when(&format!("[{}].contains(resource.path)", members.join(",")))
    };
    let engine = load(&contains(10_000), "").unwrap();
    assert!(Call::anonymous("GET", "/9999").decide(&engine).is_allow());
    assert!(!Call::anonymous("GET", "/10000").decide(&engine).is_allow());
    assert!(
        load(&contains(10_001), "")
            .unwrap_err()
            .contains("more than 10000 members")
    );
}

#[test]
fn deep_groups() {
    let chain = |count: usize| {
        let mut text = "groups:\n  g0: [\"spiffe://shop.example\"]\n".to_owned();
        for n in 1..count {
            text += &format!("  g{n}: ['Group::\"g{}\"']\n", n - 1);
        }
        text
    };
    let policy = "@id(\"a\") permit (principal in Group::\"g249\", action, resource);";
    let engine = load(policy, &chain(250)).unwrap();
    assert!(
        Call::http("spiffe://shop.example/a", "GET", "/")
            .decide(&engine)
            .is_allow()
    );
    assert!(
        load(policy, &chain(252))
            .unwrap_err()
            .contains("more than 250 groups")
    );
}

#[test]
fn many_policies_with_the_same_scope() {
    let policies: String = (0..200)
        .map(|n| {
            format!(
                "@id(\"p{n}\") permit (principal, action == Action::\"http:get\", resource) \
                 when {{ resource.path like \"/{n}/*\" }};\n"
            )
        })
        .collect();
    let engine = load(&policies, "").unwrap();
    let decision = Call::anonymous("GET", "/199/x").decide(&engine);
    assert!(decision.policies().map(|id| &**id).eq(["p199"]));
}

#[test]
fn deeply_nested_conditions_are_refused_and_never_overflow_the_stack() {
    for depth in [90, 98, 99, 4000, 400_000] {
        let nested = (0..depth).fold(String::new(), |inner, _| inner + "!(");
        let nested = format!("{nested}resource.port == 443{}", ")".repeat(depth));
        match load(&when(&nested), "") {
            Ok(engine) => {
                let decision = Call::anonymous("GET", "/").decide(&engine);
                assert_eq!(decision.is_allow(), depth % 2 == 0, "{depth} {decision:?}");
            }
            Err(told) => {
                assert!(depth > 98, "{told}");
                assert!(
                    told.contains("brackets nest deeper than 100 levels"),
                    "{told}"
                );
            }
        }
    }
}

#[test]
fn long_chains_are_compiled_or_refused() {
    for operator in ["||", "&&"] {
        for count in [500, 100_000] {
            let links: Vec<_> = (0..count)
                .map(|n| {
                    format!(
                        "resource.path {} \"/{n}\"",
                        if operator == "||" { "==" } else { "!=" }
                    )
                })
                .collect();
            let condition = format!("!({})", links.join(operator));
            match load(&when(&condition), "") {
                Ok(engine) => {
                    assert_eq!(engine.not_compiled().count(), 0);
                    let allowed = Call::anonymous("GET", "/499").decide(&engine).is_allow();
                    assert_eq!(allowed, operator == "&&");
                    let explanation =
                        Call::anonymous("GET", "/499").with_facts(|facts| engine.explain(facts));
                    assert!(!explanation.to_string().is_empty());
                }
                Err(told) => {
                    assert!(count > 500, "{told}");
                    assert!(told.contains("more than 5000 operators"), "{told}");
                }
            }
        }
    }
}
