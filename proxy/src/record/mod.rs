//! The record of every call: what was asked, what was decided and how it ended.
//!
//! An [`Entry`] is opened before a request is read and submits itself when it is dropped,
//! so a caller that goes away leaves a record too. Workers only push; a thread of its own
//! serialises, counts and writes, so that no decision waits for a disk.

#[cfg(feature = "bench")]
pub(crate) mod bench;
mod calls;
mod decision_id;
mod decision_record;
mod ending;
mod json;
pub(crate) mod metrics;
mod queue;
mod recent;
pub(crate) mod replay;
mod tally;
mod text;
mod writer;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use uuid::Uuid;
use wayleave_authz::signals::SignalValues;
use wayleave_authz::{Decision, Direction, Effect, Obligations, RecordedHeaders};

use crate::caller::Caller;
use crate::enforce::Counting;
use crate::protocol::Call;
use crate::review::Trigger;
use crate::waiting::Waiting;
pub(crate) use calls::Calls;
pub(crate) use decision_record::{Carried, DecisionRecord, Failure};
pub(crate) use queue::Queue;
pub(crate) use recent::Recent;
pub(crate) use writer::{Output, Writer};

/// What a worker submits records to. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Recorder {
    queue: Arc<Queue>,
}

impl Recorder {
    /// A recorder that submits to `queue`.
    pub(crate) fn new(queue: Arc<Queue>) -> Self {
        Self { queue }
    }

    /// Opens the record of a call that is about to be read.
    pub(crate) fn open(&self, origin: &Origin) -> Entry {
        let time = SystemTime::now();
        origin.calls.begin();
        Entry {
            record: Some(self.queue.opened(decision_id::next(time), time, origin)),
            opened: Instant::now(),
            calls: Arc::clone(&origin.calls),
            queue: Arc::clone(&self.queue),
            counting: None,
        }
    }
}

/// Where a call came from: what all calls of one connection share.
#[derive(Debug, Clone)]
pub(crate) struct Origin {
    pub(crate) listener: Arc<str>,
    /// The service, where the listener has only one.
    pub(crate) service: Option<Arc<str>>,
    pub(crate) direction: Direction,
    pub(crate) caller: Caller,
    pub(crate) source: SocketAddr,
    pub(crate) calls: Arc<Calls>,
}

/// Who asked for what: what a decision is made from, headers and time apart.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked<'a> {
    pub(crate) call: &'a Call,
    pub(crate) caller: &'a Caller,
    pub(crate) direction: Direction,
    pub(crate) source: SocketAddr,
    pub(crate) service: &'a str,
    /// The port that was called.
    pub(crate) port: u16,
}

/// A decision, and what it was made from.
pub(crate) struct Decided {
    pub(crate) call: Call,
    pub(crate) action: &'static str,
    pub(crate) service: Arc<str>,
    /// The port that was called.
    pub(crate) port: u16,
    /// The headers that policies read.
    pub(crate) headers: RecordedHeaders,
    /// Whether policies read the query: only then is it recorded.
    pub(crate) query: bool,
    /// The signals that policies read.
    pub(crate) signals: Option<Box<SignalValues>>,
    pub(crate) decision: Decision,
    /// How long the evaluation took.
    pub(crate) took: Duration,
}

/// The open record of one call. Dropping it ends the call and submits the record.
#[derive(Debug)]
pub(crate) struct Entry {
    /// INVARIANT: `Some` until drop.
    record: Option<Box<DecisionRecord>>,
    opened: Instant,
    calls: Arc<Calls>,
    queue: Arc<Queue>,
    /// Where the call is counted, if it is.
    counting: Option<Counting>,
}

impl Entry {
    /// The decision id that the caller, the upstream and the log share.
    pub(crate) fn id(&self) -> Uuid {
        self.record.as_ref().map_or(Uuid::nil(), |record| record.id)
    }

    /// When the call began, on a clock that nobody sets.
    pub(crate) fn opened(&self) -> Instant {
        self.opened
    }

    /// When the call began, on the wall clock.
    pub(crate) fn time(&self) -> SystemTime {
        self.record
            .as_ref()
            .map_or(SystemTime::UNIX_EPOCH, |record| record.time)
    }

    /// The call, once it has been read.
    pub(crate) fn call(&self) -> Option<&Call> {
        self.record.as_ref()?.call.as_ref()
    }

