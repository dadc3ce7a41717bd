//! How long an allowed call may take, until its answer begins and as a whole.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until, timeout_at};

use super::error::ForwardError;
use super::request_body::Progress;

/// The times of one call.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    /// Without progress of the request's body, where the caller is to send it; none where a
    /// caller may be silent for as long as it likes.
    pub(crate) body: Option<Duration>,
    /// For the whole call, where that is limited, and how long that was.
    pub(crate) whole: Option<(Instant, Duration)>,
}

impl Times {
    /// When the call is to be over.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.whole.map(|(deadline, _)| deadline)
    }

    /// How long an answer's head is waited for from `now` on. The upstream's `limit` and the
    /// caller's run while nothing moves: an upload that goes on keeps them from expiring, and one
    /// that stands still is held against whoever is to do the next thing.
    pub(super) fn patience(self, limit: Duration, progress: &Progress, now: Instant) -> Patience {
        let mut patience = Patience {
            times: self,
            limit,
            seen: progress.bytes(),
            still: Duration::ZERO,
            step: Duration::ZERO,
            until: now,
        };
        patience.begin_step(progress, now);
        patience
    }
}

/// How much longer the head of an answer is waited for.
#[derive(Debug, Clone)]
pub(super) struct Patience {
    times: Times,
    limit: Duration,
    /// The bytes of the upload when it was last looked at.
    seen: u64,
    /// For how long nothing has moved.
    still: Duration,
    step: Duration,
    /// When to look again.
    until: Instant,
}

impl Patience {
    /// Waits for the answer's head.
    pub(super) async fn within<T>(
        &mut self,
        progress: &Progress,
        mut answer: Pin<&mut impl Future<Output = T>>,
    ) -> Result<T, ForwardError> {
        loop {
            if let Ok(answer) = timeout_at(self.until, answer.as_mut()).await {
                return Ok(answer);
            }
            self.look(progress)?;
        }
    }

    /// Ready once the answer has not come in time.
    pub(super) fn poll(
        &mut self,
        progress: &Progress,
        alarm: &mut Alarm,
        cx: &mut Context<'_>,
    ) -> Poll<ForwardError> {
        loop {
            ready!(alarm.poll_until(self.until, cx));
            if let Err(error) = self.look(progress) {
                return Poll::Ready(error);
            }
        }
    }

    /// Whether there is more time, now that a step is over.
    fn look(&mut self, progress: &Progress) -> Result<(), ForwardError> {
        let now = Instant::now();
        if let Some((_, whole)) = self.times.whole.filter(|(at, _)| *at <= now) {
            let by_caller = progress.awaits_caller();
            return Err(ForwardError::RequestTimeout { whole, by_caller });
        }
        if progress.bytes() == self.seen {
            self.still += self.step;
            match self.times.body.filter(|_| progress.awaits_caller()) {
                Some(body) if self.still >= body => return Err(ForwardError::BodyTimeout(body)),
                Some(_) => {}
                None if self.still >= self.limit => {
                    return Err(ForwardError::ResponseTimeout(self.limit));
                }
                None => {}
            }
        } else {
            self.seen = progress.bytes();
            self.still = Duration::ZERO;
        }
        self.begin_step(progress, now);
        Ok(())
    }

    fn begin_step(&mut self, progress: &Progress, now: Instant) {
        let body = self.times.body.filter(|_| progress.is_watched());
        self.step = body.map_or(self.limit, |body| body.min(self.limit));
        if let Some(deadline) = self.times.deadline() {
            self.step = self.step.min(deadline.saturating_duration_since(now));
        }
        self.until = now + self.step;
    }
}

/// A timer that is kept from call to call: it is set anew only where it would ring too late, and
/// when it has rung, so that a call costs no turn of the timer wheel.
#[derive(Debug, Default)]
pub(super) struct Alarm(Option<Pin<Box<Sleep>>>);

