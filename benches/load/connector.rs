//! Opens connections to a target, with mutual TLS where it asks for that.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::HandshakeKind;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::body::Body;
use crate::papers::{self, Caller};

pub(crate) type Http1 = http1::SendRequest<Body>;
pub(crate) type Http2 = http2::SendRequest<Body>;

trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// Opens connections as one caller.
pub(crate) struct Connector {
    address: SocketAddr,
    /// For HTTP/1.1 and for HTTP/2.
    tls: Option<(TlsConnector, TlsConnector)>,
}

impl Connector {
    /// Without `papers`, connections are plain.
    pub(crate) fn new(address: SocketAddr, papers: Option<&Path>, caller: Caller) -> Result<Self> {
        let connector = |papers, alpn| {
            let config = papers::client_tls(papers, caller, alpn)?;
            Ok::<_, anyhow::Error>(TlsConnector::from(Arc::new(config)))
        };
        let tls = match papers {
            None => None,
            Some(papers) => Some((connector(papers, b"http/1.1")?, connector(papers, b"h2")?)),
        };
        Ok(Self { address, tls })
    }

    pub(crate) async fn http1(&self) -> Result<Http1> {
        self.http1_from(Ipv4Addr::LOCALHOST).await
    }

    /// One source address has some 28,000 ports for one target.
    pub(crate) async fn http1_from(&self, source: Ipv4Addr) -> Result<Http1> {
        let tls = self.tls.as_ref().map(|(http1, _)| http1);
        let stream = self.open(tls, source).await?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(sender)
    }

    pub(crate) async fn http2(&self) -> Result<Http2> {
        let tls = self.tls.as_ref().map(|(_, http2)| http2);
        let io = TokioIo::new(self.open(tls, Ipv4Addr::LOCALHOST).await?);
        let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
        tokio::spawn(connection);
        Ok(sender)
    }

    async fn open(&self, tls: Option<&TlsConnector>, source: Ipv4Addr) -> Result<Box<dyn Io>> {
        let stream = connect(self.address, source).await?;
        let Some(tls) = tls else {
            return Ok(Box::new(stream));
        };
        let stream = handshake(tls, stream).await?;
        let (_, session) = stream.get_ref();
        ensure!(
            session.handshake_kind() == Some(HandshakeKind::Full),
            "not a full handshake: {:?}",
            session.handshake_kind()
        );
        Ok(Box::new(stream))
    }
}

pub(crate) async fn connect(address: SocketAddr, source: Ipv4Addr) -> Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    if source != Ipv4Addr::LOCALHOST {
        socket.bind(SocketAddr::from((source, 0)))?;
    }
    let stream = socket.connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

pub(crate) async fn handshake(
    tls: &TlsConnector,
    stream: TcpStream,
) -> Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from("localhost")?;
    tls.connect(name, stream).await.context("the handshake")
}
