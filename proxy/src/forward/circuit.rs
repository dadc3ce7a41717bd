//! What may be held towards one upstream at once, by all workers together. What is over a limit
//! is refused at once, so that a slow upstream does not fill the sidecar with waiting calls.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};

use super::error::ForwardError;
use super::metrics::UpstreamMetrics;
use crate::config::CircuitConfig;

/// The limits of one upstream, and what is held of them.
#[derive(Debug)]
pub(super) struct Circuit {
    connections: Option<Arc<Semaphore>>,
    pending: Bound,
    requests: Option<Arc<Bound>>,
    /// Changes when a call waits for a connection that others may keep idle.
    wanted: watch::Sender<()>,
    metrics: UpstreamMetrics,
}

/// A count with a limit.
#[derive(Debug)]
struct Bound {
    most: usize,
    held: AtomicUsize,
}

/// Leave for one request to be in flight.
#[derive(Debug)]
pub(super) struct RequestPermit(Arc<Bound>);

/// What a call that needs a connection may do.
pub(super) enum Admission {
    /// Open one; the permit, where there is a limit, lasts as long as the connection.
    Open(Option<OwnedSemaphorePermit>),
    /// Look again: one that was in use is free.
    LookAgain,
}

/// Counts a request that waits, for as long as it does.
struct Waiting<'a>(&'a Bound);

impl Circuit {
    pub(super) fn new(config: &CircuitConfig, metrics: UpstreamMetrics) -> Self {
        let connections = config.max_connections.map(Semaphore::new);
        Self {
            connections: connections.map(Arc::new),
            pending: Bound::new(config.max_pending.unwrap_or(usize::MAX)),
            requests: config.max_requests.map(Bound::new).map(Arc::new),
            wanted: watch::Sender::new(()),
            metrics,
        }
    }

    /// Whether connections are limited, so that one that becomes free may be waited for.
    pub(super) fn limits_connections(&self) -> bool {
        self.connections.is_some()
    }

    /// Whether some call waits for a connection.
    pub(super) fn is_waited_for(&self) -> bool {
        self.connections.is_some() && self.pending.held.load(Ordering::Relaxed) > 0
    }

    /// Lets a request begin, where requests are limited.
    pub(super) fn request(&self) -> Result<Option<RequestPermit>, ForwardError> {
        let Some(requests) = &self.requests else {
            return Ok(None);
        };
        match requests.enter() {
            true => Ok(Some(RequestPermit(Arc::clone(requests)))),
            false => Err(self.overloaded("max_requests")),
        }
    }

    /// Tells when some call waits for a connection.
    pub(super) fn wanted(&self) -> watch::Receiver<()> {
        self.wanted.subscribe()
    }

    /// Lets a connection be opened, if that may be at once.
    pub(super) fn try_connection(&self) -> Option<Admission> {
        let Some(connections) = &self.connections else {
            return Some(Admission::Open(None));
        };
        let permit = Arc::clone(connections).try_acquire_owned();
        permit.ok().map(|permit| Admission::Open(Some(permit)))
    }

    /// Waits until a connection may be opened, or `freed` tells of one. Sets no time limit; the
    /// caller does.
    pub(super) async fn connection(&self, freed: &Notify) -> Result<Admission, ForwardError> {
        let Some(connections) = &self.connections else {
            return Ok(Admission::Open(None));
        };
        if !self.pending.enter() {
            return Err(self.overloaded("max_pending"));
        }
        let _waiting = Waiting(&self.pending);
        self.wanted.send_replace(());
        tokio::select! {
            permit = Arc::clone(connections).acquire_owned() => Ok(Admission::Open(permit.ok())),
            () = freed.notified() => Ok(Admission::LookAgain),
        }
    }

    /// No connection became free in time.
    pub(super) fn none_free(&self) -> ForwardError {
        self.overloaded("max_connections")
    }

    fn overloaded(&self, limit: &'static str) -> ForwardError {
        self.metrics.refused(limit);
        ForwardError::Overloaded(limit)
    }
}

impl Bound {
    fn new(most: usize) -> Self {
        Self {
            most,
            held: AtomicUsize::new(0),
        }
    }

    fn enter(&self) -> bool {
        let entered = self.held.fetch_add(1, Ordering::Relaxed) < self.most;
        if !entered {
            self.leave();
        }
        entered
    }

    fn leave(&self) {
        self.held.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for RequestPermit {
    fn drop(&mut self) {
        self.0.leave();
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.leave();
    }
}
