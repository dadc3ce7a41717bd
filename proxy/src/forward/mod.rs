//! Carries an allowed call to the upstream and the answer back. Needs a [`Lease`] by
//! value: what was not allowed cannot be forwarded.

mod balance;
mod budget;
mod circuit;
mod dial;
mod endpoint;
mod error;
pub(crate) mod headers;
mod health_check;
pub(crate) mod metrics;
mod pool;
mod request_body;
mod resolve;
mod response_body;
mod retry;
pub(crate) mod tunnel;
mod upstream;
mod vouch;

use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use wayleave_authz::PolicyStore;

use crate::denial::Denial;
use crate::enforce::Lease;
use crate::protocol::Shape;
pub(crate) use dial::MutualTls;
use error::ForwardError;
pub(crate) use pool::Pool;
use pool::{Answer, Held, Tried};
use request_body::{Progress, RequestBody};
pub(crate) use resolve::SystemResolver;
pub(crate) use response_body::ResponseBody;
pub(crate) use tunnel::Tenure;
pub(crate) use upstream::{EndpointStatus, Upstream, Upstreams};

/// Forwards one call and answers with the upstream's response, its body still streaming. What is
/// tried again is so only while `policies` are those that the call was decided by.
/// A call that becomes a tunnel leaves its connection, and `tenure` says for how long.
///
/// # Errors
/// A [`Denial`] that tells the caller 502, 503 or 504.
pub(crate) async fn forward(
    mut lease: Lease,
    request: Request<Incoming>,
    pool: &Arc<Pool>,
    policies: &PolicyStore,
    tenure: impl FnOnce() -> Tenure,
) -> Result<Response<ResponseBody>, Denial> {
    let shape = lease.call().map_or(Shape::Http, |call| call.shape());
    let permit = match pool.upstream().circuit.request() {
        Ok(permit) => permit,
        Err(error) => return Err(failed(lease, &error)),
    };
    let (mut request, progress) = request_body::watched(request);
    let downstream = (shape == Shape::WebSocket).then(|| hyper::upgrade::on(&mut request));
    headers::address(&mut request, pool.config());
    let answer = match &pool.config().retries {
        Some(retries) if downstream.is_none() => {
            let sent = retry::send(pool, retries, request, &progress, &mut lease, policies);
            Box::pin(sent).await
        }
        _ => send(pool, request, &progress).await,
    };
    let Answer { response, mut held } = match answer {
        Ok(answer) => answer,
        Err(error) => return Err(failed(lease, &error)),
    };
    held.permit = permit;
    match (response.status(), downstream) {
        (StatusCode::SWITCHING_PROTOCOLS, Some(downstream)) => {
            Ok(tunnel::open(lease, response, held, downstream, tenure()))
        }
        (StatusCode::SWITCHING_PROTOCOLS, None) => {
            Err(failed(lease, &ForwardError::UnexpectedUpgrade))
        }
        _ => Ok(relay(lease, response, held)),
    }
}

fn failed(lease: Lease, error: &ForwardError) -> Denial {
    tracing::debug!(error = error as &dyn std::error::Error, "upstream failed");
    Denial::upstream_failed(lease.end(), error.failure())
}

/// Sends a request once.
async fn send(
    pool: &Pool,
    request: Request<RequestBody>,
    progress: &Progress,
) -> Result<Answer, ForwardError> {
    let mut tried = Tried::default();
    let sent = pool.send(request, &mut tried);
    match within(pool.config().response_timeout, progress, sent).await {
        Ok(sent) => sent.map_err(|unanswered| unanswered.error),
        Err(error) => {
            pool.timed_out(&tried);
            Err(error)
        }
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
    answer: impl Future<Output = T>,
) -> Result<T, ForwardError> {
    tokio::pin!(answer);
    let mut seen = progress.bytes();
    loop {
        match tokio::time::timeout(limit, &mut answer).await {
            Ok(answer) => return Ok(answer),
            Err(_) if progress.bytes() != seen => seen = progress.bytes(),
            Err(_) => return Err(ForwardError::ResponseTimeout(limit)),
        }
    }
}
