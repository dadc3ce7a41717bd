//! How a transmitter is doing, for `/status`, readiness and metrics.

use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::event::{EventType, StreamStatus};
use super::ledger::Verdict;
use super::metrics::TransmitterMetrics;
use super::refusal::Refusal;
use crate::moment::moment;

/// A part of the way from a transmitter to us that may fail by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Keys,
    Poll,
}

/// What is told of a transmitter in the status document.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct TransmitterStatus {
    pub(crate) name: String,
    pub(crate) issuer: String,
    /// Where it pushes events to.
    pub(crate) push: Option<String>,
    /// Where events are fetched.
    pub(crate) poll: Option<String>,
    /// `enabled`, `paused` or `disabled`, as far as it has said so.
    pub(crate) stream: Option<String>,
    /// How many keys it has; 0 until they are known.
    pub(crate) keys: usize,
    pub(crate) last_event: Option<EventStatus>,
    /// The last token that was refused.
    pub(crate) last_refusal: Option<RefusalStatus>,
    /// Why its keys or its events cannot be fetched; none when they can.
    pub(crate) failures: Vec<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct EventStatus {
    pub(crate) at: String,
    pub(crate) event: String,
    /// `effect`, `no_effect`, `replayed` or `outdated`.
    pub(crate) result: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct RefusalStatus {
    pub(crate) at: String,
    pub(crate) message: String,
}

/// What is known of it.
#[derive(Debug)]
pub(super) struct Health {
    state: Mutex<State>,
    pub(super) metrics: TransmitterMetrics,
}

#[derive(Debug, Default)]
struct State {
    stream: Option<StreamStatus>,
    event: Option<EventStatus>,
    refusal: Option<RefusalStatus>,
    keys: Option<String>,
    poll: Option<String>,
}

impl Health {
    pub(super) fn new(metrics: TransmitterMetrics) -> Self {
        Self {
            state: Mutex::default(),
            metrics,
        }
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub(super) fn taken(&self, event: EventType, verdict: Verdict) {
        self.metrics.event(event.as_str(), verdict.as_str());
        let status = EventStatus {
            at: moment(SystemTime::now()),
            event: event.as_str().to_owned(),
            result: verdict.as_str().to_owned(),
        };
        self.change(|state| state.event = Some(status));
    }

    pub(super) fn refused(&self, refusal: Refusal) {
        self.metrics.refused(refusal.label());
        let status = RefusalStatus {
            at: moment(SystemTime::now()),
            message: refusal.to_string(),
        };
        self.change(|state| state.refusal = Some(status));
    }

    pub(super) fn stream(&self, status: StreamStatus) {
        self.change(|state| state.stream = Some(status));
    }

    /// Notes how it is with a part, and says whether that is news.
    pub(super) fn is(&self, part: Part, failure: Option<String>) -> bool {
        let mut news = false;
        self.change(|state| {
            let known = match part {
                Part::Keys => &mut state.keys,
                Part::Poll => &mut state.poll,
            };
            news = *known != failure;
            *known = failure;
        });
        news
    }

    /// Whether something of it fails now.
    pub(super) fn is_failing(&self) -> bool {
        let mut failing = false;
        self.change(|state| failing = state.keys.is_some() || state.poll.is_some());
        failing
    }

    /// Adds what is known to what a transmitter is.
    pub(super) fn fill(&self, status: &mut TransmitterStatus) {
        self.change(|state| {
            status.stream = state.stream.map(|stream| stream.as_str().to_owned());
            status.last_event = state.event.clone();
            status.last_refusal = state.refusal.clone();
            let keys = state.keys.iter().map(|why| format!("keys: {why}"));
            let poll = state.poll.iter().map(|why| format!("poll: {why}"));
            status.failures = keys.chain(poll).collect();
        });
    }
}
