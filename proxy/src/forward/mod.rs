//! Carries an allowed call to the upstream and the answer back. Needs a [`Lease`] by
//! value: what was not allowed cannot be forwarded.

mod carry;
mod dial;
mod error;
mod expectation;
pub(crate) mod headers;
mod opening;
mod pool;
mod request_body;
mod response_body;
pub(crate) mod tunnel;

use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response, StatusCode, Version};
use hyper::body::Incoming;

use crate::denial::Denial;
use crate::enforce::Lease;
use crate::protocol::Shape;
pub(crate) use dial::Dialer;
use error::ForwardError;
use expectation::{Over, Waiting};
use opening::{Handshake, Outcome};
pub(crate) use pool::Pool;
use pool::{Answer, Held};
use request_body::Progress;
pub(crate) use response_body::ResponseBody;
pub(crate) use tunnel::Tenure;

/// Forwards one call and answers with the upstream's response, its body still streaming.
/// With `expects_continue`, the caller waits to be told before it sends its body.
/// A call that becomes a tunnel leaves its connection, and `tenure` says for how long.
///
/// # Errors
/// A [`Denial`] that tells the caller 502 or 504.
pub(crate) async fn forward(
    lease: Lease,
    request: Request<Incoming>,
    pool: &Arc<Pool>,
    expects_continue: bool,
    tenure: impl FnOnce() -> Tenure,
) -> Result<Response<ResponseBody>, Denial> {
    let shape = lease.call().map_or(Shape::Http, |call| call.shape());
    let (mut request, progress) = request_body::watched(request);
    let handshake =
        (shape == Shape::WebSocket).then(|| Handshake::begin(&mut request, pool.config().protocol));
    let waiting = match expects_continue {
        true => expectation::pass_on(&mut request, pool.config().protocol),
        false => None,
    };
    headers::address(&mut request, pool.config());
    let answer = within(
        pool.config().response_timeout,
        &progress,
        pool.send(request),
    )
    .await;
    let Answer { response, held } = match answer {
        Ok(answer) => answer,
        Err(error) => {
            tracing::debug!(error = &error as &dyn std::error::Error, "upstream failed");
            return Err(Denial::upstream_failed(lease.end(), error.failure()));
        }
    };
    let over = waiting.map(Waiting::answered);
    let outcome = match &handshake {
        Some(handshake) => handshake.outcome(&response),
        None if response.status() == StatusCode::SWITCHING_PROTOCOLS => Outcome::Broken,
        None => Outcome::Declined,
    };
    match (outcome, handshake) {
        (Outcome::Opened, Some(handshake)) => {
            Ok(tunnel::open(lease, response, handshake, tenure()))
        }
        (Outcome::Declined, _) => Ok(relay(lease, response, held, over)),
        (Outcome::Broken | Outcome::Opened, _) => {
            let failure = ForwardError::UnexpectedUpgrade.failure();
            Err(Denial::upstream_failed(lease.end(), failure))
        }
    }
}

fn relay(
    mut lease: Lease,
    response: Response<Incoming>,
    held: Held,
    over: Option<Over>,
) -> Response<ResponseBody> {
    lease.answered(response.status());
    let (mut head, body) = response.into_parts();
    head.version = Version::HTTP_11;
    headers::strip_hop_by_hop(&mut head.headers, headers::Upgrade::Strip);
    Response::from_parts(head, ResponseBody::relay(body, lease, held, over))
}

/// Waits for the response head. The limit runs while nothing moves: an upload that goes on
/// keeps it from expiring.
async fn within<T>(
    limit: Duration,
    progress: &Progress,
    answer: impl Future<Output = Result<T, ForwardError>>,
) -> Result<T, ForwardError> {
    tokio::pin!(answer);
    let mut seen = progress.bytes();
    loop {
        match tokio::time::timeout(limit, &mut answer).await {
            Ok(answer) => return answer,
            Err(_) if progress.bytes() != seen => seen = progress.bytes(),
            Err(_) => return Err(ForwardError::ResponseTimeout(limit)),
        }
    }
}
