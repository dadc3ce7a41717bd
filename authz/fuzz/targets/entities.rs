//! Any entities file is loaded or refused with at least one problem.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wayleave_authz::{Engine, Inputs, PolicyFile};

fuzz_target!(|text: &str| {
    let file = |name: &str, text: &str| PolicyFile {
        name: name.to_owned(),
        text: text.to_owned(),
    };
    let policy = "@id(\"a\") permit (principal, action, resource);";
    let inputs = Inputs {
        policies: vec![file("fuzz.cedar", policy), file("entities.yaml", text)],
    };
    if let Err(errors) = Engine::load(&inputs) {
        assert!(!errors.problems().is_empty());
    }
});
