//! Keeps the policies in force equal to the files, as long as those are good: a broken edit
//! is told with its places and leaves the last good policies as they are.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use notify::{RecursiveMode, Watcher};
use tokio::sync::Notify;
use wayleave_authz::load::PolicyFile;
use wayleave_authz::{Engine, Inputs, LoadErrors, PolicyStore};

use crate::policy_loads::PolicyLoads;
use crate::record::metrics::Metrics;
use crate::review::{Changes, Trigger};

/// Changes within this time are one change: editors write a file in several steps.
const SETTLE: Duration = Duration::from_millis(100);
/// How often the files are read without having been told of a change: some file systems
/// tell nothing.
const POLL: Duration = Duration::from_secs(5);

/// Where policies come from.
#[derive(Debug, Clone)]
pub(crate) struct PolicyFiles {
    paths: Vec<PathBuf>,
}

impl PolicyFiles {
    /// Files, and folders whose `*.cedar` files are read.
    pub(crate) fn new(paths: Vec<PathBuf>) -> Self {
        Self { paths }
    }

    /// Reads the texts.
    ///
    /// # Errors
    /// When a path cannot be read.
    pub(crate) fn read(&self) -> Result<Inputs, LoadErrors> {
        let policies = wayleave_authz::load::read(&self.paths)?;
        Ok(Inputs { policies })
    }

    /// Reads and compiles.
    ///
    /// # Errors
    /// All the problems of all the files.
    pub(crate) fn load(&self) -> Result<Engine, LoadErrors> {
        Engine::load(&self.read()?)
    }
}

/// Reloads policies into a store whenever their files change.
pub(crate) struct PolicyReloader {
    files: PolicyFiles,
    store: PolicyStore,
    metrics: Arc<Metrics>,
    loads: Arc<PolicyLoads>,
    changes: Arc<Changes>,
    /// What was read last, good or not: only a difference is worth a load.
    seen: Option<Vec<PolicyFile>>,
    /// The last problem with reading, so that it is told once.
    unreadable: Option<String>,
}

impl PolicyReloader {
    /// Loads for the first time, into `store`.
    ///
    /// # Errors
    /// All the problems of all the files: a sidecar does not start with a broken policy.
    pub(crate) fn start(
        files: PolicyFiles,
        store: PolicyStore,
        metrics: Arc<Metrics>,
        loads: Arc<PolicyLoads>,
        changes: Arc<Changes>,
    ) -> Result<Self, LoadErrors> {
        let inputs = files.read()?;
        let engine = Engine::load(&inputs)?;
        let seen = Some(inputs.policies);
        let reloader = Self {
            files,
            store,
            metrics,
            loads,
            changes,
            seen,
            unreadable: None,
        };
        reloader.adopt(engine);
        Ok(reloader)
    }

    /// Watches and reloads until dropped.
    pub(crate) async fn run(mut self) {
        let changed = Arc::new(Notify::new());
        let _watcher = watch(&self.files.paths, &changed);
        loop {
            let told = tokio::time::timeout(POLL, changed.notified()).await.is_ok();
            if told {
                tokio::time::sleep(SETTLE).await;
            }
            let attempt = tokio::task::spawn_blocking(move || {
                self.reload();
                self
            });
            match attempt.await {
                Ok(reloader) => self = reloader,
                Err(error) => {
                    tracing::error!(%error, "reloading policies panicked; they stay as they are");
                    return;
                }
            }
        }
    }

    fn reload(&mut self) {
        let inputs = match self.files.read() {
            Ok(inputs) => inputs,
            Err(errors) => return self.keep_unread(&errors),
        };
        // Files that could not be read for a while are loaded again, so that it is known
        // whether they are good.
        let again = self.unreadable.take().is_some();
        if !again && self.seen.as_ref() == Some(&inputs.policies) {
            return;
        }
        match Engine::load(&inputs) {
            Ok(engine) => self.adopt(engine),
            Err(errors) => self.keep_last_good(&errors),
        }
        self.seen = Some(inputs.policies);
    }

    fn adopt(&self, engine: Engine) {
        let (revision, count) = (engine.revision(), engine.policies().len());
        self.metrics.policy_load(Some(count));
        self.loads.succeeded(SystemTime::now());
        tracing::info!(%revision, policies = count, "policies in force");
        self.store.replace(engine);
        self.changes.happened(Trigger::PolicyChange);
    }

    fn keep_unread(&mut self, errors: &LoadErrors) {
        let text = errors.to_string();
        if self.unreadable.as_ref() != Some(&text) {
            self.keep_last_good(errors);
            self.unreadable = Some(text);
        }
    }

    fn keep_last_good(&self, errors: &LoadErrors) {
        self.metrics.policy_load(None);
        self.loads.failed(errors, SystemTime::now());
        for problem in errors.problems() {
            tracing::error!(
                file = problem.file(),
                line = problem.line(),
                column = problem.column(),
                text = problem.excerpt(),
                help = problem.help_text(),
                "policy not loaded: {problem}"
            );
        }
        tracing::warn!("the last good policies stay in force");
    }
}

/// Watches the folders that hold the policies. A file is watched through its folder: a
/// watch on the file itself dies when the file is replaced.
fn watch(paths: &[PathBuf], changed: &Arc<Notify>) -> Option<notify::RecommendedWatcher> {
    let wake = Arc::clone(changed);
    let told = move |event: notify::Result<notify::Event>| {
        if event.is_ok_and(|event| !event.kind.is_access()) {
            wake.notify_one();
        }
    };
    let mut watcher = match notify::recommended_watcher(told) {
        Ok(watcher) => watcher,
        Err(error) => {
            tracing::warn!(%error, "policy files are polled: they cannot be watched");
            return None;
        }
    };
    for path in paths {
        let folder = if path.is_dir() { path } else { parent(path) };
        if let Err(error) = watcher.watch(folder, RecursiveMode::NonRecursive) {
            tracing::warn!(%error, folder = %folder.display(), "policy folder is polled: it cannot be watched");
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
