//! Drives one connection's HTTP: its settings, and its end when draining, out of time, or no
//! longer trusted.

use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use wayleave_certs::Alpn;

use super::Connection;
use super::answering::WhenRun;
use super::ended;
use super::half_closed::UntilAnswered;
use super::metered::Metered;
use super::stalled::Patiently;
use crate::config::LimitsConfig;
use crate::flow::Overdue;
use crate::protocol::http2::{
    CONNECTION_WINDOW, HEADER_TABLE, MAX_FRAME, RESETS_BEFORE_ACCEPT, RESETS_OF_OURS, SEND_BUFFER,
    STREAM_WINDOW,
};
use crate::record::Failure;
use crate::stream::Stream;
use crate::trust::TrustEnded;

/// How long a connection on which nothing is open may take to finish.
const GOODBYE: Duration = Duration::from_secs(1);
/// How long a connection that is to finish may stay without a request: one that was just made
/// is about to ask, and a busy one is told by the answer to its next request.
const LAST_REQUEST: Duration = Duration::from_secs(2);
/// How long calls that are ended may take to be told so.
const LAST_WORDS: Duration = Duration::from_millis(300);
/// How often such a connection is looked at.
const LOOK: Duration = Duration::from_millis(200);
/// What is read ahead on an HTTP/1.1 connection, and what may wait to be written, unless a head
/// may be larger: what one peer's pipelined requests hold in memory.
const HTTP1_BUFFER: usize = 128 * 1024;

/// What both versions' connections can do.
trait Drivable: Future<Output = hyper::Result<()>> {
    /// Whether a peer that is told to finish loses nothing that is on its way to us.
    const TELLS_WHAT_WAS_SERVED: bool;

    fn finish(self: Pin<&mut Self>);
}

/// Serves a connection in the version of HTTP that was agreed on.
pub(crate) async fn serve(stream: Stream, version: Alpn, connection: Arc<Connection>) {
    if connection.is_unwelcome() {
        return;
    }
    let _listed = connection.gate.roster.enter(&connection);
    let shared = Arc::clone(&connection);
    let (limits, calls) = (
        &connection.gate.limits,
        Arc::clone(&connection.origin.calls),
    );
    let result = match version {
        Alpn::Http1 => {
            let service = service_fn(move |request| shared.call(request));
            let stream = Metered::bytes(stream, calls);
            let io = TokioIo::new(UntilAnswered::new(stream, Arc::clone(&connection)));
            let serving = http1(limits).serve_connection(io, service).with_upgrades();
            drive(serving, &connection).await
        }
        Alpn::Http2 => {
            let io = TokioIo::new(Metered::frames(stream, calls));
            // Boxed: hyper makes a task of each call, and moves it some times before it runs.
            let service = service_fn(move |request| {
                let shared = Arc::clone(&shared);
                Box::pin(WhenRun::new(move || shared.call(request)))
            });
            let serving = http2(limits).serve_connection(io, service);
            drive(serving, &connection).await
        }
    };
    if let Err(error) = result {
        ended::tell(&connection, &error);
    }
}

fn http1(limits: &LimitsConfig) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        // The sweep sees to it: a timer would be set and taken back for every request.
        .header_read_timeout(None)
        .max_buf_size(HTTP1_BUFFER.max(2 * limits.max_header_bytes))
        .max_header_size(limits.max_header_bytes);
    builder
}

fn http2(limits: &LimitsConfig) -> http2::Builder<Patiently> {
    let mut builder = http2::Builder::new(Patiently {
        limit: limits.body_timeout,
    });
    builder
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .max_frame_size(MAX_FRAME)
        .header_table_size(HEADER_TABLE)
        .max_pending_accept_reset_streams(RESETS_BEFORE_ACCEPT)
        .max_local_error_reset_streams(RESETS_OF_OURS)
        .max_concurrent_streams(limits.max_concurrent_streams)
        .enable_connect_protocol()
        .max_header_list_size(u32::try_from(limits.max_header_bytes).unwrap_or(u32::MAX));
    builder
}

