//! The acceptors that are compared, and the threads that let them meet clients.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;

use anyhow::{Context, Result};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Runtime};
use tokio_rustls::server::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use wayleave_certs::tls::{ServerTls, ServerTlsOptions, crypto_provider};
use wayleave_certs::{Alpn, IdentityPublisher, Peer, Svid, TrustBundle};

use crate::papers::Papers;

/// What accepts the handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Variant {
    /// tokio-rustls with the WebPKI client verifier.
    Plain,
    /// Wayleave, meeting each client for the first time.
    Stranger,
    /// Wayleave, knowing the client's chain.
    Returning,
}

impl Variant {
    /// The plain one first: it is what the others are compared with.
    pub(crate) const ALL: [Self; 3] = [Self::Plain, Self::Stranger, Self::Returning];

    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|variant| variant.name() == name)
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Plain => "tokio-rustls, plain WebPKI",
            Self::Stranger => "wayleave, all checks, unknown peer",
            Self::Returning => "wayleave, all checks, returning peer",
        }
    }
}

pub(crate) enum Acceptor {
    Plain(TlsAcceptor),
    Wayleave(ServerTls),
}

impl Acceptor {
    pub(crate) fn new(variant: Variant, papers: &Papers) -> Result<Self> {
        let cached_chains = match variant {
            Variant::Plain => return plain(papers).map(Self::Plain),
            Variant::Stranger => 0,
            Variant::Returning => 16,
        };
        let (mut publisher, reader) = IdentityPublisher::new();
        let svid = Svid::from_der(papers.server.certificates.clone(), papers.server.key())?;
        let trust_domain = svid.id().trust_domain().clone();
        let bundle = TrustBundle::from_der(trust_domain, vec![papers.root.clone()])?;
        publisher.publish(Arc::new(svid), [bundle].into_iter().collect());
        let options = ServerTlsOptions {
            alpn: vec![Alpn::Http1],
            cached_chains,
            ..ServerTlsOptions::default()
        };
        Ok(Self::Wayleave(ServerTls::new(reader, options)))
    }

    async fn accept(&self, stream: TcpStream) -> Result<Held> {
        Ok(match self {
            Self::Plain(acceptor) => (acceptor.accept(stream).await?, None),
            Self::Wayleave(tls) => {
                let (stream, peer) = tls.accept(stream).await?;
                (stream, Some(peer))
            }
        })
    }
}

/// What a server keeps of a connection.
pub(crate) type Held = (TlsStream<TcpStream>, Option<Peer>);

/// The same protocol version, suites, groups and lack of resumption as Wayleave's.
fn plain(papers: &Papers) -> Result<TlsAcceptor> {
    let mut roots = RootCertStore::empty();
    roots.add(papers.root.clone())?;
    let provider = Arc::clone(crypto_provider());
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .build()?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(papers.server.certificates.clone(), papers.server.key())?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// A listening socket on loopback.
pub(crate) struct Server {
    listener: TcpListener,
    address: SocketAddr,
}

impl Server {
    pub(crate) fn bind() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        Ok(Self { listener, address })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Accepts so many handshakes on this thread; returns the CPU microseconds they took.
    pub(crate) fn serve(self, acceptor: &Acceptor, handshakes: u32) -> Result<f64> {
        runtime()?.block_on(async {
            let listener = tokio::net::TcpListener::from_std(self.listener)?;
            let before = thread_cpu_nanoseconds()?;
            for _ in 0..handshakes {
                let (stream, _) = listener.accept().await?;
                drop(acceptor.accept(stream).await?);
            }
            let spent = thread_cpu_nanoseconds()?.saturating_sub(before);
            #[expect(clippy::cast_precision_loss, reason = "far below 2^52 ns")]
            let microseconds = spent as f64 / 1000.0;
            Ok(microseconds)
        })
    }
}

impl Server {
    /// Accepts so many connections and keeps them all.
    pub(crate) fn hold(self, acceptor: &Acceptor, connections: usize) -> Result<Vec<Held>> {
        runtime()?.block_on(async {
            let listener = tokio::net::TcpListener::from_std(self.listener)?;
            let mut held = Vec::with_capacity(connections);
            while held.len() < connections {
                let (stream, _) = listener.accept().await?;
                held.push(acceptor.accept(stream).await?);
            }
            Ok(held)
        })
    }
}

/// Makes so many connections, one after another.
pub(crate) fn connect(address: SocketAddr, config: ClientConfig, handshakes: u32) -> Result<()> {
    let connector = TlsConnector::from(Arc::new(config));
    runtime()?.block_on(async {
        for _ in 0..handshakes {
            let stream = TcpStream::connect(address).await?;
            let name = "localhost".try_into()?;
            let mut stream = connector.connect(name, stream).await?;
            // The server is done when it closes; until then the handshake is only half told.
            let mut end = [0; 1];
            let _ = stream.read(&mut end).await;
        }
        Ok(())
    })
}

pub(crate) fn runtime() -> Result<Runtime> {
    Ok(Builder::new_current_thread().enable_io().build()?)
}

/// What the kernel says that this thread has run (proc(5), schedstat).
fn thread_cpu_nanoseconds() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat")
        .context("the kernel tells no CPU time per thread")?;
    let run = text
        .split_whitespace()
        .next()
        .context("schedstat is empty")?;
    Ok(run.parse()?)
}
