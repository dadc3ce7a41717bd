//! What one listener takes on at once, and how much of it one peer may hold: connections,
//! handshakes and calls in flight. What is above a limit is refused early and cheaply.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Semaphore;

use crate::caller::Caller;
use crate::config::LimitsConfig;
use crate::handshakes::Handshakes;
use crate::memory::Memory;

/// Calls that are let in above the memory limit too: what is held then is not held by calls, and
/// to refuse every one of them would free nothing.
const FLOOR: usize = 16;

/// The load of one listener, shared by all workers.
#[derive(Debug)]
pub(crate) struct Admission {
    /// Places for connections.
    pub(crate) connections: Arc<Semaphore>,
    /// Handshakes in flight.
    pub(crate) handshakes: Handshakes,
    max_connections: usize,
    max_connections_per_peer: usize,
    max_requests: usize,
    max_requests_per_peer: usize,
    requests: AtomicUsize,
    peers: Mutex<HashMap<Box<str>, Arc<PeerLoad>>>,
    memory: Arc<Memory>,
}

/// What one principal holds of a listener.
#[derive(Debug, Default)]
struct PeerLoad {
    /// Changed under the lock of `Admission::peers` only.
    connections: AtomicUsize,
    requests: AtomicUsize,
}

/// Why a call is one too many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Excess {
    /// The listener has as many calls in flight as it takes, or the process is out of memory.
    Overloaded,
    /// Its principal has as many in flight as one may have.
    PeerLimit,
}

impl Excess {
    /// The stable code for records and answers.
    pub(crate) fn reason_code(self) -> &'static str {
        match self {
            Self::Overloaded => "overloaded",
            Self::PeerLimit => "peer_limit",
        }
    }
}

impl Admission {
    /// Nothing is held yet.
    pub(crate) fn new(limits: &LimitsConfig, memory: Arc<Memory>) -> Self {
        Self {
            connections: Arc::new(Semaphore::new(limits.max_connections)),
            handshakes: Handshakes::new(limits.max_handshakes),
            max_connections: limits.max_connections,
            max_connections_per_peer: limits.max_connections_per_peer,
            max_requests: limits.max_requests,
            max_requests_per_peer: limits.max_requests_per_peer,
            requests: AtomicUsize::new(0),
            peers: Mutex::default(),
            memory,
        }
    }

    /// The place of a caller's connection. The peer is looked up here, once a connection, so
    /// that its calls need only count.
    pub(crate) fn place(self: &Arc<Self>, caller: &Caller) -> Place {
        let name = match caller {
            Caller::Peer(_) | Caller::Anonymous => Some(caller.name()),
            // The workload itself is the only caller there is: it may use all of its listener.
            Caller::Workload(_) | Caller::Unidentified => None,
        };
        Place {
            admission: Arc::clone(self),
            peer: name.map(|name| self.enter(name)),
        }
    }

    fn enter(&self, name: &str) -> PeerPlace {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        let load = match peers.get(name) {
            Some(load) => Arc::clone(load),
            None => {
                let load = Arc::new(PeerLoad::default());
                peers.insert(name.into(), Arc::clone(&load));
                load
            }
        };
        let others = load.connections.fetch_add(1, Ordering::Relaxed);
        PeerPlace {
            name: name.into(),
            load,
            unwelcome: others >= self.max_connections_per_peer,
        }
    }

    fn leave(&self, peer: &PeerPlace) {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        if peer.load.connections.fetch_sub(1, Ordering::Relaxed) == 1 {
            peers.remove(&peer.name);
        }
    }

    /// Calls in flight.
    pub(crate) fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }

    /// How many calls may be.
    pub(crate) fn max_requests(&self) -> usize {
        self.max_requests
    }

    /// Connections open, handshakes included.
    pub(crate) fn open_connections(&self) -> usize {
        self.max_connections
            .saturating_sub(self.connections.available_permits())
    }

    /// How many connections may be.
    pub(crate) fn max_connections(&self) -> usize {
        self.max_connections
    }

    /// Whether a further call would be refused, whoever made it.
    pub(crate) fn is_overloaded(&self) -> bool {
        self.is_over(self.requests() + 1)
    }

    fn is_over(&self, requests: usize) -> bool {
        requests > self.max_requests || (requests > FLOOR && self.memory.is_short())
    }
}

/// What one connection and its calls hold; given back when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    admission: Arc<Admission>,
    peer: Option<PeerPlace>,
}

#[derive(Debug)]
struct PeerPlace {
    name: Box<str>,
    load: Arc<PeerLoad>,
    unwelcome: bool,
}

impl Place {
    pub(crate) fn begin(&self) {
        self.admission.requests.fetch_add(1, Ordering::Relaxed);
        if let Some(peer) = &self.peer {
            peer.load.requests.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn end(&self) {
        self.admission.requests.fetch_sub(1, Ordering::Relaxed);
        if let Some(peer) = &self.peer {
            peer.load.requests.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Why the call that has just begun is one too many, if it is.
    pub(crate) fn excess(&self) -> Option<Excess> {
        if let Some(peer) = &self.peer
            && peer.load.requests.load(Ordering::Relaxed) > self.admission.max_requests_per_peer
        {
            return Some(Excess::PeerLimit);
        }
        let over = self.admission.is_over(self.admission.requests());
        over.then_some(Excess::Overloaded)
    }

    /// Whether the peer has as many other connections as it may.
    pub(crate) fn is_unwelcome(&self) -> bool {
        self.peer.as_ref().is_some_and(|peer| peer.unwelcome)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(peer) = &self.peer {
            self.admission.leave(peer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::MaxMemory;

    fn admission(limits: &LimitsConfig) -> Arc<Admission> {
        let memory = Arc::new(Memory::with_limit(MaxMemory::Off));
        Arc::new(Admission::new(limits, memory))
    }

    #[test]
    fn one_peer_reaches_its_own_limit_and_leaves_the_rest_to_others() {
        let admission = admission(&LimitsConfig {
            max_requests: 3,
            max_requests_per_peer: 2,
            ..LimitsConfig::default()
        });
        let one = admission.place(&Caller::Anonymous);
        let other = admission.place(&Caller::Unidentified);
        one.begin();
        one.begin();
        assert_eq!(one.excess(), None);
        one.begin();
        assert_eq!(one.excess(), Some(Excess::PeerLimit));
        one.end();
        other.begin();
        assert_eq!(other.excess(), None);
        other.begin();
        assert_eq!(other.excess(), Some(Excess::Overloaded));
        other.end();
        assert!(admission.is_overloaded());
        other.end();
        one.end();
        one.end();
        assert_eq!(admission.requests(), 0);
    }

    #[test]
    fn a_peer_is_forgotten_with_its_last_connection() {
        let admission = admission(&LimitsConfig {
            max_connections_per_peer: 1,
            ..LimitsConfig::default()
        });
        let first = admission.place(&Caller::Anonymous);
        let second = admission.place(&Caller::Anonymous);
        assert!(!first.is_unwelcome());
        assert!(second.is_unwelcome());
        drop(first);
        assert_eq!(admission.peers.lock().unwrap().len(), 1);
        drop(second);
        assert!(admission.peers.lock().unwrap().is_empty());
        assert!(!admission.place(&Caller::Anonymous).is_unwelcome());
    }
}
