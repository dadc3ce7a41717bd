//! The upstream of a reliability run: it answers in every protocol, and is the witness of what
//! reached it. It has a thread and a runtime of its own, so that it can be ended in the middle of
//! everything, as a crash would, and started again at the same addresses.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use anyhow::{Result, anyhow};
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::ground::{self, Three};
use crate::upstream::BODY;

/// A call that policy denies bears this field, or begins with this byte, so that the witness
/// knows it when it sees it.
pub(crate) const DENIED: (&str, &str) = ("x-expect", "denied");
pub(crate) const DENIED_BYTE: u8 = b'D';
/// A call that is counted bears its number here.
pub(crate) const NUMBER: &str = "x-number";

/// What reached the upstream, over all its lives.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    reached: AtomicU64,
    denied: AtomicU64,
    numbered: Mutex<HashMap<u64, u32>>,
}

impl Ledger {
    /// Calls, streams, sockets and connections that reached the upstream.
    pub(crate) fn reached(&self) -> u64 {
        self.reached.load(Ordering::Relaxed)
    }

    /// Those among them that policy should have stopped.
    pub(crate) fn denied(&self) -> u64 {
        self.denied.load(Ordering::Relaxed)
    }

    /// How often each numbered call arrived.
    pub(crate) fn numbered(&self) -> HashMap<u64, u32> {
        let numbered = self.numbered.lock().unwrap_or_else(PoisonError::into_inner);
        numbered.clone()
    }

    pub(crate) fn note(&self, headers: &HeaderMap) {
        self.count(headers.get(DENIED.0).is_some());
        let number = headers
            .get(NUMBER)
            .and_then(|number| number.to_str().ok()?.parse().ok());
        if let Some(number) = number {
            let mut numbered = self.numbered.lock().unwrap_or_else(PoisonError::into_inner);
            *numbered.entry(number).or_default() += 1;
        }
    }

    fn count(&self, denied: bool) {
        self.reached.fetch_add(1, Ordering::Relaxed);
        self.denied.fetch_add(u64::from(denied), Ordering::Relaxed);
    }
}

/// A running upstream; it ends when dropped.
pub(crate) struct Witness {
    addresses: Three,
    ledger: Arc<Ledger>,
    life: Option<Life>,
}

struct Life {
    end: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Witness {
    /// Starts at these addresses.
    pub(crate) async fn start(addresses: Three) -> Result<Self> {
        let mut witness = Self {
            addresses,
            ledger: Arc::default(),
            life: None,
        };
        witness.begin().await?;
        Ok(witness)
    }

    pub(crate) fn ledger(&self) -> Arc<Ledger> {
        Arc::clone(&self.ledger)
    }

    /// Answers once it accepts connections.
    pub(crate) async fn begin(&mut self) -> Result<()> {
        let (end, ended) = oneshot::channel();
        let (begun, beginning) = oneshot::channel();
        let (addresses, ledger) = (self.addresses, self.ledger());
        let thread = std::thread::Builder::new()
            .name("upstream".to_owned())
            .spawn(move || {
                let told = live(addresses, ledger, begun, ended);
                if let Err(error) = told {
                    eprintln!("the upstream: {error:#}");
                }
            })?;
        self.life = Some(Life { end, thread });
        beginning
            .await
            .map_err(|_| anyhow!("the upstream did not start"))
    }

    /// Ends it with all its connections. Blocks for as long as that takes.
    pub(crate) fn end(&mut self) {
        if let Some(Life { end, thread }) = self.life.take() {
            let _ = end.send(());
            let _ = thread.join();
        }
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.end();
    }
}

fn live(
    addresses: Three,
    ledger: Arc<Ledger>,
    begun: oneshot::Sender<()>,
    ended: oneshot::Receiver<()>,
) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    // What is still open is dropped with the runtime.
    runtime.block_on(async {
        let web = ground::bind(addresses.web).await?;
        let rpc = ground::bind(addresses.rpc).await?;
        let raw = ground::bind(addresses.raw).await?;
        let _ = begun.send(());
        tokio::select! {
            _ = ended => Ok(()),
            served = accept(web, rpc, raw, ledger) => served,
        }
    })
}

