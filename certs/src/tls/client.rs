//! The client's side of a handshake: from a byte stream to the verified server that was meant.

use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::sign::SingleCertAndKey;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use wayleave_identity::SpiffeIdPattern;

use super::chain_cache::ChainCache;
use super::client_verifier::{OUTCOME, Outcome};
use super::handshake_error::HandshakeError;
use super::negotiated::peer;
use super::prepared::Prepared;
use super::provider::{crypto_provider, post_quantum_provider};
use super::server_verifier::{SvidServerVerifier, Trust};
use crate::verify::Role;
use crate::{Alpn, Identity, IdentityReader, Peer};

/// Whom a destination has to be, and how it is spoken to.
#[derive(Debug, Clone)]
pub struct ClientTlsOptions {
    /// Whom we mean: any other workload is refused, however well it is trusted.
    pub expected: SpiffeIdPattern,
    /// The application protocols, preferred first.
    pub alpn: Vec<Alpn>,
    /// Whether to refuse a key exchange that a quantum computer could break.
    pub require_post_quantum: bool,
    /// How many verified chains are remembered; 0 remembers none.
    pub cached_chains: usize,
}

impl ClientTlsOptions {
    /// HTTP/2 or HTTP/1.1 to these workloads.
    #[must_use]
    pub fn new(expected: SpiffeIdPattern) -> Self {
        Self {
            expected,
            alpn: vec![Alpn::Http2, Alpn::Http1],
            require_post_quantum: false,
            cached_chains: 64,
        }
    }
}

/// Connects to one destination with our current SVID and verifies who answers.
#[derive(Debug)]
pub struct ClientTls {
    reader: IdentityReader,
    options: ClientTlsOptions,
    prepared: Prepared<ClientConfig>,
    cache: Arc<ChainCache>,
}

impl ClientTls {
    /// Calls with whatever identity is current at each handshake.
    #[must_use]
    pub fn new(reader: IdentityReader, options: ClientTlsOptions) -> Self {
        let cache = Arc::new(ChainCache::new(Role::Server, options.cached_chains));
        Self {
            reader,
            options,
            prepared: Prepared::empty(),
            cache,
        }
    }

    /// Runs the handshake and returns the stream with the peer that it proved.
    ///
    /// `name` is only sent along (SNI); who answers is judged by its SPIFFE ID alone. Sets no
    /// time limit; the caller does.
    ///
    /// # Errors
    ///
    /// When the handshake fails, or who answers is not trusted or not the one that we mean.
    pub async fn connect<IO>(
        &self,
        name: ServerName<'static>,
        io: IO,
    ) -> Result<(TlsStream<IO>, Peer), HandshakeError>
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send,
    {
        let config = self
            .prepared
            .config(&self.reader, SystemTime::now(), |identity| {
                self.prepare(identity)
            })?;
        let sni = match &name {
            ServerName::DnsName(name) => Some(Box::from(name.as_ref())),
            _ => None,
        };
        let outcome: Outcome = Arc::new(OnceLock::new());
        let handshake = TlsConnector::from(config).connect(name, io);
        let result = OUTCOME.scope(Arc::clone(&outcome), handshake).await;
        match (result, outcome.get()) {
            (Ok(stream), Some(Ok(verified))) => {
                let peer = peer(stream.get_ref().1, sni, Arc::clone(verified))?;
                Ok((stream, peer))
            }
            (_, Some(Err(error))) => Err(error.clone().into()),
            (Err(error), _) => Err(HandshakeError::from_io(error)),
            (Ok(_), None) => Err(HandshakeError::Unverified),
        }
    }

    fn prepare(&self, identity: &Arc<Identity>) -> Result<ClientConfig, HandshakeError> {
        let provider = match self.options.require_post_quantum {
            true => post_quantum_provider(),
            false => crypto_provider(),
        };
        let trust = Trust::Identity(Arc::clone(identity), Arc::clone(&self.cache));
        let verifier = SvidServerVerifier::new(trust, self.options.expected.clone());
        let certified_key = Arc::clone(identity.svid().certified_key());
        let mut config = ClientConfig::builder_with_provider(Arc::clone(provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(HandshakeError::Tls)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified_key)));
        // SECURITY: a resumed session would skip the check of the server's certificate.
        config.resumption = Resumption::disabled();
        config.enable_early_data = false;
        let alpn = self.options.alpn.iter();
        config.alpn_protocols = alpn.map(|a| a.as_str().into()).collect();
        Ok(config)
    }
}
