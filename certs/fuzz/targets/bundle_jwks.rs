//! A bundle document that is accepted is written as what reads as the same bundle.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wayleave_certs::bundle::BundleDocument;

fuzz_target!(|text: &[u8]| {
    let Ok(trust_domain) = "shop.example".parse::<wayleave_identity::TrustDomain>() else {
        return;
    };
    let _ = BundleDocument::from_jwks_map(text);
    if let Ok(document) = BundleDocument::from_jwks(trust_domain.clone(), text) {
        let again = BundleDocument::from_jwks(trust_domain, document.to_jwks().as_bytes());
        assert_eq!(again.as_ref(), Ok(&document));
    }
});
