//! Carries an allowed call to the upstream and the answer back. Needs a [`Lease`] by
//! value: what was not allowed cannot be forwarded.

mod balance;
mod budget;
mod carry;
mod circuit;
mod dial;
mod endpoint;
mod error;
mod expectation;
pub(crate) mod headers;
mod health_check;
mod holding;
pub(crate) mod metrics;
mod opening;
mod pool;
mod request_body;
mod resolve;
mod response_body;
mod retry;
mod times;
pub(crate) mod tunnel;
mod upstream;
mod vouch;
mod websocket;

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;

use http::{Request, Response, StatusCode, Version};
use hyper::body::Incoming;

use crate::denial::Denial;
use crate::enforce::Lease;
use crate::protocol::{self, Shape};
use crate::record::Carried;
pub(crate) use dial::{MutualTls, UpstreamTlsClient};
use error::ForwardError;
use expectation::Waiting;
use opening::{Handshake, Outcome};
pub(crate) use pool::Pool;
use pool::{Answer, Held, Tried};
use request_body::{Progress, RequestBody};
pub(crate) use resolve::SystemResolver;
pub(crate) use response_body::ResponseBody;
use response_body::{Relayed, Words};
pub(crate) use times::Times;
pub(crate) use tunnel::Tenure;
pub(crate) use upstream::{Blueprint, EndpointStatus, Upstream, Upstreams};

/// The bounds within which a call is forwarded.
pub(crate) struct How {
    pub(crate) times: Times,
    /// Whether the caller waits to be told before it sends its body.
    pub(crate) expects_continue: bool,
}

/// Forwards one call and answers with the upstream's response, its body still streaming, for as
/// long as the call is allowed and `how` says.
/// A call that becomes a tunnel leaves its connection, and `tenure` says for how long.
///
/// # Errors
/// A [`Denial`] that tells the caller 502, 503 or 504.
pub(crate) async fn forward(
    mut lease: Lease,
    request: Request<Incoming>,
    pool: &Arc<Pool>,
    how: How,
    tenure: impl FnOnce() -> Tenure,
) -> Result<Response<ResponseBody>, Denial> {
    let How {
        times,
        expects_continue,
    } = how;
    let shape = lease.call().map_or(Shape::Http, |call| call.shape());
    let words = Words::of(shape, request.version());
    let permit = match pool.upstream().circuit.request() {
        Ok(permit) => permit,
        Err(error) => return Err(failed(lease, pool, &error)),
    };
    let (mut request, progress) = request_body::watched(request, lease.request_meter());
    let handshake =
        (shape == Shape::WebSocket).then(|| Handshake::begin(&mut request, pool.config().protocol));
    let waiting = match expects_continue {
        true => expectation::pass_on(&mut request, pool.config().protocol),
        false => None,
    };
    headers::address(&mut request, pool.config());
    let answer = match &pool.config().retries {
        Some(retries) if handshake.is_none() && waiting.is_none() => {
            let call = retry::Call {
                pool,
                config: retries,
                times,
                progress: &progress,
                lease: &mut lease,
            };
            Box::pin(call.send(request)).await
        }
        _ => {
            let sent = pin!(send(pool, request, &progress, times));
            unless_ended(&mut lease, sent).await
        }
    };
    let Answer { response, mut held } = match answer {
        Ok(answer) => answer,
        Err(error) => {
            if matches!(error, ForwardError::LeaseEnded) {
                lease.carried(Carried {
                    bytes_in: progress.bytes(),
                    bytes_out: 0,
                });
            }
            return Err(failed(lease, pool, &error));
        }
    };
    held.permit = permit;
    let over = waiting.map(Waiting::answered);
    let outcome = match &handshake {
        Some(handshake) => handshake.outcome(&response),
        None if response.status() == StatusCode::SWITCHING_PROTOCOLS => Outcome::Broken,
        None => Outcome::Declined,
    };
    match (outcome, handshake) {
        (Outcome::Opened, Some(handshake)) => {
            Ok(tunnel::open(lease, response, held, handshake, tenure()))
        }
        (Outcome::Declined, _) => {
            let deadline = times.deadline();
            Ok(relay(
                lease,
                response,
                held,
                Relayed {
                    words,
                    upload: progress,
                    deadline,
                    over,
                },
            ))
        }
        (Outcome::Broken | Outcome::Opened, _) => {
            Err(failed(lease, pool, &ForwardError::UnexpectedUpgrade))
        }
    }
}

/// What the caller is told in the answer's place: who does not send its request in time is told
/// that, and not that the upstream was slow.
fn failed(lease: Lease, pool: &Pool, error: &ForwardError) -> Denial {
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
async fn unless_ended<T>(
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
    times: Times,
) -> Result<Answer, ForwardError> {
    let mut tried = Tried::default();
    let limit = pool.config().response_timeout;
    let answer = {
        let sent = pin!(pool.send(request, &mut tried));
        times.within(limit, progress, sent).await
    };
    match answer {
        Ok(sent) => sent.map_err(|unanswered| unanswered.error),
        Err(error) => {
            pool.given_up(&tried, &error);
            Err(error)
        }
    }
}

fn relay(
    mut lease: Lease,
    response: Response<Incoming>,
    held: Held,
    how: Relayed,
) -> Response<ResponseBody> {
    lease.answered(response.status());
    if how.words == Words::Grpc && protocol::grpc::is_error(response.headers()) {
        lease.grpc_failed();
    }
    let (mut head, body) = response.into_parts();
    head.version = Version::HTTP_11;
    headers::strip_hop_by_hop(&mut head.headers, headers::Upgrade::Strip);
    Response::from_parts(head, ResponseBody::relay(body, lease, held, how))
}
