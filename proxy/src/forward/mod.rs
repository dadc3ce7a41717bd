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
mod forwarding;
pub(crate) mod headers;
mod health_check;
mod holding;
mod last_words;
pub(crate) mod metrics;
mod opening;
mod outgoing;
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

use std::sync::Arc;

use http::request::Parts;
use http::{Request, Response};
use hyper::body::Incoming;

use crate::denial::Denial;
use crate::enforce::Lease;
use crate::protocol::Shape;
pub(crate) use dial::{MutualTls, UpstreamTlsClient};
use forwarding::Forwarding;
use opening::Handshake;
use outgoing::{Outgoing, Special, failed};
pub(crate) use pool::Pool;
use pool::Tried;
pub(crate) use resolve::SystemResolver;
pub(crate) use response_body::ResponseBody;
use response_body::Words;
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
/// long as the call is allowed and `how` says; or with a [`Denial`] that tells the caller 502, 503
/// or 504. A call that becomes a tunnel leaves its connection, and `tenure` says for how long.
///
/// No future of its own but what it answers with: a request that went through layers of futures
/// would be moved by each of them. Inlined for the same reason.
#[inline]
pub(crate) fn forward(
    lease: Lease,
    head: Parts,
    body: Incoming,
    pool: &Arc<Pool>,
    how: How,
    tenure: &dyn Fn() -> Tenure,
) -> impl Future<Output = Result<Response<ResponseBody>, Denial>> + Send + use<> {
    let How {
        times,
        expects_continue,
    } = how;
    let shape = lease.call().map_or(Shape::Http, |call| call.shape());
    let words = Words::of(shape, head.version);
    let permit = match pool.upstream().circuit.request() {
        Ok(permit) => permit,
        Err(error) => return Forwarding::over(failed(lease, pool, &error)),
    };
    let (body, progress) = request_body::watched(body, lease.request_meter());
    let mut request = Request::from_parts(head, body);
    let opening = (shape == Shape::WebSocket).then(|| {
        let handshake = Handshake::begin(&mut request, pool.config().protocol);
        (handshake, tenure())
    });
    let waiting = match expects_continue {
        true => expectation::pass_on(&mut request, pool.config().protocol),
        false => None,
    };
    headers::address(&mut request, pool.config());
    let call = Outgoing {
        lease,
        pool: Arc::clone(pool),
        progress,
        words,
        times,
        permit,
    };
    if opening.is_some() || waiting.is_some() || pool.config().retries.is_some() {
        let special = Special { opening, waiting };
        return Forwarding::long(call.carry(request, special, Tried::default(), None));
    }
    forwarding::shortest(call, request)
}
