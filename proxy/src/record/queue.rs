//! The bounded way from the workers to the writer.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use super::DecisionRecord;

/// How many records wait at most. At the limit a record is dropped and counted, so that a
/// slow disk cannot stop the calls; the count is a metric and a log line.
const CAPACITY: usize = 65_536;

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
type Records = Vec<Box<DecisionRecord>>;

#[derive(Debug, Default)]
struct Waiting {
    records: Records,
    closed: bool,
}

impl Queue {
    pub(super) fn push(&self, record: Box<DecisionRecord>) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
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
        self.waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .closed = true;
        self.filled.notify_one();
    }

    /// Waits for records and moves them into `batch`; false when closed and empty.
    pub(super) fn take(&self, batch: &mut Records) -> bool {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
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
            waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        }
        std::mem::swap(&mut waiting.records, batch);
        true
    }
}
