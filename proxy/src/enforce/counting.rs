//! What a call counts into: the signals of its caller that policies read. A call of which they
//! read none counts into nothing, and costs nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use wayleave_authz::signals::{Behaviour, Counted, SignalSet, SignalValues};
use wayleave_authz::{Decision, Resource};

/// One call, counted when it began, and what comes of it. Counted out when dropped.
#[derive(Debug)]
pub(crate) struct Counting {
    meter: Meter,
}

/// Counts the bytes of a call. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Meter {
    behaviour: Arc<Behaviour>,
    counted: Counted,
}

impl Counting {
    /// Counts a call that begins, where there is something to count: with the values that policies
    /// read, this call included.
    pub(super) fn begin(
        behaviour: Option<&Arc<Behaviour>>,
        reads: SignalSet,
        resource: &Resource<'_>,
        method: Option<&str>,
        now: Instant,
    ) -> Option<(Self, Box<SignalValues>)> {
        let behaviour = behaviour.filter(|_| !reads.is_empty())?;
        let (counted, values) = behaviour.begin(reads, resource, method, now);
        let meter = Meter {
            behaviour: Arc::clone(behaviour),
            counted,
        };
        Some((Self { meter }, Box::new(values)))
    }

    /// The values of this moment, for a decision that is made again; how it began stays as `begun`
    /// says.
    pub(super) fn read(
        &self,
        begun: &SignalValues,
        reads: SignalSet,
        now: Instant,
    ) -> SignalValues {
        let Meter { behaviour, counted } = &self.meter;
        behaviour.read(counted, begun, reads, now)
    }

    /// The call was allowed.
    pub(super) fn allowed(&self) {
        self.meter.behaviour.allowed(&self.meter.counted);
    }

    /// The call was denied.
    pub(super) fn denied(&self, now: Instant) {
        self.meter.behaviour.denied(&self.meter.counted, now);
    }

    /// How long its caller had better wait.
    pub(super) fn retry_after(&self, decision: &Decision, now: Instant) -> Option<Duration> {
        let Meter { behaviour, counted } = &self.meter;
        behaviour.retry_after(counted, decision, now)
    }

    /// The call was answered with an error, or not at all.
    pub(crate) fn failed(&self) {
        self.meter
            .behaviour
            .failed(&self.meter.counted, Instant::now());
    }

    /// What counts the bytes of its bodies.
    pub(crate) fn meter(&self) -> &Meter {
        &self.meter
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        self.meter.behaviour.ended(&self.meter.counted);
    }
}

impl Meter {
    /// So many bytes have left.
    pub(crate) fn sent(&self, bytes: usize) {
        let now = Instant::now();
        self.behaviour.sent(&self.counted, bytes as u64, now);
    }
}
