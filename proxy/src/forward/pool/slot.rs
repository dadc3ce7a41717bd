//! One worker's connections to one endpoint.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use http::StatusCode;
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::{Notify, OwnedSemaphorePermit};

use super::http1::{Idle, Kept};
use super::http2::{Shared, Use};
use crate::forward::circuit::{Admission, RequestPermit};
use crate::forward::dial::{Dialed, dial};
use crate::forward::endpoint::Endpoint;
use crate::forward::error::ForwardError;
use crate::forward::tunnel::Bytes;
use crate::forward::upstream::Upstream;
use crate::stream::Stream;

/// The connections of one worker to one endpoint.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) upstream: Arc<Upstream>,
    pub(super) endpoint: Arc<Endpoint>,
    /// Whether there may be other endpoints: only then is it watched how this one does.
    one_of_several: bool,
    /// Calls in flight here, where that is watched.
    active: AtomicUsize,
    /// Waiting HTTP/1.1 connections, the one used last at the end.
    pub(super) idle: Mutex<Vec<Idle>>,
    pub(super) shared: Shared,
    /// Told when a connection, or a place on one, becomes free.
    pub(super) freed: Arc<Notify>,
    /// Calls that wait for that.
    waiting: AtomicUsize,
    retired: AtomicBool,
    /// For how many more calls no kept connection is taken for alive.
    wary: AtomicUsize,
}

/// An endpoint that closed a kept connection under a call may close others just as early. After
/// so many calls without another such case it has stopped doing so.
const WARY: usize = 1_000;

/// What one call holds of the upstream until its response's last byte.
#[derive(Debug)]
pub(in crate::forward) struct Held {
    on: On,
    /// Counts as a call in flight at the endpoint, where that is watched.
    pub(super) load: Option<Load>,
    /// Leave to be in flight, where requests are limited.
    pub(in crate::forward) permit: Option<RequestPermit>,
}

#[derive(Debug)]
enum On {
    /// An HTTP/1.1 connection of its own; dropping it closes it.
    Http1(Arc<Slot>, Kept),
    /// A place on an HTTP/2 connection.
    Http2(Use),
}

/// Counts a call in flight at an endpoint.
#[derive(Debug)]
pub(super) struct Load(Arc<Slot>);

/// Counts an open connection, for as long as its bytes can flow.
#[derive(Debug)]
struct Open {
    gauge: Gauge,
    _permit: Option<OwnedSemaphorePermit>,
}

/// Counts a request that waits for a connection.
pub(super) struct Pending(Gauge);

/// Counts a call that waits at an endpoint.
struct Waiting<'a>(&'a Slot);

impl Held {
    pub(super) fn http1(slot: &Arc<Slot>, kept: Kept) -> Self {
        Self::new(On::Http1(Arc::clone(slot), kept))
    }

    pub(super) fn http2(place: Use) -> Self {
        Self::new(On::Http2(place))
    }

    fn new(on: On) -> Self {
        Self {
            on,
            load: None,
            permit: None,
        }
    }

    /// Returns the connection for the next call. To be called after the response's last byte
    /// only.
    pub(in crate::forward) fn give_back(self) {
        drop(self.load);
        match self.on {
            On::Http1(slot, kept) => slot.keep(kept),
            On::Http2(place) => drop(place),
        }
    }
}

impl Slot {
    pub(super) fn new(
        upstream: Arc<Upstream>,
        endpoint: Arc<Endpoint>,
        one_of_several: bool,
    ) -> Arc<Self> {
        Arc::new(Self {
            upstream,
            endpoint,
            one_of_several,
            active: AtomicUsize::new(0),
            idle: Mutex::default(),
            shared: Shared::default(),
            freed: Arc::default(),
            waiting: AtomicUsize::new(0),
            retired: AtomicBool::new(false),
            wary: AtomicUsize::new(0),
        })
    }

    /// A kept connection turned out to be dead.
    pub(super) fn found_dead(&self) {
        self.wary.store(WARY, Ordering::Relaxed);
    }

    /// Whether a call on a kept connection should be ready to be sent again, however short a time
    /// ago the connection was used.
    pub(super) fn is_wary(&self) -> bool {
        let wary = self.wary.load(Ordering::Relaxed);
        if wary > 0 {
            self.wary.store(wary - 1, Ordering::Relaxed);
        }
        wary > 0
    }

    /// Counts a call in, where that is watched.
    pub(super) fn enter(self: &Arc<Self>) -> Option<Load> {
        self.one_of_several.then(|| Load::new(self))
    }

