//! One request of ours to a transmitter, over a connection of its own, with limits on time and
//! size. No redirect is followed: where a transmitter is, the configuration says.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http::header::{HOST, USER_AGENT};
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::{InvalidDnsNameError, ServerName};
use tokio::net::TcpStream;
use tokio::sync::OnceCell;
use tokio_util::task::AbortOnDropHandle;
use wayleave_certs::Alpn;
use wayleave_certs::tls::{HandshakeError, WebRoots, WebRootsError, WebTls};

use crate::config::WebUrl;
use crate::stream::Stream;

/// Asks one URL.
#[derive(Debug)]
pub(super) struct Fetcher {
    url: WebUrl,
    ca_file: Option<PathBuf>,
    system: OnceCell<WebTls>,
}

/// Why there is no answer that could be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    #[error("cannot connect: {0}")]
    Connect(#[source] io::Error),
    #[error("the certificate authorities cannot be read: {0}")]
    Roots(#[from] WebRootsError),
    #[error("TLS failed: {0}")]
    Tls(#[from] HandshakeError),
    #[error("the host cannot be verified: {0}")]
    Host(#[from] InvalidDnsNameError),
    #[error("HTTP failed: {0}")]
    Http(#[from] hyper::Error),
    #[error("the request cannot be written: {0}")]
    Request(#[from] http::Error),
    #[error("the answer is larger than {0} bytes")]
    TooLarge(usize),
    #[error("the answer breaks off: {0}")]
    Body(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the answer is {0}, not 200")]
    Status(StatusCode),
    #[error("the answer cannot be used: {0}")]
    Unusable(String),
}

impl Fetcher {
    pub(super) fn new(url: WebUrl, ca_file: Option<PathBuf>) -> Self {
        Self {
            url,
            ca_file,
            system: OnceCell::new(),
        }
    }

    /// Sends a request to the URL, and reads the answer.
    pub(super) async fn send(
        &self,
        request: http::request::Builder,
        body: Bytes,
        most: usize,
        limit: Duration,
    ) -> Result<Response<Bytes>, FetchError> {
        let request = request
            .uri(self.url.path_and_query())
            .header(HOST, self.url.authority())
            .header(USER_AGENT, HeaderValue::from_static("wayleave"))
            .body(Full::new(body))?;
        let answer = tokio::time::timeout(limit, self.exchange(request, most)).await;
        let answer = answer.map_err(|_| FetchError::TimedOut(limit))??;
        match answer.status() {
            StatusCode::OK => Ok(answer),
            status => Err(FetchError::Status(status)),
        }
    }

    async fn exchange(
        &self,
        request: Request<Full<Bytes>>,
        most: usize,
    ) -> Result<Response<Bytes>, FetchError> {
        let stream = self.connect().await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let _driving = AbortOnDropHandle::new(tokio::spawn(connection));
        let (head, body) = sender.send_request(request).await?.into_parts();
        match Limited::new(body, most).collect().await {
            Ok(body) => Ok(Response::from_parts(head, body.to_bytes())),
            Err(error) if error.is::<LengthLimitError>() => Err(FetchError::TooLarge(most)),
            Err(error) => Err(FetchError::Body(error)),
        }
    }

    async fn connect(&self) -> Result<Stream, FetchError> {
        let stream = TcpStream::connect((self.url.host(), self.url.port()))
            .await
            .map_err(FetchError::Connect)?;
        if !self.url.is_tls() {
            return Ok(stream.into());
        }
        let name = ServerName::try_from(self.url.host().to_owned())?;
        let stream = match &self.ca_file {
            Some(path) => {
                let path = path.clone();
                // Read each time, as it may be replaced.
                blocking(move || WebRoots::file(&path))
                    .await?
                    .connect(name, stream)
                    .await?
            }
            None => {
                let tls = self.system.get_or_try_init(|| blocking(WebRoots::system));
                tls.await?.connect(name, stream).await?
            }
        };
        Ok(stream.into())
    }
}

/// Reads authorities on a thread that may wait.
async fn blocking(
    read: impl FnOnce() -> Result<WebRoots, WebRootsError> + Send + 'static,
) -> Result<WebTls, FetchError> {
    let roots = tokio::task::spawn_blocking(read).await;
    let roots = roots.map_err(|error| FetchError::Connect(io::Error::other(error)))??;
    Ok(WebTls::new(&roots, Alpn::Http1)?)
}
