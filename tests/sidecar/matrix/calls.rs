//! Calls of every kind, opened and kept going: each carries numbered units for as long as it
//! lives, and notes how its client was told that it is over.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{SinkExt, Stream, StreamExt};
use http::{Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::applications::{broken, told};
use super::tally::{Reader, Tally};
use super::world::World;
use crate::support::{client, within};

/// What is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// An HTTP/1.1 request whose body is still being sent, and which has no answer yet.
    Upload,
    /// An HTTP/1.1 answer that is still being read.
    Download,
    /// An HTTP/2 stream with a request and an answer that both go on.
    Http2,
    /// The same as a gRPC call.
    Grpc,
    /// An answer of server-sent events, over HTTP/2.
    Sse,
    /// A WebSocket.
    WebSocket,
    /// A TCP connection.
    Tcp,
    /// A tunnel to a destination, through the proxy that the workload calls out by.
    Connect,
}

pub(super) const KINDS: [Kind; 8] = [
    Kind::Upload,
    Kind::Download,
    Kind::Http2,
    Kind::Grpc,
    Kind::Sse,
    Kind::WebSocket,
    Kind::Tcp,
    Kind::Connect,
];

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Upload => "upload",
            Self::Download => "download",
            Self::Http2 => "http2",
            Self::Grpc => "grpc",
            Self::Sse => "sse",
            Self::WebSocket => "websocket",
            Self::Tcp => "tcp",
            Self::Connect => "connect",
        }
    }

    /// Whether units go to the application, and whether they come from it.
    pub(super) fn carries(self) -> (bool, bool) {
        match self {
            Self::Upload => (true, false),
            Self::Download | Self::Sse => (false, true),
            _ => (true, true),
        }
    }

    /// Whether what is open leaves the workload.
    pub(super) fn is_outbound(self) -> bool {
        self == Self::Connect
    }
}

/// Which of two callers made a call; of tunnels, to which of two destinations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whose {
    /// Who is hit.
    Hit,
    /// Who stands beside.
    Other,
}

impl Whose {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Hit => "hit",
            Self::Other => "other",
        }
    }
}

/// An open call.
pub(super) struct Open {
    pub(super) kind: Kind,
    /// By which the application and the record know it.
    pub(super) name: String,
    pub(super) client: Arc<Tally>,
    pub(super) application: Arc<Tally>,
}

impl Open {
    /// Opens a call and waits until it carries something.
    pub(super) async fn new(world: &World, kind: Kind, whose: Whose) -> Self {
        let name = format!("/{}/{}", whose.name(), kind.name());
        let client = Arc::<Tally>::default();
        let open = Self {
            kind,
            application: world.applications.notes.of(&name),
            name,
            client,
        };
        open.begin(world, whose).await;
        open.goes_on(3).await;
        open
    }

    /// Waits until so many more units came through, each way that it carries any.
    pub(super) async fn goes_on(&self, units: u64) {
        let (up, down) = self.kind.carries();
        if up {
            let due = self.application.got() + units;
            self.application.until_got(due, &self.name).await;
        }
        if down {
            self.client
                .until_got(self.client.got() + units, &self.name)
                .await;
        }
    }

    /// Ends the call as its two ends would, and compares what they sent with what they got.
    pub(super) async fn finishes_whole(&self) {
        self.client.finish();
        self.application.finish();
        let ends = (
            self.client.until_ended(&self.name).await,
            self.application.until_ended(&self.name).await,
        );
        let whole = match self.kind {
            Kind::WebSocket => "close 1000",
            _ => "whole",
        };
        assert_eq!((&*ends.0, &*ends.1), (whole, whole), "{}", self.name);
        let (client, application) = (&self.client, &self.application);
        assert_eq!(client.sent(), application.got(), "{} upwards", self.name);
        assert_eq!(application.sent(), client.got(), "{} downwards", self.name);
    }

