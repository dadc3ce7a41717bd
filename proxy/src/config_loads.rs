//! What became of the configuration file: which revision is in force and since when, what is
//! wrong with a later one that was not taken, and what waits for a restart.

use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::{ArcSwap, ArcSwapOption};

/// The latest loads of the configuration.
#[derive(Debug)]
pub(crate) struct ConfigLoads {
    file: String,
    good: ArcSwap<GoodConfig>,
    bad: ArcSwapOption<FailedConfig>,
}

/// A configuration that is in force.
#[derive(Debug)]
pub(crate) struct GoodConfig {
    pub(crate) at: SystemTime,
    /// A hash of the file's text.
    pub(crate) revision: String,
    /// Keys whose values differ from those that the process was started with, and that only a
    /// restart brings into force.
    pub(crate) needs_restart: Vec<&'static str>,
}

/// A configuration that left the last good one in force.
#[derive(Debug)]
pub(crate) struct FailedConfig {
    pub(crate) at: SystemTime,
    /// One line each, with its place where it has one.
    pub(crate) problems: Vec<String>,
}

impl ConfigLoads {
    /// The configuration that the sidecar is started with.
    pub(crate) fn new(file: String, revision: String, at: SystemTime) -> Self {
        let good = GoodConfig {
            at,
            revision,
            needs_restart: Vec::new(),
        };
        Self {
            file,
            good: ArcSwap::from_pointee(good),
            bad: ArcSwapOption::empty(),
        }
    }

    /// The file as it was named.
    pub(crate) fn file(&self) -> &str {
        &self.file
    }

    /// Notes that a configuration is in force; what was wrong with the file is mended.
    pub(crate) fn succeeded(&self, good: GoodConfig) {
        self.good.store(Arc::new(good));
        self.bad.store(None);
    }

    /// Notes that the file is not in force, and why.
    pub(crate) fn failed(&self, problems: Vec<String>, at: SystemTime) {
        self.bad
            .store(Some(Arc::new(FailedConfig { at, problems })));
    }

    /// What is in force.
    pub(crate) fn good(&self) -> Arc<GoodConfig> {
        self.good.load_full()
    }

    /// The failed load after the last good one.
    pub(crate) fn failed_load(&self) -> Option<Arc<FailedConfig>> {
        self.bad.load_full()
    }
}
