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
    mod circuits;
    mod clients;
    mod commands;
    mod desync;
    mod detect;
    mod dev;
    mod dev_command;
    mod differential;
    mod drain;
    mod explain;
    mod federation;
    mod floods;
    mod forwarding;
    mod handover;
    mod handshake;
    mod identity;
    mod identity_docs;
    mod inspect;
    mod interim;
    mod leases;
    mod limits;
    mod matrix;
    mod outbound;
    mod overload;
    mod permissive;
    mod policy;
    mod policy_tools;
    mod post_quantum;
    mod probes;
    mod readme;
    mod record;
    mod refused;
    mod reload;
    mod reload_policies;
    mod retries;
    mod revocation;
    mod signals;
    mod small_frames;
    mod ssf;
    mod standing;
    mod status;
    mod store;
    mod streams;
    mod tcp;
    mod tcp_clients;
    mod trust_domains;
    mod upstream_answers;
    mod upstream_failures;
    mod upstream_http2;
    mod upstream_tls;
    mod upstreams;
    mod websocket_h2;
    mod workload_api;
}
