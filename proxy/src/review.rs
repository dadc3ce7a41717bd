//! Has what is open decided again when what it was decided by has changed.
//!
//! Whoever changes something that decisions depend on counts it in [`Changes`]. Each worker then
//! wakes its open calls, a few at a time so that ordinary calls go on between them, and each call
//! decides itself again with the facts that its lease kept.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::{Duration, SystemTime};

use arc_swap::Guard;
use slab::Slab;
use tokio::sync::watch;
use wayleave_authz::PolicyStore;
use wayleave_authz::signals::Behaviour;

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
    /// The configuration asks for it from time to time.
    Reauthorize,
    /// Its principal, or its principal's SVID, was revoked.
    Revocation,
    /// Its principal is in quarantine.
    Quarantine,
    /// Its principal is said to be more or less risky than before.
    Risk,
    /// A signal of its principal has crossed what policies compare it with.
    Signal,
}

impl Trigger {
    /// The stable name for records.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::PolicyChange => "policy_change",
            Self::Time => "time",
            Self::Reauthorize => "reauthorize",
            Self::Revocation => "revocation",
            Self::Quarantine => "quarantine",
            Self::Risk => "risk",
            Self::Signal => "signal",
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

    /// Has those decided again whose principal a change concerns that is in force and counted
    /// with that principal already.
    pub(crate) fn wake(&self) {
        self.latest.send_modify(|_| {});
    }

    /// Counts a change each time that a period is over. Runs until dropped.
    pub(crate) async fn reauthorize(self: Arc<Self>, every: Duration) {
        loop {
            tokio::time::sleep(every).await;
            self.happened(Trigger::Reauthorize);
        }
    }

    /// Counts what the clock changes: the moments that policies compare the time with. Runs until
    /// dropped.
    pub(crate) async fn watch_clock(self: Arc<Self>, policies: PolicyStore) {
        let mut changed = self.latest.subscribe();
        loop {
            let now = SystemTime::now();
            let engine = Guard::into_inner(policies.current());
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
    calls: Mutex<Slab<Waiting>>,
}

/// A call that waits, and up to where it knows of what concerns its principal.
#[derive(Debug)]
struct Waiting {
    waker: Waker,
    behaviour: Option<Arc<Behaviour>>,
    seen: u64,
}

/// Which calls are woken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whom {
    All,
    /// Those whose principal something has changed for.
    Concerned,
}

/// The place of one call among the open ones. Given back when dropped.
#[derive(Debug)]
pub(crate) struct Seat {
    live: Arc<Live>,
    key: Option<usize>,
}

impl Waiting {
    fn is_concerned(&self) -> bool {
        let behaviour = self.behaviour.as_ref();
        behaviour.is_some_and(|behaviour| behaviour.changes() != self.seen)
    }
}

impl Live {
    /// A place that is taken when the call first waits.
    pub(crate) fn seat(self: &Arc<Self>) -> Seat {
        Seat {
            live: Arc::clone(self),
            key: None,
        }
    }

    /// The principals whose calls wait, each once.
    pub(crate) fn principals(&self) -> Vec<Arc<Behaviour>> {
        let (mut all, mut first) = (Vec::new(), 0);
        while let Some(behind) = self.principals_from(first, &mut all) {
            first = behind;
        }
        all.sort_unstable_by_key(Arc::as_ptr);
        all.dedup_by(|one, other| Arc::ptr_eq(one, other));
        all
    }

    /// A few at a time: the worker waits for the lock.
    fn principals_from(&self, first: usize, all: &mut Vec<Arc<Behaviour>>) -> Option<usize> {
        let calls = self.lock();
        let behind = first.saturating_add(AT_ONCE);
        if first >= calls.capacity() {
            return None;
        }
        let some = (first..behind).filter_map(|key| calls.get(key)?.behaviour.as_ref());
        for behaviour in some {
            // Most often those of one principal lie beside each other.
            if !all.last().is_some_and(|last| Arc::ptr_eq(last, behaviour)) {
                all.push(Arc::clone(behaviour));
            }
        }
        Some(behind)
    }

