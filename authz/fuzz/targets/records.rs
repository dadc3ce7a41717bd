//! Recorded facts that are read can be written, read again as the same, and decided.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use wayleave_authz::{Engine, Inputs, PolicyFile, RecordedFacts};

static ENGINE: LazyLock<Engine> = LazyLock::new(|| {
    let text = "@id(\"a\") permit (principal, action, resource) when { context.time > \
                datetime(\"2020-01-01\") };";
    let inputs = Inputs {
        policies: vec![PolicyFile {
            name: "fuzz.cedar".to_owned(),
            text: text.to_owned(),
        }],
    };
    Engine::load(&inputs).expect("the policies")
});

fuzz_target!(|line: &str| {
    if let Ok(facts) = RecordedFacts::from_record(line) {
        let written = serde_json::to_string(&facts).expect("facts as JSON");
        assert_eq!(RecordedFacts::from_record(&written).as_ref(), Ok(&facts));
        let _ = ENGINE.explain(&facts.facts());
    }
});
