//! Generated policies decide generated calls as Cedar's own authorizer does. The input steers
//! the generator of the property tests.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wayleave_authz::{Engine, Inputs, PolicyFile, Reference};

#[path = "../../tests/support/mod.rs"]
mod support;

use support::generate::{self, Choices};

fuzz_target!(|bytes: &[u8]| {
    let mut choices = Choices::new(bytes);
    let policies = generate::policies(&mut choices);
    let file = |name: &str, text: &str| PolicyFile {
        name: name.to_owned(),
        text: text.to_owned(),
    };
    // One at a time, since most sets hold one that validation refuses.
    for policy in policies.lines() {
        let inputs = Inputs {
            policies: vec![
                file("fuzz.cedar", policy),
                file("entities.yaml", generate::ENTITIES),
            ],
        };
        let Ok(engine) = Engine::load(&inputs) else {
            continue;
        };
        let reference = Reference::load(&inputs).expect("what the engine has loaded");
        for _ in 0..10 {
            let call = generate::call(&mut choices);
            let expected = call.with_facts(|facts| reference.decide(facts));
            let got = call.decide(&engine);
            assert_eq!(
                format!("{got:?}"),
                format!("{expected:?}"),
                "{policy}\n{call:?}"
            );
        }
    }
});
