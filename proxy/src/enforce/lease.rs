//! The proof that a call was allowed, and for how long it was.

use http::StatusCode;
use wayleave_authz::PolicyStore;

use crate::protocol::Call;
use crate::record::{Calls, Carried, Entry, Failure};

/// Leave for one call to pass. Only an allow makes one, forwarding takes it by value, and
/// it lives as long as the call does: whatever holds it ends with it, and its end is what
/// submits the call's record.
#[derive(Debug)]
pub(crate) struct Lease {
    entry: Entry,
}

impl Lease {
    /// SECURITY: the only way to a lease; called for an allow and nowhere else.
    pub(super) fn grant(entry: Entry) -> Self {
        Self { entry }
    }

    /// The call that was allowed.
    pub(crate) fn call(&self) -> Option<&Call> {
        self.entry.call()
    }

    /// Notes the status that the caller is told.
    pub(crate) fn answered(&mut self, status: StatusCode) {
        self.entry.answered(status);
    }

    /// Notes how often the upstream has been tried.
    pub(crate) fn attempted(&mut self, attempts: u32) {
        self.entry.attempted(attempts);
    }

    /// Whether the policies in force are those that gave the lease.
    pub(crate) fn is_current(&self, policies: &PolicyStore) -> bool {
        let revision = policies.current().map(|engine| engine.revision());
        revision.is_some() && revision == self.entry.revision()
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
