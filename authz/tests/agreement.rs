//! The compiled engine against Cedar's own authorizer: for generated policies and calls they
//! give the same decision, for the same reasons.
//!
//! `WAYLEAVE_CASES` sets how many policy sets are tried (each with 20 calls); the default
//! suits every day, a million an idle weekend.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that cannot go on panics"
)]

mod support;

use proptest::prelude::*;
use support::{
    Call,
    generate::{self, Choices},
};
use wayleave_authz::{
    ConditionOutcome, Decision, Engine, ExplainedPolicy, Explanation, Inputs, PolicyFile, Reference,
};

const CALLS: usize = 20;

fn cases(default: u32) -> ProptestConfig {
    let cases = std::env::var("WAYLEAVE_CASES").ok();
    ProptestConfig {
        cases: cases
            .and_then(|cases| cases.parse().ok())
            .unwrap_or(default),
        max_shrink_iters: 100,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

fn inputs(policies: &str) -> Inputs {
    let file = |name: &str, text: &str| PolicyFile {
        name: name.to_owned(),
        text: text.to_owned(),
    };
    Inputs {
        policies: vec![
            file("test.cedar", policies),
            file("entities.yaml", generate::ENTITIES),
        ],
    }
}

/// The generated policies without those that validation refuses.
fn valid(policies: &str) -> String {
    let mut lines: Vec<&str> = policies.lines().collect();
    loop {
        let Err(errors) = Engine::load(&inputs(&lines.join("\n"))) else {
            return lines.join("\n");
        };
        let refused: Vec<_> = errors
            .problems()
            .iter()
            .map(|p| p.line().unwrap())
            .collect();
        let numbered = (1..).zip(std::mem::take(&mut lines));
        lines = numbered
            .filter(|(line, _)| !refused.contains(line))
            .map(|(_, text)| text)
            .collect();
    }
}

/// Everything a decision says.
fn told(decision: &Decision) -> String {
    let audit: Vec<_> = decision.audit_policies().collect();
    format!("{decision:?} audit {audit:?}")
}

fn choices(length: usize) -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>(), length)
}

proptest! {
    #![proptest_config(cases(100))]

    #[test]
    fn compiled_policies_decide_as_cedar_does(policies in choices(400), calls in choices(300)) {
        let policies = valid(&generate::policies(&mut Choices::new(&policies)));
        let engine = Engine::load(&inputs(&policies)).unwrap();
        let reference = Reference::load(&inputs(&policies)).unwrap();
        let mut calls = Choices::new(&calls);
        for _ in 0..CALLS {
            let call = generate::call(&mut calls);
            let expected = call.with_facts(|facts| reference.decide(facts));
            prop_assert_eq!(told(&call.decide(&engine)), told(&expected), "{}\n{:?}", policies, call);
        }
    }

}

proptest! {
    #![proptest_config(cases(40))]

    #[test]
    fn explanations_account_for_decisions(policies in choices(400), calls in choices(100)) {
        let policies = valid(&generate::policies(&mut Choices::new(&policies)));
        let engine = Engine::load(&inputs(&policies)).unwrap();
        let mut calls = Choices::new(&calls);
        for _ in 0..CALLS / 4 {
            let call = generate::call(&mut calls);
            let explanation = call.with_facts(|facts| engine.explain(facts));
            prop_assert!(is_accounted_for(&explanation), "{}\n{:?}\n{:#?}", policies, call, explanation);
        }
    }

    #[test]
    fn adding_a_forbid_never_allows_more(policies in choices(300), calls in choices(300)) {
        let mut choices = Choices::new(&policies);
        let fewer = valid(&generate::policies(&mut choices));
        let forbid = generate::policy(&mut choices, 99).replace("permit (", "forbid (");
        let more = valid(&format!("{fewer}\n{forbid}"));
        never_allows_more(&more, &fewer, &calls)?;
    }

    #[test]
    fn removing_a_permit_never_allows_more(policies in choices(300), calls in choices(300)) {
        let mut choices = Choices::new(&policies);
        let more = valid(&generate::policies(&mut choices));
        let victim = choices.below(12);
        let permits = more.lines().filter(|line| line.contains("permit ("));
        let victim = permits.clone().nth(victim.min(permits.count().saturating_sub(1)));
        let fewer: Vec<_> = more.lines().filter(|line| Some(*line) != victim).collect();
        never_allows_more(&fewer.join("\n"), &more, &calls)?;
    }
}

/// What an explanation says of the conditions accounts for what it says of the policy.
fn is_accounted_for(explanation: &Explanation) -> bool {
    let first_not_true = |policy: &ExplainedPolicy| {
        let mut outcomes = policy.conditions.iter().map(|condition| condition.outcome);
        outcomes.find(|outcome| *outcome != ConditionOutcome::True)
    };
    let failed = |policy: &ExplainedPolicy| first_not_true(policy) == Some(ConditionOutcome::Error);
    let applies = |policy: &ExplainedPolicy| {
        failed(policy) == explanation.errors.contains(policy)
            && (failed(policy) || policy.obstacle().is_none())
    };
    explanation.errors.iter().all(failed)
        && explanation.determining.iter().all(applies)
        && explanation.audit.iter().all(applies)
}

/// What the first policies allow, the second allow as well.
fn never_allows_more(first: &str, second: &str, calls: &[u8]) -> Result<(), TestCaseError> {
    let one = Engine::load(&inputs(first)).unwrap();
    let other = Engine::load(&inputs(second)).unwrap();
    let mut calls = Choices::new(calls);
    for _ in 0..CALLS {
        let call: Call = generate::call(&mut calls);
        if call.decide(&one).is_allow() {
            prop_assert!(
                call.decide(&other).is_allow(),
                "{}\n--\n{}\n{:?}",
                first,
                second,
                call
            );
        }
    }
    Ok(())
}

/// The generator is worth nothing if its policies are refused or never match.
#[test]
fn the_generator_reaches_every_outcome() {
    let mut outcomes = std::collections::BTreeMap::new();
    let mut kept = 0;
    let mut not_compiled = 0;
    for seed in 0..60 {
        let bytes = noise(seed);
        let policies = valid(&generate::policies(&mut Choices::new(&bytes)));
        kept += policies.lines().count();
        let engine = Engine::load(&inputs(&policies)).unwrap();
        not_compiled += engine.not_compiled().count();
        let mut calls = Choices::new(&bytes);
        for _ in 0..CALLS {
            let decision = generate::call(&mut calls).decide(&engine);
            *outcomes.entry(decision.reason().as_str()).or_insert(0) += 1;
        }
    }
    assert!(kept > 80, "{kept} policies");
    assert!(not_compiled > 0);
    for reason in [
        "policy_allow",
        "policy_deny",
        "policy_error",
        "no_matching_policy",
    ] {
        assert!(
            outcomes.get(reason).is_some_and(|count| *count > 2),
            "{outcomes:?}"
        );
    }
}

/// The same noise for the same seed (splitmix64).
fn noise(seed: u64) -> Vec<u8> {
    let byte = |at: u64| {
        let mut word = (seed * 1000 + at).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (word >> 56) as u8
    };
    (0..700).map(byte).collect()
}
