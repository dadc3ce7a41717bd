//! A SPIFFE ID that is accepted prints as what parses to itself.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wayleave_identity::{SpiffeId, SpiffeIdPattern};

fuzz_target!(|text: &str| {
    if let Ok(id) = text.parse::<SpiffeId>() {
        assert!(text.eq_ignore_ascii_case(id.as_str()));
        assert_eq!(id.as_str().parse::<SpiffeId>().as_ref(), Ok(&id));
        assert_eq!(id.prefixes().last(), Some(id.as_str()));
        let whole = format!("spiffe://{}{}", id.trust_domain(), id.path());
        assert_eq!(whole, id.as_str());
    }
    if let Ok(pattern) = text.parse::<SpiffeIdPattern>() {
        assert_eq!(pattern.to_string().parse::<SpiffeIdPattern>(), Ok(pattern));
    }
});
