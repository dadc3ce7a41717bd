//! Makes connections to one upstream: finds an address, connects, and where the upstream is
//! another workload proves ours and has it prove its own.

use rustls::pki_types::ServerName;
use tokio::net::{TcpStream, UnixStream};
use wayleave_certs::tls::ClientTls;

use super::error::ForwardError;
use crate::config::{Address, HostPort, UpstreamConfig};
use crate::stream::Stream;

/// How one upstream is reached. Workers share it.
#[derive(Debug)]
pub(crate) struct Dialer {
    config: UpstreamConfig,
    /// Mutual TLS towards the upstream; plain where there is none.
    tls: Option<ClientTls>,
}

impl Dialer {
    /// Reaches the upstream of `config`, through `tls` where it is given.
    pub(crate) fn new(config: UpstreamConfig, tls: Option<ClientTls>) -> Self {
        Self { config, tls }
    }

    /// The upstream's settings.
    pub(crate) fn config(&self) -> &UpstreamConfig {
        &self.config
    }

    /// A new connection, ready for the upstream's protocol.
    pub(super) async fn connect(&self) -> Result<Stream, ForwardError> {
        let limit = self.config.connect_timeout;
        tokio::time::timeout(limit, self.connect_any())
            .await
            .map_err(|_| ForwardError::ConnectTimeout(limit))?
    }

    /// Connects to the first address that answers.
    async fn connect_any(&self) -> Result<Stream, ForwardError> {
        let mut last = ForwardError::NoAddress;
        for address in &self.config.addresses {
            match self.connect_to(address).await {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn connect_to(&self, address: &Address) -> Result<Stream, ForwardError> {
        match address {
            Address::Unix(path) => {
                let stream = UnixStream::connect(path)
                    .await
                    .map_err(ForwardError::Connect)?;
                Ok(stream.into())
            }
            Address::Tcp(address) => {
                self.secure(address, resolve_and_connect(address).await?)
                    .await
            }
        }
    }

    async fn secure(&self, address: &HostPort, socket: TcpStream) -> Result<Stream, ForwardError> {
        socket.set_nodelay(true).map_err(ForwardError::Connect)?;
        let Some(tls) = &self.tls else {
            return Ok(socket.into());
        };
        let name = ServerName::try_from(address.host.clone())
            .map_err(|_| ForwardError::ServerName(address.host.clone()))?;
        let (stream, _peer) = tls
            .connect(name, socket)
            .await
            .map_err(|error| ForwardError::Tls(Box::new(error)))?;
        Ok(stream.into())
    }
}

async fn resolve_and_connect(address: &HostPort) -> Result<TcpStream, ForwardError> {
    let addresses = tokio::net::lookup_host((address.host.as_str(), address.port))
        .await
        .map_err(ForwardError::Resolve)?;
    let mut last = ForwardError::NoAddress;
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = ForwardError::Connect(error),
        }
    }
    Err(last)
}
