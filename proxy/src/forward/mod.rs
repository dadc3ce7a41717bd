//! Carries an allowed call to the upstream and the answer back. Needs a [`Lease`] by
//! value: what was not allowed cannot be forwarded.

mod dial;
mod error;
pub(crate) mod headers;
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
pub(crate) use dial::{Dialer, UpstreamTlsClient};
use error::ForwardError;
pub(crate) use pool::Pool;
use pool::{Answer, Held};
use request_body::Progress;
pub(crate) use response_body::ResponseBody;
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
    tenure: impl FnOnce() -> Tenure,
) -> Result<Response<ResponseBody>, Denial> {
    let shape = lease.call().map_or(Shape::Http, |call| call.shape());
    let (mut request, progress) = request_body::watched(request);
    let downstream = (shape == Shape::WebSocket).then(|| hyper::upgrade::on(&mut request));
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
            let entry = lease.end();
            error.tell(entry.id(), pool.config());
            return Err(Denial::upstream_failed(entry, error.failure()));
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
        _ => Ok(relay(lease, response, held)),
    }
}

fn relay(mut lease: Lease, response: Response<Incoming>, held: Held) -> Response<ResponseBody> {
    lease.answered(response.status());
    let (mut head, body) = response.into_parts();
    head.version = Version::HTTP_11;
    headers::strip_hop_by_hop(&mut head.headers, headers::Upgrade::Strip);
    Response::from_parts(head, ResponseBody::relay(body, lease, held))
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
