//! Which calls are tried again, and how often. A call's lease is held over all attempts; no attempt
//! is made once what is in force denies the call.

use std::pin::pin;
use std::time::{Duration, Instant};

use http::{HeaderMap, Request, StatusCode};
use hyper::body::Body;

use super::error::ForwardError;
use super::outgoing::unless_ended;
use super::pool::{Answer, Pool, Tried, Unanswered};
use super::request_body::{Progress, Replay, RequestBody};
use super::times::Times;
use crate::config::{RetryConfig, RetryOn};
use crate::enforce::Lease;
use crate::protocol::Shape;

/// The wait before a second attempt at the same endpoint; it doubles with each further one.
const FIRST_WAIT: Duration = Duration::from_millis(25);
/// The longest such wait.
const LONGEST_WAIT: Duration = Duration::from_millis(250);
/// gRPC's `UNAVAILABLE`.
const UNAVAILABLE: &[u8] = b"14";

/// What is needed to send a request again.
struct Original {
    head: Request<()>,
    body: Repeatable,
    progress: Progress,
    /// Sending it twice is the same as sending it once (RFC 9110 section 9.2.2).
    idempotent: bool,
    grpc: bool,
}

/// What of a body can be sent again.
enum Repeatable {
    Empty,
    Kept(Replay),
    Gone,
}

/// A call that may be sent more than once.
pub(super) struct Call<'a> {
    pub(super) pool: &'a Pool,
    pub(super) config: &'a RetryConfig,
    pub(super) times: Times,
    pub(super) progress: &'a Progress,
    pub(super) lease: &'a mut Lease,
}

impl Call<'_> {
    /// Sends the request as often as the settings say, until there is an answer worth relaying.
    pub(super) async fn send(
        mut self,
        mut request: Request<RequestBody>,
    ) -> Result<Answer, ForwardError> {
        let shape = self.lease.call().map_or(Shape::Http, |call| call.shape());
        let original = Original::of(&mut request, self.config, self.progress, shape);
        let (began, all) = (Instant::now(), self.pool.config().response_timeout);
        if let Some(budget) = &self.pool.upstream().budget {
            budget.request(began);
        }
        let mut tried = Tried::default();
        let mut attempt = 1;
        loop {
            let mut sent = self.attempt(request, &mut tried).await;
            let last = attempt >= self.config.attempts || began.elapsed() >= all;
            let again = !last && original.is_worth(self.config, &sent) && self.may_retry();
            let next = again.then(|| original.next(&mut sent)).flatten();
            let Some(next) = next else {
                return sent.map_err(|unanswered| unanswered.error);
            };
            tried.fail();
            // The answer is not wanted: dropping it frees or closes its connection.
            drop(sent);
            request = next;
            attempt += 1;
            self.lease.attempted(attempt);
            if !self.pool.has_untried(&tried) {
                tokio::time::sleep(wait(self.pool, attempt)).await;
            }
        }
    }

    async fn attempt(
        &mut self,
        request: Request<RequestBody>,
        tried: &mut Tried,
    ) -> Result<Answer, Unanswered> {
        let all = self.pool.config().response_timeout;
        let limit = self.config.per_try_timeout.unwrap_or(all).min(all);
        let sent = {
            let sent = pin!(self.pool.send(request, tried));
            let now = tokio::time::Instant::now();
            let mut patience = self.times.patience(limit, self.progress, now);
            let sent = pin!(patience.within(self.progress, sent));
            unless_ended(self.lease, sent).await
        };
        match sent {
            Ok(sent) => sent,
            Err(error) => {
                self.pool.given_up(tried, &error);
                Err(Unanswered::given_up(error))
            }
        }
    }

    /// SECURITY: an attempt is another forwarding, which what is in force by now must allow.
    fn may_retry(&mut self) -> bool {
        let upstream = self.pool.upstream();
        if self.lease.review().is_some() {
            return false;
        }
        let mut budget = upstream.budget.iter();
        if !budget.all(|budget| budget.retry(Instant::now())) {
            upstream.metrics.budget_exhausted.inc();
            return false;
        }
        upstream.metrics.retries.inc();
        true
    }
}

