//! Tells that files may have changed: by the system's word, and every few seconds without it.
//!
//! Reads none of them; whoever waits here reads and compares.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;

/// Changes within this time are one change: editors write a file in several steps.
const SETTLE: Duration = Duration::from_millis(100);
/// How often the files are to be read without a word from the system: some file systems tell
/// nothing.
const POLL: Duration = Duration::from_secs(5);

/// A watch on files and folders; it ends when dropped.
#[derive(Debug)]
pub(crate) struct FileWatch {
    changed: Arc<Notify>,
    _watcher: Option<RecommendedWatcher>,
}

impl FileWatch {
    /// Watches the folders among `paths`, and those that hold the files among them. A watch on
    /// a file itself would die when the file is replaced.
    pub(crate) fn of(paths: &[PathBuf]) -> Self {
        let changed = Arc::new(Notify::new());
        let watcher = watch(paths, &changed);
        Self {
            changed,
            _watcher: watcher,
        }
    }

    /// Completes when it is time to look at the files again; may be dropped and called again.
    pub(crate) async fn perhaps_changed(&self) {
        let told = tokio::time::timeout(POLL, self.changed.notified()).await;
        if told.is_ok() {
            tokio::time::sleep(SETTLE).await;
        }
    }
}

fn watch(paths: &[PathBuf], changed: &Arc<Notify>) -> Option<RecommendedWatcher> {
    let wake = Arc::clone(changed);
    let told = move |event: notify::Result<notify::Event>| {
        if event.is_ok_and(|event| !event.kind.is_access()) {
            wake.notify_one();
        }
    };
    let mut watcher = match notify::recommended_watcher(told) {
        Ok(watcher) => watcher,
        Err(error) => {
            tracing::warn!(%error, "files are polled: they cannot be watched");
            return None;
        }
    };
    for path in paths {
        let folder = if path.is_dir() { path } else { parent(path) };
        if let Err(error) = watcher.watch(folder, RecursiveMode::NonRecursive) {
            tracing::warn!(%error, folder = %folder.display(), "folder is polled: it cannot be watched");
        }
    }
    Some(watcher)
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}
