//! One upstream as all workers share it: its settings, its endpoints and how they are doing, and
//! what may be held towards it. Connections are each worker's own, in its `Pool`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::budget::Budget;
use super::circuit::Circuit;
use super::dial::UpstreamTlsClient;
use super::endpoint::{Condition, Endpoint, EndpointSet, Target};
use super::error::ForwardError;
use super::health_check;
use super::metrics::UpstreamMetrics;
use super::resolve::{self, AddressBook, Resolve};
use crate::config::{Address, HostPort, UpstreamConfig};
use crate::outbound::guard::Guard;

/// Where calls to one service go.
#[derive(Debug)]
pub(crate) struct Upstream {
    pub(super) config: UpstreamConfig,
    pub(super) tls: Option<UpstreamTlsClient>,
    /// Checks addresses that a caller chose.
    pub(super) guard: Option<Guard>,
    pub(super) circuit: Arc<Circuit>,
    /// Where calls are tried again.
    pub(super) budget: Option<Arc<Budget>>,
    pub(super) metrics: UpstreamMetrics,
    endpoints: ArcSwap<EndpointSet>,
    /// Counts the sets of endpoints; 0 before the first, so that a worker sees a change cheaply.
    generation: AtomicU64,
    changes: watch::Sender<u64>,
    fixed: bool,
}

/// What upstreams are made from. Those of one blueprint share what may be held towards them.
#[derive(Debug, Clone)]
pub(crate) struct Blueprint {
    config: UpstreamConfig,
    tls: Option<UpstreamTlsClient>,
    guard: Option<Guard>,
    circuit: Arc<Circuit>,
    budget: Option<Arc<Budget>>,
    metrics: UpstreamMetrics,
    resolver: Arc<dyn Resolve>,
}

impl Blueprint {
    /// For the upstream of `config`, through `tls` where it is given.
    pub(crate) fn new(
        config: UpstreamConfig,
        tls: Option<UpstreamTlsClient>,
        metrics: UpstreamMetrics,
        resolver: Arc<dyn Resolve>,
    ) -> Self {
        let retries = config.retries.as_ref();
        let budget = retries.map(|retries| Budget::new(retries, Instant::now()));
        Self {
            circuit: Arc::new(Circuit::new(&config.circuit, metrics.clone())),
            budget: budget.map(Arc::new),
            guard: None,
            config,
            tls,
            metrics,
            resolver,
        }
    }

    /// Only addresses that pass `guard` are connected to.
    pub(crate) fn guarded(self, guard: Guard) -> Self {
        Self {
            guard: Some(guard),
            ..self
        }
    }

    /// The settings.
    pub(crate) fn config(&self) -> &UpstreamConfig {
        &self.config
    }

    /// The same, at this address.
    pub(crate) fn at(&self, address: HostPort) -> Self {
        let mut other = self.clone();
        other.config.addresses = vec![Address::Tcp(address)];
        other
    }

    /// The upstream. What has to be done for it in the background is done `on` this runtime,
    /// until the last user is gone.
    pub(crate) fn start(self, on: &Handle) -> Arc<Upstream> {
        let Self {
            config,
            tls,
            guard,
            circuit,
            budget,
            metrics,
            resolver,
        } = self;
        let book = AddressBook::new(&config.addresses);
        let upstream = Arc::new(Upstream {
            endpoints: ArcSwap::default(),
            generation: AtomicU64::new(0),
            changes: watch::Sender::new(0),
            fixed: book.is_fixed(),
            config,
            tls,
            guard,
            circuit,
            budget,
            metrics,
        });
        if upstream.fixed {
            upstream.relocate(book.places());
        } else {
            let (weak, refresh) = (Arc::downgrade(&upstream), upstream.config.dns_refresh);
            on.spawn(resolve::keep_current(weak, book, resolver, refresh));
        }
        if let Some(check) = &upstream.config.health_check {
            on.spawn(health_check::keep_asking(
                Arc::downgrade(&upstream),
                check.clone(),
            ));
        }
        upstream
    }
}

impl Upstream {
    /// Its only endpoint, where it is the only one for good.
    pub(super) fn only(&self) -> Option<Arc<Endpoint>> {
        let endpoints = self.endpoints();
        let only = endpoints.iter().next().cloned();
        only.filter(|_| self.fixed && endpoints.len() == 1)
    }

