//! The built sidecar, started on port 0 and met by real clients: curl, openssl, Python and
//! clients of this process, before real applications and an upstream that remembers.
//!
//! One binary, so that it is linked once; every test has a sidecar of its own.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says what went wrong by panicking"
)]

mod support;

mod sidecar {
    mod admin;
    mod applications;
    mod ca;
    mod clients;
    mod commands;
    mod dev;
    mod dev_command;
    mod drain;
    mod explain;
    mod federation;
    mod forwarding;
    mod handshake;
    mod hostile;
    mod identity;
    mod identity_docs;
    mod inspect;
    mod limits;
    mod outbound;
    mod policy;
    mod policy_tools;
    mod post_quantum;
    mod readme;
    mod record;
    mod refused;
    mod revocation;
    mod status;
    mod streams;
    mod upstream_failures;
    mod workload_api;
}
