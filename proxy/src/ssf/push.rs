//! Where transmitters push events to (RFC 8935): one token a request, answered with 202 when it
//! would outlive a crash.
//!
//! SECURITY: whoever reaches this port proved nothing; the signature of a token does. So what a
//! request may take is bounded in every way, and nothing of it is repeated in an answer.

use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ALLOW, AUTHORIZATION, CACHE_CONTROL, CONTENT_LANGUAGE, CONTENT_TYPE, RETRY_AFTER,
};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use serde_json::json;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use wayleave_certs::Alpn;
use wayleave_certs::tls::WebServerTls;

use super::refusal::Refusal;
use super::set::MAX_BYTES;
use super::token::Bearer;
use super::transmitter::Transmitter;
use super::watched::Watched;
use crate::stream::Stream;

/// Connections open at once; the next one is closed at once.
const CONNECTIONS: usize = 64;
/// Requests in work at once; the next one is to be sent again.
const REQUESTS: usize = 32;
/// Bytes that are read of a body that is too large, so that its sender hears of it.
const DRAINED: usize = 1 << 20;
/// How long a handshake, a request's head, its body, and the answer to it may take, each.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a connection is kept, so that none holds its place for ever.
const CONNECTION_AGE: Duration = Duration::from_secs(600);
/// Bytes of a request's head.
const HEAD_BYTES: usize = 16 * 1024;
/// Streams of one HTTP/2 connection at once.
const STREAMS: u32 = 16;
/// How long to wait when the system cannot give another socket.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

type Answer = Response<Full<Bytes>>;

/// The certificate that is shown; none on loopback alone.
pub(super) type Certificate = Option<Arc<Watched<Shown>>>;

/// A certificate, told from others by its file's content.
pub(super) struct Shown {
    pub(super) tls: WebServerTls,
    pub(super) files: Vec<Vec<u8>>,
}

impl PartialEq for Shown {
    fn eq(&self, other: &Self) -> bool {
        self.files == other.files
    }
}

/// One address, and the transmitters that push there.
pub(super) struct Door {
    pub(super) socket: TcpListener,
    pub(super) certificate: Certificate,
    pub(super) ways: Vec<Way>,
}

/// Where one transmitter pushes to.
pub(super) struct Way {
    pub(super) path: String,
    pub(super) transmitter: Arc<Transmitter>,
    pub(super) token: Option<Arc<Watched<Bearer>>>,
}

struct Server {
    certificate: Certificate,
    ways: Vec<Way>,
    requests: Semaphore,
}

impl Door {
    /// Answers until `closing`.
    ///
    /// # Errors
    /// When the system refuses.
    pub(super) fn open(self, closing: CancellationToken) -> std::io::Result<()> {
        let socket = tokio::net::TcpListener::from_std(self.socket)?;
        let server = Arc::new(Server {
            certificate: self.certificate,
            ways: self.ways,
            requests: Semaphore::new(REQUESTS),
        });
        tokio::spawn(accept(server, socket, closing));
        Ok(())
    }
}

async fn accept(server: Arc<Server>, socket: tokio::net::TcpListener, closing: CancellationToken) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            accepted = socket.accept() => accepted,
            () = closing.cancelled() => return,
        };
        let (stream, source) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!(%error, "cannot accept a transmitter");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            tracing::debug!(%source, "too many connections of transmitters");
            continue;
        };
        let server = Arc::clone(&server);
        tokio::spawn(async move {
            server.serve(stream, source).await;
            drop(place);
        });
    }
}

impl Server {
    async fn serve(self: Arc<Self>, stream: TcpStream, source: SocketAddr) {
        let (stream, alpn) = match &self.certificate {
            None => (Stream::from(stream), Alpn::Http1),
            Some(certificate) => {
                let shown = certificate.current();
                match tokio::time::timeout(PATIENCE, shown.tls.accept(stream)).await {
                    Ok(Ok((stream, alpn))) => (stream.into(), alpn),
                    Ok(Err(error)) => {
                        tracing::debug!(%source, %error, "handshake of a transmitter failed");
                        return;
                    }
                    Err(_) => return,
                }
            }
        };
        let served = tokio::time::timeout(CONNECTION_AGE, self.speak(stream, alpn)).await;
        if let Ok(Err(error)) = served {
            tracing::debug!(%source, %error, "connection of a transmitter ended");
        }
    }

