//! TLS 1.3 with mutual authentication by X509-SVIDs; and apart from it, in [`WebTls`] and
//! [`WebServerTls`], TLS with hosts and clients of the web.
//!
//! Between workloads TLS 1.2, resumption, tickets and early data are off: a ticket would outlive the expiry and
//! the revocation of the SVID that it was given for.

#[cfg(feature = "bench")]
#[doc(hidden)]
pub mod bench;
mod chain_cache;
mod client;
mod client_verifier;
mod fips;
mod handshake_error;
mod negotiated;
mod prepared;
mod provider;
mod server;
mod server_verifier;
mod web;
mod web_server;

pub use client::{ClientTls, ClientTlsOptions};
pub(crate) use client_verifier::{OUTCOME, Outcome};
pub use fips::{FipsError, check_fips, is_fips_build};
pub use handshake_error::HandshakeError;
pub use provider::{crypto_provider, group_name, is_post_quantum};
pub use server::{ServerTls, ServerTlsOptions};
pub(crate) use server_verifier::{SvidServerVerifier, Trust};
pub use web::{WebRoots, WebRootsError, WebTls};
pub use web_server::{WebServerError, WebServerTls};
