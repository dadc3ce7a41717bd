//! How much of its limits the sidecar uses, for `/status` and metrics. Never a reason not to be
//! ready: a probe that failed under load would take the rest of the capacity away too.

use std::sync::Arc;

use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};

use crate::admission::Admission;
use crate::memory::Memory;
use crate::record::metrics::Metrics;

/// A listener by name, and what it holds.
pub(crate) type Load = (Arc<str>, Arc<Admission>);

/// What is held now, and by which listener.
#[derive(Debug)]
pub(crate) struct Loads {
    pub(crate) memory: Arc<Memory>,
    pub(crate) listeners: Arc<ArcSwap<Vec<Load>>>,
}

/// The part of the status document.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct LoadStatus {
    pub(crate) resident_bytes: u64,
    /// None where there is no limit.
    pub(crate) max_memory_bytes: Option<u64>,
    /// Whether calls are refused for want of memory.
    pub(crate) memory_short: bool,
    pub(crate) listeners: Vec<ListenerLoad>,
}

/// What one listener holds.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ListenerLoad {
    pub(crate) name: String,
    pub(crate) connections: usize,
    pub(crate) max_connections: usize,
    pub(crate) handshakes: usize,
    pub(crate) requests: usize,
    pub(crate) max_requests: usize,
    /// Whether a further call would be refused.
    pub(crate) overloaded: bool,
}

impl LoadStatus {
    pub(super) fn of(loads: &Loads) -> Self {
        let listeners = loads.listeners.load();
        let listeners = listeners.iter();
        Self {
            resident_bytes: Memory::resident(),
            max_memory_bytes: loads.memory.limit(),
            memory_short: loads.memory.is_short(),
            listeners: listeners
                .map(|(name, admission)| ListenerLoad::of(name, admission))
                .collect(),
        }
    }

    /// Brings the gauges up to date.
    pub(super) fn measure(&self, metrics: &Metrics) {
        metrics.resident(self.resident_bytes);
        for listener in &self.listeners {
            metrics.load(
                &listener.name,
                listener.requests,
                listener.handshakes,
                listener.overloaded,
            );
        }
    }
}

impl ListenerLoad {
    fn of(name: &str, admission: &Admission) -> Self {
        Self {
            name: name.to_owned(),
            connections: admission.open_connections(),
            max_connections: admission.max_connections(),
            handshakes: admission.handshakes.count(),
            requests: admission.requests(),
            max_requests: admission.max_requests(),
            overloaded: admission.is_overloaded(),
        }
    }
}
