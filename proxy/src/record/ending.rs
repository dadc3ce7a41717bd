//! Tells the calls of one connection to end, those too that wait for more of their answer and
//! would not be looked at otherwise.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Waker};

/// Whether the calls of a connection are to end, and who is to be woken for that.
#[derive(Debug, Default)]
pub(crate) struct Ending {
    now: AtomicBool,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    wakers: Vec<Option<Waker>>,
    free: Vec<usize>,
}

impl Ending {
    /// Ends every call: those that wait are woken, and those that come to wait need not.
    pub(crate) fn begin(&self) {
        self.now.store(true, Ordering::Release);
        let waiting = std::mem::take(&mut *self.lock());
        for waker in waiting.wakers.into_iter().flatten() {
            waker.wake();
        }
    }

    /// Whether a call is to end. Where it is not, it is woken when it is; `place` is its own from
    /// the first time on, and to be given back by [`Ending::leave`].
    pub(crate) fn has_begun(&self, place: &mut Option<usize>, cx: &Context<'_>) -> bool {
        if self.now.load(Ordering::Acquire) {
            return true;
        }
        self.lock().enter(place, cx.waker());
        self.now.load(Ordering::Acquire)
    }

    /// Gives a place back.
    pub(crate) fn leave(&self, place: usize) {
        let mut waiting = self.lock();
        if let Some(waker) = waiting.wakers.get_mut(place) {
            *waker = None;
            waiting.free.push(place);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn enter(&mut self, place: &mut Option<usize>, waker: &Waker) {
        let at = *place.get_or_insert_with(|| {
            self.free.pop().unwrap_or_else(|| {
                self.wakers.push(None);
                self.wakers.len() - 1
            })
        });
        if let Some(kept) = self.wakers.get_mut(at)
            && !kept.as_ref().is_some_and(|kept| kept.will_wake(waker))
        {
            *kept = Some(waker.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn who_waits_is_woken_and_who_has_left_is_not() {
        let ending = Ending::default();
        let (stays, leaves) = (Arc::new(Count::default()), Arc::new(Count::default()));
        let (mut first, mut second) = (None, None);
        for _ in 0..2 {
            let waker = Waker::from(Arc::clone(&stays));
            assert!(!ending.has_begun(&mut first, &Context::from_waker(&waker)));
        }
        let waker = Waker::from(Arc::clone(&leaves));
        assert!(!ending.has_begun(&mut second, &Context::from_waker(&waker)));
        ending.leave(second.unwrap());
        let mut third = None;
        assert!(!ending.has_begun(&mut third, &Context::from_waker(Waker::noop())));
        assert_eq!(third, second, "a place is used again");
        ending.begin();
        assert_eq!(stays.0.load(Ordering::SeqCst), 1);
        assert_eq!(leaves.0.load(Ordering::SeqCst), 0);
        assert!(ending.has_begun(&mut None, &Context::from_waker(Waker::noop())));
        ending.leave(first.unwrap());
    }
}
