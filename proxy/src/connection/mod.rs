//! One connection being served: every call on it is read, decided, forwarded and recorded here,
//! in that order.

mod answering;
mod connect;
pub(crate) mod detect;
mod ended;
mod frames;
mod half_closed;
pub(crate) mod http;
mod metered;
mod patience;
mod roster;
mod stalled;
pub(crate) mod tcp;
mod unread;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ::http::header::{CONNECTION, EXPECT};
use ::http::request::Parts;
use ::http::{HeaderValue, Method, Request, Response, StatusCode, Uri, Version};
use hyper::body::Incoming;
use wayleave_certs::Alpn;

use crate::admission::Excess;
use crate::caller::Caller;
use crate::config::{ListenerProtocol, UpstreamProtocol};
use crate::denial::{Afterwards, Denial};
use crate::drain::Drain;
use crate::enforce::{Ask, Lease};
use crate::forward::{self, ResponseBody, Tenure, Times, headers};
use crate::gate::Gate;
use crate::protocol::{Call, Shape, has, target};
use crate::record::{Calls, Entry, Origin};
use crate::route::{Found, Routes};
use crate::stream::Stream;
use crate::trust::Trust;
use answering::Answering;
use detect::Speaks;

pub(crate) use patience::interval as sweep_interval;
use patience::{Patience, Sight};
pub(crate) use roster::Roster;

/// How much of a refused target is kept for the record, in characters.
const TARGET_KEPT: usize = 256;

/// How long a connection may take to say what it is once draining has begun.
const LAST_ARRIVAL: Duration = Duration::from_secs(3);