    /// What was asked, once it has been decided.
    pub(crate) fn asked(&self) -> Option<Asked<'_>> {
        let record = self.record.as_ref()?;
        Some(Asked {
            call: record.call.as_ref()?,
            caller: &record.caller,
            direction: record.direction,
            source: record.source,
            service: record.service.as_deref()?,
            port: record.port?,
        })
    }

    /// The calls of its connection.
    pub(crate) fn calls(&self) -> &Calls {
        &self.calls
    }

    /// Counts the call from now to its end.
    pub(crate) fn counts(&mut self, counting: Counting) {
        self.counting = Some(counting);
    }

    /// Where the call is counted, if it is.
    pub(crate) fn counting(&self) -> Option<&Counting> {
        self.counting.as_ref()
    }

    /// The signals that it was decided by, where policies read some.
    pub(crate) fn signals(&self) -> Option<&SignalValues> {
        self.record.as_ref()?.signals.as_deref()
    }

    /// Notes that a gRPC call was answered with a status other than OK.
    pub(crate) fn grpc_failed(&mut self) {
        self.edit(|record| record.grpc_failed = true);
    }

    /// What was decided so far: deny until a policy allows.
    pub(crate) fn effect(&self) -> Effect {
        self.record
            .as_ref()
            .map_or(Effect::Deny, |record| record.effect)
    }

    /// The stable code of what was decided so far.
    pub(crate) fn reason_code(&self) -> &'static str {
        self.record
            .as_ref()
            .map_or("not_decided", |record| record.reason_code)
    }

    /// What the deciding policies ask for.
    pub(crate) fn obligations(&self) -> Obligations {
        let decision = self
            .record
            .as_ref()
            .and_then(|record| record.decision.as_ref());
        decision.map(Decision::obligations).unwrap_or_default()
    }

    /// Notes what was decided.
    pub(crate) fn decided(&mut self, decided: Decided) {
        self.edit(|record| {
            record.effect = decided.decision.effect();
            record.reason_code = decided.decision.reason().as_str();
            record.call = Some(decided.call);
            record.action = Some(decided.action);
            record.service = Some(decided.service);
            record.port = Some(decided.port);
            record.headers = decided.headers;
            record.with_query = decided.query;
            record.signals = decided.signals;
            record.decision = Some(decided.decision);
            record.decision_time = decided.took;
        });
    }

    /// Notes a refusal that came before any policy was asked.
    pub(crate) fn refused(
        &mut self,
        reason_code: &'static str,
        call: Option<Call>,
        target: Option<String>,
    ) {
        self.edit(|record| {
            record.effect = Effect::Deny;
            record.reason_code = reason_code;
            record.call = call;
            record.refused_target = target;
        });
    }

    /// Notes the status that the caller is told.
    pub(crate) fn answered(&mut self, status: http::StatusCode) {
        self.edit(|record| record.status = Some(status.as_u16()));
    }

    /// Notes what cut an allowed call short.
    pub(crate) fn failed(&mut self, failure: Failure) {
        self.edit(|record| {
            record.failure = Some(failure);
            // An address is part of what is asked for: refusing it refuses the call.
            if failure == Failure::AddressRefused {
                record.effect = Effect::Deny;
                record.reason_code = failure.as_str();
            }
        });
    }

    /// Notes that the call was allowed and no longer is, and what made that so.
    pub(crate) fn ended(&mut self, trigger: Trigger) {
        self.edit(|record| {
            record.failure = Some(Failure::LeaseEnded);
            record.ended_by = Some(trigger);
        });
    }

    /// Notes how often the upstream has been tried.
    pub(crate) fn attempted(&mut self, attempts: u32) {
        self.edit(|record| record.attempts = attempts);
    }

    /// Notes what was carried of a call that became a tunnel.
    pub(crate) fn carried(&mut self, carried: Carried) {
        self.edit(|record| record.carried = Some(carried));
    }

    /// Notes that the answer was delivered whole: no failure by a later drop.
    pub(crate) fn completed(&mut self) {
        self.edit(|record| record.complete = true);
    }

    fn edit(&mut self, change: impl FnOnce(&mut DecisionRecord)) {
        if let Some(record) = self.record.as_mut() {
            change(record);
        }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.calls.end();
        if let Some(mut record) = self.record.take() {
            record.call_time = self.opened.elapsed();
            if !record.complete && record.failure.is_none() {
                record.failure = Some(match Waiting::said() {
                    Waiting::GivenUp => Failure::BodyTimeout,
                    _ => self.calls.why_cut(),
                });
            }
            if let Some(counting) = &self.counting
                && record.is_error()
            {
                counting.failed();
            }
            self.queue.push(record);
        }
    }
}
