//! The built-in demo application: what `wayleave dev` forwards to when it is given no
//! upstream. It answers any path with an echo of the request, and has a stream, a socket
//! and a download to try the data plane with.
//!
//! It speaks plain HTTP/1.1 and HTTP/2 with prior knowledge, and authenticates nobody: it
//! belongs on loopback, behind the sidecar. It holds no request body in memory.

mod download;
mod echo;
mod events;
mod preface;
mod socket;

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use self::preface::{Protocol, Replay};

/// What every handler answers with; streams cannot fail, they can only end.
type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Connections served at once; the next one waits in the listen queue.
const MAX_CONNECTIONS: usize = 1_024;
/// The time a client has to send its first bytes, or the head of a request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// The time open connections have to end once `shutdown` is ready.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);
/// The pause after an accept that failed, for example for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves the demo application on `listener` until `shutdown` is ready, then lets open
/// connections finish for two seconds and returns.
pub async fn serve(listener: TcpListener, shutdown: impl Future<Output = ()>) {
    let (stopping, stopped) = watch::channel(false);
    let mut connections = JoinSet::new();
    tokio::select! {
        () = accept(&listener, &mut connections, &stopped) => {}
        () = shutdown => {}
    }
    drop(listener);
    stopping.send_replace(true);
    // What is still open after the drain time is cut when the set is dropped.
    let _ = timeout(DRAIN_TIMEOUT, async {
        while connections.join_next().await.is_some() {}
    })
    .await;
}

async fn accept(
    listener: &TcpListener,
    connections: &mut JoinSet<()>,
    stopped: &watch::Receiver<bool>,
) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        // The semaphore is never closed, so there is always a slot in the end.
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                connections.spawn(connection(stream, Arc::new(slot), stopped.clone()));
            }
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
        while connections.try_join_next().is_some() {}
    }
}

/// Serves one connection to its end. A connection that breaks is the client's affair.
async fn connection(
    stream: TcpStream,
    slot: Arc<OwnedSemaphorePermit>,
    stopped: watch::Receiver<bool>,
) {
    // Failing to switch Nagle's algorithm off costs delay, nothing else.
    let _ = stream.set_nodelay(true);
    let Ok(Ok((protocol, stream))) = timeout(HEADER_TIMEOUT, preface::detect(stream)).await else {
        return;
    };
    match protocol {
        Protocol::Http1 => http1(stream, slot, stopped).await,
        Protocol::Http2 => http2(stream, slot, stopped).await,
    }
}

async fn http1(
    stream: Replay,
    slot: Arc<OwnedSemaphorePermit>,
    mut stopped: watch::Receiver<bool>,
) {
    let service = service_fn(move |request| answer(request, Arc::clone(&slot)));
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        _ = connection.as_mut() => return,
        _ = stopped.wait_for(|stopped| *stopped) => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}

async fn http2(
    stream: Replay,
    slot: Arc<OwnedSemaphorePermit>,
    mut stopped: watch::Receiver<bool>,
) {
    let service = service_fn(move |request| answer(request, Arc::clone(&slot)));
    let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        _ = connection.as_mut() => return,
        _ = stopped.wait_for(|stopped| *stopped) => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}

/// The one place that knows which path does what.
///
/// # Errors
/// The request's body broke off; the connection is beyond saving.
async fn answer(
    request: Request<Incoming>,
    slot: Arc<OwnedSemaphorePermit>,
) -> Result<Response<Body>, hyper::Error> {
    match request.uri().path() {
        "/events" => Ok(events::stream()),
        "/ws" => Ok(socket::upgrade(request, slot)),
        "/bytes" => Ok(download::bytes(request.uri().query())),
        _ => echo::echo(request).await,
    }
}

/// A small RFC 9457 problem in the form that the sidecar's own refusals have.
fn problem(status: StatusCode, detail: &str) -> Response<Body> {
    let body = serde_json::json!({
        "type": "about:blank",
        "title": status.canonical_reason().unwrap_or_default(),
        "status": status.as_u16(),
        "detail": detail,
    });
    let mut response = full(body.to_string());
    *response.status_mut() = status;
    content_type(&mut response, "application/problem+json");
    response
}

fn full(body: impl Into<Bytes>) -> Response<Body> {
    Response::new(Full::new(body.into()).boxed_unsync())
}

fn content_type(response: &mut Response<Body>, value: &'static str) {
    let value = header::HeaderValue::from_static(value);
    response.headers_mut().insert(header::CONTENT_TYPE, value);
}

#[cfg(test)]
mod tests;
