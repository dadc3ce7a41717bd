//! Opens connections to a target, with mutual TLS where it asks for that.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, HandshakeKind};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::body::Body;
use crate::papers::{self, Caller};

pub(crate) type Http1 = http1::SendRequest<Body>;
pub(crate) type Http2 = http2::SendRequest<Body>;

pub(crate) trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// Opens connections as one caller.
#[derive(Clone)]
pub(crate) struct Connector {
    address: SocketAddr,
    server: ServerName<'static>,
    tls: Option<Tls>,
}

/// One identity, by what is spoken.
#[derive(Clone)]
struct Tls {
    http1: TlsConnector,
    http2: TlsConnector,
    bytes: TlsConnector,
}

impl Connector {
    /// Without `papers`, connections are plain.
    pub(crate) fn new(address: SocketAddr, papers: Option<&Path>, caller: Caller) -> Result<Self> {
        let tls = papers.map(|papers| papers::client_named(papers, caller.name()));
        Self::with(address, "localhost", tls.transpose()?)
    }

    /// To a server of some name, with an identity whose ALPN does not matter.
    pub(crate) fn with(
        address: SocketAddr,
        server: &str,
        tls: Option<ClientConfig>,
    ) -> Result<Self> {
        let server = ServerName::try_from(server.to_owned())?;
        let tls = tls.map(|config| {
            let speaking = |alpn: &[&[u8]]| {
                let mut config = config.clone();
                config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
                TlsConnector::from(Arc::new(config))
            };
            Tls {
                http1: speaking(&[b"http/1.1"]),
                http2: speaking(&[b"h2"]),
                bytes: speaking(&[]),
            }
        });
        Ok(Self {
            address,
            server,
            tls,
        })
    }

    pub(crate) async fn http1(&self) -> Result<Http1> {
        self.http1_from(Ipv4Addr::LOCALHOST).await
    }

    /// One source address has some 28,000 ports for one target.
    pub(crate) async fn http1_from(&self, source: Ipv4Addr) -> Result<Http1> {
        let tls = self.tls.as_ref().map(|tls| &tls.http1);
        let stream = self.open(tls, source).await?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection.with_upgrades());
        Ok(sender)
    }

    pub(crate) async fn http2(&self) -> Result<Http2> {
        let tls = self.tls.as_ref().map(|tls| &tls.http2);
        let io = TokioIo::new(self.open(tls, Ipv4Addr::LOCALHOST).await?);
        let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
        tokio::spawn(connection);
        Ok(sender)
    }

    /// A connection of bytes, without ALPN.
    pub(crate) async fn bytes(&self) -> Result<Box<dyn Io>> {
        let tls = self.tls.as_ref().map(|tls| &tls.bytes);
        self.open(tls, Ipv4Addr::LOCALHOST).await
    }

    /// A connection that has agreed on HTTP/1.1, whatever its client then says.
    pub(crate) async fn bytes_as_http1(&self) -> Result<Box<dyn Io>> {
        let tls = self.tls.as_ref().map(|tls| &tls.http1);
        self.open(tls, Ipv4Addr::LOCALHOST).await
    }

    /// A connection that has agreed on HTTP/2, whatever its client then says.
    pub(crate) async fn bytes_as_http2(&self) -> Result<Box<dyn Io>> {
        let tls = self.tls.as_ref().map(|tls| &tls.http2);
        self.open(tls, Ipv4Addr::LOCALHOST).await
    }

    async fn open(&self, tls: Option<&TlsConnector>, source: Ipv4Addr) -> Result<Box<dyn Io>> {
        let stream = connect(self.address, source).await?;
        let Some(tls) = tls else {
            return Ok(Box::new(stream));
        };
        let stream = handshake_with(tls, stream, self.server.clone()).await?;
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
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
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
    handshake_with(tls, stream, ServerName::try_from("localhost")?).await
}

async fn handshake_with(
    tls: &TlsConnector,
    stream: TcpStream,
    server: ServerName<'static>,
) -> Result<TlsStream<TcpStream>> {
    let stream = tls.connect(server, stream).await;
    stream.context("the handshake")
}