/// Why a connection is to end.
enum End {
    Draining,
    Overdue(Overdue),
    Distrusted(TrustEnded),
}

/// Polls a connection to its end, and asks it to finish where there is a reason. What makes it
/// end has a waker of its own, so that it is not looked at whenever something is to be served.
async fn drive<D: Drivable>(serving: D, connection: &Connection) -> hyper::Result<()> {
    tokio::pin!(serving);
    let why = {
        let mut end = FuturesUnordered::from_iter([first_end(connection)]);
        tokio::select! {
            biased;
            result = &mut serving => return result,
            Some(why) = end.next() => why,
        }
    };
    match &why {
        End::Overdue(overdue) if overdue.cuts() => {
            ended::out_of_time(connection, *overdue);
            return Ok(());
        }
        End::Distrusted(why) => distrust(connection, why),
        End::Overdue(_) => {}
        End::Draining => {
            connection.closing.store(true, Ordering::Relaxed);
            let mut quiet = FuturesUnordered::from_iter([may_finish::<D>(connection)]);
            let next = tokio::select! {
                biased;
                result = &mut serving => return result,
                next = quiet.next() => next,
            };
            if next == Some(ControlFlow::Break(())) {
                return Ok(());
            }
        }
    }
    serving.as_mut().finish();
    let mut cut = FuturesUnordered::from_iter([last_end(connection, why)]);
    tokio::select! {
        biased;
        result = &mut serving => return result,
        _ = cut.next() => {}
    }
    // HTTP/2 has words for calls that end; what does not take them is cut when `serving` is
    // dropped.
    connection.origin.calls.ending().begin();
    match D::TELLS_WHAT_WAS_SERVED && !connection.origin.calls.none_open() {
        true => tokio::time::timeout(LAST_WORDS, serving)
            .await
            .unwrap_or(Ok(())),
        false => Ok(()),
    }
}

/// What makes a connection end, whichever comes first.
async fn first_end(connection: &Connection) -> End {
    tokio::select! {
        biased;
        why = connection.trust().ended() => End::Distrusted(why),
        () = connection.drain.begun() => End::Draining,
        overdue = connection.origin.calls.flow().overdue() => End::Overdue(overdue),
    }
}

/// Completes when a connection that drains may be told to finish, or is cut: an HTTP/2 one when it
/// has asked for something, an HTTP/1.1 one, which would lose a request on its way, when it has
/// been quiet.
async fn may_finish<D: Drivable>(connection: &Connection) -> ControlFlow<()> {
    tokio::select! {
        () = asked_or_quiet::<D>(connection) => ControlFlow::Continue(()),
        _ = connection.trust().ended() => ControlFlow::Continue(()),
        () = connection.drain.cut() => ControlFlow::Continue(()),
        () = cut_overdue(connection) => ControlFlow::Break(()),
    }
}

async fn asked_or_quiet<D: Drivable>(connection: &Connection) {
    let seen = || {
        let served = connection.served.load(Ordering::Relaxed);
        (served, connection.origin.calls.flow().movement().read)
    };
    let (mut last, mut quiet) = (seen(), Duration::ZERO);
    while quiet < LAST_REQUEST && !(D::TELLS_WHAT_WAS_SERVED && last.0 > 0) {
        tokio::time::sleep(LOOK).await;
        let now = seen();
        quiet = match now == last && connection.origin.calls.none_open() {
            true => quiet + LOOK,
            false => Duration::ZERO,
        };
        last = now;
    }
}

/// Completes when a connection that was asked to finish has had its time for that.
async fn last_end(connection: &Connection, why: End) {
    let distrusted = matches!(why, End::Distrusted(_));
    tokio::select! {
        why = connection.trust().ended(), if !distrusted => {
            distrust(connection, &why);
            tokio::time::sleep(connection.gate.limits.trust_grace).await;
        }
        () = cut_overdue(connection) => {}
        () = grace(connection, why) => {}
        () = connection.drain.cut() => connection.origin.calls.cut(Failure::Drained),
    }
}

