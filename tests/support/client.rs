//! Clients in this process: mutual TLS by tokio-rustls, HTTP by hyper, and raw bytes for
//! what no well-behaved client sends.

use std::fmt::Display;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::pki::Credentials;
use super::within;

/// An answer, read to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) trailers: Option<HeaderMap>,
}

impl Answer {
    async fn read(response: Response<Incoming>) -> Self {
        let (head, body) = response.into_parts();
        let body = within("the body", body.collect()).await.unwrap();
        let trailers = body.trailers().cloned();
        Self {
            status: head.status,
            headers: head.headers,
            body: body.to_bytes(),
            trailers,
        }
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }
}

/// A request without a body. A full URL names the host itself; a path goes to `localhost`.
pub(crate) fn get(uri: &str) -> Request<Full<Bytes>> {
    let request = Request::get(uri);
    let request = if uri.starts_with("https:") {
        request
    } else {
        request.header("host", "localhost")
    };
    request.body(Full::default()).unwrap()
}

/// Asks a plain HTTP/1.1 server, such as the admin listener.
pub(crate) async fn plain(address: SocketAddr, request: Request<Full<Bytes>>) -> Option<Answer> {
    let stream = TcpStream::connect(address).await.ok()?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.ok()?;
    tokio::spawn(connection);
    let response = within("the answer", sender.send_request(request))
        .await
        .ok()?;
    Some(Answer::read(response).await)
}

/// The TLS side of a caller: what it presents, and that it verifies the sidecar as stock
/// clients do, by name.
pub(crate) fn tls(credentials: Option<&Credentials>, bundle: &[u8], alpn: &[&str]) -> ClientConfig {
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    tls_by(provider, credentials, bundle, alpn)
}

/// The same with other cryptography than a client of today offers.
pub(crate) fn tls_by(
    provider: CryptoProvider,
    credentials: Option<&Credentials>,
    bundle: &[u8],
    alpn: &[&str],
) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    for authority in CertificateDer::pem_slice_iter(bundle) {
        roots.add(authority.unwrap()).unwrap();
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match credentials {
        None => builder.with_no_client_auth(),
        Some(credentials) => {
            let chain = CertificateDer::pem_file_iter(&credentials.certificate).unwrap();
            let chain = chain.collect::<Result<Vec<_>, _>>().unwrap();
            let key = PrivateKeyDer::from_pem_file(&credentials.key).unwrap();
            builder.with_client_auth_cert(chain, key).unwrap()
        }
    };
    config.resumption = Resumption::disabled();
    config.alpn_protocols = alpn
        .iter()
        .map(|protocol| protocol.as_bytes().to_vec())
        .collect();
    config
}

/// A finished handshake, as far as the client can tell: in TLS 1.3 the server may still
/// refuse the client's certificate, and says so on the first read.
pub(crate) async fn handshake(
    address: SocketAddr,
    config: ClientConfig,
) -> std::io::Result<TlsStream<TcpStream>> {
    handshake_over(TcpStream::connect(address).await?, config).await
}

/// The same on a connection that is there already.
pub(crate) async fn handshake_over(
    stream: TcpStream,
    config: ClientConfig,
) -> std::io::Result<TlsStream<TcpStream>> {
    stream.set_nodelay(true)?;
    let name = ServerName::try_from("localhost").unwrap();
    let connecting = TlsConnector::from(Arc::new(config)).connect(name, stream);
    within("the handshake", connecting).await
}

/// One HTTP/1.1 connection with an identity.
pub(crate) struct Http1(pub(crate) http1::SendRequest<Full<Bytes>>);

impl Http1 {
    pub(crate) async fn over(stream: TlsStream<TcpStream>) -> Self {
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection.with_upgrades());
        Self(sender)
    }

    /// A connection in plain text.
    pub(crate) async fn over_plain(stream: TcpStream) -> Self {
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Self(sender)
    }

    pub(crate) async fn send(&mut self, request: Request<Full<Bytes>>) -> Answer {
        within("the connection", self.0.ready()).await.unwrap();
        let response = within("the answer", self.0.send_request(request))
            .await
            .unwrap();
        Answer::read(response).await
    }
}

/// One HTTP/2 connection with an identity. `B` is the kind of body it sends.
pub(crate) struct Http2<B: http_body::Body>(pub(crate) http2::SendRequest<B>);

impl<B> Http2<B>
where
    B: http_body::Body<Data = Bytes> + Unpin + Send + 'static,
    B::Error: std::error::Error + Send + Sync,
{
    pub(crate) async fn over(stream: TlsStream<TcpStream>) -> Self {
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let io = TokioIo::new(stream);
        let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
        tokio::spawn(connection);
        Self(sender)
    }

    pub(crate) async fn send(&mut self, request: Request<B>) -> Answer {
        within("the connection", self.0.ready()).await.unwrap();
        let response = within("the answer", self.0.send_request(request))
            .await
            .unwrap();
        Answer::read(response).await
    }
}

/// Sends bytes as they are and reads until the server closes. The last request must ask
/// for that with `Connection: close`, or be refused.
pub(crate) async fn raw(mut stream: TlsStream<TcpStream>, request: impl Display) -> String {
    stream
        .write_all(request.to_string().as_bytes())
        .await
        .unwrap();
    stream.flush().await.unwrap();
    let mut answer = Vec::new();
    // A server that refuses may reset what it does not want to read.
    let _ = within("the answer", stream.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).into_owned()
}

/// The status code of a raw answer.
pub(crate) fn status_of(answer: &str) -> u16 {
    let code = answer
        .strip_prefix("HTTP/1.1 ")
        .and_then(|rest| rest.get(..3));
    code.and_then(|code| code.parse().ok())
        .unwrap_or_else(|| panic!("not an answer: {answer:?}"))
}
