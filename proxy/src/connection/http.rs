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

/// How long a connection that is to finish may take over its first request.
const FIRST_REQUEST: Duration = Duration::from_secs(1);

/// What both versions' connections can do.
trait Drivable: Future<Output = hyper::Result<()>> {
    fn finish(self: Pin<&mut Self>);
}

/// Serves a connection in the version of HTTP that was agreed on.
pub(crate) async fn serve(stream: Stream, version: Alpn, connection: Arc<Connection>) {
    let io = TokioIo::new(stream);
    let shared = Arc::clone(&connection);
    let service = service_fn(move |request| Arc::clone(&shared).call(request));
    let limits = &connection.gate.limits;
    let result = match version {
        Alpn::Http1 => {
            let serving = http1(limits).serve_connection(io, service).with_upgrades();
            drive(serving, &connection).await
        }
        Alpn::Http2 => {
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
async fn drive(serving: impl Drivable, connection: &Connection) -> hyper::Result<()> {
    tokio::pin!(serving);
    let distrusted = connection.trust().ended();
    tokio::pin!(distrusted);
    let limits = &connection.gate.limits;
    let why = tokio::select! {
        result = &mut serving => return result,
        () = connection.drain.begun() => Finish::Draining,
        () = idled(connection, limits.idle_timeout) => Finish::Idle,
        ended = &mut distrusted => Finish::Distrusted(ended),
    };
    serving.as_mut().finish();
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
        () = unused(connection) => {}
        () = connection.drain.cut() => connection.origin.calls.cut(Failure::Drained),
    }
    Ok(())
}

fn tell_distrust(connection: &Connection, why: &TrustEnded) {
    let reason_code = why.reason_code();
    if matches!(why, TrustEnded::Identified) {
        tracing::debug!(
            reason_code,
            "connection closing: the workload is to call by its name"
        );
        return;
    }
    connection.gate.metrics.trust_ended(reason_code);
    let (source, peer) = (connection.origin.source, connection.origin.caller.name());
    tracing::warn!(%source, peer, reason_code, error = %why, "peer no longer trusted, connection closing");
}

/// Completes when a connection that is to finish has not asked for anything. An HTTP/2
/// connection whose preface has not come would not finish by itself.
async fn unused(connection: &Connection) {
    tokio::time::sleep(FIRST_REQUEST).await;
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
    fn finish(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}
