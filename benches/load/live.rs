//! Live streams of four kinds, and the upstream that they come from. Each carries a number once a
//! second, one after the other, so that what is lost shows.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use futures_util::stream::unfold;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;
use tokio_rustls::TlsConnector;

use crate::body::Body;
use crate::connector;
use crate::papers::{self, Caller};
use crate::upstream::BODY;

/// How often a stream carries something.
const BEAT: Duration = Duration::from_secs(1);
/// The length of what it carries.
const UNIT: usize = 16;
/// Streams on one connection, below every limit.
const PER_CONNECTION: usize = 100;
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// What a stream is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Grpc,
    Events,
    WebSocket,
    Tcp,
}

impl Kind {
    pub(crate) const ALL: [Self; 4] = [Self::Grpc, Self::Events, Self::WebSocket, Self::Tcp];

    /// What is in front of each number.
    fn head(self) -> &'static [u8] {
        match self {
            Self::Grpc => &[0, 0, 0, 0, 16],
            Self::WebSocket => &[0x82, 16],
            Self::Events | Self::Tcp => &[],
        }
    }
}

fn unit(kind: Kind, number: u64) -> Bytes {
    [kind.head(), format!("data: {number:08}\n\n").as_bytes()]
        .concat()
        .into()
}

/// One stream as its client sees it.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    next: AtomicU64,
    ended: Mutex<Option<Ended>>,
}

/// When a stream ended, and whether it was whole until then.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ended {
    pub(crate) at: Instant,
    pub(crate) is_whole: bool,
}

impl Seen {
    /// Numbers that came, each in its turn.
    pub(crate) fn count(&self) -> u64 {
        self.next.load(Ordering::Relaxed)
    }

    pub(crate) fn ended(&self) -> Option<Ended> {
        *self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end(&self, is_whole: bool) {
        let at = Instant::now();
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        ended.get_or_insert(Ended { at, is_whole });
    }

    /// Takes what came; false where it is not what is due.
    fn take(&self, kind: Kind, rest: &mut Vec<u8>, bytes: &[u8]) -> bool {
        rest.extend_from_slice(bytes);
        let length = kind.head().len() + UNIT;
        while let Some(came) = rest.get(..length) {
            if came != unit(kind, self.count()) {
                // The goodbye of a WebSocket is none of its numbers.
                return kind == Kind::WebSocket && came.first() == Some(&0x88);
            }
            self.next.fetch_add(1, Ordering::Relaxed);
            rest.drain(..length);
        }
        true
    }
}

/// The listeners of the sidecar.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Doors {
    pub(crate) web: SocketAddr,
    pub(crate) grpc: SocketAddr,
    pub(crate) tcp: SocketAddr,
}

/// Opens so many streams of one kind, each of which has carried something.
pub(crate) async fn open(
    doors: Doors,
    papers: &Path,
    caller: Caller,
    kind: Kind,
    count: usize,
) -> Result<Vec<Arc<Seen>>> {
    let (address, alpn) = match kind {
        Kind::Grpc => (doors.grpc, &b"h2"[..]),
        Kind::Events => (doors.web, &b"h2"[..]),
        Kind::WebSocket => (doors.web, &b"http/1.1"[..]),
        // The listener has no protocol to agree on.
        Kind::Tcp => (doors.tcp, &b""[..]),
    };
    let mut config = papers::client_tls(papers, caller, alpn)?;
    config.alpn_protocols.retain(|name| !name.is_empty());
    let tls = TlsConnector::from(Arc::new(config));
    let mut all = Vec::new();
    while all.len() < count {
        let stream = connector::connect(address, Ipv4Addr::LOCALHOST).await?;
        let stream = tls
            .connect(ServerName::try_from("localhost")?, stream)
            .await?;
        match kind {
            Kind::Grpc | Kind::Events => {
                let some = PER_CONNECTION.min(count - all.len());
                all.extend(over_http2(stream, kind, some).await?);
            }
            Kind::WebSocket => all.push(over_websocket(stream).await?),
            Kind::Tcp => all.push(read_bytes(stream, Kind::Tcp)),
        }
    }
    Ok(all)
}

async fn over_http2(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    kind: Kind,
    count: usize,
) -> Result<Vec<Arc<Seen>>> {
    let io = TokioIo::new(stream);
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await?;
    tokio::spawn(connection);
    let mut all = Vec::new();
    for _ in 0..count {
        sender.ready().await?;
        let request = match kind {
            Kind::Grpc => Request::post("https://localhost/api.Live/Watch")
                .header("content-type", "application/grpc")
                .header("te", "trailers"),
            _ => Request::get("https://localhost/api/live"),
        };
        let response = sender.send_request(request.body(Body::Empty)?).await?;
        ensure!(response.status() == 200, "{}", response.status());
        let seen = Arc::<Seen>::default();
        tokio::spawn(read_answer(
            response.into_body(),
            kind,
            Arc::clone(&seen),
            sender.clone(),
        ));
        all.push(seen);
    }
    Ok(all)
}

