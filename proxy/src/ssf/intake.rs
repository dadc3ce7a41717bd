//! Where tokens that passed every check are taken, one after the other: their effects come into
//! force at once, and whoever sent them is answered when everything about them is on disk.

use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::{mpsc, oneshot};

use super::effects::{Effects, NotKept};
use super::journal::Journal;
use super::ledger::{Entry, Ledger, Undo, Verdict};
use super::set::since_epoch;

/// How many tokens may wait.
const WAITING: usize = 256;
/// How many are written at once, at most.
const BATCH: usize = 64;

/// Takes tokens. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Intake {
    jobs: mpsc::Sender<Job>,
}

#[derive(Debug)]
struct Job {
    entry: Entry,
    answer: oneshot::Sender<Result<Verdict, NotKept>>,
}

/// A token whose effects are in force and that is not on disk yet.
struct Pending {
    verdict: Verdict,
    undo: Option<Undo>,
    answer: oneshot::Sender<Result<Verdict, NotKept>>,
}

struct Taker {
    journal: Journal,
    ledger: Ledger,
    effects: Arc<dyn Effects>,
    failing: bool,
}

impl Intake {
    /// Takes tokens until the last clone is dropped. To be called on a runtime.
    pub(super) fn start(journal: Journal, ledger: Ledger, effects: Arc<dyn Effects>) -> Self {
        let (jobs, waiting) = mpsc::channel(WAITING);
        let taker = Taker {
            journal,
            ledger,
            effects,
            failing: false,
        };
        tokio::spawn(taker.run(waiting));
        Self { jobs }
    }

    /// Takes a token; completes when it would outlive a crash.
    ///
    /// # Errors
    /// When it would not, and is to be sent again.
    pub(super) async fn take(&self, entry: Entry) -> Result<Verdict, NotKept> {
        let (answer, answered) = oneshot::channel();
        let job = Job { entry, answer };
        self.jobs.send(job).await.map_err(|_| NotKept)?;
        answered.await.map_err(|_| NotKept)?
    }
}

impl Taker {
    async fn run(mut self, mut waiting: mpsc::Receiver<Job>) {
        let mut jobs = Vec::new();
        while waiting.recv_many(&mut jobs, BATCH).await > 0 {
            let (entries, pending) = self.put_in_force(jobs.drain(..));
            let kept = match self.effects.kept().await {
                // SECURITY: nothing is acknowledged whose effects a crash could undo.
                Err(NotKept) => Err(io::Error::other("the effects could not be written")),
                Ok(()) => {
                    let written = tokio::task::spawn_blocking(move || self.write(&entries)).await;
                    let Ok((taker, written)) = written else {
                        tracing::error!("keeping events panicked; no further one is taken");
                        return;
                    };
                    self = taker;
                    written
                }
            };
            self.answer(kept, pending);
        }
    }

    /// Decides what becomes of each, and tells the effects.
    fn put_in_force(&mut self, jobs: impl Iterator<Item = Job>) -> (Vec<Entry>, Vec<Pending>) {
        let (mut entries, mut pending) = (Vec::new(), Vec::new());
        let now = since_epoch(SystemTime::now());
        for Job { entry, answer } in jobs {
            match self.ledger.take(&entry, now, &*self.effects) {
                Ok((verdict, undo)) => {
                    if undo.is_some() {
                        entries.push(entry);
                    }
                    pending.push(Pending {
                        verdict,
                        undo,
                        answer,
                    });
                }
                Err(NotKept) => {
                    let _ = answer.send(Err(NotKept));
                }
            }
        }
        (entries, pending)
    }

    fn write(mut self, entries: &[Entry]) -> (Self, io::Result<()>) {
        let written = self.journal.append(entries);
        if written.is_ok()
            && let Err(error) = self
                .journal
                .compact(&self.ledger, since_epoch(SystemTime::now()))
        {
            tracing::warn!(%error, "the journal of events could not be written anew, and grows");
        }
        (self, written)
    }

    fn answer(&mut self, kept: io::Result<()>, pending: Vec<Pending>) {
        if let Err(error) = &kept
            && !self.failing
        {
            tracing::error!(%error, "events cannot be kept, and are not acknowledged");
        }
        self.failing = kept.is_err();
        // The latest first, so that each finds things as it left them.
        for Pending {
            verdict,
            undo,
            answer,
        } in pending.into_iter().rev()
        {
            let answered = match (&kept, undo) {
                (Ok(()), _) => Ok(verdict),
                (Err(_), undo) => {
                    if let Some(undo) = undo {
                        self.ledger.undo(undo);
                    }
                    Err(NotKept)
                }
            };
            // Nobody may wait for it any more.
            let _ = answer.send(answered);
        }
    }
}
