//! How long a caller may stay connected: no longer than it would be let in anew.

use std::time::{Duration, SystemTime};

use wayleave_certs::verify::VerifyError;
use wayleave_certs::{Identity, IdentityReader, Peer};

use crate::caller::Caller;

/// How often trust is looked at without an event: a clock that jumped or slept tells nobody.
const RECHECK: Duration = Duration::from_secs(30);

/// A certificate is valid to the end of its last second (RFC 5280 section 4.1.2.5).
const LAST_SECOND: Duration = Duration::from_secs(1);

/// A caller, and the snapshots by which it is trusted.
#[derive(Debug, Clone)]
pub(crate) struct Trust {
    identity: IdentityReader,
    caller: Caller,
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
    pub(crate) fn new(identity: IdentityReader, caller: Caller) -> Self {
        Self { identity, caller }
    }

    /// Completes once the caller is no longer trusted, and says why. Who proved nothing had no
    /// trust to lose.
    pub(crate) async fn ended(self) -> TrustEnded {
        match &self.caller {
            Caller::Peer(peer) => peer_ended(self.identity, peer).await,
            Caller::Workload(identity) => workload_ended(self.identity, identity).await,
            Caller::Anonymous | Caller::Unidentified => std::future::pending().await,
        }
    }
}

/// Completes once our own SVID names another workload, or none.
async fn workload_ended(mut reader: IdentityReader, identity: &Identity) -> TrustEnded {
    while let Some(current) = reader.current() {
        if current.svid().id() != identity.svid().id() {
            break;
        }
        reader.changed().await;
    }
    TrustEnded::Withdrawn
}

async fn peer_ended(mut reader: IdentityReader, peer: &Peer) -> TrustEnded {
    loop {
        let now = SystemTime::now();
        match reader.current() {
            None => return TrustEnded::Withdrawn,
            Some(identity) => {
                if let Err(error) = identity.still_trusts(peer, now) {
                    return error.into();
                }
            }
        }
        let left = peer.not_after().duration_since(now);
        let left = left.unwrap_or_default() + LAST_SECOND;
        tokio::select! {
            () = reader.changed() => {}
            () = tokio::time::sleep(left.min(RECHECK)) => {}
        }
    }
}