    /// How many calls wait.
    #[cfg(test)]
    fn waiting(&self) -> usize {
        self.lock().len()
    }

    /// Wakes the calls that wait and that a change may end, each time there is one. Runs until
    /// dropped.
    pub(crate) async fn review(self: Arc<Self>, changes: Arc<Changes>) {
        let mut changed = changes.latest.subscribe();
        let mut seen = changes.count();
        while changed.changed().await.is_ok() {
            let count = changes.count();
            let whom = match count == std::mem::replace(&mut seen, count) {
                true => Whom::Concerned,
                false => Whom::All,
            };
            let mut next = 0;
            while let Some(woken) = self.wake_from(next, whom) {
                next = woken;
                tokio::task::yield_now().await;
            }
        }
    }

    /// Wakes the calls at some places from `first` on; answers with the place behind them.
    fn wake_from(&self, first: usize, whom: Whom) -> Option<usize> {
        let calls = self.lock();
        let behind = first.saturating_add(AT_ONCE);
        if first >= calls.capacity() {
            return None;
        }
        let woken: Vec<Waker> = (first..behind)
            .filter_map(|key| calls.get(key))
            .filter(|call| whom == Whom::All || call.is_concerned())
            .map(|call| call.waker.clone())
            .collect();
        drop(calls);
        woken.into_iter().for_each(Waker::wake);
        Some(behind)
    }

    fn lock(&self) -> MutexGuard<'_, Slab<Waiting>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    /// Has `waker` woken from now on. `seen` are the changes of the principal that the call knows
    /// of already.
    pub(crate) fn wait(&mut self, waker: &Waker, behaviour: Option<&Arc<Behaviour>>, seen: u64) {
        let mut calls = self.live.lock();
        if let Some(known) = self.key.and_then(|key| calls.get_mut(key)) {
            known.waker.clone_from(waker);
            known.seen = seen;
            return;
        }
        self.key = Some(calls.insert(Waiting {
            waker: waker.clone(),
            behaviour: behaviour.map(Arc::clone),
            seen,
        }));
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
    use wayleave_authz::signals::Principals;

    /// A call that notes every change it is woken for.
    async fn call(live: Arc<Live>, changes: Arc<Changes>, reviewed: Arc<AtomicUsize>) {
        let (mut seat, mut seen) = (live.seat(), changes.count());
        poll_fn::<(), _>(move |cx| {
            let count = changes.count();
            if count != seen {
                seen = count;
                reviewed.fetch_add(1, Ordering::Relaxed);
            }
            seat.wait(cx.waker(), None, 0);
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

    #[tokio::test(start_paused = true)]
    async fn what_concerns_one_principal_wakes_its_calls_alone() {
        let (live, changes) = (Arc::<Live>::default(), Arc::<Changes>::default());
        tokio::spawn(Arc::clone(&live).review(Arc::clone(&changes)));
        let principals = Principals::new(10);
        let polled = Arc::new([AtomicUsize::new(0), AtomicUsize::new(0)]);
        for index in 0..2 {
            let behaviour = principals.of(&format!("spiffe://shop.example/{index}"));
            let (polled, mut seat) = (Arc::clone(&polled), live.seat());
            tokio::spawn(poll_fn::<(), _>(move |cx| {
                polled[index].fetch_add(1, Ordering::Relaxed);
                seat.wait(cx.waker(), Some(&behaviour), behaviour.changes());
                Poll::Pending
            }));
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
        principals.of("spiffe://shop.example/1").changed();
        changes.wake();
        tokio::time::sleep(Duration::from_millis(1)).await;
        let polled: Vec<_> = polled.iter().map(|n| n.load(Ordering::Relaxed)).collect();
        assert_eq!(polled, [1, 2]);
    }
}