/// Between half of the time for this attempt and all of it, so that callers do not come back
/// all at once.
fn wait(pool: &Pool, attempt: u32) -> Duration {
    let doubled = FIRST_WAIT * 2_u32.saturating_pow(attempt.saturating_sub(2).min(8));
    let most = doubled.min(LONGEST_WAIT);
    let percent = u32::try_from(pool.random_below(51)).unwrap_or_default();
    most * (50 + percent) / 100
}

impl Original {
    fn of(
        request: &mut Request<RequestBody>,
        config: &RetryConfig,
        progress: &Progress,
        shape: Shape,
    ) -> Self {
        let body = match request.body().is_end_stream() {
            true => Repeatable::Empty,
            false => match request.body_mut().keep(config.buffer) {
                Some(replay) => Repeatable::Kept(replay),
                None => Repeatable::Gone,
            },
        };
        Self {
            head: with_body(request, ()),
            body,
            progress: progress.clone(),
            idempotent: request.method().is_idempotent(),
            grpc: shape == Shape::Grpc,
        }
    }

    /// Whether what came of an attempt is worth another one, and the call can take it.
    fn is_worth(&self, config: &RetryConfig, sent: &Result<Answer, Unanswered>) -> bool {
        let Some(cause) = cause(sent, self.grpc).filter(|cause| config.on.contains(cause)) else {
            return false;
        };
        // What was never sent may be sent, whatever it is.
        if matches!(sent, Err(unanswered) if unanswered.unsent.is_some()) {
            return true;
        }
        // Who names the condition says that gRPC calls may be repeated after it.
        let safe = self.idempotent || cause == RetryOn::GrpcUnavailable;
        safe && match &self.body {
            Repeatable::Empty => true,
            Repeatable::Kept(replay) => replay.is_whole(),
            Repeatable::Gone => false,
        }
    }

    /// The request of the next attempt.
    fn next(&self, sent: &mut Result<Answer, Unanswered>) -> Option<Request<RequestBody>> {
        if let Err(unanswered) = sent
            && let Some(unsent) = unanswered.unsent.take()
        {
            return Some(unsent);
        }
        let body = match &self.body {
            Repeatable::Empty => RequestBody::empty(),
            Repeatable::Kept(replay) => replay.again(&self.progress)?,
            Repeatable::Gone => return None,
        };
        Some(with_body(&self.head, body))
    }
}

/// What came of an attempt, as the settings name it; nothing where it went well.
fn cause(sent: &Result<Answer, Unanswered>, grpc: bool) -> Option<RetryOn> {
    match sent {
        Ok(answer) => match answer.response.status() {
            StatusCode::OK if grpc && is_unavailable(answer.response.headers()) => {
                Some(RetryOn::GrpcUnavailable)
            }
            status => Some(RetryOn::Status(status.as_u16())),
        },
        // What may not be called does not become allowed by asking again.
        Err(unanswered) if matches!(unanswered.error, ForwardError::AddressRefused(_)) => None,
        Err(unanswered) if unanswered.error.is_connect() => Some(RetryOn::Connect),
        Err(unanswered) => match unanswered.error {
            // Our limits, and the caller's own time, do not get better by asking again.
            ForwardError::Overloaded(_)
            | ForwardError::LeaseEnded
            | ForwardError::BodyTimeout(_)
            | ForwardError::RequestTimeout { .. } => None,
            _ => Some(RetryOn::Reset),
        },
    }
}

/// Whether a gRPC answer is `UNAVAILABLE` and nothing else (trailers only).
fn is_unavailable(headers: &HeaderMap) -> bool {
    let status = headers.get("grpc-status");
    status.is_some_and(|status| status.as_bytes() == UNAVAILABLE)
}

/// A request with the same head.
pub(super) fn with_body<A, B>(request: &Request<A>, body: B) -> Request<B> {
    let mut copy = Request::new(body);
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    copy
}