    async fn begin(&self, world: &World, whose: Whose) {
        let (name, tally) = (self.name.clone(), Arc::clone(&self.client));
        match self.kind {
            Kind::Upload | Kind::Download => {
                let stream = world.tls("web", whose, &["http/1.1"]).await;
                let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
                tokio::spawn(connection);
                match self.kind {
                    Kind::Upload => tokio::spawn(upload(sender, name, tally)),
                    _ => tokio::spawn(download(sender, name, tally)),
                };
            }
            Kind::Http2 | Kind::Grpc | Kind::Sse => {
                let listener = match self.kind {
                    Kind::Sse => "web",
                    _ => "grpc",
                };
                let stream = world.tls(listener, whose, &["h2"]).await;
                tokio::spawn(stream_of_http2(stream, self.kind, name, tally));
            }
            Kind::WebSocket => {
                let stream = world.tls("web", whose, &["http/1.1"]).await;
                tokio::spawn(websocket(stream, name, tally));
            }
            Kind::Tcp => {
                let stream = world.tls("tcp", whose, &[]).await;
                tokio::spawn(bytes(stream, name, tally));
            }
            Kind::Connect => {
                let stream = connect(world.proxy, whose).await;
                tokio::spawn(bytes(stream, name, tally));
            }
        }
    }
}

pub(super) type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Units until it is asked to finish.
fn units(tally: &Arc<Tally>) -> impl Stream<Item = Bytes> + use<> {
    futures_util::stream::unfold(Arc::clone(tally), async |tally| {
        tally.beat().await.then(|| (tally.next(), tally))
    })
}

pub(super) fn body_of_units(tally: &Arc<Tally>) -> Body {
    StreamBody::new(units(tally).map(|unit| Ok(Frame::data(unit)))).boxed_unsync()
}

fn empty() -> Body {
    Empty::new().boxed_unsync()
}

fn request(method: &str, uri: &str) -> http::request::Builder {
    let request = Request::builder().method(method).uri(uri);
    match uri.starts_with('/') {
        true => request.header("host", "localhost"),
        false => request,
    }
}

async fn upload(mut sender: http1::SendRequest<Body>, path: String, tally: Arc<Tally>) {
    let request = request("POST", &path).body(body_of_units(&tally)).unwrap();
    match sender.send_request(request).await {
        Ok(response) if response.status() == StatusCode::OK => tally.ended("whole"),
        Ok(response) => tally.ended(refusal(response).await),
        Err(_) => tally.ended("cut"),
    }
}

/// The status of an answer of the sidecar's own, and its reason.
async fn refusal(response: Response<Incoming>) -> String {
    let status = response.status().as_u16();
    let body = response.into_body().collect().await;
    let body = body.map(|body| body.to_bytes()).unwrap_or_default();
    let problem: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
    format!(
        "{status} {}",
        problem["reason_code"].as_str().unwrap_or("?")
    )
}

async fn download(mut sender: http1::SendRequest<Body>, path: String, tally: Arc<Tally>) {
    let request = request("GET", &path).body(empty()).unwrap();
    let response = sender.send_request(request).await;
    read(response, &tally).await;
}

async fn stream_of_http2(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    kind: Kind,
    path: String,
    tally: Arc<Tally>,
) {
    let io = TokioIo::new(stream);
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    let uri = format!("https://localhost{path}");
    let request = match kind {
        Kind::Sse => request("GET", &uri).body(empty()),
        Kind::Grpc => request("POST", &uri)
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(body_of_units(&tally)),
        _ => request("POST", &uri).body(body_of_units(&tally)),
    };
    let response = sender.send_request(request.unwrap()).await;
    read(response, &tally).await;
}

/// Reads an answer to its end.
async fn read(response: Result<Response<Incoming>, hyper::Error>, tally: &Arc<Tally>) {
    let mut response = match response {
        Ok(response) if response.status() == StatusCode::OK => response,
        Ok(response) => return tally.ended(refusal(response).await),
        Err(error) => return tally.ended(told(&error)),
    };
    let mut reader = Reader::of(tally);
    while let Some(frame) = response.frame().await {
        match frame {
            Err(error) => return tally.ended(told(&error)),
            Ok(frame) => match frame.into_data() {
                Ok(data) => reader.take(&data),
                Err(frame) => {
                    let trailers = frame.into_trailers().unwrap();
                    match trailers["grpc-status"].to_str().unwrap() {
                        "0" => {}
                        status => tally.ended(format!("grpc-status {status}")),
                    }
                }
            },
        }
    }
    tally.ended("whole");
}

