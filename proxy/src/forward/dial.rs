//! Makes connections to one upstream: finds an address, connects, and where the upstream is
//! another workload proves ours and has it prove its own.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use tokio::net::{TcpStream, UnixStream};
use wayleave_certs::tls::{ClientTls, WebTls};

use super::error::ForwardError;
use crate::config::{Address, HostPort, UpstreamConfig};
use crate::outbound::guard::Guard;
use crate::stream::Stream;

/// How one upstream is reached. Workers share it.
#[derive(Debug)]
pub(crate) struct Dialer {
    config: UpstreamConfig,
    /// TLS towards the upstream; plain where there is none.
    tls: Option<UpstreamTlsClient>,
    /// Checks addresses that a caller chose.
    guard: Option<Guard>,
}

/// Our side of TLS towards upstreams. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) enum UpstreamTlsClient {
    /// Towards a workload, with our SVID.
    Mutual(Arc<ClientTls>),
    /// Towards a host of the web, without.
    Web(Arc<WebTls>),
}

impl Dialer {
    /// Reaches the upstream of `config`, through `tls` where it is given.
    pub(crate) fn new(config: UpstreamConfig, tls: Option<UpstreamTlsClient>) -> Self {
        Self {
            config,
            tls,
            guard: None,
        }
    }

    /// Reaches it only at addresses that pass `guard`.
    pub(crate) fn guarded(self, guard: Guard) -> Self {
        Self {
            guard: Some(guard),
            ..self
        }
    }

    /// The upstream's settings.
    pub(crate) fn config(&self) -> &UpstreamConfig {
        &self.config
    }

    /// A new connection, ready for the upstream's protocol.
    pub(super) async fn connect(&self) -> Result<Stream, ForwardError> {
        self.connect_by(self.tls.as_ref()).await
    }

    /// A new connection for a caller that speaks TLS itself to a host of the web: mutual TLS is
    /// ours to speak, other TLS is not.
    pub(super) async fn connect_for_tunnel(&self) -> Result<Stream, ForwardError> {
        let mutual = |tls: &&UpstreamTlsClient| matches!(tls, UpstreamTlsClient::Mutual(_));
        self.connect_by(self.tls.as_ref().filter(mutual)).await
    }

    async fn connect_by(&self, tls: Option<&UpstreamTlsClient>) -> Result<Stream, ForwardError> {
        let limit = self.config.connect_timeout;
        tokio::time::timeout(limit, self.connect_any(tls))
            .await
            .map_err(|_| ForwardError::ConnectTimeout(limit))?
    }

    /// Connects to the first address that answers.
    async fn connect_any(&self, tls: Option<&UpstreamTlsClient>) -> Result<Stream, ForwardError> {
        let mut last = ForwardError::NoAddress;
        for address in &self.config.addresses {
            match self.connect_to(address, tls).await {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn connect_to(
        &self,
        address: &Address,
        tls: Option<&UpstreamTlsClient>,
    ) -> Result<Stream, ForwardError> {
        match address {
            Address::Unix(path) => {
                let stream = UnixStream::connect(path)
                    .await
                    .map_err(ForwardError::Connect)?;
                Ok(stream.into())
            }
            Address::Tcp(address) => {
                let socket = self.resolve_and_connect(address).await?;
                self.secure(address, socket, tls).await
            }
        }
    }

    async fn secure(
        &self,
        address: &HostPort,
        socket: TcpStream,
        tls: Option<&UpstreamTlsClient>,
    ) -> Result<Stream, ForwardError> {
        socket.set_nodelay(true).map_err(ForwardError::Connect)?;
        let Some(tls) = tls else {
            return Ok(socket.into());
        };
        let host = self.config.server_name.as_ref().unwrap_or(&address.host);
        let name = ServerName::try_from(host.clone())
            .map_err(|_| ForwardError::ServerName(host.clone()))?;
        let secured = match tls {
            UpstreamTlsClient::Mutual(tls) => tls
                .connect(name, socket)
                .await
                .map(|(stream, _peer)| stream),
            UpstreamTlsClient::Web(tls) => tls.connect(name, socket).await,
        };
        let stream = secured.map_err(|error| ForwardError::Tls(Box::new(error)))?;
        Ok(stream.into())
    }

    /// Connects to the first address of a name that answers, and that may be connected to.
    async fn resolve_and_connect(&self, address: &HostPort) -> Result<TcpStream, ForwardError> {
        let addresses = tokio::net::lookup_host((address.host.as_str(), address.port))
            .await
            .map_err(ForwardError::Resolve)?;
        let mut last = ForwardError::NoAddress;
        for address in addresses {
            match self.connect_checked(address).await {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// SECURITY: the very address that was checked is connected to; a name that is resolved a
    /// second time could have another by then.
    async fn connect_checked(&self, address: SocketAddr) -> Result<TcpStream, ForwardError> {
        let address = match &self.guard {
            Some(guard) => guard.check(address)?.address(),
            None => address,
        };
        TcpStream::connect(address)
            .await
            .map_err(ForwardError::Connect)
    }
}
