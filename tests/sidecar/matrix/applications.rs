//! What the calls reach: applications that carry numbered units, and note of every call, by its
//! name, what they got and how it ended for them.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Message, Role};

use super::tally::{Reader, Tally};

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// What the applications noted of each call.
#[derive(Clone, Default)]
pub(super) struct Notes(Arc<Mutex<HashMap<String, Arc<Tally>>>>);

impl Notes {
    /// What was noted of the call with this name.
    pub(super) fn of(&self, name: &str) -> Arc<Tally> {
        let mut notes = self.0.lock().unwrap();
        Arc::clone(notes.entry(name.to_owned()).or_default())
    }
}

/// The applications, by what they speak.
pub(super) struct Applications {
    pub(super) http1: SocketAddr,
    pub(super) http2: SocketAddr,
    pub(super) tcp: SocketAddr,
    pub(super) notes: Notes,
    /// Ends them when it is dropped.
    _running: JoinSet<()>,
}

impl Applications {
    pub(super) async fn start() -> Self {
        let notes = Notes::default();
        let mut running = JoinSet::new();
        let mut listen = async |serve: fn(TcpStream, Notes) -> Serving| {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            running.spawn(accept(listener, notes.clone(), serve));
            address
        };
        let http1 = listen(|stream, notes| Box::pin(serve_http1(stream, notes))).await;
        let http2 = listen(|stream, notes| Box::pin(serve_http2(stream, notes))).await;
        let tcp = listen(|stream, notes| Box::pin(serve_tcp(stream, notes))).await;
        Self {
            http1,
            http2,
            tcp,
            notes,
            _running: running,
        }
    }
}

type Serving = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

async fn accept(listener: TcpListener, notes: Notes, serve: fn(TcpStream, Notes) -> Serving) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        stream.set_nodelay(true).unwrap();
        connections.spawn(serve(stream, notes.clone()));
    }
}

// How an HTTP connection ends is told by what becomes of its calls.
async fn serve_http1(stream: TcpStream, notes: Notes) {
    let service = service_fn(move |request| answer(request, notes.clone()));
    let serving = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    let _ = serving.with_upgrades().await;
}

async fn serve_http2(stream: TcpStream, notes: Notes) {
    let service = service_fn(move |request| answer(request, notes.clone()));
    let server = http2::Builder::new(TokioExecutor::new());
    let _ = server.serve_connection(TokioIo::new(stream), service).await;
}

/// Answers by the last part of the path; the whole path is the name of the call.
async fn answer(request: Request<Incoming>, notes: Notes) -> Result<Response<Body>, Infallible> {
    let path = request.uri().path().to_owned();
    let tally = notes.of(&path);
    let kind = path.rsplit('/').next().unwrap_or_default();
    Ok(match kind {
        "upload" => {
            let status = match take(request.into_body(), &tally).await {
                Ok(()) => StatusCode::OK,
                Err(_) => StatusCode::BAD_REQUEST,
            };
            let mut response = Response::new(Full::default().boxed_unsync());
            *response.status_mut() = status;
            response
        }
        "download" => streaming("application/octet-stream", |to| send(to, tally)),
        "sse" => streaming("text/event-stream", |to| send(to, tally)),
        "http2" => streaming("application/octet-stream", |to| {
            echo(request.into_body(), to, tally, None)
        }),
        "grpc" => {
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", HeaderValue::from_static("0"));
            streaming("application/grpc", |to| {
                echo(request.into_body(), to, tally, Some(trailers))
            })
        }
        // More than fits on the way, for whoever does not read it.
        "flood" => streaming("application/octet-stream", async move |to| {
            tokio::spawn(async move { take(request.into_body(), &tally).await });
            let much = Bytes::from_static(&[0; 65_536]);
            while to.send(Ok(Frame::data(much.clone()))).await.is_ok() {}
        }),
        // The whole answer, before the request is.
        "early" => {
            tokio::spawn(async move { take(request.into_body(), &tally).await });
            Response::new(Full::default().boxed_unsync())
        }
        "websocket" => open_websocket(request, tally),
        // A call that is over at once.
        _ => Response::new(Full::default().boxed_unsync()),
    })
}

type ToCaller = mpsc::Sender<Result<Frame<Bytes>, Infallible>>;

