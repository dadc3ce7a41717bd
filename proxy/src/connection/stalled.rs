//! Ends an HTTP/2 stream whose caller does not read its answer, and leaves the others of its
//! connection alone.
//!
//! While a stream's window is closed, nothing polls the answer's body, so that the body cannot
//! give up by itself. The task that the stream runs in can: it is ours, by way of the executor.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::rt::Executor;
use tokio::time::{Instant, Sleep};

use crate::waiting::Waiting;

/// Runs HTTP/2 streams, each for as long as its caller reads.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patiently {
    /// How long a caller may leave unread what it was handed.
    pub(super) limit: Duration,
}

impl<F> Executor<F> for Patiently
where
    F: Future + Send + 'static,
{
    fn execute(&self, stream: F) {
        tokio::spawn(Stalling {
            stream: Some(stream),
            waiting: Waiting::Upstream,
            stalls: 0,
            limit: self.limit,
            timer: None,
        });
    }
}

pin_project_lite::pin_project! {
    struct Stalling<F> {
        #[pin]
        stream: Option<F>,
        waiting: Waiting,
        // How often the stream began to wait for its caller.
        stalls: u32,
        limit: Duration,
        // Made at the first such wait, and left to run through later ones.
        timer: Option<Timer>,
    }
}

impl<F: Future> Future for Stalling<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        let Some(stream) = this.stream.as_mut().as_pin_mut() else {
            return Poll::Ready(());
        };
        Waiting::AsBefore.say();
        if stream.poll(cx).is_ready() {
            return Poll::Ready(());
        }
        match Waiting::said() {
            Waiting::AsBefore => {}
            Waiting::Caller => {
                *this.waiting = Waiting::Caller;
                *this.stalls = this.stalls.wrapping_add(1);
            }
            other => *this.waiting = other,
        }
        if *this.waiting != Waiting::Caller {
            return Poll::Pending;
        }
        let timer = this.timer.get_or_insert_with(|| Timer::new(*this.limit));
        ready!(timer.poll(cx, *this.stalls, *this.limit));
        Waiting::GivenUp.say();
        // Dropped, the stream is reset.
        this.stream.set(None);
        Waiting::AsBefore.say();
        Poll::Ready(())
    }
}

/// Completes when one and the same wait has lasted for the limit. A stream to a fast caller waits
/// often and shortly: the timer is set once a limit at most, not for every wait.
struct Timer {
    sleep: Pin<Box<Sleep>>,
    /// The wait that it was set for.
    stall: Option<u32>,
}

impl Timer {
    fn new(limit: Duration) -> Self {
        Self {
            sleep: Box::pin(tokio::time::sleep(limit)),
            stall: None,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>, stall: u32, limit: Duration) -> Poll<()> {
        loop {
            if self.stall.is_none() {
                self.sleep.as_mut().reset(Instant::now() + limit);
                self.stall = Some(stall);
            }
            ready!(self.sleep.as_mut().poll(cx));
            if self.stall.take() == Some(stall) {
                return Poll::Ready(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    const LIMIT: Duration = Duration::from_secs(60);

    /// A stream that says this at each of its polls, and is woken every so often.
    fn stream(
        every: Duration,
        mut said: impl FnMut(u32) -> Waiting + Send,
    ) -> (Stalling<impl Future<Output = ()> + Send>, Arc<AtomicBool>) {
        let given_up = Arc::new(AtomicBool::new(false));
        struct TellsWhy(Arc<AtomicBool>);
        impl Drop for TellsWhy {
            fn drop(&mut self) {
                self.0
                    .store(Waiting::said() == Waiting::GivenUp, Ordering::SeqCst);
            }
        }
        let why = TellsWhy(Arc::clone(&given_up));
        let mut polls = 0;
        let mut ticks = tokio::time::interval(every);
        let inner = async move {
            let _why = why;
            poll_fn(|cx| {
                while ticks.poll_tick(cx).is_ready() {
                    polls += 1;
                    said(polls).say();
                    if polls == 100 {
                        return Poll::Ready(());
                    }
                }
                Poll::Pending
            })
            .await;
        };
        let stalling = Stalling {
            stream: Some(inner),
            waiting: Waiting::Upstream,
            stalls: 0,
            limit: LIMIT,
            timer: None,
        };
        (stalling, given_up)
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_its_caller_does_not_read_is_dropped() {
        let (stalling, given_up) = stream(LIMIT / 10, |poll| match poll {
            1 => Waiting::Caller,
            _ => Waiting::AsBefore,
        });
        let began = Instant::now();
        stalling.await;
        assert!(given_up.load(Ordering::SeqCst));
        assert_eq!(began.elapsed().as_secs(), LIMIT.as_secs());
    }

    #[tokio::test(start_paused = true)]
    async fn many_short_waits_are_not_a_long_one() {
        let (stalling, given_up) = stream(LIMIT / 2, |_| Waiting::Caller);
        stalling.await;
        assert!(!given_up.load(Ordering::SeqCst));
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_for_the_upstream_has_no_end_here() {
        let (stalling, given_up) = stream(LIMIT * 10, |_| Waiting::Upstream);
        stalling.await;
        assert!(!given_up.load(Ordering::SeqCst));
    }
}
