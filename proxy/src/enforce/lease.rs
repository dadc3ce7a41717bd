//! The proof that a call was allowed, and for how long it is.

use std::sync::Arc;
use std::task::{Context, Poll};

use http::StatusCode;

use super::Enforcer;
use super::kept_headers::KeptHeaders;
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
    seen: u64,
    seat: Seat,
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
        seen: u64,
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

    /// Ready once the call is no longer allowed; never again afterwards.
    pub(crate) fn poll_ended(&mut self, cx: &mut Context<'_>) -> Poll<Ended> {
        if let Some(ended) = self.review() {
            return Poll::Ready(ended);
        }
        self.seat.wait(cx.waker());
        // What changed between the two would wake nobody.
        match self.review() {
            Some(ended) => Poll::Ready(ended),
            None => Poll::Pending,
        }
    }

    /// Decides again if something has changed; says so when the answer is now deny. Costs one load
    /// where nothing has.
    pub(crate) fn review(&mut self) -> Option<Ended> {
        let count = self.enforcer.changes.count();
        if count == self.seen {
            return None;
        }
        let trigger = self.enforcer.changes.latest();
        self.seen = count;
        if self.enforcer.still_allows(&self.entry, &self.headers) {
            return None;
        }
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

    /// Notes that the answer was delivered whole.
    pub(crate) fn completed(&mut self) {
        self.entry.completed();
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
