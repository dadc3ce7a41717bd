//! Makes a connection to one endpoint of an upstream, and where the upstream is another workload
//! proves ours and has it prove its own.

use rustls::pki_types::ServerName;
use tokio::net::{TcpStream, UnixStream};
use wayleave_certs::tls::{ClientTls, HandshakeError};
use wayleave_certs::{Alpn, IdentityReader};

use super::endpoint::{Endpoint, Target};
use super::error::ForwardError;
use super::vouch::Vouched;
use crate::config::UpstreamProtocol;
use crate::stream::Stream;

/// Mutual TLS towards an upstream, with the identity that it presents.
#[derive(Debug)]
pub(crate) struct MutualTls {
    pub(crate) client: ClientTls,
    pub(crate) identity: IdentityReader,
}

/// A new connection, with what its reuse depends on.
#[derive(Debug)]
pub(super) struct Dialed {
    pub(super) stream: Stream,
    pub(super) vouched: Option<Box<Vouched>>,
    /// What the handshake agreed on; nothing without TLS.
    alpn: Option<Alpn>,
}

/// Connects to an endpoint. Sets no time limit; the caller does.
pub(super) async fn dial(
    endpoint: &Endpoint,
    tls: Option<&MutualTls>,
) -> Result<Dialed, ForwardError> {
    match &endpoint.target {
        Target::Unix(path) => {
            let socket = UnixStream::connect(path).await;
            Ok(Dialed::plain(socket.map_err(ForwardError::Connect)?.into()))
        }
        Target::Tcp(address) => {
            let socket = TcpStream::connect(address).await;
            let socket = socket.map_err(ForwardError::Connect)?;
            socket.set_nodelay(true).map_err(ForwardError::Connect)?;
            match tls {
                None => Ok(Dialed::plain(socket.into())),
                Some(tls) => secure(tls, &endpoint.host, socket).await,
            }
        }
    }
}

async fn secure(tls: &MutualTls, host: &str, socket: TcpStream) -> Result<Dialed, ForwardError> {
    let name = ServerName::try_from(host.to_owned())
        .map_err(|_| ForwardError::ServerName(host.to_owned()))?;
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
