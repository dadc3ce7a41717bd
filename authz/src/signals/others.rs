//! What the other sidecars of a fleet counted of a principal.

use std::sync::atomic::{AtomicU64, Ordering};

use super::signal::RATES;

/// A count for each rate of the principal, and until when it holds.
#[derive(Debug)]
pub(super) struct Others {
    counts: [AtomicU64; RATES],
    until: [AtomicU64; RATES],
}

impl Others {
    pub(super) fn new() -> Self {
        Self {
            counts: std::array::from_fn(|_| AtomicU64::new(0)),
            until: std::array::from_fn(|_| AtomicU64::new(0)),
        }
    }

    pub(super) fn set(&self, place: usize, count: u64, until: u64) {
        if let (Some(to), Some(end)) = (self.counts.get(place), self.until.get(place)) {
            to.store(count, Ordering::Release);
            end.store(until, Ordering::Release);
        }
    }

    pub(super) fn count(&self, place: usize, now: u64) -> u64 {
        match (self.until.get(place), self.counts.get(place)) {
            (Some(until), Some(count)) if now < until.load(Ordering::Acquire) => {
                count.load(Ordering::Acquire)
            }
            _ => 0,
        }
    }
}
