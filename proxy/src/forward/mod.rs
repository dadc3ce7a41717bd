//! Carries an allowed call to the upstream and the answer back. Needs a [`Lease`] by
//! value: what was not allowed cannot be forwarded.

mod carry;
mod dial;
mod error;
pub(crate) mod headers;
mod pool;
mod request_body;
mod response_body;
mod times;
pub(crate) mod tunnel;
mod websocket;

use std::sync::Arc;

use http::{Request, Response, StatusCode, Version};
use hyper::body::Incoming;

use crate::denial::Denial;
use crate::enforce::Lease;
use crate::protocol::Shape;
pub(crate) use dial::Dialer;
use error::ForwardError;
pub(crate) use pool::Pool;
use pool::{Answer, Held};
pub(crate) use response_body::ResponseBody;
use response_body::Words;
pub(crate) use times::Times;
pub(crate) use tunnel::Tenure;

/// Forwards one call and answers with the upstream's response, its body still streaming.
/// A call that becomes a tunnel leaves its connection, and `tenure` says for how long.
///
/// # Errors
/// A [`Denial`] that tells the caller 502 or 504.
pub(crate) async fn forward(
    lease: Lease,
    request: Request<Incoming>,
    pool: &Arc<Pool>,
    times: Times,
    tenure: impl FnOnce() -> Tenure,
) -> Result<Response<ResponseBody>, Denial> {
    let shape = lease.call().map_or(Shape::Http, |call| call.shape());
    let words = Words::of(shape, request.version());
    let (mut request, progress) = request_body::watched(request);
    let downstream = (shape == Shape::WebSocket).then(|| hyper::upgrade::on(&mut request));
    headers::address(&mut request, pool.config());
    let limit = pool.config().response_timeout;
    let answer = times.within(limit, &progress, pool.send(request)).await;
    let Answer { response, held } = match answer {
        Ok(answer) => answer,
        Err(error) => {
            tracing::debug!(error = &error as &dyn std::error::Error, "upstream failed");
            return Err(refusal(lease, &error));
        }
    };
    match (response.status(), downstream) {
        (StatusCode::SWITCHING_PROTOCOLS, Some(downstream)) => {
            Ok(tunnel::open(lease, response, downstream, tenure()))
        }
        (StatusCode::SWITCHING_PROTOCOLS, None) => {
            let failure = ForwardError::UnexpectedUpgrade.failure();
            Err(Denial::upstream_failed(lease.end(), failure))
        }
        _ => Ok(relay(lease, response, held, words, times)),
    }
}

/// What the caller is told in the answer's place: who does not send its request in time is told
/// that, and not that the upstream was slow.
fn refusal(lease: Lease, error: &ForwardError) -> Denial {
    let (entry, failure) = (lease.end(), error.failure());
    match error.is_the_callers() {
        true => Denial::request_too_slow(entry, failure),
        false => Denial::upstream_failed(entry, failure),
    }
}

fn relay(
    mut lease: Lease,
    response: Response<Incoming>,
    held: Held,
    words: Words,
    times: Times,
) -> Response<ResponseBody> {
    lease.answered(response.status());
    let (mut head, body) = response.into_parts();
    head.version = Version::HTTP_11;
    headers::strip_hop_by_hop(&mut head.headers, headers::Upgrade::Strip);
    Response::from_parts(
        head,
        ResponseBody::relay(body, lease, held, words, times.deadline()),
    )
}