    /// The endpoints as they are now.
    pub(super) fn endpoints(&self) -> Arc<EndpointSet> {
        self.endpoints.load_full()
    }

    /// Which set of endpoints this is; 0 before the first.
    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Tells when the endpoints change.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Waits until the names have been resolved for the first time, with whatever result.
    pub(super) async fn resolved(&self) -> Result<(), ForwardError> {
        let limit = self.config.connect_timeout;
        let mut changes = self.changes();
        let first = changes.wait_for(|generation| *generation > 0);
        match tokio::time::timeout(limit, first).await {
            Ok(_) => Ok(()),
            Err(_) => Err(ForwardError::ConnectTimeout(limit)),
        }
    }

    /// Makes these places the endpoints.
    pub(super) fn relocate(&self, places: Vec<(Target, Arc<str>)>) {
        let before = self.endpoints();
        let after = EndpointSet::of(places, &before);
        if self.generation() > 0 && after.same_as(&before) {
            return;
        }
        self.endpoints.store(Arc::new(after));
        let generation = self.generation.fetch_add(1, Ordering::AcqRel) + 1;
        self.changes.send_replace(generation);
    }

    /// Notes a call that failed at an endpoint.
    pub(super) fn failed_at(&self, endpoint: &Endpoint) {
        let endpoints = self.endpoints.load();
        let Some(time) = endpoints.failed(endpoint, &self.config.outlier, Instant::now()) else {
            return;
        };
        self.metrics.ejections.inc();
        let failures = endpoint.failures();
        tracing::warn!(endpoint = %endpoint.target, failures, ?time, "endpoint ejected");
    }

    fn status(&self, now: Instant) -> Vec<EndpointStatus> {
        let endpoints = self.endpoints();
        endpoints
            .iter()
            .map(|one| EndpointStatus::of(one, now))
            .collect()
    }
}

/// An endpoint as `/status` tells of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct EndpointStatus {
    pub(crate) address: String,
    /// `healthy`, `ejected` (calls failed) or `unhealthy` (health checks fail).
    pub(crate) health: String,
    /// Calls in a row that failed.
    pub(crate) failures: u32,
    /// How long it stays ejected.
    pub(crate) ejected_for_seconds: Option<u64>,
}

impl EndpointStatus {
    fn of(endpoint: &Endpoint, now: Instant) -> Self {
        let (health, left) = match endpoint.condition(now) {
            Condition::Healthy => ("healthy", None),
            Condition::Unhealthy => ("unhealthy", None),
            Condition::Ejected(left) => ("ejected", Some(left)),
        };
        Self {
            address: endpoint.target.to_string(),
            health: health.to_owned(),
            failures: endpoint.failures(),
            ejected_for_seconds: left.map(whole_seconds),
        }
    }
}

/// Seconds, of which a begun one counts.
fn whole_seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

/// Every upstream in use, by the listener that leads to it.
#[derive(Debug, Default)]
pub(crate) struct Upstreams(Mutex<Vec<(Arc<str>, Weak<Upstream>)>>);

impl Upstreams {
    /// Remembers an upstream for as long as it is used.
    pub(crate) fn add(&self, listener: &Arc<str>, upstream: &Arc<Upstream>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|(_, upstream)| upstream.strong_count() > 0);
        all.push((Arc::clone(listener), Arc::downgrade(upstream)));
    }

    /// How the endpoints behind a listener are doing.
    pub(crate) fn status(&self, listener: &str) -> Vec<EndpointStatus> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let behind = all.iter().filter(|(name, _)| **name == *listener);
        let upstreams = behind.filter_map(|(_, upstream)| upstream.upgrade());
        let now = Instant::now();
        let mut endpoints: Vec<EndpointStatus> = Vec::new();
        // The latest first: where the configuration was replaced, an older one may be draining.
        for endpoint in upstreams.rev().flat_map(|upstream| upstream.status(now)) {
            if endpoints.iter().all(|one| one.address != endpoint.address) {
                endpoints.push(endpoint);
            }
        }
        endpoints
    }
}
