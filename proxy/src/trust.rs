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
    /// Our own SVID is over, and the source has sent no new one.
    #[error("this workload's SVID has expired")]
    Expired,
    /// The workload, whom we could not name so far, has an identity now: it is to call anew.
    #[error("this workload has an identity now")]
    Identified,
}

impl TrustEnded {
    /// The stable code for the log and metrics.
    pub(crate) fn reason_code(&self) -> &'static str {
        match self {
            Self::Peer(error) => error.reason_code(),
            Self::Withdrawn => "identity_withdrawn",
            Self::Expired => "identity_expired",
            Self::Identified => "identified",
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
            Caller::Unidentified => identified(self.identity).await,
            Caller::Anonymous => std::future::pending().await,
        }
    }
}

/// Completes once our own SVID names another workload, or none, or is over.
async fn workload_ended(mut reader: IdentityReader, identity: &Identity) -> TrustEnded {
    loop {
        let now = SystemTime::now();
        let Some(current) = reader.current() else {
            return TrustEnded::Withdrawn;
        };
        let svid = current.svid();
        if svid.id() != identity.svid().id() {
            return TrustEnded::Withdrawn;
        }
        if !svid.is_valid_at(now) {
            return TrustEnded::Expired;
        }
        let left = svid.not_after().duration_since(now);
        let left = left.unwrap_or_default() + LAST_SECOND;
        tokio::select! {
            () = reader.changed() => {}
            () = tokio::time::sleep(left.min(RECHECK)) => {}
        }
    }
}

/// Completes once there is an SVID to call the workload by.
async fn identified(mut reader: IdentityReader) -> TrustEnded {
    loop {
        let valid = |identity: &Identity| identity.svid().is_valid_at(SystemTime::now());
        if reader.current().is_some_and(|identity| valid(&identity)) {
            return TrustEnded::Identified;
        }
        reader.changed().await;
    }
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
