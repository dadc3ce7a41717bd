//! An upstream whose every answer the test decides, on TCP or a unix socket, in HTTP/1.1 or
//! HTTP/2, plain or as a workload with an SVID.

use std::convert::Infallible;
use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use super::pki::{Ca, Leaf};

pub(crate) type Body = UnsyncBoxBody<Bytes, Infallible>;
type Answering = Pin<Box<dyn Future<Output = Response<Body>> + Send>>;
type Answer = Arc<dyn Fn(Asked) -> Answering + Send + Sync>;

/// How a service listens and speaks.
#[derive(Default)]
pub(crate) struct How {
    http2: bool,
    address: Option<String>,
    socket: Option<PathBuf>,
    tls: Option<ServerConfig>,
    max_streams: Option<u32>,
    early: bool,
}

/// One request.
pub(crate) struct Asked {
    /// Counts the requests of the service, from 1.
    pub(crate) number: usize,
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
}

pub(crate) struct Service {
    /// As configuration files name it.
    pub(crate) address: String,
    state: Arc<State>,
    task: JoinHandle<()>,
}

struct State {
    answer: Answer,
    early: bool,
    requests: AtomicUsize,
    connections: AtomicUsize,
    open: AtomicUsize,
    bodies: Mutex<Vec<Bytes>>,
    /// Connections up to this one get no more processor time.
    frozen: watch::Sender<usize>,
    /// Connections up to this one are told to finish.
    leaving: watch::Sender<usize>,
}

impl How {
    pub(crate) fn http1() -> Self {
        Self::default()
    }

    pub(crate) fn http2() -> Self {
        Self {
            http2: true,
            ..Self::default()
        }
    }

    pub(crate) fn at(mut self, address: &str) -> Self {
        self.address = Some(address.to_owned());
        self
    }

    pub(crate) fn on_socket(mut self, path: PathBuf) -> Self {
        self.socket = Some(path);
        self
    }

    /// Allows for so many HTTP/2 streams at once.
    pub(crate) fn streams(mut self, most: u32) -> Self {
        self.max_streams = Some(most);
        self
    }

    /// Answers without having read the body.
    pub(crate) fn early(mut self) -> Self {
        self.early = true;
        self
    }

    /// Speaks TLS as the workload of `leaf`, and agrees on these protocols.
    pub(crate) fn secured(mut self, ca: &Ca, leaf: &Leaf, alpn: &[&str]) -> Self {
        let issued = ca.issue(leaf);
        let chain = CertificateDer::pem_slice_iter(issued.certificate.as_bytes());
        let chain = chain.collect::<Result<Vec<_>, _>>().unwrap();
        let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        self.tls = Some(config);
        self
    }
}

impl Service {
    pub(crate) async fn start<F>(
        how: How,
        answer: impl Fn(Asked) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        let state = Arc::new(State {
            answer: Arc::new(move |asked| Box::pin(answer(asked))),
            early: how.early,
            requests: AtomicUsize::new(0),
            connections: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            bodies: Mutex::default(),
            frozen: watch::Sender::new(0),
            leaving: watch::Sender::new(0),
        });
        let shared = Arc::clone(&state);
        let (address, task) = match &how.socket {
            Some(path) => {
                let listener = UnixListener::bind(path).unwrap();
                let address = format!("unix:{}", path.display());
                (address, tokio::spawn(accept_unix(listener, shared, how)))
            }
            None => {
                let address = how.address.as_deref().unwrap_or("127.0.0.1:0");
                let listener = TcpListener::bind(address).await.unwrap();
                let address = listener.local_addr().unwrap().to_string();
                (address, tokio::spawn(accept_tcp(listener, shared, how)))
            }
        };
        Self {
            address,
            state,
            task,
        }
    }

    /// A service that answers every request with this status and its own name.
    pub(crate) async fn saying(how: How, status: u16, name: &'static str) -> Self {
        Self::start(how, move |_| async move { say(status, name) }).await
    }

    /// How many requests came.
    pub(crate) fn requests(&self) -> usize {
        self.state.requests.load(Ordering::SeqCst)
    }

