//! One connection being served: every call on it is read, decided, forwarded and recorded here,
//! in that order.

mod detect;
mod half_closed;
pub(crate) mod http;
pub(crate) mod tcp;
mod unread;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use ::http::header::EXPECT;
use ::http::request::Parts;
use ::http::{HeaderValue, Request, Response, StatusCode, Version};
use hyper::body::Incoming;
use wayleave_certs::Alpn;

use crate::caller::Caller;
use crate::config::{ListenerProtocol, UpstreamProtocol};
use crate::denial::Denial;
use crate::drain::Drain;
use crate::enforce::{Ask, Lease};
use crate::forward::{self, ResponseBody, Tenure, headers};
use crate::gate::Gate;
use crate::protocol::{Call, Shape};
use crate::record::{Entry, Origin};
use crate::route::Route;
use crate::stream::Stream;
use crate::trust::Trust;
use detect::Speaks;

/// How much of a refused target is kept for the record, in characters.
const TARGET_KEPT: usize = 256;

/// Serves a connection in the protocol of its listener: that which was `agreed` on, or that which
/// its first bytes tell. `host` is whom the caller asked for, as far as it said.
pub(crate) async fn serve(
    mut stream: Stream,
    protocol: ListenerProtocol,
    agreed: Option<Alpn>,
    host: &str,
    connection: Arc<Connection>,
) {
    let limits = &connection.gate.limits;
    let speaks = match (protocol, agreed) {
        (ListenerProtocol::Tcp, _) => Speaks::Other,
        (ListenerProtocol::Http | ListenerProtocol::Auto, Some(version)) => Speaks::Http(version),
        (listener, None) => {
            let detection = async {
                match listener {
                    ListenerProtocol::Auto => {
                        detect::protocol(&mut stream, limits.detect_timeout).await
                    }
                    _ => detect::http_version(&mut stream, limits.header_timeout)
                        .await
                        .map_or(Speaks::Nothing, Speaks::Http),
                }
            };
            tokio::select! {
                speaks = detection => speaks,
                // Nothing was asked yet, so nothing is lost.
                () = connection.drain.begun() => return,
            }
        }
    };
    match speaks {
        Speaks::Http(version) => http::serve(stream, version, connection).await,
        Speaks::Other => tcp::serve(stream, connection, host).await,
        // A client of HTTP that asks for nothing is no call.
        Speaks::Nothing if protocol == ListenerProtocol::Http => {}
        Speaks::Nothing => tcp::undetected(stream, &connection, host),
    }
}

/// What all calls of one connection share.
pub(crate) struct Connection {
    gate: Arc<Gate>,
    origin: Origin,
    /// The caller's identity as the upstream is told it; constant, so it is built once.
    xfcc: Option<HeaderValue>,
    /// Requests so far, to tell an idle connection from a busy one.
    served: AtomicU32,
    /// Whether its bytes are no longer HTTP.
    upgraded: AtomicBool,
    drain: Drain,
}

impl Connection {
    /// A connection from `caller`, who is named to the upstream by `xfcc`.
    pub(crate) fn new(
        gate: Arc<Gate>,
        caller: Caller,
        source: SocketAddr,
        xfcc: Option<HeaderValue>,
        drain: Drain,
    ) -> Self {
        let origin = Origin {
            listener: Arc::clone(&gate.name),
            service: gate.routes.only().map(|route| Arc::clone(&route.service)),
            direction: gate.enforcer.direction,
            caller,
            source,
            calls: Arc::default(),
        };
        Self {
            gate,
            origin,
            xfcc,
            served: AtomicU32::new(0),
            upgraded: AtomicBool::new(false),
            drain,
        }
    }

    /// Answers one request. Never fails: what goes wrong is an answer too.
    async fn call(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> Result<Response<ResponseBody>, Infallible> {
        self.served.fetch_add(1, Ordering::Relaxed);
        let entry = self.gate.recorder.open(&self.origin);
        let (mut head, body) = request.into_parts();
        let (shape, version) = (Shape::of(&head), head.version);
        // How a refusal is told: gRPC itself exists over HTTP/2 only.
        let told = match shape {
            Shape::Grpc if version != Version::HTTP_2 => Shape::Http,
            shape => shape,
        };
        let expectation = head.headers.get(EXPECT);
        let expects = expectation.is_some();
        let expects_continue =
            version != Version::HTTP_10 && expectation.is_some_and(is_100_continue);
        let (lease, route) = match self.decide(entry, shape, &mut head) {
            Ok(allowed) => allowed,
            Err(denial) => {
                let connection = unread::after(version, expects, body).await;
                return Ok(denial
                    .into_response(told, connection)
                    .map(ResponseBody::own));
            }
        };
        let left = unread::when_dropped(version, &body);
        let request = Request::from_parts(head, body);
        let answer = forward::forward(lease, request, &route.pool, expects_continue, || {
            self.tenure()
        })
        .await;
        if let Ok(response) = &answer
            && response.status() == StatusCode::SWITCHING_PROTOCOLS
        {
            self.upgraded.store(true, Ordering::Relaxed);
        }
        Ok(answer.unwrap_or_else(|denial| denial.into_response(told, left).map(ResponseBody::own)))
    }

    /// Reads a request's head, makes it what will be forwarded, and asks the policies.
    fn decide(
        &self,
        mut entry: Entry,
        shape: Shape,
        head: &mut Parts,
    ) -> Result<(Lease, &Arc<Route>), Denial> {
        let call = match Call::read(shape, head) {
            Ok(call) => call,
            Err(why) => {
                let target: String = head.uri.to_string().chars().take(TARGET_KEPT).collect();
                entry.refused(why.reason_code(), None, Some(target));
                return Err(Denial::ambiguous(entry, why));
            }
        };
        let Some(route) = self.gate.routes.find(&call) else {
            entry.refused("host_not_served", Some(call), None);
            return Err(Denial::host_not_served(entry));
        };
        headers::clean_request(&mut head.headers, upgrade(shape, route));
        let ask = Ask {
            call,
            origin: &self.origin,
            route,
            headers: &head.headers,
        };
        let lease = self.gate.enforcer.enforce(entry, ask)?;
        if let Some(xfcc) = &self.xfcc {
            headers::set_caller(&mut head.headers, xfcc);
        }
        Ok((lease, route))
    }

    /// Ends when the caller would no longer be let in.
    fn trust(&self) -> Trust {
        Trust::new(self.gate.identity.clone(), self.origin.caller.clone())
    }

    /// How long a tunnel that leaves this connection may last.
    fn tenure(&self) -> Tenure {
        Tenure {
            trust: self.trust(),
            drain: self.drain.clone(),
        }
    }

    /// Whether a caller may still be waiting for an answer.
    fn owes_an_answer(&self) -> bool {
        !self.is_idle() && !self.upgraded.load(Ordering::Relaxed)
    }

    fn is_idle(&self) -> bool {
        self.origin.calls.none_open()
    }
}

fn is_100_continue(expectation: &HeaderValue) -> bool {
    expectation.as_bytes().eq_ignore_ascii_case(b"100-continue")
}

/// A WebSocket handshake is an upgrade to an upstream that speaks HTTP/1.1.
fn upgrade(shape: Shape, route: &Route) -> headers::Upgrade {
    match (shape, route.pool.config().protocol) {
        (Shape::WebSocket, UpstreamProtocol::Http1) => headers::Upgrade::WebSocket,
        _ => headers::Upgrade::Strip,
    }
}
