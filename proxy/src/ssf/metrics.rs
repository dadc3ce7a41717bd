//! What is counted about transmitters. Every series is labelled with a transmitter's name, which
//! the configuration chooses, and with words of ours.

use std::sync::Arc;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EventLabels {
    transmitter: String,
    event: &'static str,
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RefusedLabels {
    transmitter: String,
    err: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabels {
    transmitter: String,
    result: &'static str,
}

/// The series of all transmitters.
#[derive(Debug, Clone, Default)]
pub(crate) struct SsfFamilies {
    events: Family<EventLabels, Counter>,
    refused: Family<RefusedLabels, Counter>,
    polls: Family<ResultLabels, Counter>,
    key_fetches: Family<ResultLabels, Counter>,
}

/// The series of one.
#[derive(Debug, Clone)]
pub(super) struct TransmitterMetrics {
    name: Arc<str>,
    families: SsfFamilies,
}

impl SsfFamilies {
    /// Adds the series to what is scraped.
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register(
            "wayleave_ssf_events",
            "Security events taken from transmitters, by kind and result",
            self.events.clone(),
        );
        registry.register(
            "wayleave_ssf_refused",
            "Security event tokens that were not taken, by error code",
            self.refused.clone(),
        );
        registry.register(
            "wayleave_ssf_polls",
            "Polls for security events by result",
            self.polls.clone(),
        );
        registry.register(
            "wayleave_ssf_key_fetches",
            "Fetches of transmitters' keys by result",
            self.key_fetches.clone(),
        );
    }

    pub(super) fn of(&self, name: &Arc<str>) -> TransmitterMetrics {
        TransmitterMetrics {
            name: Arc::clone(name),
            families: self.clone(),
        }
    }
}

impl TransmitterMetrics {
    pub(super) fn event(&self, event: &'static str, result: &'static str) {
        let transmitter = self.name.to_string();
        let labels = EventLabels {
            transmitter,
            event,
            result,
        };
        self.families.events.get_or_create(&labels).inc();
    }

    pub(super) fn refused(&self, err: &'static str) {
        let transmitter = self.name.to_string();
        let labels = RefusedLabels { transmitter, err };
        self.families.refused.get_or_create(&labels).inc();
    }

    pub(super) fn polled(&self, well: bool) {
        self.families.polls.get_or_create(&self.result(well)).inc();
    }

    pub(super) fn keys_fetched(&self, well: bool) {
        let labels = self.result(well);
        self.families.key_fetches.get_or_create(&labels).inc();
    }

    fn result(&self, well: bool) -> ResultLabels {
        ResultLabels {
            transmitter: self.name.to_string(),
            result: if well { "ok" } else { "failed" },
        }
    }
}