async fn websocket(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    path: String,
    tally: Arc<Tally>,
) {
    let uri = format!("wss://localhost{path}");
    let (socket, _) = tokio_tungstenite::client_async(uri, stream).await.unwrap();
    let (mut sink, mut messages) = socket.split();
    let (sending, mut units) = (Arc::clone(&tally), Box::pin(units(&tally)));
    tokio::spawn(async move {
        while let Some(unit) = units.next().await {
            if sending.end().is_some() || sink.send(Message::Binary(unit)).await.is_err() {
                return;
            }
        }
        // Everything is back before the goodbye.
        let all = || async { (sending.got() == sending.sent()).then_some(()) };
        crate::support::eventually("the last echo", all).await;
        let close = Message::Close(Some(tokio_tungstenite::tungstenite::protocol::CloseFrame {
            code: 1000.into(),
            reason: Default::default(),
        }));
        let _ = sink.send(close).await;
    });
    let mut reader = Reader::of(&tally);
    while let Some(message) = messages.next().await {
        match message {
            Ok(Message::Binary(bytes)) => reader.take(&bytes),
            Ok(Message::Close(frame)) => {
                let code = frame.map(|frame| u16::from(frame.code));
                tally.ended(format!("close {}", code.unwrap_or_default()));
            }
            Ok(_) => {}
            Err(Error::Io(error)) => tally.ended(broken(&error)),
            Err(error) => tally.ended(error.to_string()),
        }
    }
    tally.ended("cut");
}

/// A connection whose first line is the name of the call.
async fn bytes(
    stream: impl AsyncRead + AsyncWrite + Send + 'static,
    name: String,
    tally: Arc<Tally>,
) {
    let (mut from, to) = tokio::io::split(stream);
    let writing = Arc::clone(&tally);
    tokio::spawn(async move {
        // A reset is told once, to whoever reads or writes next.
        if let Err(error) = write_units(to, name, &writing).await
            && error.kind() == io::ErrorKind::ConnectionReset
        {
            writing.ended("reset");
        }
    });
    let (mut reader, mut buffer) = (Reader::of(&tally), [0; 4096]);
    loop {
        match from.read(&mut buffer).await {
            Ok(0) => return tally.ended("whole"),
            Ok(count) => reader.take(&buffer[..count]),
            Err(error) => return tally.ended(broken_or_unended(&error)),
        }
    }
}

async fn write_units(
    mut to: impl AsyncWrite + Unpin,
    name: String,
    tally: &Arc<Tally>,
) -> io::Result<()> {
    to.write_all(format!("{name}\n").as_bytes()).await?;
    to.flush().await?;
    let mut units = Box::pin(units(tally));
    while let Some(unit) = units.next().await {
        to.write_all(&unit).await?;
        to.flush().await?;
    }
    to.shutdown().await
}

/// TLS tells an end without a goodbye apart from one with it.
fn broken_or_unended(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => "cut".to_owned(),
        _ => broken(error),
    }
}

/// A tunnel through the proxy.
async fn connect(proxy: SocketAddr, whose: Whose) -> TcpStream {
    let host = World::destination(whose);
    let mut stream = TcpStream::connect(proxy).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let head = format!("CONNECT {host}.example:5432 HTTP/1.1\r\nHost: {host}.example:5432\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(within("the answer", stream.read_u8()).await.unwrap());
    }
    let answer = String::from_utf8(answer).unwrap();
    assert_eq!(client::status_of(&answer), 200, "{answer}");
    stream
}

/// A connection of HTTP/2 to the applications of HTTP/1.1.
pub(super) async fn connection_of_http2(
    world: &World,
    whose: Whose,
) -> client::Http2<http_body_util::Full<Bytes>> {
    client::Http2::over(world.tls("web", whose, &["h2"]).await).await
}
