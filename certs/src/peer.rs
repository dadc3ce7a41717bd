//! A peer whose identity was proved by a completed handshake.
//!
//! [`Peer`] is a witness: it is only made after the chain was verified and the peer has shown
//! that it holds the key. There is no other way to one.

use std::sync::Arc;
use std::time::SystemTime;

use wayleave_identity::SpiffeId;

use crate::svid::hex;
use crate::verify::Verified;

/// Who is at the other end of a connection, proved by its X509-SVID. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Peer(Arc<PeerParts>);

#[derive(Debug)]
struct PeerParts {
    verified: Arc<Verified>,
    tls: TlsInfo,
}

/// What a handshake agreed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsInfo {
    /// The protocol version, always `1.3`.
    pub version: &'static str,
    /// The key exchange group, for example `X25519MLKEM768`, `X25519` or `secp256r1`.
    pub key_exchange: &'static str,
    /// Whether the key exchange resists a quantum computer.
    pub post_quantum: bool,
    /// The application protocol that was agreed on; none where either side offered none.
    pub alpn: Option<Alpn>,
    /// The server name that the client asked for.
    pub sni: Option<Box<str>>,
}

/// The application protocol agreed on by ALPN (RFC 7301).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Alpn {
    /// `http/1.1`.
    Http1,
    /// `h2`.
    Http2,
}

impl Alpn {
    /// The name as it goes over the wire.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http1 => "http/1.1",
            Self::Http2 => "h2",
        }
    }
}

impl Peer {
    /// INVARIANT: only called once the handshake in which `verified` was found is complete.
    pub(crate) fn new(verified: Arc<Verified>, tls: TlsInfo) -> Self {
        Self(Arc::new(PeerParts { verified, tls }))
    }

    /// Who it is.
    #[must_use]
    pub fn id(&self) -> &SpiffeId {
        &self.0.verified.leaf.id
    }

    /// When its trust ends: the earliest end of validity in its chain.
    #[must_use]
    pub fn not_after(&self) -> SystemTime {
        self.0.verified.not_after
    }

    /// The leaf's serial number in lower-case hexadecimal.
    #[must_use]
    pub fn serial_hex(&self) -> String {
        hex(&self.0.verified.leaf.serial)
    }

    /// The SHA-256 of the leaf certificate's DER.
    #[must_use]
    pub fn leaf_sha256(&self) -> [u8; 32] {
        self.0.verified.leaf_sha256
    }

    /// The leaf's subject in the form of RFC 4514, printable ASCII; empty when it has none.
    #[must_use]
    pub fn subject(&self) -> &str {
        &self.0.verified.leaf.subject
    }

    /// What the handshake agreed on.
    #[must_use]
    pub fn tls(&self) -> &TlsInfo {
        &self.0.tls
    }

    /// What was verified.
    pub(crate) fn verified(&self) -> &Verified {
        &self.0.verified
    }
}
