//! What one connection can be asked for, in every protocol that the sidecar carries, and what the
//! answer was. The server is one that echoes, be it ours or somebody else's.

use std::fmt;

use anyhow::{Context, Result, ensure};
use bytes::{BufMut, Bytes, BytesMut};
use clap::ValueEnum;
use futures_util::{SinkExt, StreamExt};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc::UnboundedSender;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::body::Body;
use crate::connector::{Connector, Http1, Http2, Io};

/// What is done on a connection again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Job {
    /// A GET over HTTP/1.1.
    Http1,
    /// A GET over HTTP/2.
    Http2,
    /// A gRPC call with one message each way.
    GrpcUnary,
    /// One message each way of a gRPC stream that stays open.
    GrpcStream,
    /// One message each way of a WebSocket over HTTP/1.1.
    WebSocket,
    /// A line to a server that echoes bytes, and back.
    Tcp,
}

impl Job {
    pub(crate) const ALL: [Self; 6] = [
        Self::Http1,
        Self::Http2,
        Self::GrpcUnary,
        Self::GrpcStream,
        Self::WebSocket,
        Self::Tcp,
    ];

    /// Whether callers can share a connection.
    pub(crate) fn shares(self) -> bool {
        matches!(self, Self::Http2 | Self::GrpcUnary)
    }
}

impl fmt::Display for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http1 => "HTTP/1.1",
            Self::Http2 => "HTTP/2",
            Self::GrpcUnary => "gRPC unary",
            Self::GrpcStream => "gRPC stream",
            Self::WebSocket => "WebSocket",
            Self::Tcp => "TCP",
        })
    }
}

/// What is asked for.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    /// The host, and the port where it is not the scheme's.
    pub(crate) authority: String,
    /// The path and query; for gRPC `/package.Service/Method`.
    pub(crate) path: String,
    /// One more header field.
    pub(crate) mark: Option<(&'static str, &'static str)>,
    /// What is sent in messages and lines.
    pub(crate) message: Bytes,
}

/// What came of one exchange that was answered at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Answer {
    /// A 2xx, gRPC's 0, or an echo.
    Ok,
    /// Another HTTP status.
    Http(u16),
    /// Another gRPC status.
    Grpc(u16),
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ok => f.write_str("ok"),
            Self::Http(status) => write!(f, "HTTP {status}"),
            Self::Grpc(status) => write!(f, "gRPC {status}"),
        }
    }
}

/// A connection on which a job is done.
pub(crate) enum Line {
    Http1(Http1),
    Http2(Http2),
    Grpc(Http2),
    Stream(Stream),
    WebSocket(Box<WebSocketStream<TokioIo<Upgraded>>>),
    Tcp(Box<dyn Io>),
}

/// An open gRPC stream.
pub(crate) struct Stream {
    sender: UnboundedSender<Bytes>,
    answer: Incoming,
    unread: BytesMut,
    /// Kept: the connection ends with its last handle.
    _connection: Http2,
}

impl Line {
    /// Opens a connection; what is refused at its opening is told as an answer.
    pub(crate) async fn open(
        connector: &Connector,
        job: Job,
        ask: &Ask,
    ) -> Result<Result<Self, Answer>> {
        match job {
            Job::Http1 => Ok(Ok(Self::Http1(connector.http1().await?))),
            Job::Http2 => Ok(Ok(Self::Http2(connector.http2().await?))),
            Job::GrpcUnary => Ok(Ok(Self::Grpc(connector.http2().await?))),
            Job::Tcp => Ok(Ok(Self::Tcp(connector.bytes().await?))),
            Job::GrpcStream => stream(connector.http2().await?, ask).await,
            Job::WebSocket => websocket(connector.http1().await?, ask).await,
        }
    }

    /// Whether callers can share the connection.
    pub(crate) fn share(&self) -> Option<Self> {
        match self {
            Self::Http2(sender) => Some(Self::Http2(sender.clone())),
            Self::Grpc(sender) => Some(Self::Grpc(sender.clone())),
            _ => None,
        }
    }

    /// One exchange.
    ///
    /// # Errors
    /// Where the connection broke, or the answer has no end, or is not what was sent.
    pub(crate) async fn exchange(&mut self, ask: &Ask) -> Result<Answer> {
        match self {
            Self::Http1(sender) => {
                sender.ready().await?;
                let request = request(ask, Method::GET, &ask.path)
                    .header("host", &ask.authority)
                    .body(Body::Empty)?;
                status(sender.send_request(request).await?).await
            }
            Self::Http2(sender) => {
                sender.ready().await?;
                let request = request(ask, Method::GET, &absolute(ask)).body(Body::Empty)?;
                status(sender.send_request(request).await?).await
            }
            Self::Grpc(sender) => unary(sender, ask).await,
            Self::Stream(stream) => stream.exchange(ask).await,
            Self::WebSocket(socket) => {
                socket.send(Message::Binary(ask.message.clone())).await?;
                let echo = socket.next().await.context("the WebSocket ended")??;
                ensure!(echo.into_data() == ask.message, "not an echo");
                Ok(Answer::Ok)
            }
            Self::Tcp(stream) => {
                stream.write_all(&ask.message).await?;
                let mut echo = vec![0; ask.message.len()];
                stream.read_exact(&mut echo).await?;
                ensure!(echo == ask.message, "not an echo");
                Ok(Answer::Ok)
            }
        }
    }
}

