//! Brings a changed configuration file into force while the sidecar runs.
//!
//! Everything that can fail is done before anything changes: a file that is wrong, or that names
//! what cannot be had, leaves the sidecar as it is and is told.

use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use sha2::{Digest, Sha256};
use wayleave_certs::IdentityReader;

use super::logging::LogLevel;
use super::report;
use super::run::{output, warn};
use crate::app::{ChangeError, Prepared, Sidecar};
use crate::config::{self, Config, ConfigErrors, DecisionSink};
use crate::config_loads::{ConfigLoads, GoodConfig};
use crate::drain::DrainTimes;
use crate::file_watch::FileWatch;
use crate::identity::OpenIdentity;
use crate::identity_switch::IdentitySwitch;
use crate::listeners::ListenerConfig;
use crate::policies::PolicyFiles;
use crate::record::Output;

/// Why the file is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    /// It may have changed.
    ByChange,
    /// Somebody asked: it is loaded in any case, and files that are written are opened anew.
    BySignal,
}

/// The configuration in force, and the file that it is from.
pub(super) struct Reloader {
    path: PathBuf,
    watch: FileWatch,
    /// What was read last, good or not.
    seen: Result<String, String>,
    /// What the process was started with: some of it stays.
    started: Config,
    in_force: Config,
    loads: Arc<ConfigLoads>,
    identity: IdentitySwitch,
    reader: IdentityReader,
    level: LogLevel,
}

/// Everything of a change that can fail, done.
struct Next {
    config: Config,
    needs_restart: Vec<&'static str>,
    identity: Option<OpenIdentity>,
    output: Option<Output>,
    prepared: Prepared,
}

impl Reloader {
    /// Watches the file that `config` was read from as `text`.
    pub(super) fn new(
        path: PathBuf,
        text: String,
        config: Config,
        (identity, reader): (IdentitySwitch, IdentityReader),
        level: LogLevel,
    ) -> Self {
        let file = path.display().to_string();
        let loads = ConfigLoads::new(file, revision(&text), SystemTime::now());
        Self {
            watch: FileWatch::of(std::slice::from_ref(&path)),
            path,
            seen: Ok(text),
            started: config.clone(),
            in_force: config,
            loads: Arc::new(loads),
            identity,
            reader,
            level,
        }
    }

    /// What became of the file.
    pub(super) fn loads(&self) -> &Arc<ConfigLoads> {
        &self.loads
    }

    /// How a shutdown goes by the configuration in force.
    pub(super) fn drain_times(&self) -> DrainTimes {
        DrainTimes {
            delay: self.in_force.drain_delay,
            limit: self.in_force.drain_timeout,
        }
    }

    /// Completes when it is time to look at the file again; may be dropped and called again.
    pub(super) async fn perhaps_changed(&self) {
        self.watch.perhaps_changed().await;
    }

    /// Looks at the file, and brings it into force if it is another one and good.
    pub(super) async fn reload(&mut self, sidecar: &mut Sidecar, asked: Asked) {
        let text = config::text_of(&self.path);
        let seen = text.as_ref().map_err(ToString::to_string).cloned();
        if asked == Asked::ByChange && seen == self.seen {
            return;
        }
        self.seen = seen;
        let next = match text {
            Ok(text) => self.prepare(sidecar, &text, asked).await,
            Err(errors) => Err(problems(&errors)),
        };
        match next {
            Ok(next) => self.apply(sidecar, next).await,
            Err(problems) => self.keep(sidecar, problems),
        }
    }

