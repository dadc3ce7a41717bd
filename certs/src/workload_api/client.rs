//! A client of the Workload API for the X509-SVID profile.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::AbortHandle;

use super::grpc::{
    CONTENT_TYPE, Deframer, FETCH_X509_SVID_URI, FrameError, SECURITY_HEADER, Status, frame,
};
use super::{Endpoint, MessageError, X509Context};

/// How often a silent connection is asked whether it lives, and how long it may take.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// Why the Workload API gave no (further) message.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// Nobody listens there, or we may not connect.
    #[error("cannot connect to the Workload API: {0}")]
    Connect(#[source] io::Error),
    /// The connection broke.
    #[error("the connection to the Workload API broke: {0}")]
    Http(#[from] hyper::Error),
    /// What answers is not gRPC.
    #[error("what answers is not a Workload API (HTTP status {0})")]
    NotGrpc(StatusCode),
    /// The call ended with a status.
    #[error("the Workload API ended the call with {0}")]
    Status(Status),
    /// The stream ended without a status, or within a message.
    #[error("the Workload API ended the stream within a message or without a status")]
    Unfinished,
    /// A message cannot be put together.
    #[error("the Workload API's answer cannot be read: {0}")]
    Frame(#[from] FrameError),
    /// A message cannot be understood; the stream can be read on.
    #[error("a message of the Workload API cannot be used: {0}")]
    Message(#[from] MessageError),
}

/// Connects to a Workload API.
#[derive(Debug, Clone)]
pub struct Client {
    endpoint: Endpoint,
}

/// The stream of updates; each is the full state.
#[derive(Debug)]
pub struct Updates {
    body: Incoming,
    deframer: Deframer,
    // hyper ends the connection when the last sender is gone.
    _sender: http2::SendRequest<Full<Bytes>>,
    _connection: Connection,
}

impl Client {
    /// A client of the Workload API at `endpoint`.
    #[must_use]
    pub fn new(endpoint: Endpoint) -> Self {
        Self { endpoint }
    }

    /// Begins to fetch X509-SVIDs and bundles.
    ///
    /// # Errors
    ///
    /// When nobody answers, or the answer is a refusal.
    pub async fn fetch_x509(&self) -> Result<Updates, FetchError> {
        match &self.endpoint {
            Endpoint::Unix(path) => {
                let stream = UnixStream::connect(path).await;
                call(stream.map_err(FetchError::Connect)?).await
            }
            Endpoint::Tcp(address) => {
                let stream = TcpStream::connect(address).await;
                call(stream.map_err(FetchError::Connect)?).await
            }
        }
    }
}

async fn call<IO>(stream: IO) -> Result<Updates, FetchError>
where
    IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .handshake(TokioIo::new(stream))
        .await?;
    let connection = tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "connection to the Workload API ended");
        }
    });
    let connection = Connection(connection.abort_handle());
    let (head, body) = sender.send_request(request()).await?.into_parts();
    if let Some(status) = Status::from_headers(&head.headers) {
        return Err(FetchError::Status(status));
    }
    if head.status != StatusCode::OK {
        return Err(FetchError::NotGrpc(head.status));
    }
    Ok(Updates {
        body,
        deframer: Deframer::default(),
        _sender: sender,
        _connection: connection,
    })
}

/// An empty `X509SVIDRequest`.
fn request() -> Request<Full<Bytes>> {
    let mut request = Request::new(Full::new(frame(&[])));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = Uri::from_static(FETCH_X509_SVID_URI);
    let headers = request.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
    headers.insert(header::TE, HeaderValue::from_static("trailers"));
    headers.insert(SECURITY_HEADER, HeaderValue::from_static("true"));
    request
}

impl Updates {
    /// Waits for the next state.
    ///
    /// # Errors
    ///
    /// When the stream ended or cannot be read on; after [`FetchError::Message`] it can.
    pub async fn next(&mut self) -> Result<X509Context, FetchError> {
        loop {
            if let Some(message) = self.deframer.next()? {
                return Ok(X509Context::decode(&message)?);
            }
            let frame = self.body.frame().await.ok_or(FetchError::Unfinished)??;
            match frame.into_data() {
                Ok(data) => self.deframer.push(&data),
                Err(frame) => return Err(self.end(frame.into_trailers().unwrap_or_default())),
            }
        }
    }

    fn end(&self, trailers: HeaderMap) -> FetchError {
        match Status::from_headers(&trailers) {
            Some(status) if !self.deframer.is_within_message() => FetchError::Status(status),
            _ => FetchError::Unfinished,
        }
    }
}

/// Ends the connection's task when nobody reads from it any more.
#[derive(Debug)]
struct Connection(AbortHandle);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}
