//! The bounded way from the workers to the writer, and of used records back: a worker that makes
//! its records from memory of its own thread never waits for another thread's.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use uuid::Uuid;

use super::{DecisionRecord, Origin};

/// How many records wait at most. At the limit a record is dropped and counted, so that a
/// slow disk cannot stop the calls; the count is a metric and a log line.
const CAPACITY: usize = 65_536;

/// How many used records wait at most to be used again.
const SPARES: usize = 1_024;

thread_local! {
    /// Used records of this worker, to be written over.
    static STASH: RefCell<Records> = const { RefCell::new(Vec::new()) };
}

/// How long the writer lets records gather: one wake-up serves a burst.
const GATHER: Duration = Duration::from_millis(5);

/// Finished records on their way to the writer.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    waiting: Mutex<Waiting>,
    filled: Condvar,
    dropped: AtomicU64,
}

/// Boxed: a record is some hundred bytes, and moves by its address.
pub(super) type Records = Vec<Box<DecisionRecord>>;

#[derive(Debug, Default)]
struct Waiting {
    records: Records,
    spares: Records,
    closed: bool,
}

impl Queue {
    /// The record of a call that begins, in a box that was used before, if there is one.
    pub(super) fn opened(
        &self,
        id: Uuid,
        time: SystemTime,
        origin: &Origin,
    ) -> Box<DecisionRecord> {
        STASH.with_borrow_mut(|stash| {
            if stash.is_empty() {
                std::mem::swap(stash, &mut self.lock().spares);
            }
            match stash.pop() {
                Some(mut used) => {
                    used.renew(id, time, origin);
                    used
                }
                None => Box::new(DecisionRecord::new(id, time, origin)),
            }
        })
    }

    /// Takes used records back, as far as there is room.
    pub(super) fn reuse(&self, used: &mut Records) {
        let mut waiting = self.lock();
        let room = SPARES.saturating_sub(waiting.spares.len());
        let first_kept = used.len().saturating_sub(room);
        waiting.spares.extend(used.drain(first_kept..));
        drop(waiting);
        used.clear();
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn push(&self, record: Box<DecisionRecord>) {
        let mut waiting = self.lock();
        if waiting.records.len() >= CAPACITY {
            drop(waiting);
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let was_empty = waiting.records.is_empty();
        waiting.records.push(record);
        drop(waiting);
        if was_empty {
            self.filled.notify_one();
        }
    }

    /// How many records were dropped since the start.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Lets the writer end once it has written what is there.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.filled.notify_one();
    }

    /// Waits for records and moves them into `batch`; false when closed and empty.
    pub(super) fn take(&self, batch: &mut Records) -> bool {
        let mut waiting = self.lock();
        while waiting.records.is_empty() {
            if waiting.closed {
                return false;
            }
            waiting = self
                .filled
                .wait(waiting)
                .unwrap_or_else(PoisonError::into_inner);
        }
        if !waiting.closed {
            drop(waiting);
            std::thread::sleep(GATHER);
            waiting = self.lock();
        }
        std::mem::swap(&mut waiting.records, batch);
        true
    }
}
