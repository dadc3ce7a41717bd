//! The proof that a call was allowed, and for how long it is.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use http::StatusCode;
use wayleave_authz::Direction;
use wayleave_authz::signals::RiskLevel;

use super::kept_headers::KeptHeaders;
use super::{Again, Enforcer, Meter};
use crate::protocol::Call;
use crate::record::{Calls, Carried, Entry, Failure};
use crate::review::{Seat, Trigger};

/// Leave for one call to pass. Only an allow makes one, forwarding takes it by value, and
/// it lives as long as the call does: whatever holds it ends with it, and its end is what
/// submits the call's record.
///
/// It keeps the facts of its decision, so that it is decided again when what it was decided by
/// has changed. Whoever carries the call asks [`Lease::poll_ended`] whenever it waits.
#[derive(Debug)]
pub(crate) struct Lease {
    entry: Entry,
    headers: KeptHeaders,
    enforcer: Arc<Enforcer>,
    /// The changes that the latest decision knows of.
    seen: Seen,
    seat: Seat,
}

/// What had changed before a decision.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    /// For everybody.
    pub(super) by_all: u64,
    /// For its principal.
    pub(super) by_one: u64,
    pub(super) risk: RiskLevel,
}

/// Why a lease is over before its call is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) trigger: Trigger,
}

impl Lease {
    /// SECURITY: the only way to a lease; called for an allow and nowhere else. `seen` was read
    /// before the policies that allowed.
    pub(super) fn grant(
        entry: Entry,
        headers: KeptHeaders,
        enforcer: &Arc<Enforcer>,
        seen: Seen,
    ) -> Self {
        Self {
            entry,
            headers,
            seen,
            seat: enforcer.live.seat(),
            enforcer: Arc::clone(enforcer),
        }
    }

    /// The call that was allowed.
    pub(crate) fn call(&self) -> Option<&Call> {
        self.entry.call()
    }

    /// A place among the open calls for another part of this one.
    pub(crate) fn another_seat(&self) -> Seat {
        self.enforcer.live.seat()
    }

    /// Ready once the call is no longer allowed; never again afterwards.
    pub(crate) fn poll_ended(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        if let Some(ended) = self.review() {
            return Poll::Ready(ended);
        }
        let behaviour = self.entry.calls().behaviour();
        self.seat.wait(cx.waker(), behaviour, self.seen.by_one);
        self.poll_once_more()
    }

    /// The same for a part of the call that waits at a seat of its own.
    pub(crate) fn poll_ended_at(&mut self, seat: &mut Seat, cx: &mut Context<'_>) -> Poll<Ended> {
        if let Some(ended) = self.review() {
            return Poll::Ready(ended);
        }
        let behaviour = self.entry.calls().behaviour();
        seat.wait(cx.waker(), behaviour, self.seen.by_one);
        self.poll_once_more()
    }

    /// What changed before the call's place was taken would wake nobody.
    fn poll_once_more(&mut self) -> Poll<Ended> {
        self.review().map_or(Poll::Pending, Poll::Ready)
    }

    /// Decides again if something has changed; says so when the answer is now deny. Costs two loads
    /// where nothing has.
    pub(crate) fn review(&mut self) -> Option<Ended> {
        let behaviour = self.entry.calls().behaviour();
        let by_all = self.enforcer.changes.count();
        let by_one = behaviour.map_or(0, |behaviour| behaviour.changes());
        if by_all == self.seen.by_all && by_one == self.seen.by_one {
            return None;
        }
        self.decide_again(by_all, by_one)
    }

    #[cold]
    fn decide_again(&mut self, by_all: u64, by_one: u64) -> Option<Ended> {
        let before = self.seen;
        let latest = self.enforcer.changes.latest();
        let behaviour = self.entry.calls().behaviour();
        let risk = behaviour.map_or(RiskLevel::None, |behaviour| behaviour.against().risk);
        self.seen = Seen {
            by_all,
            by_one,
            risk,
        };
        let now = self.enforcer.again(&self.entry, &self.headers);
        self.enforcer.standing.lease_reviewed();
        let trigger = match now {
            Again::Allowed => return None,
            Again::Revoked => Trigger::Revocation,
            Again::Quarantined => Trigger::Quarantine,
            Again::Denied if by_all != before.by_all => latest,
            Again::Denied if risk != before.risk => Trigger::Risk,
            Again::Denied => Trigger::Signal,
        };
        self.entry.ended(trigger);
        Some(Ended { trigger })
    }

    /// Notes the status that the caller is told.
    pub(crate) fn answered(&mut self, status: StatusCode) {
        self.entry.answered(status);
    }

    /// Notes how often the upstream has been tried.
    pub(crate) fn attempted(&mut self, attempts: u32) {
        self.entry.attempted(attempts);
    }

    /// The calls of its connection.
    pub(crate) fn calls(&self) -> &Calls {
        self.entry.calls()
    }

    /// When the call began.
    pub(crate) fn began(&self) -> Instant {
        self.entry.opened()
    }

    /// Notes that the answer was delivered whole.
    pub(crate) fn completed(&mut self) {
        self.entry.completed();
    }

    /// What counts the bytes that leave by the answer: of a call that comes in.
    pub(crate) fn answer_meter(&self) -> Option<&Meter> {
        self.meter(Direction::Inbound)
    }

    /// What counts the bytes that leave by the request: of a call that goes out.
    pub(crate) fn request_meter(&self) -> Option<&Meter> {
        self.meter(Direction::Outbound)
    }

    fn meter(&self, direction: Direction) -> Option<&Meter> {
        let counting = self.entry.counting()?;
        (self.enforcer.direction == direction).then(|| counting.meter())
    }

    /// Notes that a gRPC call was answered with a status other than OK.
    pub(crate) fn grpc_failed(&mut self) {
        self.entry.grpc_failed();
    }

    /// Notes what was carried of a call that became a tunnel.
    pub(crate) fn carried(&mut self, carried: Carried) {
        self.entry.carried(carried);
    }

    /// Notes what cut the call short.
    pub(crate) fn failed(&mut self, failure: Failure) {
        self.entry.failed(failure);
    }

    /// Ends the lease without an answer from the upstream; the entry goes on to tell why.
    pub(crate) fn end(self) -> Entry {
        self.entry
    }
}
