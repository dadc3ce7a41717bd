//! Micro-benchmarks, and the load test that measures a running sidecar.
//!
//! What several of them share is here.

pub mod micro;
pub mod rules;
pub mod stock;
