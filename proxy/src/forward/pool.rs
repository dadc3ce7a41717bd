//! One worker's connections to one upstream. HTTP/1.1 connections are handed out one call
//! at a time and kept idle in between; HTTP/2 calls share one connection.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::{Request, Response};
use hyper::body::{Body, Incoming};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};

use super::dial::Dialer;
use super::error::ForwardError;
use super::request_body::RequestBody;
use crate::config::{UpstreamConfig, UpstreamProtocol};
use crate::protocol::http2::{CONNECTION_WINDOW, STREAM_WINDOW};
use crate::stream::Stream;

/// A connection that was used within this time is taken for alive; an older one may have
/// been closed under us, so a request on it is prepared to be sent again.
const FRESH: Duration = Duration::from_millis(500);

type Http1 = http1::SendRequest<RequestBody>;
type Http2 = http2::SendRequest<RequestBody>;

/// The connections of one worker to one upstream.
#[derive(Debug)]
pub(crate) struct Pool {
    dialer: Arc<Dialer>,
    idle: Mutex<Vec<Idle>>,
    shared: tokio::sync::Mutex<Option<Http2>>,
}

#[derive(Debug)]
struct Idle {
    sender: Http1,
    since: Instant,
}

/// A response whose body still streams, and the connection it streams on.
pub(super) struct Answer {
    pub(super) response: Response<Incoming>,
    pub(super) held: Held,
}

/// A connection in use by one call. Dropping it closes an HTTP/1.1 connection.
#[derive(Debug)]
pub(super) struct Held(Option<(Arc<Pool>, Http1)>);

impl Held {
    /// Returns the connection for the next call. To be called after the response's last
    /// byte only.
    pub(super) fn give_back(self) {
        if let Some((pool, sender)) = self.0 {
            pool.keep(sender);
        }
    }
}

impl Pool {
    /// An empty pool for one upstream.
    pub(crate) fn new(dialer: Arc<Dialer>) -> Arc<Self> {
        Arc::new(Self {
            dialer,
            idle: Mutex::default(),
            shared: tokio::sync::Mutex::default(),
        })
    }

    /// The upstream's settings.
    pub(crate) fn config(&self) -> &UpstreamConfig {
        self.dialer.config()
    }

    /// A connection of its own, for bytes that are not looked into.
    pub(super) async fn dial(&self) -> Result<Stream, ForwardError> {
        self.dialer.connect().await
    }

    /// A connection of its own for a caller that speaks TLS itself where it needs any.
    pub(super) async fn dial_for_tunnel(&self) -> Result<Stream, ForwardError> {
        self.dialer.connect_for_tunnel().await
    }

    /// Sends a request and waits for the response's head.
    pub(super) async fn send(
        self: &Arc<Self>,
        request: Request<RequestBody>,
    ) -> Result<Answer, ForwardError> {
        match self.config().protocol {
            UpstreamProtocol::Http1 => self.send_http1(request).await,
            UpstreamProtocol::Http2 => self.send_http2(request).await,
        }
    }

    async fn send_http1(
        self: &Arc<Self>,
        mut request: Request<RequestBody>,
    ) -> Result<Answer, ForwardError> {
        while let Some(Idle { mut sender, since }) = self.take() {
            let spare = (since.elapsed() > FRESH).then(|| spare(&request)).flatten();
            match sender.try_send_request(request).await {
                Ok(response) => return Ok(self.answer(response, sender)),
                // Closed before a byte was sent, or safe to send again: the next one.
                Err(mut error) => match error.take_message().or(spare) {
                    Some(unsent) => request = unsent,
                    None => return Err(ForwardError::Broke(error.into_error())),
                },
            }
        }
        let mut sender = self.connect_http1().await?;
        let response = sender
            .send_request(request)
            .await
            .map_err(ForwardError::Broke)?;
        Ok(self.answer(response, sender))
    }

    fn answer(self: &Arc<Self>, response: Response<Incoming>, sender: Http1) -> Answer {
        Answer {
            response,
            held: Held(Some((Arc::clone(self), sender))),
        }
    }

    async fn send_http2(&self, request: Request<RequestBody>) -> Result<Answer, ForwardError> {
        let mut sender = self.shared_http2().await?;
        let response = sender
            .send_request(request)
            .await
            .map_err(ForwardError::Broke)?;
        Ok(Answer {
            response,
            held: Held(None),
        })
    }

    /// The most recently used idle connection that is alive.
    fn take(&self) -> Option<Idle> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(candidate) = idle.pop() {
            if candidate.since.elapsed() > self.config().pool_idle_timeout {
                // What lies below is older still.
                idle.clear();
                return None;
            }
            if candidate.sender.is_ready() {
                return Some(candidate);
            }
        }
        None
    }

    fn keep(&self, sender: Http1) {
        if sender.is_closed() {
            return;
        }
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() >= self.config().pool_max_idle {
            return;
        }
        idle.push(Idle {
            sender,
            since: Instant::now(),
        });
    }

    /// Closes connections that have been idle for too long.
    pub(crate) fn expire(&self) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|kept| kept.since.elapsed() <= self.config().pool_idle_timeout);
    }

    async fn connect_http1(&self) -> Result<Http1, ForwardError> {
        let stream = self.dialer.connect().await?;
        let (sender, connection) = http1::Builder::new()
            .handshake(TokioIo::new(stream))
            .await
            .map_err(ForwardError::Handshake)?;
        tokio::spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%error, "upstream connection ended");
            }
        });
        Ok(sender)
    }

    /// The shared connection, made anew when the last one has closed. Callers wait for one
    /// connection attempt instead of each making their own.
    async fn shared_http2(&self) -> Result<Http2, ForwardError> {
        let mut shared = self.shared.lock().await;
        if let Some(sender) = shared.as_ref().filter(|sender| !sender.is_closed()) {
            return Ok(sender.clone());
        }
        let stream = self.dialer.connect().await?;
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(Some(STREAM_WINDOW))
            .initial_connection_window_size(Some(CONNECTION_WINDOW))
            .handshake(TokioIo::new(stream))
            .await
            .map_err(ForwardError::Handshake)?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "upstream connection ended");
            }
        });
        *shared = Some(sender.clone());
        Ok(sender)
    }
}

/// A copy of a request that may be sent twice.
fn spare(request: &Request<RequestBody>) -> Option<Request<RequestBody>> {
    if !replayable(request) {
        return None;
    }
    let mut copy = Request::new(RequestBody::empty());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    Some(copy)
}

/// Whether a request may be sent a second time when a kept connection turns out dead:
/// idempotent (RFC 9110 section 9.2.2) and without a body.
fn replayable(request: &Request<RequestBody>) -> bool {
    request.method().is_idempotent()
        && request.body().is_end_stream()
        && !request.headers().contains_key(http::header::UPGRADE)
}
