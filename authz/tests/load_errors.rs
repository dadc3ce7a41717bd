//! What a writer of policies is told about mistakes: the place, the words, the remedy.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that cannot go on panics"
)]

mod support;

use miette::Diagnostic as _;
use wayleave_authz::{Engine, Inputs, LoadErrors, PolicyFile, Problem};

fn errors(text: &str) -> LoadErrors {
    Engine::load(&support::inputs(text)).expect_err("the policies were accepted")
}

fn told(problem: &Problem) -> String {
    format!(
        "{}:{} `{}` {} | {}",
        problem.line().unwrap_or_default(),
        problem.column().unwrap_or_default(),
        problem.excerpt().unwrap_or_default(),
        problem.message(),
        problem.help_text().unwrap_or_default()
    )
}

/// The text gives exactly the problems expected, each of which names these parts.
fn assert_told(text: &str, expected: &[&[&str]]) {
    let told: Vec<_> = errors(text).problems().iter().map(told).collect();
    assert_eq!(told.len(), expected.len(), "{text}\n{told:#?}");
    for (told, parts) in told.iter().zip(expected) {
        for part in *parts {
            assert!(told.contains(part), "{text}\n{told}\nlacks {part}");
        }
    }
}

/// A policy with this scope and condition.
fn policy(scope: &str, condition: &str) -> String {
    format!("@id(\"a\")\npermit ({scope})\nwhen {{ {condition} }};")
}

#[test]
fn a_mistake_in_a_later_policy_of_a_file_is_told_at_its_own_place() {
    let good = "// first\n@id(\"good\")\npermit (principal, action, resource);\n\n";
    let bad = policy(
        "principal, action == Action::\"http:get\", resource",
        "resource.pth == \"x\"",
    );
    assert_told(
        &format!("{good}{bad}"),
        &[&["7:8 `resource.pth`", "did you mean `path`"]],
    );
    let broken = "@id(\"a\")\npermit (principal action, resource);";
    assert_told(
        &format!("{good}{broken}"),
        &[&["6:19 `action`", "unexpected token"]],
    );
}

#[test]
fn mistakes_in_a_long_file_are_told_at_their_own_places() {
    let line = |number: usize| {
        let comma = if number == 150 { "" } else { "," };
        let path = match number {
            70 | 470 => "pth",
            _ => "path",
        };
        format!(
            "@id(\"p{number}\") permit (principal{comma} action in Action::\"http:read\", resource) \
             when {{ resource.{path} == \"é\" }};\n"
        )
    };
    let text: String = (1..=500).map(line).collect();
    let errors = errors(&text);
    let told: Vec<_> = errors.problems().iter().map(told).collect();
    let expected = [
        "70:79 `resource.pth` attr",
        "150:31 `action` unex",
        "470:80 `resource.pth` attr",
    ];
    assert_eq!(told.len(), expected.len(), "{told:#?}");
    for (told, start) in told.iter().zip(expected) {
        assert!(told.starts_with(start), "{told}");
    }
}

#[test]
fn syntax() {
    assert_told(
        "@id(\"a\") permit (principal, action, resource)",
        &[&["1:46", "unexpected end of input", "missing `;`"]],
    );
    assert_told(
        "@id(\"a\")\npermit (principal action, resource);",
        &[&["2:19 `action`", "unexpected token"]],
    );
    assert_told(
        "@id(\"a\")\npermit (principal == ?principal, action, resource);",
        &[&["2:22 `?principal`", "template"]],
    );
}

#[test]
fn unknown_names() {
    assert_told(
        &policy(
            "principal, action == Action::\"http:gett\", resource",
            "true",
        ),
        &[&[
            "2:30",
            "unrecognized action",
            "did you mean `Action::\"http:get\"`?",
        ]],
    );
    assert_told(
        &policy("principal is Worklod, action, resource", "true"),
        &[&["2:22 `Worklod`", "did you mean `Workload`?"]],
    );
    assert_told(
        &policy(
            "principal, action in Action::\"http:read\", resource",
            "resource.pth == \"/\"",
        ),
        &[&["3:8 `resource.pth`", "did you mean `path`?"]],
    );
}

#[test]
fn optional_attributes_must_be_asked_for_first() {
    assert_told(
        &policy(
            "principal, action == Action::\"http:get\", resource",
            "context.query == \"\"",
        ),
        &[&[
            "3:8 `context.query`",
            "optional attribute",
            "context has query",
        ]],
    );
}

#[test]
fn a_policy_of_paths_does_not_reach_tcp_connections() {
    let remedy = "write `resource is Endpoint`";
    for condition in ["resource.path == \"/\"", "context.method == \"GET\""] {
        assert_told(
            &policy("principal, action, resource", condition),
            &[&["3:8", "not found", remedy]],
        );
        let engine = Engine::load(&support::inputs(&policy(
            "principal, action, resource is Endpoint",
            condition,
        )));
        assert!(engine.is_ok());
    }
}

#[test]
fn a_policy_that_can_never_apply_is_refused() {
    assert_told(
        &policy("principal, action, resource", "principal == resource"),
        &[&[
            "1:1",
            "policy is impossible",
            "as it stands it does nothing",
        ]],
    );
    assert_told(
        &policy(
            "principal, action == Action::\"tcp:connect\", resource is Endpoint",
            "true",
        ),
        &[&[
            "1:1",
            "unable to find an applicable action",
            "TCP connections a `Port`",
        ]],
    );
}

#[test]
fn text_that_deceives_the_eye_is_refused() {
    assert_told(
        &policy(
            "principal, action in Action::\"http:read\", resource",
            "resource.path == \"say\u{202e}hi\"",
        ),
        &[&["BIDI"]],
    );
}

