//! One principal: what its calls count into, and what stands against it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;

use super::standing::Against;

/// What is known of one principal. Shared by all its connections, and read without a lock.
#[derive(Debug)]
pub struct Behaviour {
    principal: Box<str>,
    against: ArcSwap<Against>,
    changes: AtomicU64,
}

impl Behaviour {
    pub(super) fn new(principal: &str) -> Self {
        Self {
            principal: principal.into(),
            against: ArcSwap::default(),
            changes: AtomicU64::new(0),
        }
    }

    /// The SPIFFE ID, or `anonymous`.
    #[must_use]
    pub fn principal(&self) -> &str {
        &self.principal
    }

    /// What stands against it.
    pub fn against(&self) -> arc_swap::Guard<Arc<Against>> {
        self.against.load()
    }

    /// How often something has changed that decisions about this principal depend on. To be read
    /// before what a decision is made from, so that a change between the two is noticed afterwards.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// Counts a change: what is open of this principal is to be decided again.
    pub fn changed(&self) {
        self.changes.fetch_add(1, Ordering::Release);
    }

    /// INVARIANT: what stands against it is in place before the change is counted, so that who
    /// sees the count sees what it is for.
    pub(super) fn stand(&self, against: Against) {
        self.against.store(Arc::new(against));
        self.changed();
    }
}