/// Completes when a connection that has not said what it is is not worth waiting for any more:
/// who has connected before draining began is served, unless it takes too long.
pub(crate) async fn overdue(drain: &Drain) {
    drain.begun().await;
    tokio::select! {
        () = tokio::time::sleep(LAST_ARRIVAL) => {}
        () = drain.cut() => {}
    }
}

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
                () = overdue(&connection.drain) => return,
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
    /// Whether the next answer of an HTTP/1.1 connection is its last.
    closing: AtomicBool,
    patience: Mutex<Patience>,
    /// Whether its bytes are no longer HTTP.
    upgraded: AtomicBool,
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
            calls: Arc::new(Calls::at(
                gate.admission.place(&caller),
                gate.enforcer.standing.of(&caller),
            )),
            caller,
            source,
        };
        let patience = Patience::new(&gate.limits, Instant::now());
        Self {
            gate,
            origin,
            xfcc,
            served: AtomicU32::new(0),
            closing: AtomicBool::new(false),
            patience: Mutex::new(patience),
            upgraded: AtomicBool::new(false),
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
    ///
    /// What can be done at once is done before there is a future, which therefore holds nothing of
    /// the request.
    fn call(
        self: &Arc<Self>,
        request: Request<Incoming>,
    ) -> impl Future<Output = Result<Response<ResponseBody>, Infallible>> + Send + use<> {
        self.served.fetch_add(1, Ordering::Relaxed);
        if self.gate.is_proxy && request.method() == Method::CONNECT {
            return Answering::later(Arc::clone(self).connect(request));
        }
        let entry = self.gate.recorder.open(&self.origin);
        let (mut head, body) = request.into_parts();
        let (shape, version) = (Shape::of(&head), head.version);
        let expects = has(&head.headers, &EXPECT);
        let expects_continue = expects
            && version != Version::HTTP_10
            && head.headers.get(EXPECT).is_some_and(is_100_continue);
        let left = unread::when_dropped(version, &body);
        if let Some(excess) = self.origin.calls.excess() {
            let denial = excess_denial(entry, excess, &head.uri);
            return Answering::now(self.refusal(denial, shape, version, left));
        }
        let (lease, found) = match self.decide(entry, shape, &mut head) {
            Ok(allowed) => allowed,
            Err(denial) if left == Afterwards::Open => {
                return Answering::now(self.refusal(denial, shape, version, left));
            }
            Err(denial) => {
                let connection = Arc::clone(self);
                return Answering::later(async move {
                    let left = unread::after(version, expects, body).await;
                    connection.refusal(denial, shape, version, left)
                });
            }
        };
        let how = forward::How {
            times: self.times(shape, lease.began().into()),
            expects_continue,
        };
        let pool = found.pool(lease.call().map_or("", Call::host));
        Answering::Forwarded {
            answer: forward::forward(lease, head, body, &pool, how, &|| self.tenure()),
            connection: Arc::clone(self),
            shape,
            version,
            left,
        }
    }

    /// An answer of our own.
    fn refusal(
        &self,
        denial: Denial,
        shape: Shape,
        version: Version,
        left: Afterwards,
    ) -> Response<ResponseBody> {
        let mut answer = denial.into_response(shape, left).map(ResponseBody::own);
        self.last_of_all(version, &mut answer);
        answer
    }

    /// Says with an answer that it is the last one, where the connection is to end and HTTP/1.1
    /// would leave the caller to guess. HTTP/2 has GOAWAY, and a tunnel is no longer HTTP.
    fn last_of_all(&self, version: Version, answer: &mut Response<ResponseBody>) {
        if self.closing.load(Ordering::Relaxed)
            && version < Version::HTTP_2
            && answer.status() != StatusCode::SWITCHING_PROTOCOLS
        {
            let close = HeaderValue::from_static("close");
            answer.headers_mut().insert(CONNECTION, close);
        }
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
                entry.refused(why.reason_code(), None, Some(kept(&head.uri)));
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

    /// How long a call that began at `began` may take. A gRPC stream may be silent for as long as both
    /// sides like; its deadline is its client's.
    fn times(&self, shape: Shape, began: tokio::time::Instant) -> Times {
        let limits = &self.gate.limits;
        let body = (shape != Shape::Grpc).then_some(limits.body_timeout);
        let whole = limits.request_timeout;
        Times {
            body,
            whole: whole.map(|whole| (began + whole, whole)),
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

    /// Whether its peer has as many connections as one peer may; tells of it.
    fn is_unwelcome(&self) -> bool {
        let unwelcome = self.origin.calls.is_unwelcome();
        if unwelcome {
            let (source, peer) = (self.origin.source, self.origin.caller.name());
            self.gate.metrics.connection_cut("peer_limit");
            tracing::warn!(%source, peer, reason_code = "peer_limit", "connection refused");
        }
        unwelcome
    }

    /// Whether a caller may still be waiting for an answer.
    fn owes_an_answer(&self) -> bool {
        !self.origin.calls.none_open() && !self.upgraded.load(Ordering::Relaxed)
    }

    /// Looks for what the connection is out of time for, and tells whoever serves it.
    fn look(&self, now: Instant) {
        let flow = self.origin.calls.flow();
        let sight = Sight {
            served: self.served.load(Ordering::Relaxed),
            busy: !self.origin.calls.none_open(),
            movement: flow.movement(),
        };
        let mut patience = self.patience.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(overdue) = patience.look(sight, &self.gate.limits, now) {
            flow.tell(overdue);
        }
    }

    /// Leaves a record of what never became a call.
    fn record_refusal(&self, reason_code: &'static str, status: Option<StatusCode>) {
        let mut entry = self.gate.recorder.open(&self.origin);
        entry.refused(reason_code, None, None);
        if let Some(status) = status {
            entry.answered(status);
        }
        entry.completed();
    }
}

/// SECURITY: before anything is read or asked that costs more than the refusal.
fn excess_denial(mut entry: Entry, excess: Excess, target: &Uri) -> Denial {
    entry.refused(excess.reason_code(), None, Some(kept(target)));
    match excess {
        Excess::Overloaded => Denial::overloaded(entry),
        Excess::PeerLimit => Denial::peer_limit(entry),
    }
}

/// What was asked for, as far as a record of a refusal keeps it.
fn kept(target: &Uri) -> String {
    target.to_string().chars().take(TARGET_KEPT).collect()
}

fn is_100_continue(expectation: &HeaderValue) -> bool {
    expectation.as_bytes().eq_ignore_ascii_case(b"100-continue")
}

/// A WebSocket handshake is an upgrade to an upstream that speaks HTTP/1.1.
fn upgrade(shape: Shape, protocol: UpstreamProtocol) -> headers::Upgrade {
    match (shape, protocol) {
        (Shape::WebSocket, UpstreamProtocol::Http1) => headers::Upgrade::WebSocket,
        _ => headers::Upgrade::Strip,
    }
}