    /// How many connections were opened.
    pub(crate) fn connections(&self) -> usize {
        self.state.connections.load(Ordering::SeqCst)
    }

    /// How many connections are open now.
    pub(crate) fn open(&self) -> usize {
        self.state.open.load(Ordering::SeqCst)
    }

    /// The bodies of all requests so far.
    pub(crate) fn bodies(&self) -> Vec<Bytes> {
        self.state.bodies.lock().unwrap().clone()
    }

    /// Lets the connections of now hang: they stay open and say nothing more.
    pub(crate) fn freeze(&self) {
        self.state.frozen.send_replace(self.connections());
    }

    /// Tells the connections of now to finish, as a server does that restarts.
    pub(crate) fn leave(&self) {
        self.state.leaving.send_replace(self.connections());
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// An answer with a text.
pub(crate) fn say(status: u16, text: &'static str) -> Response<Body> {
    let mut response = Response::new(Full::from(text).boxed_unsync());
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    response
}

async fn accept_tcp(listener: TcpListener, state: Arc<State>, how: How) {
    let tls = how.tls.clone().map(|tls| TlsAcceptor::from(Arc::new(tls)));
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        let number = state.connections.fetch_add(1, Ordering::SeqCst) + 1;
        let (state, streams, http2) = (Arc::clone(&state), how.max_streams, how.http2);
        let tls = tls.clone();
        connections.spawn(async move {
            match tls {
                None => serve(stream, state, number, http2, streams).await,
                Some(tls) => {
                    if let Ok(stream) = tls.accept(stream).await {
                        serve(stream, state, number, http2, streams).await;
                    }
                }
            }
        });
    }
}

async fn accept_unix(listener: UnixListener, state: Arc<State>, how: How) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let number = state.connections.fetch_add(1, Ordering::SeqCst) + 1;
        let (state, streams, http2) = (Arc::clone(&state), how.max_streams, how.http2);
        connections.spawn(serve(stream, state, number, http2, streams));
    }
}

async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    state: Arc<State>,
    number: usize,
    speaks_http2: bool,
    streams: Option<u32>,
) {
    state.open.fetch_add(1, Ordering::SeqCst);
    let shared = Arc::clone(&state);
    let service = service_fn(move |request| answer(request, Arc::clone(&shared)));
    let io = TokioIo::new(stream);
    let mut frozen = state.frozen.subscribe();
    let mut leaving = state.leaving.subscribe();
    let frozen = async move {
        let _ = frozen.wait_for(|until| *until >= number).await;
    };
    let leaving = async move {
        let _ = leaving.wait_for(|until| *until >= number).await;
    };
    // How a connection ends is its test's affair.
    if speaks_http2 {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder.max_concurrent_streams(streams);
        let serving = builder.serve_connection(io, service);
        tokio::pin!(serving);
        tokio::select! {
            _ = &mut serving => {}
            // Held open, and never polled again.
            () = frozen => std::future::pending().await,
            () = leaving => {
                serving.as_mut().graceful_shutdown();
                let _ = serving.await;
            }
        }
    } else {
        let serving = http1::Builder::new().serve_connection(io, service);
        tokio::pin!(serving);
        tokio::select! {
            _ = &mut serving => {}
            () = frozen => std::future::pending().await,
            () = leaving => {
                serving.as_mut().graceful_shutdown();
                let _ = serving.await;
            }
        }
    }
    state.open.fetch_sub(1, Ordering::SeqCst);
}

async fn answer(
    request: Request<Incoming>,
    state: Arc<State>,
) -> Result<Response<Body>, hyper::Error> {
    let number = state.requests.fetch_add(1, Ordering::SeqCst) + 1;
    let (head, body) = request.into_parts();
    let body = match state.early {
        true => {
            drop(body);
            Bytes::new()
        }
        false => body.collect().await?.to_bytes(),
    };
    state.bodies.lock().unwrap().push(body);
    let asked = Asked {
        number,
        method: head.method,
        path: head.uri.path().to_owned(),
        headers: head.headers,
    };
    Ok((state.answer)(asked).await)
}
