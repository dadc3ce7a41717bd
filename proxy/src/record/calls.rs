//! The calls of one connection that have not ended, and why they are cut if they are.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use super::Failure;

/// Shared by a connection and the records of its calls.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    open: AtomicU32,
    cut: OnceLock<Failure>,
}

impl Calls {
    /// Whether every call has ended.
    pub(crate) fn none_open(&self) -> bool {
        self.open.load(Ordering::Relaxed) == 0
    }

    /// Says why the calls are cut that do not complete from here on.
    pub(crate) fn cut(&self, why: Failure) {
        let _ = self.cut.set(why);
    }

    /// Why a call that did not complete has ended: its caller left, unless we cut it.
    pub(super) fn why_cut(&self) -> Failure {
        self.cut.get().copied().unwrap_or(Failure::CallerGone)
    }

    pub(super) fn begin(&self) {
        self.open.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn end(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}