fn request(ask: &Ask, method: Method, uri: &str) -> http::request::Builder {
    let request = Request::builder().method(method).uri(uri);
    match ask.mark {
        Some((name, value)) => request.header(name, value),
        None => request,
    }
}

fn absolute(ask: &Ask) -> String {
    format!("https://{}{}", ask.authority, ask.path)
}

/// The status of an answer that has been read to its end.
async fn status(response: Response<Incoming>) -> Result<Answer> {
    let status = response.status();
    response.into_body().collect().await?;
    Ok(of_status(status))
}

fn of_status(status: StatusCode) -> Answer {
    match status.is_success() {
        true => Answer::Ok,
        false => Answer::Http(status.as_u16()),
    }
}

fn grpc(ask: &Ask, body: Body) -> Result<Request<Body>> {
    let request = request(ask, Method::POST, &absolute(ask))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    Ok(request.body(body)?)
}

/// A message with its five bytes of prefix, uncompressed.
fn framed(message: &Bytes) -> Result<Bytes> {
    let mut frame = BytesMut::with_capacity(message.len() + 5);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len())?);
    frame.put_slice(message);
    Ok(frame.freeze())
}

/// `grpc-status`, wherever it is.
fn grpc_status(headers: &HeaderMap) -> Option<Answer> {
    let status = headers.get("grpc-status")?.to_str().ok()?.parse().ok()?;
    Some(match status {
        0 => Answer::Ok,
        other => Answer::Grpc(other),
    })
}

async fn unary(sender: &mut Http2, ask: &Ask) -> Result<Answer> {
    sender.ready().await?;
    let request = grpc(ask, Body::Whole(framed(&ask.message)?))?;
    let response = sender.send_request(request).await?;
    if !response.status().is_success() {
        return status(response).await;
    }
    let at_once = grpc_status(response.headers());
    let body = response.into_body().collect().await?;
    let told = at_once.or_else(|| grpc_status(body.trailers()?));
    told.context("an answer without a gRPC status")
}

async fn stream(mut connection: Http2, ask: &Ask) -> Result<Result<Line, Answer>> {
    let (sender, body) = Body::piped();
    connection.ready().await?;
    // Some servers answer when the first message has come.
    sender.send(framed(&ask.message)?)?;
    let response = connection.send_request(grpc(ask, body)?).await?;
    if !response.status().is_success() {
        return Ok(Err(status(response).await?));
    }
    if let Some(refused) = grpc_status(response.headers()) {
        return Ok(Err(refused));
    }
    let mut stream = Stream {
        sender,
        answer: response.into_body(),
        unread: BytesMut::new(),
        _connection: connection,
    };
    Ok(match stream.message().await? {
        Answer::Ok => Ok(Line::Stream(stream)),
        refused => Err(refused),
    })
}

impl Stream {
    async fn exchange(&mut self, ask: &Ask) -> Result<Answer> {
        self.sender.send(framed(&ask.message)?)?;
        self.message().await
    }

    /// Reads one message, or how the stream ended instead.
    async fn message(&mut self) -> Result<Answer> {
        loop {
            if let Some(length) = self.unread.get(1..5) {
                let length = length
                    .iter()
                    .fold(0, |sum, byte| sum << 8 | usize::from(*byte));
                if self.unread.len() >= 5 + length {
                    let _ = self.unread.split_to(5 + length);
                    return Ok(Answer::Ok);
                }
            }
            let frame = self.answer.frame().await.context("the stream ended")??;
            match frame.into_data() {
                Ok(data) => self.unread.extend_from_slice(&data),
                Err(frame) => {
                    let told = frame.trailers_ref().and_then(grpc_status);
                    let told = told.context("trailers without a gRPC status")?;
                    ensure!(told != Answer::Ok, "the stream ended");
                    return Ok(told);
                }
            }
        }
    }
}

async fn websocket(mut sender: Http1, ask: &Ask) -> Result<Result<Line, Answer>> {
    sender.ready().await?;
    let request = request(ask, Method::GET, &ask.path)
        .header("host", &ask.authority)
        .header("connection", "upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", generate_key())
        .body(Body::Empty)?;
    let response = sender.send_request(request).await?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(Err(status(response).await?));
    }
    let io = TokioIo::new(hyper::upgrade::on(response).await?);
    let socket = WebSocketStream::from_raw_socket(io, Role::Client, None).await;
    Ok(Ok(Line::WebSocket(Box::new(socket))))
}
