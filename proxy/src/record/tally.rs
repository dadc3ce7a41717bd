//! The metrics that records are counted in, with the ones of the last few kinds of record at hand:
//! most calls are alike, and looking a metric up by its labels costs more than counting.

use std::sync::Arc;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::Histogram;
use wayleave_authz::{Decision, Effect};

use super::metrics::Metrics;
use super::{DecisionRecord, Failure};
use crate::protocol::Call;

/// How many kinds are kept at hand; beyond that it begins anew.
const KINDS: usize = 64;

/// Counts records.
#[derive(Debug)]
pub(super) struct Tally {
    metrics: Arc<Metrics>,
    kinds: Vec<(Kind, Counted)>,
}

/// What tells records apart for metrics. Names are compared by address: equal ones at two
/// addresses only cost a second entry.
#[derive(Debug)]
struct Kind {
    listener: Arc<str>,
    effect: Effect,
    reason_code: &'static str,
    method: Option<http::Method>,
    status: Option<u16>,
    failure: Option<Failure>,
}

/// Where a record of one kind is counted.
#[derive(Debug, Clone)]
struct Counted {
    decisions: Counter,
    /// None for what is no request.
    requests: Option<Histogram>,
}

impl Kind {
    fn of(record: &DecisionRecord) -> Self {
        Self {
            listener: Arc::clone(&record.listener),
            effect: record.effect,
            reason_code: record.reason_code,
            method: record.call.as_ref().and_then(Call::method).cloned(),
            status: record.status,
            failure: record.failure,
        }
    }

    fn is(&self, record: &DecisionRecord) -> bool {
        Arc::ptr_eq(&self.listener, &record.listener)
            && std::ptr::eq(self.reason_code, record.reason_code)
            && self.effect == record.effect
            && self.status == record.status
            && self.failure == record.failure
            && self.method.as_ref() == record.call.as_ref().and_then(Call::method)
    }
}

impl Tally {
    pub(super) fn new(metrics: Arc<Metrics>) -> Self {
        Self {
            metrics,
            kinds: Vec::new(),
        }
    }

    /// The metrics that are not counted by record.
    pub(super) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Counts one record.
    pub(super) fn count(&mut self, record: &DecisionRecord) {
        let counted = self.counted(record);
        counted.decisions.inc();
        match &counted.requests {
            Some(requests) => requests.observe(record.call_time.as_secs_f64()),
            None => self.metrics.record_tcp(record),
        }
        if let Some(trigger) = record.ended_by {
            self.metrics.standing().lease_ended(trigger);
        }
        let Some(decision) = &record.decision else {
            return;
        };
        if let Some(alert) = decision.alert() {
            self.metrics.standing().alert(alert.as_str());
        }
        self.metrics.decision_took(record.decision_time);
        if let Some(would_have) = Decision::would_have(decision) {
            self.metrics.audited(&record.listener, would_have);
        }
    }

    fn counted(&mut self, record: &DecisionRecord) -> Counted {
        if let Some((_, counted)) = self.kinds.iter().find(|(kind, _)| kind.is(record)) {
            return counted.clone();
        }
        let counted = Counted {
            decisions: self.metrics.decisions_like(record),
            requests: self.metrics.requests_like(record),
        };
        if self.kinds.len() >= KINDS {
            self.kinds.clear();
        }
        self.kinds.push((Kind::of(record), counted.clone()));
        counted
    }
}
