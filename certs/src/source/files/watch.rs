//! Notices when the files change: directory events, debounced, and a slow poll beside them.
//!
//! Directories are watched, not files: csi-driver-spiffe swaps a `..data` symlink, and a watch
//! on the file would die with the first swap. The poll catches what events miss (network file
//! systems, a directory that was replaced, a laptop that slept).

use std::collections::BTreeSet;
use std::mem::Discriminant;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout_at};

use super::{FileError, FileProblem, FilesSource};

/// How long the watch waits for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WatchTiming {
    /// How long it must be quiet before the files are read.
    pub quiet: Duration,
    /// After how long they are read although it is not quiet.
    pub longest_unrest: Duration,
    /// How soon to read again files that were out of step.
    pub retry: Duration,
    /// How often to read without an event.
    pub poll: Duration,
}

impl Default for WatchTiming {
    fn default() -> Self {
        Self {
            quiet: Duration::from_millis(100),
            longest_unrest: Duration::from_secs(1),
            retry: Duration::from_millis(500),
            poll: Duration::from_secs(10),
        }
    }
}

/// How often files that are out of step are read again before that is called a failure.
const RETRIES: u32 = 5;

/// A source and what wakes it.
pub(super) struct Watch {
    source: FilesSource,
    timing: WatchTiming,
    changed: Arc<Notify>,
    watcher: Option<RecommendedWatcher>,
    /// The kind of failure that was logged last, so that a poll does not repeat it.
    told: Option<(PathBuf, Discriminant<FileProblem>)>,
}

impl Watch {
    pub(super) fn new(source: FilesSource, timing: WatchTiming) -> Self {
        let changed = Arc::new(Notify::new());
        let waker = Arc::clone(&changed);
        // Reading the files makes events too; only what can change them is of interest.
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if event.map_or(true, |event| !event.kind.is_access()) {
                waker.notify_one();
            }
        });
        if let Err(error) = &watcher {
            tracing::warn!(%error, poll = ?timing.poll, "cannot watch directories, only poll them");
        }
        Self {
            source,
            timing,
            changed,
            watcher: watcher.ok(),
            told: None,
        }
    }

    pub(super) async fn run(mut self) {
        loop {
            self.watch_directories();
            self.reload().await;
            let next_poll = Instant::now() + self.timing.poll;
            if timeout_at(next_poll, self.changed.notified()).await.is_ok() {
                self.until_quiet().await;
            }
        }
    }

    /// Sets the watches again each time: a directory may have been replaced.
    fn watch_directories(&mut self) {
        let Some(watcher) = &mut self.watcher else {
            return;
        };
        for directory in directories(self.source.config.paths()) {
            if let Err(error) = watcher.watch(&directory, RecursiveMode::NonRecursive) {
                tracing::debug!(directory = %directory.display(), %error, "cannot watch");
            }
        }
    }

    async fn until_quiet(&self) {
        let latest = Instant::now() + self.timing.longest_unrest;
        loop {
            let quiet = (Instant::now() + self.timing.quiet).min(latest);
            let more = timeout_at(quiet, self.changed.notified()).await.is_ok();
            if !more || Instant::now() >= latest {
                return;
            }
        }
    }

    /// Reads the files; when they are only out of step, a few times more.
    async fn reload(&mut self) {
        for attempt in 0..=RETRIES {
            match self.source.reload(SystemTime::now()) {
                Ok(changed) => return self.succeeded(changed),
                Err(error) if error.is_transient() && attempt < RETRIES => {
                    sleep(self.timing.retry).await;
                }
                Err(error) => return self.failed(&error),
            }
        }
    }

    fn succeeded(&mut self, changed: bool) {
        self.told = None;
        if changed {
            let identity = self.source.reader().current();
            let svid = identity.as_ref().map(|identity| identity.svid());
            tracing::info!(svid = ?svid, "identity read anew from its files");
        }
    }

    fn failed(&mut self, error: &FileError) {
        self.source.publisher.failed(error);
        let same = self.told.as_ref().is_some_and(|(path, kind)| {
            *path == error.path && *kind == std::mem::discriminant(&error.problem)
        });
        if !same {
            tracing::error!(%error, "identity files cannot be used; the last good identity stays");
            self.told = Some((error.path.clone(), std::mem::discriminant(&error.problem)));
        }
    }
}

/// The directories that hold the files, and those that hold what a symlink points to.
fn directories<'a>(paths: impl Iterator<Item = &'a PathBuf>) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    for path in paths {
        found.insert(directory(path));
        if let Ok(target) = path.canonicalize() {
            found.insert(directory(&target));
        }
    }
    found
}

fn directory(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}
