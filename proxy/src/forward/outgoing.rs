//! A call on its way from the decision to the answer: the long way, on which anything may have to be
//! waited for, and what both ways have in common.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;

use http::{Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use tokio::time::Instant;

use super::circuit::RequestPermit;
use super::error::ForwardError;
use super::expectation::{Over, Waiting};
use super::headers;
use super::opening::{Handshake, Outcome};
use super::pool::{Answer, Pool, Tried};
use super::request_body::{Progress, RequestBody};
use super::response_body::{Relayed, ResponseBody, Words};
use super::retry;
use super::times::{Patience, Times};
use super::tunnel::{self, Tenure};
use crate::denial::Denial;
use crate::enforce::Lease;
use crate::protocol::grpc;
use crate::record::Carried;

/// A call that was allowed and has no answer yet.
pub(super) struct Outgoing {
    pub(super) lease: Lease,
    pub(super) pool: Arc<Pool>,
    pub(super) progress: Progress,
    pub(super) words: Words,
    pub(super) times: Times,
    /// Leave to be in flight, where requests are limited.
    pub(super) permit: Option<RequestPermit>,
}

/// What only few calls have.
#[derive(Default)]
pub(super) struct Special {
    /// A WebSocket's handshake, and how long its tunnel may last.
    pub(super) opening: Option<(Handshake, Tenure)>,
    /// A caller that waits to be told to send its body.
    pub(super) waiting: Option<Waiting>,
}

impl Outgoing {
    /// How long the answer's head is waited for, from `now` on.
    pub(super) fn patience(&self, now: Instant) -> Patience {
        let limit = self.pool.config().response_timeout;
        self.times.patience(limit, &self.progress, now)
    }

    /// Carries the call the long way; with what is left of its `patience`, where it has been
    /// waiting already.
    pub(super) async fn carry(
        mut self,
        request: Request<RequestBody>,
        special: Special,
        tried: Tried,
        patience: Option<Patience>,
    ) -> Result<Response<ResponseBody>, Denial> {
        let answer = match &self.pool.config().retries {
            Some(retries) if special.opening.is_none() && special.waiting.is_none() => {
                let call = retry::Call {
                    pool: &self.pool,
                    config: retries,
                    times: self.times,
                    progress: &self.progress,
                    lease: &mut self.lease,
                };
                Box::pin(call.send(request)).await
            }
            _ => {
                let patience = patience.unwrap_or_else(|| self.patience(Instant::now()));
                let sent = pin!(send(&self.pool, request, &self.progress, patience, tried));
                unless_ended(&mut self.lease, sent).await
            }
        };
        match answer {
            Ok(answer) => self.answered(answer, special),
            Err(error) => Err(self.failed(&error)),
        }
    }

    /// What the caller is told in the answer's place.
    pub(super) fn failed(mut self, error: &ForwardError) -> Denial {
        if matches!(error, ForwardError::LeaseEnded) {
            self.lease.carried(Carried {
                bytes_in: self.progress.bytes(),
                bytes_out: 0,
            });
        }
        failed(self.lease, &self.pool, error)
    }

    /// What the caller is told of an answer.
    fn answered(self, answer: Answer, special: Special) -> Result<Response<ResponseBody>, Denial> {
        let Special { opening, waiting } = special;
        let over = waiting.map(Waiting::answered);
        let outcome = match &opening {
            Some((handshake, _)) => handshake.outcome(&answer.response),
            None => plain(&answer.response),
        };
        match (outcome, opening) {
            (Outcome::Opened, Some((handshake, tenure))) => {
                let Answer { response, mut held } = answer;
                held.permit = self.permit;
                Ok(tunnel::open(self.lease, response, held, handshake, tenure))
            }
            (Outcome::Declined, _) => Ok(self.relay(answer, over)),
            (Outcome::Broken | Outcome::Opened, _) => {
                let error = ForwardError::UnexpectedUpgrade;
                Err(failed(self.lease, &self.pool, &error))
            }
        }
    }

    /// What the caller is told of an answer to a call with nothing special.
    pub(super) fn plainly_answered(self, answer: Answer) -> Result<Response<ResponseBody>, Denial> {
        if plain(&answer.response) == Outcome::Broken {
            let error = ForwardError::UnexpectedUpgrade;
            return Err(failed(self.lease, &self.pool, &error));
        }
        Ok(self.relay(answer, None))
    }

    fn relay(mut self, answer: Answer, over: Option<Over>) -> Response<ResponseBody> {
        let Answer { response, mut held } = answer;
        held.permit = self.permit;
        self.lease.answered(response.status());
        if self.words == Words::Grpc && grpc::is_error(response.headers()) {
            self.lease.grpc_failed();
        }
        let (mut head, body) = response.into_parts();
        head.version = Version::HTTP_11;
        headers::strip_hop_by_hop(&mut head.headers, headers::Upgrade::Strip);
        let how = Relayed {
            words: self.words,
            upload: self.progress,
            deadline: self.times.deadline(),
            over,
        };
        Response::from_parts(head, ResponseBody::relay(body, self.lease, held, how))
    }
}

/// What to make of an answer to what was no handshake.
fn plain(response: &Response<Incoming>) -> Outcome {
    match response.status() {
        StatusCode::SWITCHING_PROTOCOLS => Outcome::Broken,
        _ => Outcome::Declined,
    }
}

/// What the caller is told in the answer's place: who does not send its request in time is told
/// that, and not that the upstream was slow.
pub(super) fn failed(lease: Lease, pool: &Pool, error: &ForwardError) -> Denial {
    let (entry, failure) = (lease.end(), error.failure());
    if matches!(error, ForwardError::LeaseEnded) {
        return Denial::lease_ended(entry);
    }
    error.tell(entry.id(), pool.config());
    match error.is_the_callers() {
        true => Denial::request_too_slow(entry, failure),
        false => Denial::upstream_failed(entry, failure),
    }
}

/// Waits for an answer for as long as the call is allowed. Pinned: what is passed on by value
/// is in a call's future twice, and moved that often.
pub(super) async fn unless_ended<T>(
    lease: &mut Lease,
    mut answer: Pin<&mut impl Future<Output = Result<T, ForwardError>>>,
) -> Result<T, ForwardError> {
    std::future::poll_fn(|cx| match answer.as_mut().poll(cx) {
        Poll::Pending => lease.poll_ended(cx).map(|_| Err(ForwardError::LeaseEnded)),
        answered => answered,
    })
    .await
}

/// Sends a request once.
async fn send(
    pool: &Pool,
    request: Request<RequestBody>,
    progress: &Progress,
    mut patience: Patience,
    mut tried: Tried,
) -> Result<Answer, ForwardError> {
    let answer = {
        let sent = pin!(pool.send(request, &mut tried));
        patience.within(progress, sent).await
    };
    match answer {
        Ok(sent) => sent.map_err(|unanswered| unanswered.error),
        Err(error) => {
            pool.given_up(&tried, &error);
            Err(error)
        }
    }
}