    /// Calls in flight.
    pub(super) fn load(&self) -> usize {
        self.active.load(Ordering::Relaxed)
    }

    /// Notes how the endpoint answered: a gateway's error is its own failure.
    pub(super) fn answered(&self, status: StatusCode) {
        if !self.one_of_several {
            return;
        }
        match status {
            StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => self.failed(),
            _ => self.succeeded(),
        }
    }

    /// Notes a call that got no answer; a limit of ours is no failure of the endpoint.
    pub(super) fn failed_with(&self, error: &ForwardError) {
        if !matches!(error, ForwardError::Overloaded(_)) {
            self.failed();
        }
    }

    pub(super) fn failed(&self) {
        if self.one_of_several {
            self.upstream.failed_at(&self.endpoint);
        }
    }

    pub(super) fn succeeded(&self) {
        if self.one_of_several {
            self.endpoint.succeeded();
        }
    }

    /// A connection of its own.
    pub(super) async fn dial(self: &Arc<Self>, bytes: Bytes) -> Result<Stream, ForwardError> {
        let _pending = self.pending();
        let load = self.enter();
        loop {
            if let Admission::Open(permit) = self.admit().await? {
                let mut stream = self.in_time(self.open(permit, bytes)).await?.stream;
                stream.accompany(load);
                return Ok(stream);
            }
        }
    }

    /// Leave to open a connection, or word that another one is free.
    pub(super) async fn admit(&self) -> Result<Admission, ForwardError> {
        let circuit = &self.upstream.circuit;
        if let Some(admission) = circuit.try_connection() {
            return Ok(admission);
        }
        let _waiting = Waiting::at(self);
        let admission = circuit.connection(&self.freed);
        match tokio::time::timeout(self.upstream.config.connect_timeout, admission).await {
            Ok(admission) => admission,
            Err(_) => Err(circuit.none_free()),
        }
    }

    /// Whether a call waits for a connection here.
    pub(super) fn has_waiters(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    /// Connects. Sets no time limit; the caller does.
    pub(super) async fn open(
        &self,
        permit: Option<OwnedSemaphorePermit>,
        bytes: Bytes,
    ) -> Result<Dialed, ForwardError> {
        let mut dialed = dial(&self.upstream, &self.endpoint, bytes).await?;
        let gauge = self.upstream.metrics.connections.clone();
        gauge.inc();
        dialed.stream.accompany(Open {
            gauge,
            _permit: permit,
        });
        Ok(dialed)
    }

    /// Waits for a connection as long as that may take, and counts what goes wrong.
    pub(super) async fn in_time<T>(
        &self,
        connect: impl Future<Output = Result<T, ForwardError>>,
    ) -> Result<T, ForwardError> {
        let limit = self.upstream.config.connect_timeout;
        let connected = tokio::time::timeout(limit, connect).await;
        let connected = connected.unwrap_or(Err(ForwardError::ConnectTimeout(limit)));
        if let Err(error) = &connected
            && error.is_connect()
        {
            self.upstream.metrics.connect_failed(error.connect_reason());
        }
        connected
    }

    pub(super) fn pending(&self) -> Pending {
        let gauge = self.upstream.metrics.pending.clone();
        gauge.inc();
        Pending(gauge)
    }

    pub(super) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Relaxed)
    }

    /// Wakes a call that waits for a connection, where calls may have to.
    pub(super) fn tell_freed(&self) {
        if self.upstream.circuit.limits_connections() {
            self.freed.notify_one();
        }
    }

    /// Ends the use of an endpoint that is gone: idle connections close, calls in flight finish.
    pub(super) fn retire(&self) {
        self.retired.store(true, Ordering::Relaxed);
        self.idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
        self.shared.clear();
    }

    /// Closes what should not be used any more.
    pub(super) fn sweep(&self) {
        let now = SystemTime::now();
        self.sweep_http1(now);
        self.shared.sweep(&self.upstream.config, now);
    }

    /// Closes one idle connection, because another call may open none while it is there.
    pub(super) fn yield_one(&self) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if !idle.is_empty() {
            idle.remove(0);
        }
        drop(idle);
        self.shared.yield_one();
    }
}

impl Load {
    fn new(slot: &Arc<Slot>) -> Self {
        slot.active.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(slot))
    }
}

impl<'a> Waiting<'a> {
    fn at(slot: &'a Slot) -> Self {
        slot.waiting.fetch_add(1, Ordering::Relaxed);
        Self(slot)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.gauge.dec();
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.0.dec();
    }
}
