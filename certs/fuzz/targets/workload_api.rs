//! A message of the Workload API that is accepted is written as what reads as the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wayleave_certs::workload_api::{Endpoint, X509Context};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(context) = X509Context::decode(bytes) {
        assert_eq!(X509Context::decode(&context.encode()), Ok(context));
    }
    if let Ok(endpoint) = String::from_utf8_lossy(bytes).parse::<Endpoint>() {
        assert_eq!(endpoint.to_string().parse::<Endpoint>(), Ok(endpoint));
    }
});