    /// Does all that can fail.
    async fn prepare(
        &self,
        sidecar: &mut Sidecar,
        text: &str,
        asked: Asked,
    ) -> Result<Next, Vec<String>> {
        let mut config =
            config::parse_file(&self.path, text).map_err(|errors| problems(&errors))?;
        let needs_restart = keep_what_stays(&mut config, &self.started);
        let before = &self.in_force;
        let other = config.identity != before.identity;
        let identity =
            other.then(|| OpenIdentity::open(config.identity.clone(), SystemTime::now()));
        let identity = identity.transpose().map_err(|error| one(&error))?;
        let rotated =
            asked == Asked::BySignal && matches!(config.log.decisions, DecisionSink::File(_));
        let other = config.log.decisions != before.log.decisions;
        let output = (other || rotated).then(|| output(&config.log.decisions, config.log.format));
        let output = output.transpose().map_err(|error| one(&error))?;
        let other = config.policies != before.policies;
        let policies = other.then(|| PolicyFiles::new(config.policies.paths.clone()));
        let listeners = ListenerConfig::all(&config);
        let prepared = sidecar
            .prepare(listeners, config.probes.clone(), policies)
            .await;
        Ok(Next {
            prepared: prepared.map_err(|error| not_prepared(&error))?,
            config,
            needs_restart,
            identity,
            output,
        })
    }

    async fn apply(&mut self, sidecar: &mut Sidecar, next: Next) {
        if let Some(identity) = next.identity {
            self.identity.to(identity).await;
        }
        let changes = sidecar.apply(next.prepared, next.config.drain_timeout);
        if let Some(output) = next.output {
            sidecar.record_to(output);
        }
        self.level.set(next.config.log.level);
        warn(&next.config, &self.reader);
        self.in_force = next.config;
        sidecar
            .metrics()
            .config_load(Some(next.needs_restart.len()));
        let revision = self.seen.as_deref().map(revision).unwrap_or_default();
        tracing::info!(
            revision,
            unchanged = changes.unchanged,
            changed = changes.changed,
            added = changes.added,
            removed = changes.removed,
            "configuration in force"
        );
        if !next.needs_restart.is_empty() {
            let keys = next.needs_restart.join(", ");
            tracing::warn!(
                keys,
                "these keys need a restart; their old values stay in force"
            );
        }
        self.loads.succeeded(GoodConfig {
            at: SystemTime::now(),
            revision,
            needs_restart: next.needs_restart,
        });
    }

    fn keep(&self, sidecar: &Sidecar, problems: Vec<String>) {
        sidecar.metrics().config_load(None);
        for problem in &problems {
            tracing::error!(problem, "configuration not loaded");
        }
        tracing::warn!("the last good configuration stays in force");
        self.loads.failed(problems, SystemTime::now());
    }
}

/// Puts back what only a start can change, and names what would have been another value.
fn keep_what_stays(config: &mut Config, started: &Config) -> Vec<&'static str> {
    let (now, then) = (&config.runtime, &started.runtime);
    let keys = [
        ("admin.listen", config.admin.listen != started.admin.listen),
        ("admin.socket", config.admin.socket != started.admin.socket),
        ("log.format", config.log.format != started.log.format),
        ("runtime.workers", now.workers != then.workers),
        ("runtime.max_memory", now.max_memory != then.max_memory),
        ("runtime.reuse_port", now.reuse_port != then.reuse_port),
        ("runtime.hand_over", now.hand_over != then.hand_over),
        ("signals", config.signals != started.signals),
    ];
    config.admin = started.admin.clone();
    config.log.format = started.log.format;
    config.runtime = started.runtime.clone();
    config.signals = started.signals.clone();
    let differ = keys.into_iter().filter(|(_, differs)| *differs);
    differ.map(|(key, _)| key).collect()
}

/// A hash by which people and programs tell one text from another.
fn revision(text: impl AsRef<str>) -> String {
    let hash = Sha256::digest(text.as_ref());
    hash.iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn problems(errors: &ConfigErrors) -> Vec<String> {
    let problems = errors.problems().iter();
    problems.map(config::Problem::one_line).collect()
}

fn one(error: &dyn Error) -> Vec<String> {
    vec![report::chain(error)]
}

fn not_prepared(error: &ChangeError) -> Vec<String> {
    match error {
        ChangeError::Policies(errors) => {
            let problems = errors.problems().iter();
            problems.map(ToString::to_string).collect()
        }
        ChangeError::Plan(_) | ChangeError::Panic => one(error),
    }
}
