//! Keeps the policies in force equal to the files, as long as those are good: a broken edit
//! is told with its places and leaves the last good policies as they are.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use wayleave_authz::load::PolicyFile;
use wayleave_authz::{Engine, Inputs, LoadErrors};

use crate::file_watch::FileWatch;
use crate::policy_loads::PolicyLoads;
use crate::policy_switch::{PolicySwitch, SourceId};
use crate::record::metrics::Metrics;

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

    /// Reads and compiles, and remembers what was read.
    ///
    /// # Errors
    /// All the problems of all the files.
    pub(crate) fn open(self) -> Result<LoadedPolicies, LoadErrors> {
        let inputs = self.read()?;
        let engine = Engine::load(&inputs)?;
        Ok(LoadedPolicies {
            files: self,
            texts: inputs.policies,
            engine,
        })
    }
}

/// Good policies that are not in force yet.
#[derive(Debug)]
pub(crate) struct LoadedPolicies {
    files: PolicyFiles,
    texts: Vec<PolicyFile>,
    engine: Engine,
}

/// Loads policies again whenever their files change.
pub(crate) struct PolicyReloader {
    files: PolicyFiles,
    switch: PolicySwitch,
    source: SourceId,
    metrics: Arc<Metrics>,
    loads: Arc<PolicyLoads>,
    /// What was read last, good or not: only a difference is worth a load.
    seen: Option<Vec<PolicyFile>>,
    /// The last problem with reading, so that it is told once.
    unreadable: Option<String>,
}

impl PolicyReloader {
    /// Puts policies in force, in place of those from anywhere else.
    pub(crate) fn start(
        loaded: LoadedPolicies,
        switch: PolicySwitch,
        metrics: Arc<Metrics>,
        loads: Arc<PolicyLoads>,
    ) -> Self {
        let reloader = Self {
            files: loaded.files,
            source: switch.other_source(),
            switch,
            metrics,
            loads,
            seen: Some(loaded.texts),
            unreadable: None,
        };
        reloader.adopt(loaded.engine);
        reloader
    }

    /// Watches and reloads until dropped.
    pub(crate) async fn run(mut self) {
        let watch = FileWatch::of(&self.files.paths);
        loop {
            watch.perhaps_changed().await;
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
        if !self.switch.adopt(self.source, Arc::new(engine)) {
            return;
        }
        self.metrics.policy_load(Some(count));
        self.loads.succeeded(SystemTime::now());
        tracing::info!(%revision, policies = count, "policies in force");
    }

    fn keep_unread(&mut self, errors: &LoadErrors) {
        let text = errors.to_string();
        if self.unreadable.as_ref() != Some(&text) {
            self.keep_last_good(errors);
            self.unreadable = Some(text);
        }
    }

    fn keep_last_good(&self, errors: &LoadErrors) {
        if !self.switch.is_fed_by(self.source) {
            return;
        }
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
