//! Micro-benchmarks, and the load test that measures a running sidecar.
