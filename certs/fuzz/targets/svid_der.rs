//! Whatever a peer sends as its chain is refused or verified, and never trusted by accident:
//! the bundle below knows no authority that could have signed it.
#![no_main]

use std::time::{Duration, SystemTime};

use libfuzzer_sys::fuzz_target;
use rustls_pki_types::CertificateDer;
use wayleave_certs::profile::Leaf;
use wayleave_certs::verify::{Role, verify};
use wayleave_certs::{TrustBundle, TrustBundles};

fuzz_target!(|der: &[u8]| {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    let certificate = CertificateDer::from(der);
    let Ok(leaf) = Leaf::from_der(der) else {
        return;
    };
    assert!(!leaf.id.is_root());
    assert!(
        leaf.subject
            .bytes()
            .all(|byte| (b' '..=b'~').contains(&byte))
    );
    let trust_domain = leaf.id.trust_domain().clone();
    let empty = TrustBundle::from_der(trust_domain, Vec::new());
    let bundles: TrustBundles = empty.into_iter().collect();
    let chain = [certificate.clone(), certificate];
    assert!(verify(&chain, &bundles, Role::Client, now).is_err());
});