/// An answer whose body is what a task sends.
fn streaming<F>(content_type: &'static str, body: impl FnOnce(ToCaller) -> F) -> Response<Body>
where
    F: Future<Output = ()> + Send + 'static,
{
    let (to, from) = mpsc::channel(1);
    tokio::spawn(body(to));
    let frames = futures_util::stream::unfold(from, async |mut from| {
        let frame = from.recv().await?;
        Some((frame, from))
    });
    let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
    let value = HeaderValue::from_static(content_type);
    response.headers_mut().insert("content-type", value);
    response
}

/// Sends until it is asked to finish. Whoever drops the body before has cut it.
async fn send(to: ToCaller, tally: Arc<Tally>) {
    while tally.beat().await {
        if to.send(Ok(Frame::data(tally.next()))).await.is_err() {
            return tally.ended("cut");
        }
    }
    tally.ended("whole");
}

/// Reads a request's body to its end.
async fn take(mut body: Incoming, tally: &Arc<Tally>) -> Result<(), hyper::Error> {
    let mut reader = Reader::of(tally);
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => reader.take(frame.data_ref().unwrap_or(&Bytes::new())),
            Err(error) => {
                tally.ended(told(&error));
                return Err(error);
            }
        }
    }
    tally.ended("whole");
    Ok(())
}

/// Sends what comes back to where it came from.
async fn echo(mut body: Incoming, to: ToCaller, tally: Arc<Tally>, last: Option<HeaderMap>) {
    let mut reader = Reader::of(&tally);
    while let Some(frame) = body.frame().await {
        let data = match frame {
            Ok(frame) => frame.into_data().unwrap_or_default(),
            Err(error) => return tally.ended(told(&error)),
        };
        let before = tally.got();
        reader.take(&data);
        for _ in before..tally.got() {
            // Where nobody takes it, what is read next tells why.
            let _ = to.send(Ok(Frame::data(tally.next()))).await;
        }
    }
    if let Some(trailers) = last {
        let _ = to.send(Ok(Frame::trailers(trailers))).await;
    }
    tally.ended("whole");
}

/// How HTTP tells of an end that is none.
pub(super) fn told(error: &hyper::Error) -> String {
    match format!("{error:?}").contains("Reset(") {
        true => "RST_STREAM".to_owned(),
        false => "cut".to_owned(),
    }
}

fn open_websocket(mut request: Request<Incoming>, tally: Arc<Tally>) -> Response<Body> {
    let key = request.headers()["sec-websocket-key"].clone();
    let upgrading = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let io = TokioIo::new(upgrading.await.unwrap());
        let socket = WebSocketStream::from_raw_socket(io, Role::Server, None).await;
        echo_messages(socket, &tally).await;
    });
    let mut response = Response::new(Full::default().boxed_unsync());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert("connection", HeaderValue::from_static("upgrade"));
    headers.insert("upgrade", HeaderValue::from_static("websocket"));
    let proof = derive_accept_key(key.as_bytes());
    headers.insert("sec-websocket-accept", proof.parse().unwrap());
    response
}

async fn echo_messages(
    mut socket: WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>,
    tally: &Arc<Tally>,
) {
    let mut reader = Reader::of(tally);
    while let Some(message) = socket.next().await {
        match message {
            Ok(Message::Binary(bytes)) => {
                reader.take(&bytes);
                // That it cannot be sent is told by what is read next.
                let _ = socket.send(Message::Binary(tally.next())).await;
            }
            Ok(Message::Close(frame)) => {
                let code = frame.map(|frame| u16::from(frame.code));
                tally.ended(format!("close {}", code.unwrap_or_default()));
            }
            Ok(_) => {}
            Err(error) => tally.ended(error.to_string()),
        }
    }
    tally.ended("cut");
}

/// The first line is the name of the call.
async fn serve_tcp(stream: TcpStream, notes: Notes) {
    let mut stream = BufReader::new(stream);
    let mut name = String::new();
    if stream.read_line(&mut name).await.is_err() || !name.ends_with('\n') {
        return;
    }
    let tally = notes.of(name.trim_end());
    match echo_bytes(stream, &tally).await {
        Ok(()) => tally.ended("whole"),
        Err(error) => tally.ended(broken(&error)),
    }
}

async fn echo_bytes(mut stream: BufReader<TcpStream>, tally: &Arc<Tally>) -> io::Result<()> {
    let mut reader = Reader::of(tally);
    let mut buffer = [0; 4096];
    loop {
        let count = stream.read(&mut buffer).await?;
        if count == 0 {
            return stream.shutdown().await;
        }
        let before = tally.got();
        reader.take(&buffer[..count]);
        for _ in before..tally.got() {
            stream.write_all(&tally.next()).await?;
        }
        stream.flush().await?;
    }
}

/// How TCP tells of an end that is none.
pub(super) fn broken(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionReset => "reset".to_owned(),
        _ => error.to_string(),
    }
}
