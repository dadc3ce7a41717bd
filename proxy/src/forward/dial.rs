//! Makes a connection to one endpoint of an upstream: at an address that may be connected to, and
//! where TLS is spoken, to somebody who proves to be the one that is meant.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use tokio::net::{TcpStream, UnixStream};
use wayleave_certs::tls::{ClientTls, HandshakeError, WebTls};
use wayleave_certs::{Alpn, IdentityReader};

use super::endpoint::{Endpoint, Target};
use super::error::ForwardError;
use super::tunnel::Bytes;
use super::upstream::Upstream;
use super::vouch::Vouched;
use crate::config::UpstreamProtocol;
use crate::outbound::guard::Guard;
use crate::stream::Stream;

/// Mutual TLS towards an upstream, with the identity that it presents.
#[derive(Debug)]
pub(crate) struct MutualTls {
    pub(crate) client: ClientTls,
    pub(crate) identity: IdentityReader,
}

/// Our side of TLS towards upstreams. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) enum UpstreamTlsClient {
    /// Towards a workload, with our SVID.
    Mutual(Arc<MutualTls>),
    /// Towards a host of the web, without.
    Web(Arc<WebTls>),
}

/// A new connection, with what its reuse depends on.
#[derive(Debug)]
pub(super) struct Dialed {
    pub(super) stream: Stream,
    /// Who vouches for a workload; a host of the web has proved its name for as long as the
    /// connection lasts.
    pub(super) vouched: Option<Box<Vouched>>,
    /// What the handshake agreed on; nothing without TLS.
    alpn: Option<Alpn>,
}

impl UpstreamTlsClient {
    /// Whose changes may end the trust in a connection.
    pub(super) fn identity(&self) -> Option<&IdentityReader> {
        match self {
            Self::Mutual(tls) => Some(&tls.identity),
            Self::Web(_) => None,
        }
    }
}

/// Connects to an endpoint, for these bytes. Sets no time limit; the caller does.
pub(super) async fn dial(
    upstream: &Upstream,
    endpoint: &Endpoint,
    bytes: Bytes,
) -> Result<Dialed, ForwardError> {
    let address = match &endpoint.target {
        Target::Unix(path) => {
            let socket = UnixStream::connect(path).await;
            return Ok(Dialed::plain(socket.map_err(ForwardError::Connect)?.into()));
        }
        Target::Tcp(address) => *address,
    };
    let socket = connect_checked(address, upstream.guard.as_ref()).await?;
    socket.set_nodelay(true).map_err(ForwardError::Connect)?;
    let host = upstream.config.server_name.as_deref();
    let host = host.unwrap_or(&endpoint.host);
    match (&upstream.tls, bytes) {
        (Some(UpstreamTlsClient::Mutual(tls)), _) => secure(tls, host, socket).await,
        (Some(UpstreamTlsClient::Web(tls)), Bytes::Plain) => secure_web(tls, host, socket).await,
        // A caller that talks to a host of the web speaks TLS itself.
        (Some(UpstreamTlsClient::Web(_)), Bytes::OfCaller) | (None, _) => {
            Ok(Dialed::plain(socket.into()))
        }
    }
}

/// SECURITY: the very address that was checked is connected to; a name that is resolved a second
/// time could have another by then.
async fn connect_checked(
    address: SocketAddr,
    guard: Option<&Guard>,
) -> Result<TcpStream, ForwardError> {
    let address = match guard {
        Some(guard) => guard.check(address)?.address(),
        None => address,
    };
    let socket = TcpStream::connect(address).await;
    socket.map_err(ForwardError::Connect)
}

fn server_name(host: &str) -> Result<ServerName<'static>, ForwardError> {
    ServerName::try_from(host.to_owned()).map_err(|_| ForwardError::ServerName(host.to_owned()))
}

async fn secure(tls: &MutualTls, host: &str, socket: TcpStream) -> Result<Dialed, ForwardError> {
    let name = server_name(host)?;
    let no_identity = || ForwardError::Tls(Box::new(HandshakeError::NoIdentity));
    let own = tls.identity.current().ok_or_else(no_identity)?;
    let (stream, peer) = tls.client.connect(name, socket).await.map_err(refused)?;
    Ok(Dialed {
        stream: stream.into(),
        // A server without ALPN speaks what was there before it.
        alpn: Some(peer.tls().alpn.unwrap_or(Alpn::Http1)),
        vouched: Some(Box::new(Vouched::new(
            tls.identity.clone(),
            own.svid().clone(),
            peer,
        ))),
    })
}

async fn secure_web(tls: &WebTls, host: &str, socket: TcpStream) -> Result<Dialed, ForwardError> {
    let name = server_name(host)?;
    let stream = tls.connect(name, socket).await.map_err(refused)?;
    let alpn = match stream.get_ref().1.alpn_protocol() {
        Some(protocol) if protocol == Alpn::Http2.as_str().as_bytes() => Alpn::Http2,
        _ => Alpn::Http1,
    };
    Ok(Dialed {
        stream: stream.into(),
        vouched: None,
        alpn: Some(alpn),
    })
}

/// A server that does not know our protocol says so by an alert (RFC 7301 section 3.2).
fn refused(error: HandshakeError) -> ForwardError {
    match error {
        HandshakeError::PeerAlert { alert } if alert == "NoApplicationProtocol" => {
            ForwardError::NoCommonProtocol
        }
        error => ForwardError::Tls(Box::new(error)),
    }
}

impl Dialed {
    fn plain(stream: Stream) -> Self {
        Self {
            stream,
            vouched: None,
            alpn: None,
        }
    }

    /// Makes sure that the handshake agreed on the configured protocol.
    pub(super) fn speaks(self, protocol: UpstreamProtocol) -> Result<Self, ForwardError> {
        let expected = match protocol {
            UpstreamProtocol::Http1 => Alpn::Http1,
            UpstreamProtocol::Http2 => Alpn::Http2,
        };
        match self.alpn {
            Some(found) if found != expected => Err(ForwardError::Protocol {
                expected: expected.as_str(),
                found: found.as_str(),
            }),
            _ => Ok(self),
        }
    }
}
