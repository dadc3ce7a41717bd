//! Asks a target whether it does the job that it is measured at: refuses what the rule does
//! not allow, and does a full handshake with the common key exchange for every connection.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use rustls::client::Resumption;
use rustls::{HandshakeKind, NamedGroup};
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;

use crate::body::Body;
use crate::connector::{Connector, Http1, connect, handshake};
use crate::papers::{self, Caller};

/// What a target was seen to do.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Proof {
    pub(crate) key_exchange: String,
    /// Connections after the first that offered a session of the one before.
    pub(crate) full_handshakes: u32,
    /// The status that each refused request got; empty where nothing is decided.
    pub(crate) refused: Vec<(&'static str, u16)>,
}

/// What the rule does not allow: who asks, how, for what.
const REFUSED: [(&str, Caller, Method, &str); 4] = [
    ("another path", Caller::Loader, Method::GET, "/items"),
    (
        "a path with the prefix without its slash",
        Caller::Loader,
        Method::GET,
        "/apiitems",
    ),
    ("another method", Caller::Loader, Method::POST, "/api/items"),
    (
        "another principal",
        Caller::Stranger,
        Method::GET,
        "/api/items",
    ),
];

/// How many connections offer to resume.
const RESUMPTIONS: u32 = 3;

/// # Errors
/// When the target lets pass what it should refuse, or resumes a session.
pub(crate) async fn ask(address: SocketAddr, papers: &Path, decides: bool) -> Result<Proof> {
    let allowed = status(address, papers, Caller::Loader, Method::GET, "/api/items").await?;
    ensure!(
        allowed == StatusCode::OK,
        "the allowed request got {allowed}"
    );
    let mut refused = Vec::new();
    for (what, caller, method, path) in REFUSED.into_iter().filter(|_| decides) {
        let status = status(address, papers, caller, method, path).await?;
        ensure!(status == StatusCode::FORBIDDEN, "{what} got {status}");
        refused.push((what, status.as_u16()));
    }
    no_certificate(address, papers).await?;
    let key_exchange = never_resumes(address, papers).await?;
    Ok(Proof {
        key_exchange,
        full_handshakes: RESUMPTIONS,
        refused,
    })
}

async fn status(
    address: SocketAddr,
    papers: &Path,
    caller: Caller,
    method: Method,
    path: &str,
) -> Result<StatusCode> {
    let connector = Connector::new(address, Some(papers), caller)?;
    let mut sender: Http1 = connector.http1().await?;
    let request = Request::builder().method(method).uri(path);
    let request = request.header("host", "localhost").body(Body::Empty)?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    response.into_body().collect().await?;
    Ok(status)
}

/// A caller without a certificate gets no answer of the upstream's: its handshake fails, or
/// (nginx) it is told 400.
async fn no_certificate(address: SocketAddr, papers: &Path) -> Result<()> {
    let tls = TlsConnector::from(Arc::new(papers::anonymous_tls(papers)?));
    let stream = connect(address, Ipv4Addr::LOCALHOST).await?;
    // In TLS 1.3 a client is done before the server has read its certificate.
    let Ok(mut stream) = handshake(&tls, stream).await else {
        return Ok(());
    };
    let request = b"GET /api/items HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    let mut answer = Vec::new();
    if stream.write_all(request).await.is_ok() {
        let _ = stream.read_to_end(&mut answer).await;
    }
    ensure!(
        answer.is_empty() || answer.starts_with(b"HTTP/1.1 4"),
        "no certificate got {:?}",
        String::from_utf8_lossy(&answer)
    );
    Ok(())
}

/// Offers every session that the target gave away; answers with the key exchange group.
async fn never_resumes(address: SocketAddr, papers: &Path) -> Result<String> {
    let mut config = papers::client_tls(papers, Caller::Loader, b"http/1.1")?;
    config.resumption = Resumption::in_memory_sessions(16);
    let tls = TlsConnector::from(Arc::new(config));
    let mut group = None;
    for _ in 0..=RESUMPTIONS {
        let stream = connect(address, Ipv4Addr::LOCALHOST).await?;
        let mut stream = handshake(&tls, stream).await?;
        let (_, session) = stream.get_ref();
        let kind = session.handshake_kind();
        ensure!(kind == Some(HandshakeKind::Full), "{kind:?} handshake");
        group = session
            .negotiated_key_exchange_group()
            .map(|group| group.name());
        let request = b"GET /api/items HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
        stream.write_all(request).await?;
        // Tickets come with the answer.
        let _ = stream.read_to_end(&mut Vec::new()).await;
    }
    let group = group.context("no key exchange group")?;
    ensure!(group == NamedGroup::X25519, "key exchange by {group:?}");
    Ok(format!("{group:?}"))
}
