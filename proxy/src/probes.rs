//! Health probes for those who have no certificate, such as a kubelet: a plain listener of its own
//! that asks the application's own probe endpoints and answers with the status alone.
//!
//! SECURITY: whoever reaches this port proved nothing. So only what is declared is asked for, by
//! a request of our own; nothing of the caller's but the method goes on, and nothing but the
//! status comes back. It runs on the control runtime and cannot delay a call.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, HOST, USER_AGENT};
use http::{Method, Request, Response, StatusCode, Uri, Version};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{client, server};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::config::{Address, ProbeConfig, ProbesConfig, UpstreamProtocol};
use crate::record::metrics::Metrics;
use crate::stream::Stream;

/// Connections open at once; the next one is closed at once.
const MOST: usize = 128;
/// How long a prober may take over its request.
const HEAD_TIME: Duration = Duration::from_secs(2);
/// Bytes of a prober's request; the least that hyper can hold.
const HEAD_BYTES: usize = 8 * 1024;
/// How long to wait when the system cannot give another socket.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The listener for probes.
#[derive(Debug)]
pub(crate) struct Probes {
    pub(crate) config: ProbesConfig,
    pub(crate) metrics: Arc<Metrics>,
}

/// Why a probe has no answer of the application.
#[derive(Debug, thiserror::Error)]
enum ProbeError {
    #[error("cannot connect to the application")]
    Connect(#[from] io::Error),
    #[error("the application did not answer as HTTP")]
    Http(#[from] hyper::Error),
    #[error("the request cannot be written")]
    Request(#[from] http::Error),
    #[error("the application answered with the status {0}")]
    NotFinal(StatusCode),
    #[error("no answer within {0:?}")]
    Timeout(Duration),
}

impl Probes {
    /// Answers probes until `closing`, also while the process drains.
    pub(crate) async fn run(self: Arc<Self>, socket: TcpListener, closing: CancellationToken) {
        let places = Arc::new(Semaphore::new(MOST));
        loop {
            let accepted = tokio::select! {
                accepted = socket.accept() => accepted,
                () = closing.cancelled() => return,
            };
            let (stream, source) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::debug!(%error, "cannot accept a probe");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
                self.metrics.probe("too_many_connections");
                continue;
            };
            let probes = Arc::clone(&self);
            tokio::spawn(async move {
                probes.serve(stream, source).await;
                drop(place);
            });
        }
    }

    /// One connection is one probe.
    async fn serve(&self, stream: TcpStream, source: SocketAddr) {
        let service = service_fn(async |request| Ok::<_, Infallible>(self.answer(&request).await));
        let serving = server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIME)
            .max_header_size(HEAD_BYTES)
            .keep_alive(false)
            .serve_connection(TokioIo::new(stream), service);
        // Longer than all of its parts may take, so that none holds a place for ever.
        let limit = HEAD_TIME + self.config.timeout + HEAD_TIME;
        match tokio::time::timeout(limit, serving).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%source, %error, "probe ended"),
            Err(_) => tracing::debug!(%source, "probe took too long"),
        }
    }

    async fn answer(&self, request: &Request<Incoming>) -> Response<Empty<Bytes>> {
        let mut response = Response::new(Empty::new());
        *response.status_mut() = match self.find(request) {
            Some(probe) => self.probe(probe, request.method()).await,
            None => {
                self.metrics.probe("unknown_path");
                StatusCode::NOT_FOUND
            }
        };
        response
    }

    /// The probe that is asked for; only reading asks for one.
    fn find(&self, request: &Request<Incoming>) -> Option<&ProbeConfig> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return None;
        }
        let asked = request.uri().path_and_query()?;
        self.config.paths.iter().find(|probe| probe.path == *asked)
    }

    async fn probe(&self, probe: &ProbeConfig, method: &Method) -> StatusCode {
        let limit = self.config.timeout;
        let asked = tokio::time::timeout(limit, ask(probe, method)).await;
        match asked.unwrap_or(Err(ProbeError::Timeout(limit))) {
            Ok(status) => {
                let well = status.as_u16() < 400;
                self.metrics.probe(if well { "ok" } else { "failing" });
                status
            }
            Err(error) => {
                self.metrics.probe("unreachable");
                let error: &dyn std::error::Error = &error;
                tracing::debug!(path = probe.path, error, "probe failed");
                StatusCode::SERVICE_UNAVAILABLE
            }
        }
    }
}

/// Asks the application, on a connection that is closed afterwards.
async fn ask(probe: &ProbeConfig, method: &Method) -> Result<StatusCode, ProbeError> {
    let (stream, host) = connect(&probe.addresses).await?;
    let io = TokioIo::new(stream);
    let request = Request::builder()
        .method(method)
        .header(USER_AGENT, "wayleave-probe");
    let path = &*probe.upstream_path;
    let response = match probe.protocol {
        UpstreamProtocol::Http1 => {
            let (mut sender, connection) = client::conn::http1::handshake(io).await?;
            let _driving = AbortOnDropHandle::new(tokio::spawn(connection));
            let request = request.uri(path).header(HOST, host);
            let request = request
                .header(CONNECTION, "close")
                .body(Empty::<Bytes>::new())?;
            sender.send_request(request).await?
        }
        UpstreamProtocol::Http2 => {
            let executor = TokioExecutor::new();
            let (mut sender, connection) = client::conn::http2::handshake(executor, io).await?;
            let _driving = AbortOnDropHandle::new(tokio::spawn(connection));
            let uri = Uri::builder().scheme("http").authority(host);
            let request = request.uri(uri.path_and_query(path).build()?);
            let request = request
                .version(Version::HTTP_2)
                .body(Empty::<Bytes>::new())?;
            sender.send_request(request).await?
        }
    };
    match response.status() {
        status if status.is_informational() => Err(ProbeError::NotFinal(status)),
        status => Ok(status),
    }
}

/// The first address that answers, and the host that is asked for there.
async fn connect(addresses: &[Address]) -> Result<(Stream, String), io::Error> {
    let mut last = io::ErrorKind::AddrNotAvailable.into();
    for address in addresses {
        let connected: io::Result<(Stream, String)> = match address {
            Address::Tcp(to) => TcpStream::connect((to.host.as_str(), to.port))
                .await
                .map(|stream| (stream.into(), to.to_string())),
            Address::Unix(path) => UnixStream::connect(path)
                .await
                .map(|stream| (stream.into(), "localhost".to_owned())),
        };
        match connected {
            Ok(connected) => return Ok(connected),
            Err(error) => last = error,
        }
    }
    Err(last)
}
