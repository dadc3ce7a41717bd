//! What became of the policy files: since when those in force are, and what is wrong with a
//! later version that did not load.

use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwapOption;
use wayleave_authz::{LoadErrors, Problem};

/// The latest loads of the policies.
#[derive(Debug, Default)]
pub(crate) struct PolicyLoads {
    good: ArcSwapOption<SystemTime>,
    bad: ArcSwapOption<FailedLoad>,
}

/// A load that left the last good policies in force.
#[derive(Debug)]
pub(crate) struct FailedLoad {
    pub(crate) at: SystemTime,
    pub(crate) problems: Vec<Problem>,
}

impl PolicyLoads {
    /// Notes that the files are in force; what was wrong with them is mended.
    pub(crate) fn succeeded(&self, at: SystemTime) {
        self.good.store(Some(Arc::new(at)));
        self.bad.store(None);
    }

    /// Notes that the files are not in force, and why.
    pub(crate) fn failed(&self, errors: &LoadErrors, at: SystemTime) {
        let problems = errors.problems().to_vec();
        self.bad.store(Some(Arc::new(FailedLoad { at, problems })));
    }

    /// Since when the policies in force are.
    pub(crate) fn loaded(&self) -> Option<SystemTime> {
        self.good.load().as_deref().copied()
    }

    /// The failed load after the last good one.
    pub(crate) fn failed_load(&self) -> Option<Arc<FailedLoad>> {
        self.bad.load_full()
    }
}