async fn accept(
    web: TcpListener,
    rpc: TcpListener,
    raw: TcpListener,
    ledger: Arc<Ledger>,
) -> Result<()> {
    loop {
        let ledger = Arc::clone(&ledger);
        tokio::select! {
            accepted = web.accept() => { tokio::spawn(serve_web(accepted?.0, ledger)); }
            accepted = rpc.accept() => { tokio::spawn(serve_rpc(accepted?.0, ledger)); }
            accepted = raw.accept() => { tokio::spawn(serve_raw(accepted?.0, ledger)); }
        }
    }
}

type Answered = Response<BoxBody<Bytes, hyper::Error>>;

async fn serve_web(stream: TcpStream, ledger: Arc<Ledger>) {
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| web(request, Arc::clone(&ledger)));
    let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    let _ = connection.with_upgrades().await;
}

async fn web(mut request: Request<Incoming>, ledger: Arc<Ledger>) -> hyper::Result<Answered> {
    ledger.note(request.headers());
    let key = request.headers().get(SEC_WEBSOCKET_KEY).cloned();
    let mut response = Response::new(full(BODY));
    match key {
        None => {
            request.into_body().collect().await?;
        }
        Some(key) => {
            tokio::spawn(echo_messages(hyper::upgrade::on(&mut request)));
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            *response.body_mut() = full(b"");
            let headers = response.headers_mut();
            headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
            headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
            if let Ok(proof) = derive_accept_key(key.as_bytes()).parse() {
                headers.insert(SEC_WEBSOCKET_ACCEPT, proof);
            }
        }
    }
    Ok(response)
}

fn full(bytes: &'static [u8]) -> BoxBody<Bytes, hyper::Error> {
    let body = Full::new(Bytes::from_static(bytes));
    body.map_err(|never| match never {}).boxed()
}

async fn echo_messages(upgrade: hyper::upgrade::OnUpgrade) {
    let Ok(upgraded) = upgrade.await else {
        return;
    };
    let io = TokioIo::new(upgraded);
    let mut socket = WebSocketStream::from_raw_socket(io, Role::Server, None).await;
    while let Some(Ok(message)) = socket.next().await {
        if (message.is_binary() || message.is_text()) && socket.send(message).await.is_err() {
            return;
        }
    }
}

async fn serve_rpc(stream: TcpStream, ledger: Arc<Ledger>) {
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| rpc(request, Arc::clone(&ledger)));
    let server = http2::Builder::new(TokioExecutor::new());
    let _ = server.serve_connection(TokioIo::new(stream), service).await;
}

/// Every message comes back as it comes in, unary or not.
async fn rpc(request: Request<Incoming>, ledger: Arc<Ledger>) -> hyper::Result<Answered> {
    ledger.note(request.headers());
    let body = request.into_body().with_trailers(async {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        Some(Ok(trailers))
    });
    let mut response = Response::new(body.boxed());
    let kind = HeaderValue::from_static("application/grpc");
    response
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, kind);
    Ok(response)
}

async fn serve_raw(mut stream: TcpStream, ledger: Arc<Ledger>) {
    let _ = stream.set_nodelay(true);
    let mut first = true;
    let mut buffer = [0; 1024];
    while let Ok(length @ 1..) = stream.read(&mut buffer).await {
        let bytes = buffer.get(..length).unwrap_or_default();
        if std::mem::take(&mut first) {
            ledger.count(bytes.first() == Some(&DENIED_BYTE));
        }
        if stream.write_all(bytes).await.is_err() {
            return;
        }
    }
}

impl Three {
    /// Where a job's listener is.
    pub(crate) fn of(self, job: crate::job::Job) -> SocketAddr {
        use crate::job::Job;
        match job {
            Job::Http1 | Job::Http2 | Job::WebSocket => self.web,
            Job::GrpcUnary | Job::GrpcStream => self.rpc,
            Job::Tcp => self.raw,
        }
    }
}