    async fn speak(self: Arc<Self>, stream: Stream, alpn: Alpn) -> hyper::Result<()> {
        let service = service_fn(move |request| {
            let server = Arc::clone(&self);
            async move { Ok::<_, Infallible>(server.answer(request).await) }
        });
        let io = TokioIo::new(stream);
        match alpn {
            Alpn::Http1 => {
                let mut builder = http1::Builder::new();
                builder
                    .timer(TokioTimer::new())
                    .header_read_timeout(PATIENCE)
                    .max_header_size(HEAD_BYTES);
                builder.serve_connection(io, service).await
            }
            Alpn::Http2 => {
                let mut builder = http2::Builder::new(TokioExecutor::new());
                builder
                    .timer(TokioTimer::new())
                    .max_concurrent_streams(STREAMS)
                    .max_header_list_size(HEAD_BYTES as u32)
                    .initial_stream_window_size(MAX_BYTES as u32)
                    .keep_alive_interval(PATIENCE * 3)
                    .keep_alive_timeout(PATIENCE);
                builder.serve_connection(io, service).await
            }
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Answer {
        let asked = request.uri().path();
        let Some(way) = self.ways.iter().find(|way| way.path == asked) else {
            drain(request).await;
            return empty(StatusCode::NOT_FOUND);
        };
        if request.method() != Method::POST {
            drain(request).await;
            let mut answer = empty(StatusCode::METHOD_NOT_ALLOWED);
            let headers = answer.headers_mut();
            headers.insert(ALLOW, HeaderValue::from_static("POST"));
            return answer;
        }
        let Ok(_place) = self.requests.try_acquire() else {
            let refusal = Refusal::Unavailable("too many events at once");
            way.transmitter.refused(refusal);
            return refused(refusal);
        };
        match way.receive(request).await {
            Ok(()) => empty(StatusCode::ACCEPTED),
            Err(refusal) => refused(refusal),
        }
    }
}

impl Way {
    async fn receive(&self, request: Request<Incoming>) -> Result<(), Refusal> {
        let body = match self.read(request).await {
            Ok(body) => body,
            Err(refusal) => {
                self.transmitter.refused(refusal);
                return Err(refusal);
            }
        };
        let received = self.transmitter.receive(&body, None);
        // It goes on in the journal where it takes longer; sent again, it is a replay.
        let received = tokio::time::timeout(PATIENCE, received).await;
        received.map_or(Err(Refusal::Unavailable("it takes too long")), |it| {
            it.map(|_| ())
        })
    }

    async fn read(&self, request: Request<Incoming>) -> Result<Bytes, Refusal> {
        let (head, body) = request.into_parts();
        // Read in any case: an answer that comes before the body's end reaches few clients.
        let body = tokio::time::timeout(PATIENCE, read_body(body)).await;
        if let Some(token) = &self.token
            && !token.current().is(head.headers.get(AUTHORIZATION))
        {
            return Err(Refusal::Bearer);
        }
        let kind = head.headers.get(CONTENT_TYPE);
        let kind = kind.and_then(|kind| kind.to_str().ok());
        let kind = kind.and_then(|kind| kind.split(';').next()).map(str::trim);
        if !kind.is_some_and(|kind| kind.eq_ignore_ascii_case("application/secevent+jwt")) {
            return Err(Refusal::ContentType);
        }
        body.map_err(|_| Refusal::Slow)?
    }
}

/// Reads a body that nobody wants: an answer that comes before its end reaches few clients.
async fn drain(request: Request<Incoming>) {
    let _ = tokio::time::timeout(PATIENCE, read_body(request.into_body())).await;
}

/// Reads a body, and no more of one that is too large than it takes to say so.
async fn read_body(mut body: Incoming) -> Result<Bytes, Refusal> {
    let (mut token, mut read) = (Vec::new(), 0_usize);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Refusal::NotCompact)?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        read = read.saturating_add(data.len());
        if read <= MAX_BYTES {
            token.extend_from_slice(&data);
        }
        if read > DRAINED {
            break;
        }
    }
    match read <= MAX_BYTES {
        true => Ok(token.into()),
        false => Err(Refusal::TooLarge),
    }
}

/// The error as the transmitter is told it (RFC 8935 §2.3).
fn refused(refusal: Refusal) -> Answer {
    let Some(err) = refusal.code() else {
        let mut answer = empty(StatusCode::SERVICE_UNAVAILABLE);
        let headers = answer.headers_mut();
        headers.insert(RETRY_AFTER, HeaderValue::from_static("30"));
        return answer;
    };
    let document = json!({ "err": err, "description": refusal.to_string() });
    let mut answer = Response::new(Full::new(Bytes::from(document.to_string())));
    *answer.status_mut() = match refusal {
        Refusal::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Refusal::Slow => StatusCode::REQUEST_TIMEOUT,
        _ => StatusCode::BAD_REQUEST,
    };
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CONTENT_LANGUAGE, HeaderValue::from_static("en"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

fn empty(status: StatusCode) -> Answer {
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = status;
    answer
}
