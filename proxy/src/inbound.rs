//! Serves one inbound connection: every request on it is read, decided, forwarded and
//! recorded here, in that order.

mod connection;
mod unread;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use http::header::EXPECT;
use http::request::Parts;
use http::{HeaderValue, Request, Response};
use hyper::body::Incoming;
use tokio::net::TcpStream;
use wayleave_certs::tls::{HandshakeError, ServerTls};
use wayleave_certs::{IdentityReader, Peer};

use crate::config::{LimitsConfig, UpstreamProtocol};
use crate::denial::Denial;
use crate::drain::Drain;
use crate::enforce::{Enforcer, Lease};
use crate::forward::{self, Pool, ResponseBody, Tenure, headers};
use crate::protocol::{Call, Shape};
use crate::record::metrics::Metrics;
use crate::record::{Entry, Origin, Recorder};
use crate::trust::Trust;

/// How much of a refused target is kept for the record, in characters.
const TARGET_KEPT: usize = 256;

/// One listener's way of serving, as one worker holds it.
#[derive(Debug)]
pub(crate) struct Inbound {
    pub(crate) name: Arc<str>,
    pub(crate) limits: LimitsConfig,
    pub(crate) enforcer: Enforcer,
    pub(crate) pool: Arc<Pool>,
    pub(crate) tls: Arc<ServerTls>,
    pub(crate) identity: IdentityReader,
    pub(crate) recorder: Recorder,
    pub(crate) metrics: Arc<Metrics>,
}

/// What all requests of one connection share.
struct Connection {
    inbound: Arc<Inbound>,
    origin: Origin,
    /// The caller's identity as the upstream is told it; constant, so it is built once.
    xfcc: Option<HeaderValue>,
    /// Requests so far, to tell an idle connection from a busy one.
    served: AtomicU32,
    drain: Drain,
}

impl Inbound {
    /// Serves one accepted socket until it closes or `drain` has run its course.
    pub(crate) async fn serve(
        self: Arc<Self>,
        socket: TcpStream,
        source: SocketAddr,
        drain: Drain,
    ) {
        let handshake =
            tokio::time::timeout(self.limits.handshake_timeout, self.tls.accept(socket));
        let accepted = tokio::select! {
            accepted = handshake => accepted,
            // Nothing was asked yet, so nothing is lost.
            () = drain.begun() => return,
        };
        let (stream, peer) = match accepted {
            Ok(Ok(accepted)) => accepted,
            Ok(Err(error)) => return self.refused(source, &error),
            Err(_) => return self.timed_out(source),
        };
        self.metrics.handshake_completed(peer.tls().key_exchange);
        tracing::debug!(listener = &*self.name, %source, peer = %peer.id(), "connection");
        let connection = Arc::new(Connection::new(self, peer, source, drain));
        connection::serve(stream, connection).await;
    }

    fn refused(&self, source: SocketAddr, error: &HandshakeError) {
        let reason_code = error.reason_code();
        self.metrics.handshake_refused(reason_code);
        tracing::warn!(listener = &*self.name, %source, reason_code, %error, "handshake refused");
    }

    fn timed_out(&self, source: SocketAddr) {
        self.metrics.handshake_refused("handshake_timeout");
        tracing::warn!(
            listener = &*self.name,
            %source,
            reason_code = "handshake_timeout",
            error = format!("no complete handshake within {:?}", self.limits.handshake_timeout),
            "handshake refused"
        );
    }
}

impl Connection {
    fn new(inbound: Arc<Inbound>, peer: Peer, source: SocketAddr, drain: Drain) -> Self {
        let own = inbound.identity.current();
        let xfcc = headers::xfcc(own.as_ref().map(|own| &**own.svid()), &peer);
        let origin = Origin {
            listener: Arc::clone(&inbound.name),
            service: Arc::clone(&inbound.enforcer.service),
            peer,
            source,
            calls: Arc::default(),
        };
        Self {
            inbound,
            origin,
            xfcc,
            served: AtomicU32::new(0),
            drain,
        }
    }

    /// Answers one request. Never fails: what goes wrong is an answer too.
    async fn call(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> Result<Response<ResponseBody>, Infallible> {
        self.served.fetch_add(1, Ordering::Relaxed);
        let entry = self.inbound.recorder.open(&self.origin);
        let (mut head, body) = request.into_parts();
        let (shape, version) = (Shape::of(&head), head.version);
        let expects = head.headers.contains_key(EXPECT);
        let lease = match self.decide(entry, shape, &mut head) {
            Ok(lease) => lease,
            Err(denial) => {
                let connection = unread::after(version, expects, body).await;
                return Ok(denial
                    .into_response(shape, connection)
                    .map(ResponseBody::own));
            }
        };
        let left = unread::when_dropped(version, &body);
        let request = Request::from_parts(head, body);
        let pool = &self.inbound.pool;
        let answer = forward::forward(lease, request, pool, || self.tenure()).await;
        Ok(
            answer
                .unwrap_or_else(|denial| denial.into_response(shape, left).map(ResponseBody::own)),
        )
    }

    /// Reads a request's head, makes it what will be forwarded, and asks the policies.
    fn decide(&self, mut entry: Entry, shape: Shape, head: &mut Parts) -> Result<Lease, Denial> {
        let call = match Call::read(shape, head) {
            Ok(call) => call,
            Err(why) => {
                let target: String = head.uri.to_string().chars().take(TARGET_KEPT).collect();
                entry.refused(why.reason_code(), None, Some(target));
                return Err(Denial::ambiguous(entry, why));
            }
        };
        headers::clean_request(&mut head.headers, self.upgrade(shape));
        let Origin { peer, source, .. } = &self.origin;
        let enforcer = &self.inbound.enforcer;
        let lease = enforcer.enforce(entry, call, peer, *source, &head.headers)?;
        if let Some(xfcc) = &self.xfcc {
            headers::set_caller(&mut head.headers, xfcc);
        }
        Ok(lease)
    }

    /// A WebSocket handshake is carried to an upstream that can answer it.
    fn upgrade(&self, shape: Shape) -> headers::Upgrade {
        match (shape, self.inbound.pool.config().protocol) {
            (Shape::WebSocket, UpstreamProtocol::Http1) => headers::Upgrade::WebSocket,
            _ => headers::Upgrade::Strip,
        }
    }

    /// Ends when the peer would no longer be accepted.
    fn trust(&self) -> Trust {
        Trust::new(self.inbound.identity.clone(), self.origin.peer.clone())
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
