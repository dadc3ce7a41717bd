//! SPIFFE IDs and trust domains: who a workload is. Pure: no I/O, no TLS.
