//! X509-SVIDs, trust bundles, where they come from, and the TLS that proves a peer.
//!
//! The way through this crate is short. A source ([`source`]) reads papers and publishes an
//! [`Identity`]: one immutable snapshot of our own SVID and of the trust bundles. Whoever
//! serves holds an [`IdentityReader`]; [`tls::ServerTls`] takes the current snapshot for each
//! handshake, verifies the caller against the bundle of the caller's own trust domain
//! ([`verify`], [`profile`]), and only then makes a [`Peer`].
//!
//! What this crate refuses to do: pool the authorities of several trust domains, resume a TLS
//! session, accept early data, or take a peer's name from anything but its verified SVID.

pub mod bundle;
pub mod ca;
pub mod disk;
mod distinguished_name;
mod identity;
pub mod inspect;
mod peer;
pub mod pem;
pub mod profile;
pub mod revocation;
pub mod source;
mod svid;
pub mod tls;
pub mod verify;
pub mod workload_api;

pub use bundle::{TrustBundle, TrustBundles};
pub use identity::{Failure, Identity, IdentityPublisher, IdentityReader, SourceStatus};
pub use peer::{Alpn, Peer, TlsInfo};
pub use svid::{Svid, SvidError};
