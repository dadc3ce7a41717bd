//! An upstream that remembers every request that reached it, so that a test can assert on
//! what the application saw and not only on what the caller was told.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, Version};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

pub(crate) type Body = UnsyncBoxBody<Bytes, Infallible>;

/// One request as the upstream saw it. It is remembered when its body has been read.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) version: Version,
    pub(crate) method: Method,
    /// The path with its query.
    pub(crate) target: String,
    /// The `:authority` of HTTP/2.
    pub(crate) authority: Option<String>,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) trailers: Option<HeaderMap>,
}

impl Seen {
    /// Every value of a header.
    pub(crate) fn values(&self, name: &str) -> Vec<String> {
        let values = self.headers.get_all(name).iter();
        values
            .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
            .collect()
    }
}

/// What the upstream answers with.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Speaks {
    Http1,
    Http2,
    /// Accepts connections, reads, and never says a word.
    Nothing,
}

pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    state: Arc<State>,
    task: JoinHandle<()>,
}

struct State {
    seen: Mutex<Vec<Seen>>,
    connections: AtomicUsize,
    /// Requests for `/held` wait here until the test lets them go.
    held: Semaphore,
}

impl Upstream {
    pub(crate) async fn start(speaks: Speaks) -> Self {
        Self::on(TcpListener::bind("127.0.0.1:0").await.unwrap(), speaks)
    }

    /// An upstream on a socket of the test's own.
    pub(crate) fn on(listener: TcpListener, speaks: Speaks) -> Self {
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State {
            seen: Mutex::default(),
            connections: AtomicUsize::new(0),
            held: Semaphore::new(0),
        });
        let task = tokio::spawn(accept(listener, Arc::clone(&state), speaks));
        Self {
            address,
            state,
            task,
        }
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.state.seen.lock().unwrap().clone()
    }

    /// The one request that reached the upstream.
    pub(crate) fn only(&self) -> Seen {
        let mut seen = self.seen();
        assert_eq!(seen.len(), 1, "{seen:?}");
        seen.remove(0)
    }

    /// Fails the test where anything at all reached the upstream.
    pub(crate) fn assert_untouched(&self) {
        let seen = self.seen();
        assert!(seen.is_empty(), "reached the upstream: {seen:?}");
        assert_eq!(self.connections(), 0, "an upstream connection was opened");
    }

    /// How many connections were opened so far.
    pub(crate) fn connections(&self) -> usize {
        self.state.connections.load(Ordering::SeqCst)
    }

    /// Lets one request for `/held` go on.
    pub(crate) fn release(&self) {
        self.state.held.add_permits(1);
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, state: Arc<State>, speaks: Speaks) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        state.connections.fetch_add(1, Ordering::SeqCst);
        stream.set_nodelay(true).unwrap();
        connections.spawn(serve(stream, Arc::clone(&state), speaks));
    }
}

async fn serve(stream: TcpStream, state: Arc<State>, speaks: Speaks) {
    let service = service_fn(move |request| answer(request, Arc::clone(&state)));
    let io = TokioIo::new(stream);
    // How a connection ends is its test's affair.
    match speaks {
        Speaks::Http1 => {
            let _ = http1::Builder::new().serve_connection(io, service).await;
        }
        Speaks::Http2 => {
            let server = http2::Builder::new(TokioExecutor::new());
            let _ = server.serve_connection(io, service).await;
        }
        Speaks::Nothing => {
            let _ = tokio::io::copy(&mut io.into_inner(), &mut tokio::io::sink()).await;
        }
    }
}

async fn answer(
    request: Request<Incoming>,
    state: Arc<State>,
) -> Result<Response<Body>, hyper::Error> {
    let path = request.uri().path().to_owned();
    let (head, body) = request.into_parts();
    let collected = body.collect().await?;
    let trailers = collected.trailers().cloned();
    let body = collected.to_bytes();
    state.seen.lock().unwrap().push(Seen {
        version: head.version,
        method: head.method,
        target: head
            .uri
            .path_and_query()
            .map(ToString::to_string)
            .unwrap_or_default(),
        authority: head.uri.authority().map(ToString::to_string),
        headers: head.headers,
        body: body.clone(),
        trailers,
    });
    match path.as_str() {
        "/held" => state.held.acquire().await.unwrap().forget(),
        "/hop-by-hop" => return Ok(hop_by_hop()),
        "/trailers" => return Ok(with_trailers(body, "x-checksum", "abc")),
        "/echo.Echo/Say" => return Ok(with_trailers(body, "grpc-status", "0")),
        _ => {}
    }
    Ok(Response::new(
        Full::from(format!("upstream got {} bytes\n", body.len())).boxed_unsync(),
    ))
}

/// An answer whose connection headers are for the sidecar only.
fn hop_by_hop() -> Response<Body> {
    let mut response = Response::new(Full::from("hop").boxed_unsync());
    for (name, value) in [
        ("connection", "x-private"),
        ("x-private", "for the next hop only"),
        ("keep-alive", "timeout=5"),
        ("proxy-authenticate", "Basic"),
        ("x-public", "for everybody"),
    ] {
        response
            .headers_mut()
            .append(name, HeaderValue::from_static(value));
    }
    response
}

/// Sends the body back, and a trailer after it.
fn with_trailers(body: Bytes, name: &'static str, value: &'static str) -> Response<Body> {
    let mut trailers = HeaderMap::new();
    trailers.insert(name, HeaderValue::from_static(value));
    let frames = [Ok(Frame::data(body)), Ok(Frame::trailers(trailers))];
    let mut response =
        Response::new(StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync());
    let headers = response.headers_mut();
    headers.insert("trailer", HeaderValue::from_static(name));
    if name == "grpc-status" {
        headers.insert("content-type", HeaderValue::from_static("application/grpc"));
    }
    response
}
