//! What is known against principals while the sidecar runs: the one way by which a quarantine, a
//! revocation or a rating comes into force, whoever says it, and from there into the journal, the
//! log, the metrics and the leases that it ends.

pub(crate) mod control;
mod journal;
pub(crate) mod metrics;
mod order;
pub(crate) mod store;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arc_swap::Guard;
use tokio::sync::{Notify, broadcast};
use wayleave_authz::PolicyStore;
use wayleave_authz::signals::{
    Behaviour, Change, Concerned, Known, Merged, Principals, Quarantine, RiskLevel, StandingError,
};

use crate::caller::Caller;
use crate::record::metrics::Metrics;
use crate::review::{Changes, Live, Trigger};
pub(crate) use journal::{Journal, JournalError};
pub(crate) use order::{Order, Ordered, canonical_serial};

/// How many changes may wait to be passed on to others before those others have to read anew.
const BACKLOG: usize = 4_096;
/// How often it is looked whether a quarantine is over, where the clock may have jumped.
const RECHECK: Duration = Duration::from_secs(30);
/// How often it is looked whether signals have crossed what policies compare them with.
const TICK: Duration = Duration::from_millis(100);

/// What is known against principals, and whom that is told to.
#[derive(Debug)]
pub(crate) struct Standing {
    principals: Principals,
    changes: Arc<Changes>,
    metrics: Arc<Metrics>,
    journal: Option<Journal>,
    made: broadcast::Sender<Change>,
    sooner: Notify,
}

