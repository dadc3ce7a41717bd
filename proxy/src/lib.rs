//! The policy enforcement point: the data plane of the sidecar and its command line.

pub mod child;
pub mod config;
pub mod demo;
