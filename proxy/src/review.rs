//! Has what is open decided again when what it was decided by has changed.
//!
//! Whoever changes something that decisions depend on counts it in [`Changes`]. Each worker then
//! wakes its open calls, a few at a time so that ordinary calls go on between them, and each call
//! decides itself again with the facts that its lease kept.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::{Duration, SystemTime};

use slab::Slab;
use tokio::sync::watch;

use crate::policy_feeds::Feed;

/// How many open calls are woken before others have their turn.
const AT_ONCE: usize = 64;

/// How often the clock is looked at where nothing is known to change: it may jump.
const RECHECK: Duration = Duration::from_secs(30);

/// What made a decision worth making again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trigger {
    /// Other policies or entities are in force.
    PolicyChange,
    /// A moment that policies compare the time with has come.
    Time,
}

impl Trigger {
    /// The stable name for records.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::PolicyChange => "policy_change",
            Self::Time => "time",
        }
    }
}

/// Counts the changes that decisions depend on. Shared by all workers.
#[derive(Debug)]
pub(crate) struct Changes {
    count: AtomicU64,
    latest: watch::Sender<Trigger>,
}

impl Default for Changes {
    fn default() -> Self {
        Self {
            count: AtomicU64::new(0),
            latest: watch::Sender::new(Trigger::PolicyChange),
        }
    }
}

impl Changes {
    /// How many there were so far. To be read before what a decision is made from, so that a
    /// change between the two is noticed afterwards.
    pub(crate) fn count(&self) -> u64 {
        self.count.load(Ordering::Acquire)
    }

    /// The latest one.
    pub(crate) fn latest(&self) -> Trigger {
        *self.latest.borrow()
    }

    /// Counts a change that is in force already, and has what is open decided again.
    pub(crate) fn happened(&self, trigger: Trigger) {
        self.latest.send_modify(|latest| {
            *latest = trigger;
            self.count.fetch_add(1, Ordering::Release);
        });
    }

    /// Counts what the clock changes: the moments that policies compare the time with. Runs until
    /// dropped.
    pub(crate) async fn watch_clock(self: Arc<Self>, policies: Feed) {
        let mut changed = self.latest.subscribe();
        loop {
            let now = SystemTime::now();
            let engine = policies.store().current();
            let next = engine.and_then(|engine| engine.next_change(now));
            let left = next.map_or(RECHECK, |next| next.duration_since(now).unwrap_or_default());
            tokio::select! {
                () = tokio::time::sleep(left.min(RECHECK)) => {}
                // Other policies have other moments.
                _ = changed.changed() => continue,
            }
            if next.is_some_and(|next| next <= SystemTime::now()) {
                self.happened(Trigger::Time);
            }
        }
    }
}

/// The open calls of one worker that wait for something.
#[derive(Debug, Default)]
pub(crate) struct Live {
    calls: Mutex<Slab<Waker>>,
}

/// The place of one call among the open ones. Given back when dropped.
#[derive(Debug)]
pub(crate) struct Seat {
    live: Arc<Live>,
    key: Option<usize>,
}

impl Live {
    /// A place that is taken when the call first waits.
    pub(crate) fn seat(self: &Arc<Self>) -> Seat {
        Seat {
            live: Arc::clone(self),
            key: None,
        }
    }

    /// How many calls wait.
    #[cfg(test)]
    fn waiting(&self) -> usize {
        self.lock().len()
    }

    /// Wakes every call that waits each time something changes. Runs until dropped.
    pub(crate) async fn review(self: Arc<Self>, changes: Arc<Changes>) {
        let mut changed = changes.latest.subscribe();
        while changed.changed().await.is_ok() {
            let mut next = 0;
            while let Some(woken) = self.wake_from(next) {
                next = woken;
                tokio::task::yield_now().await;
            }
        }
    }

    /// Wakes the calls at some places from `first` on; answers with the place behind them.
    fn wake_from(&self, first: usize) -> Option<usize> {
        let calls = self.lock();
        let behind = first.saturating_add(AT_ONCE);
        if first >= calls.capacity() {
            return None;
        }
        let woken: Vec<Waker> = (first..behind)
            .filter_map(|key| calls.get(key).cloned())
            .collect();
        drop(calls);
        woken.into_iter().for_each(Waker::wake);
        Some(behind)
    }

    fn lock(&self) -> MutexGuard<'_, Slab<Waker>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    /// Has `waker` woken from now on.
    pub(crate) fn wait(&mut self, waker: &Waker) {
        let mut calls = self.live.lock();
        match self.key.and_then(|key| calls.get_mut(key)) {
            Some(known) => known.clone_from(waker),
            None => self.key = Some(calls.insert(waker.clone())),
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.live.lock().try_remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use std::sync::atomic::AtomicUsize;
    use std::task::Poll;

    /// A call that notes every change it is woken for.
    async fn call(live: Arc<Live>, changes: Arc<Changes>, reviewed: Arc<AtomicUsize>) {
        let (mut seat, mut seen) = (live.seat(), changes.count());
        poll_fn::<(), _>(move |cx| {
            let count = changes.count();
            if count != seen {
                seen = count;
                reviewed.fetch_add(1, Ordering::Relaxed);
            }
            seat.wait(cx.waker());
            Poll::Pending
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn every_open_call_is_woken_for_a_change_and_none_is_left() {
        let (live, changes) = (Arc::<Live>::default(), Arc::<Changes>::default());
        let reviewed = Arc::new(AtomicUsize::new(0));
        tokio::spawn(Arc::clone(&live).review(Arc::clone(&changes)));
        let calls: Vec<_> = (0..500)
            .map(|_| {
                let parts = (
                    Arc::clone(&live),
                    Arc::clone(&changes),
                    Arc::clone(&reviewed),
                );
                tokio::spawn(call(parts.0, parts.1, parts.2))
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(live.waiting(), 500);
        changes.happened(Trigger::PolicyChange);
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(reviewed.load(Ordering::Relaxed), 500);
        for call in calls {
            call.abort();
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(live.waiting(), 0);
    }
}
