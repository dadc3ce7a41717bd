//! An agent: a caller with an SVID, over mutual TLS and HTTP/2.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

use crate::sidecar::Sidecar;

pub(crate) struct Agent {
    pub(crate) name: String,
    /// Its SPIFFE ID.
    pub(crate) id: String,
    address: SocketAddr,
    tls: TlsConnector,
}

/// What the agent was answered.
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Of a refusal.
    pub(crate) reason_code: String,
    /// In seconds.
    pub(crate) retry_after: Option<u64>,
}

/// A stream that is read until it ends.
pub(crate) struct Watch {
    pub(crate) ended: JoinHandle<Cut>,
}

/// How a stream ended.
pub(crate) struct Cut {
    pub(crate) at: Instant,
    pub(crate) events: u32,
    pub(crate) how: String,
}

impl Agent {
    /// An agent with an SVID of its own.
    pub(crate) fn new(sidecar: &Sidecar, name: &str) -> anyhow::Result<Self> {
        let id = format!("spiffe://shop.example/ns/agents/sa/{name}");
        let folder = sidecar.svid(&id, name)?;
        let mut roots = RootCertStore::empty();
        for authority in CertificateDer::pem_file_iter(folder.join("bundle.pem"))? {
            roots.add(authority?)?;
        }
        let chain = CertificateDer::pem_file_iter(folder.join("svid.pem"))?;
        let chain = chain.collect::<Result<Vec<_>, _>>()?;
        let key = PrivateKeyDer::from_pem_file(folder.join("key.pem"))?;
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Self {
            name: name.to_owned(),
            id,
            address: sidecar.address,
            tls: TlsConnector::from(Arc::new(config)),
        })
    }

    /// One call, over a connection of its own.
    pub(crate) async fn get(&self, path: &str) -> anyhow::Result<Answer> {
        let (head, body) = self.send(path).await?.into_parts();
        let body = body.collect().await?.to_bytes();
        let problem: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
        let reason_code = problem.get("reason_code").and_then(|code| code.as_str());
        Ok(Answer {
            status: head.status.as_u16(),
            reason_code: reason_code.unwrap_or_default().to_owned(),
            retry_after: retry_after(&head.headers),
        })
    }

    /// Opens a stream, and reads it until it ends.
    pub(crate) async fn watch(&self, path: &str) -> anyhow::Result<Watch> {
        let mut response = self.send(path).await?;
        anyhow::ensure!(response.status() == 200, "the stream is denied");
        // The first event, so that what follows happens in mid-stream.
        response.frame().await.context("no event")??;
        let ended = tokio::spawn(async move {
            let mut events = 1;
            let how = loop {
                match response.frame().await {
                    Some(Ok(_)) => events += 1,
                    Some(Err(error)) => break cause(&error),
                    None => break "a clean end".to_owned(),
                }
            };
            let at = Instant::now();
            Cut { at, events, how }
        });
        Ok(Watch { ended })
    }

    async fn send(&self, path: &str) -> anyhow::Result<http::Response<Incoming>> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let server = ServerName::try_from("localhost")?;
        let stream = self.tls.connect(server, stream).await?;
        let (mut sender, connection) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let request = Request::get(format!("https://localhost{path}"));
        let response = sender.send_request(request.body(Empty::<Bytes>::new())?);
        Ok(response.await?)
    }
}

fn retry_after(headers: &HeaderMap) -> Option<u64> {
    let value = headers.get(http::header::RETRY_AFTER)?;
    value.to_str().ok()?.parse().ok()
}

/// The innermost cause of an error: what HTTP/2 said.
fn cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
