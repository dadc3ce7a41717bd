//! How long a peer may stay connected: no longer than it would be accepted anew.

use std::time::{Duration, SystemTime};

use wayleave_certs::verify::VerifyError;
use wayleave_certs::{IdentityReader, Peer};

/// How often trust is looked at without an event: a clock that jumped or slept tells nobody.
const RECHECK: Duration = Duration::from_secs(30);

/// A certificate is valid to the end of its last second (RFC 5280 section 4.1.2.5).
const LAST_SECOND: Duration = Duration::from_secs(1);

/// A peer, and the snapshots by which it is trusted.
#[derive(Debug, Clone)]
pub(crate) struct Trust {
    identity: IdentityReader,
    peer: Peer,
}

/// Why a connection may not go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TrustEnded {
    /// The peer's chain expired, was revoked, or is of a trust domain that has left.
    #[error(transparent)]
    Peer(#[from] VerifyError),
    /// The source took our own identity and its bundles away.
    #[error("this workload's identity was withdrawn")]
    Withdrawn,
}

impl TrustEnded {
    /// The stable code for the log and metrics.
    pub(crate) fn reason_code(&self) -> &'static str {
        match self {
            Self::Peer(error) => error.reason_code(),
            Self::Withdrawn => "identity_withdrawn",
        }
    }
}

impl Trust {
    pub(crate) fn new(identity: IdentityReader, peer: Peer) -> Self {
        Self { identity, peer }
    }

    /// Completes once the peer is no longer trusted, and says why.
    pub(crate) async fn ended(mut self) -> TrustEnded {
        loop {
            let now = SystemTime::now();
            match self.identity.current() {
                None => return TrustEnded::Withdrawn,
                Some(identity) => {
                    if let Err(error) = identity.still_trusts(&self.peer, now) {
                        return error.into();
                    }
                }
            }
            let left = self.peer.not_after().duration_since(now);
            let left = left.unwrap_or_default() + LAST_SECOND;
            tokio::select! {
                () = self.identity.changed() => {}
                () = tokio::time::sleep(left.min(RECHECK)) => {}
            }
        }
    }
}