impl Alarm {
    /// Ready at `until`, or later.
    pub(super) fn poll_until(&mut self, until: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let sleep = self.0.get_or_insert_with(|| Box::pin(sleep_until(until)));
        if sleep.deadline() > until {
            sleep.as_mut().reset(until);
        }
        // It may have been set for an earlier call, and ring for that.
        while sleep.as_mut().poll(cx).is_ready() {
            if Instant::now() >= until {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(until);
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::pin;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn times(body: u64, whole: Option<u64>) -> Times {
        let whole = whole.map(Duration::from_secs);
        Times {
            body: Some(Duration::from_secs(body)),
            whole: whole.map(|whole| (Instant::now() + whole, whole)),
        }
    }

    /// What the call ends in and when, with 60 seconds for the upstream, which never answers.
    async fn end(times: Times, progress: &Progress) -> (ForwardError, u64) {
        let began = Instant::now();
        let silent = pin!(std::future::pending::<Result<(), ForwardError>>());
        let mut patience = times.patience(60 * SECOND, progress, began);
        let error = patience.within(progress, silent).await;
        (error.unwrap_err(), began.elapsed().as_secs())
    }

    #[tokio::test(start_paused = true)]
    async fn an_upload_that_stands_still_is_the_callers_fault() {
        let upload = Progress::of_upload(None);
        upload.awaited(true);
        let (error, after) = end(times(20, None), &upload).await;
        assert!(matches!(error, ForwardError::BodyTimeout(_)), "{error}");
        assert_eq!(after, 20);
        let (error, after) = end(times(90, None), &upload).await;
        assert!(matches!(error, ForwardError::BodyTimeout(_)), "{error}");
        assert_eq!(after, 120);
    }

    #[tokio::test(start_paused = true)]
    async fn an_upstream_that_takes_no_more_is_the_upstreams_fault() {
        for progress in [Progress::of_upload(None), Progress::default()] {
            let (error, after) = end(times(20, None), &progress).await;
            assert!(matches!(error, ForwardError::ResponseTimeout(_)), "{error}");
            assert_eq!(after, 60);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_upload_that_goes_on_ends_at_the_calls_own_limit() {
        let upload = Progress::of_upload(None);
        upload.awaited(true);
        let going_on = async {
            loop {
                tokio::time::sleep(10 * SECOND).await;
                upload.moved(1);
            }
        };
        let (error, after) = tokio::select! {
            end = end(times(20, Some(300)), &upload) => end,
            () = going_on => unreachable!("it has no end"),
        };
        assert!(
            matches!(
                error,
                ForwardError::RequestTimeout {
                    by_caller: true,
                    ..
                }
            ),
            "{error}"
        );
        assert_eq!(after, 300);
    }

    /// Seconds until the alarm rings that is waited for from now on.
    async fn rings_after(alarm: &mut Alarm, seconds: u32) -> u64 {
        let began = Instant::now();
        poll_fn(|cx| alarm.poll_until(began + seconds * SECOND, cx)).await;
        began.elapsed().as_secs()
    }

    #[tokio::test(start_paused = true)]
    async fn an_alarm_that_was_set_for_an_earlier_call_does_not_ring_for_a_later_one() {
        let mut alarm = Alarm::default();
        let until = Instant::now() + 10 * SECOND;
        let first = poll_fn(|cx| Poll::Ready(alarm.poll_until(until, cx).is_ready()));
        assert!(!first.await);
        tokio::time::sleep(5 * SECOND).await;
        assert_eq!(rings_after(&mut alarm, 10).await, 10);
        assert_eq!(rings_after(&mut alarm, 10).await, 10);
    }

    #[tokio::test(start_paused = true)]
    async fn an_alarm_rings_in_time_for_a_call_that_may_take_less_than_the_one_before() {
        let mut alarm = Alarm::default();
        let until = Instant::now() + 60 * SECOND;
        let first = poll_fn(|cx| Poll::Ready(alarm.poll_until(until, cx).is_ready()));
        assert!(!first.await);
        assert_eq!(rings_after(&mut alarm, 3).await, 3);
    }
}
