//! Files of an identity, however they were cut off or mixed up.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wayleave_certs::{Svid, TrustBundle};

fuzz_target!(|text: &[u8]| {
    let _ = Svid::from_pem(text, text);
    if let Ok(trust_domain) = "shop.example".parse() {
        let _ = TrustBundle::from_any(trust_domain, text);
    }
});
