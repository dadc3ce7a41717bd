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

const OUTBOUND_GUIDE: &str = include_str!("../../docs/outbound.md");
const EGRESS_EXAMPLE: &str = include_str!("../../examples/egress/policies/agent.cedar");

/// The fenced blocks of one language in the policy reference.
fn blocks(language: &str) -> Vec<&'static str> {
    blocks_of(POLICY_REFERENCE, language)
}

fn blocks_of(document: &'static str, language: &str) -> Vec<&'static str> {
    let fence = format!("```{language}\n");
    document
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
fn the_policies_of_the_outbound_guide_and_of_its_example_load() {
    let guide = blocks_of(OUTBOUND_GUIDE, "cedar").join("\n");
    for policies in [&guide, EGRESS_EXAMPLE] {
        let inputs = Inputs {
            policies: vec![file("policy.cedar", policies)],
        };
        let engine = Engine::load(&inputs).unwrap_or_else(|errors| panic!("{errors}"));
        assert!(engine.policies().len() >= 2);
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
