//! The bare proxy: mutual TLS in, plain HTTP/1.1 out, on the sidecar's own stack, and
//! nothing else. It decides, checks, counts, limits and records nothing; what the sidecar
//! costs above it is the price of all that.

use std::cell::RefCell;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use anyhow::Result;
use http::header::{CONNECTION, HOST, HeaderValue};
use http::{Request, Response, Uri, Version};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self as upstream, SendRequest};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{LocalSet, spawn_local};
use tokio_rustls::TlsAcceptor;

use crate::papers;

/// Upstream connections that are free, the warmest last.
#[derive(Clone)]
struct Pool {
    address: SocketAddr,
    idle: Rc<RefCell<Vec<SendRequest<Incoming>>>>,
}

/// HTTP/2 tasks stay on this thread.
#[derive(Clone)]
struct Local;

impl<F: Future + 'static> hyper::rt::Executor<F> for Local {
    fn execute(&self, future: F) {
        spawn_local(async move { drop(future.await) });
    }
}

/// Serves until it is ended. Its address is told on standard output.
pub(crate) async fn serve(papers: &Path, address: SocketAddr) -> Result<()> {
    let acceptor = TlsAcceptor::from(Arc::new(papers::server_tls(papers)?));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    println!("{}", listener.local_addr()?);
    let pool = Pool {
        address,
        idle: Rc::default(),
    };
    let accepting = async {
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            spawn_local(connection(acceptor.clone(), stream, pool.clone()));
        }
    };
    LocalSet::new().run_until(accepting).await
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
        let _ = http2::Builder::new(Local)
            .timer(TokioTimer::new())
            .serve_connection(io, service)
            .await;
    } else {
        let _ = http1::Builder::new()
            .timer(TokioTimer::new())
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
    let free = pool.idle.borrow_mut().pop();
    let mut sender = match free.filter(|sender| !sender.is_closed()) {
        Some(sender) => sender,
        None => pool.connect().await?,
    };
    sender.ready().await?;
    let response = sender.send_request(request).await?;
    // The connection takes its next request when this answer's body has been read.
    pool.idle.borrow_mut().push(sender);
    Ok(response)
}

impl Pool {
    async fn connect(&self) -> Result<SendRequest<Incoming>> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = upstream::handshake(TokioIo::new(stream)).await?;
        spawn_local(async move { drop(connection.await) });
        Ok(sender)
    }
}
