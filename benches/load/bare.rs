//! The bare proxy: mutual TLS in, plain HTTP/1.1 out, on the sidecar's own stack, and
//! nothing else. It decides, checks, counts, limits and records nothing; what the sidecar
//! costs above it is the price of all that.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use http::header::{CONNECTION, HOST, HeaderValue};
use http::{Request, Response, Uri, Version};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self as upstream, SendRequest};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio_rustls::TlsAcceptor;

use crate::papers;

/// hyper counts it from the end of the last request: it must outlast idle connections that are
/// held.
const HEADER_TIMEOUT: Duration = Duration::from_secs(600);

/// Upstream connections that are free, the warmest last.
#[derive(Clone)]
struct Pool {
    address: SocketAddr,
    idle: Arc<Mutex<Vec<SendRequest<Incoming>>>>,
}

/// Serves until it is asked to end. Its address is told on standard output.
pub(crate) async fn serve(papers: &Path, address: SocketAddr) -> Result<()> {
    let acceptor = TlsAcceptor::from(Arc::new(papers::server_tls(papers)?));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    println!("{}", listener.local_addr()?);
    let pool = Pool {
        address,
        idle: Arc::default(),
    };
    let mut asked_to_end = signal(SignalKind::terminate())?;
    // The task that accepts is one like the others: `block_on` itself is woken by a system call.
    let accepting = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            tokio::spawn(connection(acceptor.clone(), stream, pool.clone()));
        }
    });
    tokio::select! {
        ended = accepting => ended?,
        _ = asked_to_end.recv() => Ok(()),
    }
}

async fn connection(acceptor: TlsAcceptor, stream: TcpStream, pool: Pool) {
    let Ok(stream) = acceptor.accept(stream).await else {
        return;
    };
    let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let io = TokioIo::new(stream);
    let service = service_fn(move |request| forward(request, pool.clone()));
    // A connection that ends is one whose client is done.
    if http2 {
        let _ = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .serve_connection(io, service)
            .await;
    } else {
        let _ = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .serve_connection(io, service)
            .await;
    }
}

async fn forward(mut request: Request<Incoming>, pool: Pool) -> Result<Response<Incoming>> {
    if let Some(authority) = request.uri().authority() {
        let host = HeaderValue::from_str(authority.as_str())?;
        request.headers_mut().insert(HOST, host);
        let target = request.uri().path_and_query().cloned();
        *request.uri_mut() = target.map_or_else(|| Uri::from_static("/"), Uri::from);
        *request.version_mut() = Version::HTTP_11;
    }
    request.headers_mut().remove(CONNECTION);
    let mut sender = match pool.take() {
        Some(sender) => sender,
        None => pool.connect().await?,
    };
    let response = sender.send_request(request).await?;
    // The connection takes its next request when this answer's body has been read.
    pool.keep(sender);
    Ok(response)
}

impl Pool {
    /// The warmest connection whose last answer has been read.
    fn take(&self) -> Option<SendRequest<Incoming>> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|sender| !sender.is_closed());
        let free = idle.iter().rposition(SendRequest::is_ready)?;
        Some(idle.remove(free))
    }

    fn keep(&self, sender: SendRequest<Incoming>) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.push(sender);
    }

    async fn connect(&self) -> Result<SendRequest<Incoming>> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = upstream::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(sender)
    }
}
