//! What is measured of quarantines, revocations, ratings and of the leases that end. No label
//! names a principal.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use wayleave_authz::signals::{Change, Known};

use super::store::metrics::StoreMetrics;
use crate::review::Trigger;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ChangeLabels {
    change: &'static str,
    /// `policy`, `operator`, `ssf` or another kind of source.
    by: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TriggerLabels {
    trigger: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AlertLabels {
    level: &'static str,
}

/// The metrics.
#[derive(Debug, Default)]
pub(crate) struct StandingFamilies {
    changes: Family<ChangeLabels, Counter>,
    quarantines: Gauge,
    revocations: Gauge,
    ratings: Gauge,
    leases_reviewed: Counter,
    leases_ended: Family<TriggerLabels, Counter>,
    alerts: Family<AlertLabels, Counter>,
    store: StoreMetrics,
}

impl StandingFamilies {
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register(
            "wayleave_standing_changes",
            "Quarantines, revocations and ratings, and their ends, by who said so",
            self.changes.clone(),
        );
        registry.register(
            "wayleave_quarantines",
            "Quarantines in force",
            self.quarantines.clone(),
        );
        registry.register(
            "wayleave_revocations",
            "Principals and SVIDs that are revoked",
            self.revocations.clone(),
        );
        registry.register(
            "wayleave_risk_ratings",
            "Principals that are rated",
            self.ratings.clone(),
        );
        registry.register(
            "wayleave_leases_reviewed",
            "Times that an open call was decided again",
            self.leases_reviewed.clone(),
        );
        registry.register(
            "wayleave_leases_ended",
            "Allowed calls that were decided again and denied, by what had them decided",
            self.leases_ended.clone(),
        );
        registry.register(
            "wayleave_alerts",
            "Calls whose deciding policies ask for an alert",
            self.alerts.clone(),
        );
        self.store.register(registry);
    }

    /// What is measured of the store that a fleet shares.
    pub(crate) fn store(&self) -> &StoreMetrics {
        &self.store
    }

    pub(crate) fn changed(&self, change: &Change) {
        let by = change.origin().by.split(':').next().unwrap_or_default();
        let labels = ChangeLabels {
            change: kind(change),
            by: by.to_owned(),
        };
        self.changes.get_or_create(&labels).inc();
    }

    /// How much is known by now.
    pub(crate) fn known(&self, known: &Known) {
        let count = |length: usize| i64::try_from(length).unwrap_or(i64::MAX);
        self.quarantines.set(count(known.quarantines.len()));
        self.revocations.set(count(known.revocations.len()));
        self.ratings.set(count(known.risks.len()));
    }

    pub(crate) fn lease_reviewed(&self) {
        self.leases_reviewed.inc();
    }

    pub(crate) fn lease_ended(&self, trigger: Trigger) {
        let trigger = trigger.as_str();
        self.leases_ended
            .get_or_create(&TriggerLabels { trigger })
            .inc();
    }

    pub(crate) fn alert(&self, level: &'static str) {
        self.alerts.get_or_create(&AlertLabels { level }).inc();
    }
}

/// The stable name for metrics.
fn kind(change: &Change) -> &'static str {
    match change {
        Change::Quarantined(_) => "quarantined",
        Change::Released { .. } => "released",
        Change::Revoked(_) => "revoked",
        Change::Reinstated { .. } => "reinstated",
        Change::Rated(_) => "rated",
    }
}
