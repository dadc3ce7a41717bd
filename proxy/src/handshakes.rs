//! The TLS handshakes in flight on one listener. Where there are as many as may be, the oldest
//! gives way to the newest: an honest handshake takes a few round trips, so that among many it
//! is those that do not go on which are the oldest.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

/// Handshakes in flight. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Handshakes {
    most: usize,
    open: Arc<Mutex<Open>>,
}

#[derive(Debug, Default)]
struct Open {
    next: u64,
    /// By age, the oldest first.
    waiting: BTreeMap<u64, Arc<Notify>>,
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
        }
    }

    /// Begins one, for which the oldest may have to give way.
    pub(crate) fn begin(&self) -> Handshake {
        let gives_way = Arc::new(Notify::new());
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.waiting.len() >= self.most
            && let Some((_, oldest)) = open.waiting.pop_first()
        {
            oldest.notify_one();
        }
        let number = open.next;
        open.next += 1;
        open.waiting.insert(number, Arc::clone(&gives_way));
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
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[test]
    fn the_oldest_gives_way_to_the_newest() {
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
}
