//! Whether a kept connection may be used for another call: no longer than the upstream would be
//! accepted anew, and with no other SVID of ours than the current one.

use std::sync::Arc;
use std::time::SystemTime;

use wayleave_certs::{IdentityReader, Peer, Svid};

/// Who is at the other end of a mutual TLS connection, and as whom we are known there.
#[derive(Debug)]
pub(super) struct Vouched {
    reader: IdentityReader,
    own: Arc<Svid>,
    peer: Peer,
}

impl Vouched {
    /// `own` is what we had before the handshake: one that changed meanwhile counts as old.
    pub(super) fn new(reader: IdentityReader, own: Arc<Svid>, peer: Peer) -> Self {
        Self { reader, own, peer }
    }

    /// SECURITY: asked before each call that reuses the connection. Expiry, revocation, a trust
    /// domain that left, a rotated or withdrawn SVID of ours: each ends the reuse.
    pub(super) fn holds(&self, now: SystemTime) -> bool {
        let Some(identity) = self.reader.current() else {
            return false;
        };
        is_same(&self.own, identity.svid())
            && identity.svid().is_valid_at(now)
            && identity.still_trusts(&self.peer, now).is_ok()
    }
}

/// A source may read the same SVID again when only its bundles have changed.
fn is_same(one: &Arc<Svid>, other: &Arc<Svid>) -> bool {
    Arc::ptr_eq(one, other) || one.chain() == other.chain()
}
