//! One connection being served: every call on it is read, decided, forwarded and recorded here,
//! in that order.

mod connect;
pub(crate) mod http;
pub(crate) mod tcp;
mod unread;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use ::http::header::EXPECT;
use ::http::request::Parts;
use ::http::{HeaderValue, Method, Request, Response};
use hyper::body::Incoming;

use crate::caller::Caller;
use crate::config::UpstreamProtocol;
use crate::denial::Denial;
use crate::drain::Drain;
use crate::enforce::{Ask, Lease};
use crate::forward::{self, ResponseBody, Tenure, headers};
use crate::gate::Gate;
use crate::protocol::{Call, Shape, target};
use crate::record::{Entry, Origin};
use crate::route::{Found, Routes};
use crate::trust::Trust;

/// How much of a refused target is kept for the record, in characters.
const TARGET_KEPT: usize = 256;

/// What all calls of one connection share.
pub(crate) struct Connection {
    gate: Arc<Gate>,
    origin: Origin,
    /// The caller's identity as the upstream is told it; constant, so it is built once.
    xfcc: Option<HeaderValue>,
    /// Requests so far, to tell an idle connection from a busy one.
    served: AtomicU32,
    drain: Drain,
    /// The port that the connection was made to before it was redirected here.
    redirected: Option<u16>,
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
            drain,
            redirected: None,
        }
    }

    /// The same connection, which was made to this port before it was redirected here.
    pub(crate) fn redirected_from(self, port: u16) -> Self {
        Self {
            redirected: Some(port),
            ..self
        }
    }

    /// Answers one request. Never fails: what goes wrong is an answer too.
    async fn call(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> Result<Response<ResponseBody>, Infallible> {
        self.served.fetch_add(1, Ordering::Relaxed);
        if self.gate.is_proxy && request.method() == Method::CONNECT {
            return Ok(self.connect(request).await);
        }
        let entry = self.gate.recorder.open(&self.origin);
        let (mut head, body) = request.into_parts();
        let (shape, version) = (Shape::of(&head), head.version);
        let expects = head.headers.contains_key(EXPECT);
        let (lease, found) = match self.decide(entry, shape, &mut head) {
            Ok(allowed) => allowed,
            Err(denial) => {
                let connection = unread::after(version, expects, body).await;
                return Ok(denial
                    .into_response(shape, connection)
                    .map(ResponseBody::own));
            }
        };
        let left = unread::when_dropped(version, &body);
        let request = Request::from_parts(head, body);
        let pool = found.pool(lease.call().map_or("", Call::host));
        let answer = forward::forward(lease, request, &pool, || self.tenure()).await;
        Ok(
            answer
                .unwrap_or_else(|denial| denial.into_response(shape, left).map(ResponseBody::own)),
        )
    }

    /// Reads a request's head, makes it what will be forwarded, and asks the policies.
    fn decide(
        &self,
        mut entry: Entry,
        shape: Shape,
        head: &mut Parts,
    ) -> Result<(Lease, Found<'_>), Denial> {
        let readable = match self.gate.is_proxy {
            true => target::check_scheme(head),
            false => Ok(()),
        };
        let call = match readable.and_then(|()| Call::read(shape, head)) {
            Ok(call) => call,
            Err(why) => {
                let target: String = head.uri.to_string().chars().take(TARGET_KEPT).collect();
                entry.refused(why.reason_code(), None, Some(target));
                return Err(Denial::ambiguous(entry, why));
            }
        };
        let port = || self.redirected.unwrap_or_else(|| target::port(head));
        let Some(found) = self.gate.routes.find(&call, port) else {
            return Err(self.not_found(entry, call));
        };
        headers::clean_request(&mut head.headers, upgrade(shape, found.protocol()));
        let ask = Ask {
            call,
            origin: &self.origin,
            service: found.service(),
            port: found.port(),
            headers: &head.headers,
        };
        let lease = self.gate.enforcer.enforce(entry, ask)?;
        if let Some(xfcc) = &self.xfcc {
            headers::set_caller(&mut head.headers, xfcc);
        }
        Ok((lease, found))
    }

    /// Puts a connection on record that is closed without a call.
    pub(crate) fn refuse(&self, reason_code: &'static str, host: &str) {
        let mut entry = self.gate.recorder.open(&self.origin);
        entry.refused(reason_code, Some(Call::tcp(host)), None);
        entry.completed();
    }

    /// Refuses what no service here is called by.
    fn not_found(&self, mut entry: Entry, call: Call) -> Denial {
        match self.gate.routes {
            Routes::One(_) => {
                entry.refused("host_not_served", Some(call), None);
                Denial::host_not_served(entry)
            }
            Routes::Table(_) => {
                entry.refused("destination_unknown", Some(call), None);
                Denial::destination_unknown(entry)
            }
        }
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

    fn is_idle(&self) -> bool {
        self.origin.calls.none_open()
    }
}

/// A WebSocket handshake is carried to an upstream that can answer it.
fn upgrade(shape: Shape, protocol: UpstreamProtocol) -> headers::Upgrade {
    match (shape, protocol) {
        (Shape::WebSocket, UpstreamProtocol::Http1) => headers::Upgrade::WebSocket,
        _ => headers::Upgrade::Strip,
    }
}
