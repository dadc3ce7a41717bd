//! Who a call is from, and how that is known: by a verified handshake, by being the workload
//! beside us, or not at all.

use std::sync::Arc;

use wayleave_authz::Principal;
use wayleave_certs::{Identity, Peer, TlsInfo};

/// Where a connection's calls come from. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) enum Caller {
    /// Another workload, which proved itself in a handshake.
    Peer(Peer),
    /// Somebody who proved nothing, where a listener admits such.
    Anonymous,
    /// The workload beside us, calling out: it is who our own SVID says.
    Workload(Arc<Identity>),
    /// The workload beside us, while we have no SVID to say who that is.
    Unidentified,
}

impl Caller {
    /// The principal that policy sees; none while nobody can be named, which is denied.
    pub(crate) fn principal(&self) -> Option<Principal<'_>> {
        match self {
            Self::Peer(peer) => Some(Principal::Workload(peer.id())),
            Self::Anonymous => Some(Principal::Anonymous),
            Self::Workload(identity) => Some(Principal::Workload(identity.svid().id())),
            Self::Unidentified => None,
        }
    }

    /// The SPIFFE ID, where there is one.
    pub(crate) fn id(&self) -> Option<&str> {
        match self.principal()? {
            Principal::Workload(id) => Some(id.as_str()),
            Principal::Anonymous => None,
        }
    }

    /// A name for people to read.
    pub(crate) fn name(&self) -> &str {
        self.id().unwrap_or(match self {
            Self::Unidentified => "unidentified",
            _ => "anonymous",
        })
    }

    /// The verified peer.
    pub(crate) fn peer(&self) -> Option<&Peer> {
        match self {
            Self::Peer(peer) => Some(peer),
            Self::Anonymous | Self::Workload(_) | Self::Unidentified => None,
        }
    }

    /// The TLS session that the calls came by.
    pub(crate) fn tls(&self) -> Option<&TlsInfo> {
        self.peer().map(Peer::tls)
    }
}
