//! The TLS handshakes in flight on one listener. Where there are as many as may be, the oldest
//! gives way to the newest: an honest handshake takes a few round trips, so that among many it
//! is those that do not go on which are the oldest. Each has a moment that nobody takes from it;
//! meanwhile new connections wait to be accepted.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// How long a handshake has at least: more than an honest one takes across the world.
const MOMENT: Duration = Duration::from_millis(500);

/// Handshakes in flight. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Handshakes {
    most: usize,
    open: Arc<Mutex<Open>>,
    ended: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Open {
    next: u64,
    /// By age, the oldest first.
    waiting: BTreeMap<u64, Waiting>,
}

#[derive(Debug)]
struct Waiting {
    since: Instant,
    gives_way: Arc<Notify>,
}

/// One handshake; ended when dropped.
#[derive(Debug)]
pub(crate) struct Handshake {
    all: Handshakes,
    number: u64,
    gives_way: Arc<Notify>,
}

impl Handshakes {
    /// At most so many at once.
    pub(crate) fn new(most: usize) -> Self {
        Self {
            most,
            open: Arc::default(),
            ended: Arc::default(),
        }
    }

    /// Completes when another one may begin.
    pub(crate) async fn room(&self) {
        while let Some(full_until) = self.full_until() {
            tokio::select! {
                () = self.ended.notified() => {}
                () = tokio::time::sleep_until(full_until) => return,
            }
        }
    }

    /// Where there are as many as may be: when the oldest has had its moment.
    fn full_until(&self) -> Option<Instant> {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.waiting.len() < self.most {
            return None;
        }
        let (_, oldest) = open.waiting.first_key_value()?;
        Some(oldest.since + MOMENT)
    }

    /// Begins one, for which the oldest has to give way where there is no room.
    pub(crate) fn begin(&self) -> Handshake {
        let gives_way = Arc::new(Notify::new());
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.waiting.len() >= self.most
            && let Some((_, oldest)) = open.waiting.pop_first()
        {
            oldest.gives_way.notify_one();
        }
        let number = open.next;
        open.next += 1;
        let waiting = Waiting {
            since: Instant::now(),
            gives_way: Arc::clone(&gives_way),
        };
        open.waiting.insert(number, waiting);
        drop(open);
        Handshake {
            all: self.clone(),
            number,
            gives_way,
        }
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.waiting.len()
    }
}

impl Handshake {
    /// Completes when this one has to give way.
    pub(crate) async fn gives_way(&self) {
        self.gives_way.notified().await;
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        let mut open = self.all.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.waiting.remove(&self.number);
        drop(open);
        self.all.ended.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[tokio::test(start_paused = true)]
    async fn the_oldest_gives_way_to_the_newest() {
        let all = Handshakes::new(2);
        let [first, second] = [all.begin(), all.begin()];
        assert!(first.gives_way().now_or_never().is_none());
        let third = all.begin();
        assert!(first.gives_way().now_or_never().is_some());
        assert!(second.gives_way().now_or_never().is_none());
        drop(second);
        let fourth = all.begin();
        assert!(third.gives_way().now_or_never().is_none());
        drop((first, third, fourth));
        assert_eq!(all.count(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn there_is_room_when_one_ends_or_the_oldest_has_had_its_moment() {
        let all = Handshakes::new(1);
        all.room().await;
        let first = all.begin();
        let began = Instant::now();
        all.room().await;
        assert!(began.elapsed() >= MOMENT);
        drop(first);
        let _second = all.begin();
        assert!(all.room().now_or_never().is_none());
        let third = all.begin();
        assert!(all.room().now_or_never().is_none());
        drop(third);
        assert!(all.room().now_or_never().is_some());
    }
}
