//! Drives one connection's HTTP: its limits, its idle time, and its end when draining.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use wayleave_certs::Alpn;

use super::Connection;
use crate::config::LimitsConfig;
use crate::protocol::http2::{CONNECTION_WINDOW, SEND_BUFFER, STREAM_WINDOW};
use crate::record::Failure;
use crate::stream::Stream;
use crate::trust::TrustEnded;

/// How long a connection that is to finish may stay without a request: one that was just made
/// is about to ask, and a busy one is told by the answer to its next request.
const LAST_REQUEST: Duration = Duration::from_secs(2);
/// How often such a connection is looked at.
const LOOK: Duration = Duration::from_millis(200);

/// What both versions' connections can do.
trait Drivable: Future<Output = hyper::Result<()>> {
    /// Whether a caller that is told to finish loses nothing that is on its way.
    const TELLS_WHAT_WAS_SERVED: bool;

    fn finish(self: Pin<&mut Self>);
}

/// Serves a connection in the version of HTTP that was agreed on.
pub(crate) async fn serve(stream: Stream, version: Alpn, connection: Arc<Connection>) {
    let io = TokioIo::new(stream);
    let shared = Arc::clone(&connection);
    let limits = &connection.gate.limits;
    let result = match version {
        Alpn::Http1 => {
            let service = service_fn(move |request| Arc::clone(&shared).call(request));
            let serving = http1(limits).serve_connection(io, service).with_upgrades();
            drive(serving, &connection).await
        }
        Alpn::Http2 => {
            // Boxed: hyper makes a task of each call, and moves it some times before it runs.
            let service = service_fn(move |request| Box::pin(Arc::clone(&shared).call(request)));
            let serving = http2(limits).serve_connection(io, service);
            drive(serving, &connection).await
        }
    };
    if let Err(error) = result {
        report(&connection, &error);
    }
}

fn http1(limits: &LimitsConfig) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_header_size(limits.max_header_bytes);
    builder
}

fn http2(limits: &LimitsConfig) -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .max_concurrent_streams(limits.max_concurrent_streams)
        .max_header_list_size(u32::try_from(limits.max_header_bytes).unwrap_or(u32::MAX));
    builder
}

/// Why a connection is asked to finish.
enum Finish {
    Draining,
    Idle,
    Distrusted(TrustEnded),
}

/// Polls a connection to its end. Asks it to finish once, when draining begins, when nothing
/// was asked for the idle time, or when the peer is no longer trusted.
async fn drive<D: Drivable>(serving: D, connection: &Connection) -> hyper::Result<()> {
    tokio::pin!(serving);
    let distrusted = connection.trust().ended();
    tokio::pin!(distrusted);
    let limits = &connection.gate.limits;
    let mut why = tokio::select! {
        result = &mut serving => return result,
        () = connection.drain.begun() => Finish::Draining,
        () = idled(connection, limits.idle_timeout) => Finish::Idle,
        ended = &mut distrusted => Finish::Distrusted(ended),
    };
    if matches!(why, Finish::Draining) {
        connection.closing.store(true, Ordering::Relaxed);
        tokio::select! {
            result = &mut serving => return result,
            () = asked_or_quiet::<D>(connection) => {}
            () = connection.drain.cut() => {}
            ended = &mut distrusted => why = Finish::Distrusted(ended),
        }
    }
    serving.as_mut().finish();
    let patience = match why {
        Finish::Draining => Duration::ZERO,
        Finish::Idle | Finish::Distrusted(_) => LAST_REQUEST,
    };
    let distrusted = async {
        match why {
            Finish::Distrusted(ended) => ended,
            Finish::Draining | Finish::Idle => distrusted.await,
        }
    };
    // What has not finished by the end of this is cut when `serving` is dropped.
    tokio::select! {
        // First: an idle connection finishes at once, and what ended it must be told all the same.
        biased;
        ended = distrusted => {
            tell_distrust(connection, &ended);
            connection.origin.calls.cut(Failure::TrustEnded);
            return tokio::time::timeout(limits.trust_grace, serving).await.unwrap_or(Ok(()));
        }
        result = &mut serving => return result,
        () = unused(connection, patience) => {}
        () = connection.drain.cut() => connection.origin.calls.cut(Failure::Drained),
    }
    Ok(())
}

fn tell_distrust(connection: &Connection, why: &TrustEnded) {
    let reason_code = why.reason_code();
    connection.gate.metrics.trust_ended(reason_code);
    let (source, peer) = (connection.origin.source, connection.origin.caller.name());
    tracing::warn!(%source, peer, reason_code, error = %why, "peer no longer trusted, connection closing");
}

/// Completes when a connection may be told to finish: an HTTP/2 one when it has asked for
/// something, an HTTP/1.1 one, which would lose a request on its way, when it has been quiet.
async fn asked_or_quiet<D: Drivable>(connection: &Connection) {
    let mut served = connection.served.load(Ordering::Relaxed);
    let mut quiet = Duration::ZERO;
    while quiet < LAST_REQUEST && !(D::TELLS_WHAT_WAS_SERVED && served > 0) {
        tokio::time::sleep(LOOK).await;
        let now = connection.served.load(Ordering::Relaxed);
        quiet = match now == served && connection.is_idle() {
            true => quiet + LOOK,
            false => Duration::ZERO,
        };
        served = now;
    }
}

/// Completes when a connection that was told to finish has never asked for anything: an HTTP/2
/// connection whose preface has not come would not finish by itself.
async fn unused(connection: &Connection, patience: Duration) {
    tokio::time::sleep(patience).await;
    if connection.served.load(Ordering::Relaxed) > 0 {
        std::future::pending::<()>().await;
    }
}

/// Completes once no request was begun or open for a whole idle time.
async fn idled(connection: &Connection, idle: Duration) {
    let mut served = connection.served.load(Ordering::Relaxed);
    loop {
        tokio::time::sleep(idle).await;
        let now = connection.served.load(Ordering::Relaxed);
        if now == served && connection.is_idle() {
            return;
        }
        served = now;
    }
}

/// What hyper refused by itself never became a call, so it is told here.
fn report(connection: &Connection, error: &hyper::Error) {
    let source = connection.origin.source;
    let peer = connection.origin.caller.name();
    if error.is_parse() {
        tracing::warn!(%source, peer, reason_code = "malformed_http", %error, "connection refused");
    } else {
        tracing::debug!(%source, peer, %error, "connection ended");
    }
}

impl<S> Drivable for http1::UpgradeableConnection<TokioIo<Stream>, S>
where
    S: hyper::service::HttpService<hyper::body::Incoming, ResBody = crate::forward::ResponseBody>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    const TELLS_WHAT_WAS_SERVED: bool = false;

    fn finish(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

impl<S> Drivable for http2::Connection<TokioIo<Stream>, S, TokioExecutor>
where
    S: hyper::service::HttpService<hyper::body::Incoming, ResBody = crate::forward::ResponseBody>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    TokioExecutor: hyper::rt::bounds::Http2ServerConnExec<S::Future, crate::forward::ResponseBody>,
{
    const TELLS_WHAT_WAS_SERVED: bool = true;

    fn finish(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}