/// Completes when what is open has had its grace; never while it has as long as it likes.
async fn grace(connection: &Connection, why: End) {
    let (limits, calls) = (&connection.gate.limits, &connection.origin.calls);
    match why {
        End::Distrusted(_) => tokio::time::sleep(limits.trust_grace).await,
        End::Overdue(Overdue::Aged) => {
            tokio::time::sleep(limits.connection_grace).await;
            calls.cut(Failure::ConnectionAge);
        }
        End::Overdue(_) => at_rest(|| calls.none_open()).await,
        // An HTTP/2 connection whose preface has not come would not finish by itself.
        End::Draining => at_rest(|| connection.served.load(Ordering::Relaxed) == 0).await,
    }
}

/// Completes where nothing is asked for in the time of a goodbye.
async fn at_rest(is_at_rest: impl Fn() -> bool) {
    tokio::time::sleep(GOODBYE).await;
    if !is_at_rest() {
        std::future::pending::<()>().await;
    }
}

/// Completes when a connection that is to finish owes a head, or a reader, for too long.
async fn cut_overdue(connection: &Connection) {
    loop {
        let overdue = connection.origin.calls.flow().overdue().await;
        if overdue.cuts() {
            return ended::out_of_time(connection, overdue);
        }
    }
}

/// From here on calls may finish, and what does not was cut for that.
fn distrust(connection: &Connection, why: &TrustEnded) {
    let reason_code = why.reason_code();
    if matches!(why, TrustEnded::Identified) {
        return tracing::debug!(
            reason_code,
            "connection closing: the workload has a name now"
        );
    }
    connection.gate.metrics.trust_ended(reason_code);
    let (source, peer) = (connection.origin.source, connection.origin.caller.name());
    tracing::warn!(%source, peer, reason_code, error = %why, "peer no longer trusted, connection closing");
    connection.origin.calls.cut(Failure::TrustEnded);
}

impl<S> Drivable for http1::UpgradeableConnection<TokioIo<UntilAnswered>, S>
where
    S: hyper::service::HttpService<hyper::body::Incoming, ResBody = crate::forward::ResponseBody>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    const TELLS_WHAT_WAS_SERVED: bool = false;

    fn finish(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

impl<S> Drivable for http2::Connection<TokioIo<Metered>, S, Patiently>
where
    S: hyper::service::HttpService<hyper::body::Incoming, ResBody = crate::forward::ResponseBody>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    Patiently: hyper::rt::bounds::Http2ServerConnExec<S::Future, crate::forward::ResponseBody>,
{
    const TELLS_WHAT_WAS_SERVED: bool = true;

    fn finish(self: Pin<&mut Self>) {
        self.graceful_shutdown();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::Request;
    use hyper::body::Incoming;

    /// The size of what a function of this shape returns, without a call.
    fn size<F>(_: fn(Stream, Alpn, Arc<Connection>) -> F) -> usize {
        size_of::<F>()
    }

    /// Each connection holds one for as long as it is open, most of them idle: what is added
    /// here is paid ten thousand times over.
    #[test]
    fn what_is_kept_for_each_connection_stays_small() {
        assert!(
            size_of::<Connection>() <= 384,
            "{}",
            size_of::<Connection>()
        );
        assert!(size_of::<Metered>() <= 192, "{}", size_of::<Metered>());
        assert!(size(serve) <= 4_096, "{}", size(serve));
    }

    /// The size of what a call waits in.
    fn size_of_call<F>(_: fn(&Arc<Connection>, Request<Incoming>) -> F) -> usize {
        size_of::<F>()
    }

    /// It is moved some times before it is first polled, and beyond 1,032 bytes the C library
    /// allocates the slow way.
    #[test]
    fn a_call_that_waits_stays_small() {
        let size = size_of_call(Connection::call);
        assert!(size <= 1_024, "{size}");
    }
}
