//! The examples of the policy reference are loaded and its tests are run.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that cannot go on panics"
)]

use wayleave_authz::{Engine, Inputs, PolicyFile, testing};

const POLICY_REFERENCE: &str = include_str!("../../docs/policy.md");

/// The fenced blocks of one language.
fn blocks(language: &str) -> Vec<&'static str> {
    let fence = format!("```{language}\n");
    POLICY_REFERENCE
        .split(&*fence)
        .skip(1)
        .filter_map(|rest| rest.split("```").next())
        .collect()
}

fn file(name: &str, text: &str) -> PolicyFile {
    PolicyFile {
        name: name.to_owned(),
        text: text.to_owned(),
    }
}

#[test]
fn the_examples_load_and_their_tests_pass() {
    let mut tests = Vec::new();
    let mut inputs = Inputs {
        policies: vec![file("policy.cedar", &blocks("cedar").join("\n"))],
    };
    for block in blocks("yaml") {
        if block.contains("tests:") {
            tests.push(file("policy.test.yaml", block));
        } else {
            inputs.policies.push(file("entities.yaml", block));
        }
    }
    assert!(!tests.is_empty() && inputs.policies.len() > 1);
    let engine = Engine::load(&inputs).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(engine.not_compiled().count(), 0);
    let report = testing::run(&engine, &tests).unwrap_or_else(|errors| panic!("{errors}"));
    assert!(report.passed(), "{report}");
}