#[test]
fn annotations() {
    let with = |annotations: &str, effect: &str| {
        format!("{annotations}\n{effect} (principal, action, resource);")
    };
    for (annotations, effect, expected) in [
        ("", "permit", ["2:1", "no `@id`", "write `@id(\"a-name\")`"]),
        (
            "@id(\"\")",
            "permit",
            ["1:1 `@id(\"\")`", "not a policy id", "1 to 128"],
        ),
        (
            "@id(\"a b\")",
            "permit",
            ["1:1 `@id(\"a b\")`", "not a policy id", "characters"],
        ),
        (
            "@id(\"a\") @reson(\"x\")",
            "permit",
            [
                "1:10 `@reson(\"x\")`",
                "unknown annotation",
                "did you mean `@reason`?",
            ],
        ),
        (
            "@id(\"a\") @owner(\"x\")",
            "permit",
            ["1:10", "unknown annotation `@owner`", "`//` comment"],
        ),
        (
            "@id(\"a\")\n@mode(\"shadow\")",
            "permit",
            ["2:1 `@mode(\"shadow\")`", "not a mode", "@mode(\"audit\")"],
        ),
        (
            "@id(\"a\") @status(\"200\")",
            "forbid",
            ["1:10", "not a status to deny with", "403"],
        ),
        (
            "@id(\"a\") @status(\"429\")",
            "permit",
            ["1:10", "`@status` on a permit", "only a `forbid` denies"],
        ),
        (
            "@id(\"a\") @quarantine(\"60s\")",
            "permit",
            [
                "1:10",
                "`@quarantine` on a permit",
                "only a `forbid` denies",
            ],
        ),
        (
            "@id(\"a\") @quarantine(\"60\")",
            "forbid",
            ["1:10", "not a time to be in quarantine", "`60s`"],
        ),
        (
            "@id(\"a\") @alert(\"hgih\")",
            "forbid",
            ["1:10", "not an alert level", "did you mean `high`?"],
        ),
        (
            "@id(\"a\") @reason(\"a\\nb\")",
            "forbid",
            ["1:10", "cannot be shown", "printable"],
        ),
        (
            "@id(\"a\") @id(\"b\")",
            "permit",
            ["1:10", "duplicate annotation: @id", ""],
        ),
    ] {
        assert_told(&with(annotations, effect), &[&expected]);
    }
}

#[test]
fn ids_are_unique_across_files() {
    let file = |name: &str| PolicyFile {
        name: name.to_owned(),
        text: "\n@id(\"a\") permit (principal, action, resource);".to_owned(),
    };
    let errors = Engine::load(&Inputs {
        policies: vec![file("one.cedar"), file("two.cedar")],
    })
    .unwrap_err();
    let [problem] = errors.problems() else {
        panic!("{errors}");
    };
    assert_eq!(
        problem.to_string(),
        "two.cedar:2:1: a second policy has the id `a`"
    );
    assert!(problem.help_text().unwrap().contains("one.cedar:2"));
}

#[test]
fn all_problems_of_all_files_are_told_at_once_in_order() {
    let text = "permit (principal, action, resource);\n\
                @id(\"b\") permit (principal is Nobody, action, resource);\n\
                @id(\"c\") permit (principal, action resource);\n\
                @id(\"d\") @mode(\"x\") forbid (principal, action, resource);";
    let lines: Vec<_> = errors(text).problems().iter().map(Problem::line).collect();
    assert_eq!(lines, [Some(1), Some(2), Some(3), Some(4)]);
    assert_eq!(errors(text).to_string().lines().count(), 4);
}

#[test]
fn problems_can_be_rendered_with_their_source() {
    let errors = errors(&policy("principal is Worklod, action, resource", "true"));
    let problem = errors.related().unwrap().next().unwrap();
    let label = problem.labels().unwrap().next().unwrap();
    let source = problem.source_code().unwrap();
    let excerpt = source.read_span(label.inner(), 0, 0).unwrap();
    assert_eq!(excerpt.name(), Some("test.cedar"));
    let line = String::from_utf8(excerpt.data().to_vec()).unwrap();
    assert_eq!(line, "Worklod");
}

/// gRPC is a POST by a content type that the caller chooses.
#[test]
fn refuses_a_forbid_of_post_that_grpc_calls_slip_past() {
    let forbid = |scope: &str, clause: &str| {
        format!("@id(\"a\")\nforbid (principal, {scope}, resource is Endpoint)\n{clause};")
    };
    let post = r#"Action::"http:post""#;
    let exact = format!("action == {post}");
    let any = "action".to_owned();
    for policy in [
        forbid(&exact, ""),
        forbid(&exact, "when { resource.path like \"/a/*\" }"),
        forbid(&any, &format!("when {{ action == {post} }}")),
        forbid(&any, &format!("when {{ {post} == action }}")),
        forbid(
            &any,
            &format!("when {{ resource.path == \"/\" || [{post}].contains(action) }}"),
        ),
        forbid(&any, &format!("unless {{ action != {post} }}")),
    ] {
        let parts: &[&str] = &["lets gRPC calls pass", "action in Action::\"http:post\"`"];
        assert_told(&policy, &[parts]);
    }
    for policy in [
        forbid(&format!("action in {post}"), ""),
        forbid(
            &format!("action in {post}"),
            "unless { action == Action::\"grpc:call\" }",
        ),
        forbid(&any, &format!("when {{ action in {post} }}")),
        forbid(&any, &format!("unless {{ action == {post} }}")),
        forbid("action == Action::\"http:put\"", ""),
        forbid(&exact, "").replace("forbid", "permit"),
    ] {
        let inputs = support::inputs(&policy);
        let loaded = Engine::load(&inputs);
        assert!(loaded.is_ok(), "{policy}\n{:?}", loaded.err());
    }
}
