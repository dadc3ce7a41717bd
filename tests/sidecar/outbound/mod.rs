//! Calls that a workload makes: decided beside it, carried to another workload's sidecar, decided
//! again there.

mod egress;
mod explicit;
mod forward_proxy;
mod reload;
mod transparent;
