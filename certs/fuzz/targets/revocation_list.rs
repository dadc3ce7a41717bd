//! Revocation lists: parsers of these have panicked before a signature was checked.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wayleave_certs::revocation::RevocationList;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(lists) = RevocationList::from_pem_or_der(bytes) {
        for list in &lists {
            let _ = list.next_update();
            assert_eq!(list, list);
        }
    }
});