/// The connection lives as long as what is read from it.
async fn read_answer<S>(mut body: Incoming, kind: Kind, seen: Arc<Seen>, _sender: S) {
    let (mut rest, mut is_whole) = (Vec::new(), true);
    while let Some(Ok(frame)) = body.frame().await {
        let data = frame.into_data().unwrap_or_default();
        is_whole &= seen.take(kind, &mut rest, &data);
    }
    seen.end(is_whole);
}

async fn over_websocket(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> Result<Arc<Seen>> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection.with_upgrades());
    let request = Request::get("/api/socket")
        .header("host", "localhost")
        .header("connection", "upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", KEY);
    let response = sender.send_request(request.body(Body::Empty)?).await?;
    ensure!(response.status() == 101, "{}", response.status());
    let upgraded = hyper::upgrade::on(response).await.context("the upgrade")?;
    Ok(read_bytes(TokioIo::new(upgraded), Kind::WebSocket))
}

fn read_bytes(mut stream: impl AsyncRead + Unpin + Send + 'static, kind: Kind) -> Arc<Seen> {
    let seen = Arc::<Seen>::default();
    let reading = Arc::clone(&seen);
    tokio::spawn(async move {
        let (mut rest, mut is_whole, mut buffer) = (Vec::new(), true, [0; 512]);
        while let Ok(count @ 1..) = stream.read(&mut buffer).await {
            let bytes = buffer.get(..count).unwrap_or_default();
            is_whole &= reading.take(kind, &mut rest, bytes);
        }
        reading.end(is_whole);
    });
    seen
}

/// Serves HTTP/1.1, HTTP/2 and bytes until it is ended; tells where.
pub(crate) async fn upstream() -> Result<[SocketAddr; 3]> {
    let mut addresses = [SocketAddr::from((Ipv4Addr::LOCALHOST, 0)); 3];
    for (place, address) in addresses.iter_mut().enumerate() {
        let listener = TcpListener::bind(*address).await?;
        *address = listener.local_addr()?;
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let _ = stream.set_nodelay(true);
                tokio::spawn(serve(stream, place));
            }
        });
    }
    Ok(addresses)
}

// However a connection ends is its client's affair.
async fn serve(stream: TcpStream, place: usize) {
    match place {
        0 => {
            let io = TokioIo::new(stream);
            let serving = http1::Builder::new().serve_connection(io, service_fn(answer));
            let _ = serving.with_upgrades().await;
        }
        1 => {
            let io = TokioIo::new(stream);
            let mut server = http2::Builder::new(TokioExecutor::new());
            server.max_concurrent_streams(None);
            let _ = server.serve_connection(io, service_fn(answer)).await;
        }
        _ => write_bytes(stream, Kind::Tcp).await,
    }
}

async fn write_bytes(mut stream: impl AsyncWrite + Unpin, kind: Kind) {
    for number in 0.. {
        let sent = stream.write_all(&unit(kind, number)).await;
        if sent.is_err() || stream.flush().await.is_err() {
            return;
        }
        sleep(BEAT).await;
    }
}

type Answer = Response<UnsyncBoxBody<Bytes, std::convert::Infallible>>;

async fn answer(mut request: Request<Incoming>) -> Result<Answer, http::Error> {
    let streaming = |kind: Kind| {
        let units = unfold(0, move |number| async move {
            if number > 0 {
                sleep(BEAT).await;
            }
            Some((Ok(Frame::data(unit(kind, number))), number + 1))
        });
        StreamBody::new(units).boxed_unsync()
    };
    let response = Response::builder();
    match request.uri().path() {
        "/api.Live/Watch" => response
            .header("content-type", "application/grpc")
            .body(streaming(Kind::Grpc)),
        "/api/live" => response
            .header("content-type", "text/event-stream")
            .body(streaming(Kind::Events)),
        "/api/socket" => {
            let upgrading = hyper::upgrade::on(&mut request);
            tokio::spawn(async move {
                if let Ok(upgraded) = upgrading.await {
                    write_bytes(TokioIo::new(upgraded), Kind::WebSocket).await;
                }
            });
            response
                .status(101)
                .header("connection", "upgrade")
                .header("upgrade", "websocket")
                .body(Body::Empty.boxed_unsync())
        }
        _ => response.body(Body::Whole(Bytes::from_static(BODY)).boxed_unsync()),
    }
}