/// Why a change is not in force, or may not outlive this process.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeepError {
    /// There is no room for it.
    #[error(transparent)]
    Full(#[from] StandingError),
    /// It is in force, and could not be written down.
    #[error("it is in force, and will be forgotten when the sidecar restarts")]
    Journal(#[from] JournalError),
}

impl Standing {
    /// What a journal remembers, where there is one; otherwise nothing is known.
    pub(crate) fn new(
        max_principals: usize,
        changes: Arc<Changes>,
        metrics: Arc<Metrics>,
        remembered: Option<(Journal, Vec<Change>)>,
    ) -> Self {
        let principals = Principals::new(max_principals);
        let (journal, remembered) = remembered.unzip();
        for change in remembered.iter().flatten() {
            // It fitted in the process that wrote it.
            let _ = principals.apply(change);
        }
        principals.expire(now_ms());
        let standing = Self {
            principals,
            changes,
            metrics,
            journal,
            made: broadcast::Sender::new(BACKLOG),
            sooner: Notify::new(),
        };
        standing.measure();
        standing
    }

    /// What a caller's calls count into; none while nobody can be named.
    pub(crate) fn of(&self, caller: &Caller) -> Option<Arc<Behaviour>> {
        caller.principal()?;
        Some(self.principals.of(caller.name()))
    }

    /// The principals.
    pub(crate) fn principals(&self) -> &Principals {
        &self.principals
    }

    /// Everything that is known, what is over left out.
    pub(crate) fn known(&self) -> Known {
        self.principals.expire(now_ms());
        self.principals.known()
    }

    /// Has a change in force when it returns that is said here and now, and so later than what is
    /// known of its subject. It is written down and passed on afterwards.
    pub(crate) fn say(&self, change: Change) -> Result<Concerned, StandingError> {
        let by = change.origin().by.clone();
        let said = self.principals.say(change);
        let (change, merged) = said.inspect_err(|error| no_room(error, &by))?;
        Ok(self.follow(change, merged))
    }

    /// Has a change in force that is said here and now, and written down when this completes.
    ///
    /// # Errors
    /// When it is not in force, or is and may be forgotten.
    pub(crate) async fn keep(&self, change: Change) -> Result<Concerned, KeepError> {
        let concerned = self.say(change)?;
        self.written().await?;
        Ok(concerned)
    }

    /// Has a change in force when it returns that is reported from outside, and was said at the time
    /// that its origin tells: what is known and was said later stands.
    pub(crate) fn report(&self, change: Change) -> Result<Concerned, StandingError> {
        let merged = self.merge(&change)?;
        Ok(self.follow(change, merged))
    }

    /// Has a change in force that others know of already. Tells whether it was news.
    pub(crate) fn adopt(&self, change: &Change) -> Result<bool, StandingError> {
        let merged = self.merge(change)?;
        self.note(change, &merged);
        Ok(merged.news)
    }

    fn merge(&self, change: &Change) -> Result<Merged, StandingError> {
        let merged = self.principals.apply(change);
        merged.inspect_err(|error| no_room(error, &change.origin().by))
    }

    /// Passes a change on to others.
    fn follow(&self, change: Change, merged: Merged) -> Concerned {
        self.note(&change, &merged);
        if merged.news {
            // Nobody need listen.
            let _ = self.made.send(change);
        }
        merged.concerned
    }

    /// What comes of a change here.
    fn note(&self, change: &Change, merged: &Merged) {
        if let Some(journal) = self.journal.as_ref().filter(|_| merged.news) {
            journal.write(change);
        }
        match &merged.concerned {
            Concerned::Nobody => return,
            Concerned::Principal(_) => self.changes.wake(),
            Concerned::Serial(_) => self.changes.happened(Trigger::Revocation),
        }
        tell(change);
        self.metrics.standing().changed(change);
        self.sooner.notify_one();
    }

    /// Completes when every change so far is written down, where changes are.
    ///
    /// # Errors
    /// When some of them may be forgotten.
    pub(crate) async fn written(&self) -> Result<(), JournalError> {
        match &self.journal {
            Some(journal) => journal.written().await,
            None => Ok(()),
        }
    }

    fn measure(&self) {
        self.metrics.standing().known(&self.principals.known());
    }

    /// Counts an open call that was decided again.
    pub(crate) fn lease_reviewed(&self) {
        self.metrics.standing().lease_reviewed();
    }

    /// Every change that is made here from now on.
    pub(crate) fn subscribe(&self) -> broadcast::Receiver<Change> {
        self.made.subscribe()
    }

    /// Ends quarantines when their time is over, and has principals rest that have not called for
    /// long. Runs until dropped.
    pub(crate) async fn watch_clock(self: Arc<Self>) {
        loop {
            let left = self.principals.next_end().map(|end| {
                // A moment behind it, so that it is over when it is looked at.
                Duration::from_millis(end.saturating_sub(now_ms()).saturating_add(1))
            });
            tokio::select! {
                () = tokio::time::sleep(left.unwrap_or(RECHECK).min(RECHECK)) => {}
                () = self.sooner.notified() => {
                    self.measure();
                    continue;
                }
            }
            self.principals.rest(Instant::now());
            for principal in self.principals.expire(now_ms()) {
                tracing::info!(principal = &*principal, "quarantine is over");
            }
            self.measure();
        }
    }
}

/// Has what is open decided again when a signal of its principal has crossed what the policies
/// compare it with. Runs until dropped.
pub(crate) async fn watch_signals(
    policies: PolicyStore,
    lives: Vec<Arc<Live>>,
    changes: Arc<Changes>,
) {
    loop {
        tokio::time::sleep(TICK).await;
        let Some(engine) = Guard::into_inner(policies.current()) else {
            continue;
        };
        if engine.signals_read().is_empty() {
            continue;
        }
        let (limits, now) = (engine.signal_limits(), Instant::now());
        let mut crossed = false;
        for behaviour in lives.iter().flat_map(|live| live.principals()) {
            if behaviour.bands_changed(limits, now) {
                behaviour.changed();
                crossed = true;
            }
        }
        if crossed {
            changes.wake();
        }
    }
}

/// Milliseconds since the epoch.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    u64::try_from(since.unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}

fn no_room(error: &StandingError, by: &str) {
    tracing::error!(%error, by, "cannot be kept");
}

fn tell(change: &Change) {
    let origin = change.origin();
    let (by, reason) = (&*origin.by, origin.reason.as_deref().unwrap_or_default());
    match change {
        Change::Quarantined(Quarantine {
            principal,
            until_ms,
            scope,
            ..
        }) => {
            let for_ms = until_ms.saturating_sub(origin.at_ms);
            tracing::warn!(
                principal = &**principal,
                ?scope,
                for_ms,
                by,
                reason,
                "quarantined"
            );
        }
        Change::Released { principal, .. } => {
            tracing::warn!(
                principal = &**principal,
                by,
                reason,
                "released from quarantine"
            );
        }
        Change::Revoked(revocation) => {
            tracing::warn!(subject = ?revocation.subject, by, reason, "revoked");
        }
        Change::Reinstated { subject, .. } => {
            tracing::warn!(?subject, by, reason, "reinstated");
        }
        Change::Rated(risk) => {
            let level = RiskLevel::as_str(risk.level);
            tracing::warn!(
                principal = &*risk.principal,
                level,
                by,
                reason,
                "risk rated"
            );
        }
    }
}
