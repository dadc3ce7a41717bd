//! Any text is loaded or refused with at least one problem, and each problem can be told.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wayleave_authz::{Engine, Inputs, PolicyFile};

fuzz_target!(|text: &str| {
    let inputs = Inputs {
        policies: vec![PolicyFile {
            name: "fuzz.cedar".to_owned(),
            text: text.to_owned(),
        }],
    };
    if let Err(errors) = Engine::load(&inputs) {
        assert!(!errors.problems().is_empty());
        for problem in errors.problems() {
            assert!(!problem.message().is_empty());
            assert!(problem.line().is_none() || problem.excerpt().is_some());
        }
    }
});
