//! The record of a call for the micro-benchmarks: opened, filled and ended as a worker does it, and
//! written as the writer does it, both on the thread that asks.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use wayleave_authz::{Decision, Direction, RecordedHeaders};
use wayleave_certs::Peer;

use super::metrics::Metrics;
use super::queue::Records as Batch;
use super::writer::Work;
use super::{Calls, Decided, Origin, Output, Queue, Recorder};
use crate::admission::Admission;
use crate::bench::Reading;
use crate::caller::Caller;
use crate::config::{LimitsConfig, MaxMemory};
use crate::memory::Memory;

/// What became of a call.
#[derive(Debug, Clone)]
#[expect(
    clippy::large_enum_variant,
    reason = "a box would be freed in what is measured"
)]
pub enum Outcome {
    /// Policies were asked.
    Decided {
        /// What was asked for.
        call: Reading,
        /// Their answer.
        decision: Decision,
        /// The headers that they read.
        headers: RecordedHeaders,
    },
    /// It had no one reading.
    Refused {
        /// Why.
        reason_code: &'static str,
        /// The target as it was sent.
        target: String,
    },
}

/// The records of one connection's calls, and their writer.
pub struct Records {
    queue: Arc<Queue>,
    recorder: Recorder,
    origin: Origin,
    service: Arc<str>,
    work: Work,
    batch: Batch,
}

impl Records {
    /// Of a peer that calls from `source`, written to `to` as lines of JSON.
    #[must_use]
    pub fn of(peer: Peer, source: SocketAddr, to: Box<dyn Write + Send>) -> Self {
        let limits = LimitsConfig::default();
        let memory = Arc::new(Memory::with_limit(MaxMemory::Off));
        let admission = Arc::new(Admission::new(&limits, memory));
        let caller = Caller::Peer(peer);
        let place = admission.place(&caller);
        let queue = Arc::new(Queue::default());
        // The writer waits for no more than there is.
        queue.close();
        let service: Arc<str> = "orders".into();
        Self {
            recorder: Recorder::new(Arc::clone(&queue)),
            queue,
            origin: Origin {
                listener: "inbound".into(),
                service: Some(Arc::clone(&service)),
                direction: Direction::Inbound,
                caller,
                source,
                calls: Arc::new(Calls::at(place, None)),
            },
            service,
            work: Work::new(Output::Json(to), Arc::default(), Arc::new(Metrics::new())),
            batch: Vec::new(),
        }
    }

    /// Opens the record of a call, fills it, and ends it: the part of a worker.
    pub fn record(&self, outcome: Outcome, status: StatusCode) {
        let mut entry = self.recorder.open(&self.origin);
        match outcome {
            Outcome::Decided {
                call,
                decision,
                headers,
            } => entry.decided(Decided {
                action: call.action().as_str(),
                call: call.0,
                service: Arc::clone(&self.service),
                port: 8443,
                headers,
                query: false,
                signals: None,
                decision,
                took: Duration::from_nanos(600),
            }),
            Outcome::Refused {
                reason_code,
                target,
            } => entry.refused(reason_code, None, Some(target)),
        }
        entry.answered(status);
        entry.completed();
    }

    /// Counts and writes what was recorded since, and takes the records back to be used again: the
    /// part of the writer.
    pub fn write(&mut self) {
        if self.queue.take(&mut self.batch) {
            self.work.write(&mut self.batch, &self.queue);
        }
    }
}
