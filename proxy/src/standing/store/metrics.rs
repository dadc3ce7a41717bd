//! What is measured of the store.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use std::time::Duration;

/// Bucket bounds in seconds.
const BUCKETS: [f64; 9] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.25, 1.0, 2.5];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DirectionLabels {
    direction: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabels {
    kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ServerLabels {
    /// Host and port.
    server: String,
}

/// The metrics. Cheap to clone. Where there is no store, none is shown as not connected.
#[derive(Debug, Clone)]
pub(crate) struct StoreMetrics {
    connected: Family<ServerLabels, Gauge>,
    reconnects: Counter,
    changes: Family<DirectionLabels, Counter>,
    unfit: Counter,
    errors: Family<KindLabels, Counter>,
    reconciled: Histogram,
    counted: Gauge,
}

impl Default for StoreMetrics {
    fn default() -> Self {
        Self {
            connected: Family::default(),
            reconnects: Counter::default(),
            changes: Family::default(),
            unfit: Counter::default(),
            errors: Family::default(),
            reconciled: Histogram::new(BUCKETS),
            counted: Gauge::default(),
        }
    }
}

impl StoreMetrics {
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register(
            "wayleave_signal_store_connected",
            "Whether what the fleet shares is up to date",
            self.connected.clone(),
        );
        registry.register(
            "wayleave_signal_store_reconnects",
            "Connections to the store after the first",
            self.reconnects.clone(),
        );
        registry.register(
            "wayleave_signal_store_changes",
            "Quarantines, revocations, ratings and their ends that were news to the store, or here",
            self.changes.clone(),
        );
        registry.register(
            "wayleave_signal_store_unfit",
            "Entries and messages of the store that are no changes, and were ignored",
            self.unfit.clone(),
        );
        registry.register(
            "wayleave_signal_store_errors",
            "Connections to the store that failed or were lost",
            self.errors.clone(),
        );
        registry.register_with_unit(
            "wayleave_signal_store_reconcile_duration",
            "Time that one round of reconciling counters took",
            Unit::Seconds,
            self.reconciled.clone(),
        );
        registry.register(
            "wayleave_signal_store_counted_principals",
            "Principals whose counters the latest round reconciled",
            self.counted.clone(),
        );
    }

    pub(super) fn connected(&self, server: &str, connected: bool) {
        let server = server.to_owned();
        let gauge = self.connected.get_or_create_owned(&ServerLabels { server });
        gauge.set(i64::from(connected));
    }

    pub(super) fn reconnected(&self) {
        self.reconnects.inc();
    }

    pub(super) fn sent(&self, changes: u64) {
        let direction = "sent";
        let labels = DirectionLabels { direction };
        self.changes.get_or_create(&labels).inc_by(changes);
    }

    pub(super) fn received(&self) {
        let direction = "received";
        let labels = DirectionLabels { direction };
        self.changes.get_or_create(&labels).inc();
    }

    pub(super) fn unfit(&self) {
        self.unfit.inc();
    }

    pub(super) fn error(&self, kind: &'static str) {
        self.errors.get_or_create(&KindLabels { kind }).inc();
    }

    pub(super) fn reconciled(&self, principals: usize, took: Duration) {
        let count = i64::try_from(principals).unwrap_or(i64::MAX);
        self.counted.set(count);
        self.reconciled.observe(took.as_secs_f64());
    }
}
