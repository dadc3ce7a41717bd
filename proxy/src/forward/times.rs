//! How long an allowed call may take, until its answer begins and as a whole.

use std::pin::Pin;
use std::time::Duration;

use tokio::time::{Instant, timeout};

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

    /// Waits for the answer's head. The upstream's `limit` and the caller's run while nothing
    /// moves: an upload that goes on keeps them from expiring, and one that stands still is
    /// held against whoever is to do the next thing.
    pub(super) async fn within<T>(
        self,
        limit: Duration,
        progress: &Progress,
        mut answer: Pin<&mut impl Future<Output = T>>,
    ) -> Result<T, ForwardError> {
        let mut seen = progress.bytes();
        let mut still = Duration::ZERO;
        loop {
            let step = self.step(limit, progress);
            if let Ok(answer) = timeout(step, answer.as_mut()).await {
                return Ok(answer);
            }
            if let Some((_, whole)) = self.whole.filter(|(at, _)| *at <= Instant::now()) {
                let by_caller = progress.awaits_caller();
                return Err(ForwardError::RequestTimeout { whole, by_caller });
            }
            if progress.bytes() != seen {
                seen = progress.bytes();
                still = Duration::ZERO;
                continue;
            }
            still += step;
            match self.body.filter(|_| progress.awaits_caller()) {
                Some(body) if still >= body => return Err(ForwardError::BodyTimeout(body)),
                Some(_) => {}
                None if still >= limit => return Err(ForwardError::ResponseTimeout(limit)),
                None => {}
            }
        }
    }

    fn step(&self, limit: Duration, progress: &Progress) -> Duration {
        let body = self.body.filter(|_| progress.is_watched());
        let step = body.map_or(limit, |body| body.min(limit));
        match self.deadline() {
            Some(deadline) => step.min(deadline.saturating_duration_since(Instant::now())),
            None => step,
        }
    }
}

#[cfg(test)]
mod tests {
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
        let error = times.within(60 * SECOND, progress, silent).await;
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
}
