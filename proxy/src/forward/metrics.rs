//! What is counted about upstreams. Every series is labelled with a service's name, which the
//! configuration chooses and no caller does.

use std::sync::Arc;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ServiceLabels {
    service: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    service: String,
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LimitLabels {
    service: String,
    limit: &'static str,
}

/// The series of all upstreams.
#[derive(Debug, Default)]
pub(crate) struct UpstreamFamilies {
    connections: Family<ServiceLabels, Gauge>,
    connect_failures: Family<ReasonLabels, Counter>,
    ejections: Family<ServiceLabels, Counter>,
    retries: Family<ServiceLabels, Counter>,
    budget_exhausted: Family<ServiceLabels, Counter>,
    overloaded: Family<LimitLabels, Counter>,
    pending: Family<ServiceLabels, Gauge>,
}

/// The series of one upstream, looked up once.
#[derive(Debug, Clone)]
pub(crate) struct UpstreamMetrics {
    service: Arc<str>,
    /// Connections open.
    pub(super) connections: Gauge,
    connect_failures: Family<ReasonLabels, Counter>,
    /// Endpoints left out because calls to them failed.
    pub(super) ejections: Counter,
    /// Calls that were tried again.
    pub(super) retries: Counter,
    /// Retries that the budget did not allow.
    pub(super) budget_exhausted: Counter,
    overloaded: Family<LimitLabels, Counter>,
    /// Requests that wait for a connection.
    pub(super) pending: Gauge,
}

impl UpstreamFamilies {
    /// Adds the series to what is scraped.
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register(
            "wayleave_upstream_connections",
            "Open connections to upstreams",
            self.connections.clone(),
        );
        registry.register(
            "wayleave_upstream_connect_failures",
            "Connections to upstreams that could not be made",
            self.connect_failures.clone(),
        );
        registry.register(
            "wayleave_upstream_ejections",
            "Endpoints left out because calls to them failed",
            self.ejections.clone(),
        );
        registry.register(
            "wayleave_upstream_retries",
            "Attempts beyond the first",
            self.retries.clone(),
        );
        registry.register(
            "wayleave_upstream_retry_budget_exhausted",
            "Retries that the budget did not allow",
            self.budget_exhausted.clone(),
        );
        registry.register(
            "wayleave_upstream_overloaded",
            "Calls refused because a limit of the circuit was reached",
            self.overloaded.clone(),
        );
        registry.register(
            "wayleave_upstream_requests_pending",
            "Requests that wait for an upstream connection",
            self.pending.clone(),
        );
    }

    /// The series of the upstream behind a service.
    pub(crate) fn of(&self, service: &Arc<str>) -> UpstreamMetrics {
        let labels = ServiceLabels {
            service: service.to_string(),
        };
        UpstreamMetrics {
            service: Arc::clone(service),
            connections: self.connections.get_or_create_owned(&labels),
            connect_failures: self.connect_failures.clone(),
            ejections: self.ejections.get_or_create_owned(&labels),
            retries: self.retries.get_or_create_owned(&labels),
            budget_exhausted: self.budget_exhausted.get_or_create_owned(&labels),
            overloaded: self.overloaded.clone(),
            pending: self.pending.get_or_create_owned(&labels),
        }
    }
}

impl UpstreamMetrics {
    /// Counts a connection that could not be made.
    pub(super) fn connect_failed(&self, reason: &'static str) {
        let service = self.service.to_string();
        self.connect_failures
            .get_or_create(&ReasonLabels { service, reason })
            .inc();
    }

    /// Counts a call that was refused because of this limit.
    pub(super) fn refused(&self, limit: &'static str) {
        let service = self.service.to_string();
        self.overloaded
            .get_or_create(&LimitLabels { service, limit })
            .inc();
    }
}
