//! The server's side of a handshake: from a byte stream to a verified [`Peer`].

use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use rustls::ServerConfig;
use rustls::server::NoServerSessionStorage;
use rustls::sign::SingleCertAndKey;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use wayleave_identity::TrustDomain;

use super::chain_cache::ChainCache;
use super::client_verifier::{OUTCOME, Outcome, SvidClientVerifier};
use super::fips::check_config;
use super::handshake_error::HandshakeError;
use super::negotiated::peer;
use super::prepared::Prepared;
use super::provider::{crypto_provider, post_quantum_groups, post_quantum_provider};
use crate::verify::Role;
use crate::{Alpn, Identity, IdentityReader, Peer};

/// What a listener may choose about its TLS.
#[derive(Debug, Clone)]
pub struct ServerTlsOptions {
    /// The application protocols, preferred first. With none, whatever a client offers is
    /// passed over.
    pub alpn: Vec<Alpn>,
    /// Whether to refuse a key exchange that a quantum computer could break.
    pub require_post_quantum: bool,
    /// How many verified chains are remembered, so that a returning peer's path need not be
    /// validated again; 0 remembers none. One chain takes about 2 KB.
    pub cached_chains: usize,
    /// The trust domains whose workloads are let in; all that have a bundle where there is none.
    pub trust_domains: Option<Arc<[TrustDomain]>>,
}

impl Default for ServerTlsOptions {
    fn default() -> Self {
        Self {
            alpn: vec![Alpn::Http2, Alpn::Http1],
            require_post_quantum: false,
            cached_chains: 1024,
            trust_domains: None,
        }
    }
}

/// Accepts connections with our current SVID and verifies who calls.
#[derive(Debug)]
pub struct ServerTls {
    reader: IdentityReader,
    options: ServerTlsOptions,
    prepared: Prepared<ServerConfig>,
    cache: Arc<ChainCache>,
}

impl ServerTls {
    /// Serves with whatever identity is current at each handshake.
    #[must_use]
    pub fn new(reader: IdentityReader, options: ServerTlsOptions) -> Self {
        let cache = Arc::new(ChainCache::new(Role::Client, options.cached_chains));
        Self {
            reader,
            options,
            prepared: Prepared::empty(),
            cache,
        }
    }

    /// Runs the handshake and returns the stream with the peer that it proved.
    ///
    /// Sets no time limit; the caller does.
    ///
    /// # Errors
    ///
    /// When the handshake fails or the peer's chain breaks a rule; the peer was sent an alert.
    pub async fn accept<IO>(&self, io: IO) -> Result<(TlsStream<IO>, Peer), HandshakeError>
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send,
    {
        let config = self
            .prepared
            .config(&self.reader, SystemTime::now(), |identity| {
                self.prepare(identity)
            })?;
        let outcome: Outcome = Arc::new(OnceLock::new());
        let handshake = TlsAcceptor::from(config).accept(io);
        let result = OUTCOME.scope(Arc::clone(&outcome), handshake).await;
        match (result, outcome.get()) {
            (Ok(stream), Some(Ok(verified))) => {
                let connection = stream.get_ref().1;
                let sni = connection.server_name().map(Box::from);
                let peer = peer(connection, sni, Arc::clone(verified))?;
                Ok((stream, peer))
            }
            (_, Some(Err(error))) => Err(error.clone().into()),
            (Err(error), _) => Err(self.explain(HandshakeError::from_io(error))),
            (Ok(_), None) => Err(HandshakeError::Unverified),
        }
    }

    /// Names the rule where the key exchange was too weak for this listener.
    fn explain(&self, error: HandshakeError) -> HandshakeError {
        match error {
            HandshakeError::NoCommonGroup if self.options.require_post_quantum => {
                HandshakeError::NoPostQuantum {
                    accepted: post_quantum_groups(),
                }
            }
            other => other,
        }
    }

    fn prepare(&self, identity: &Arc<Identity>) -> Result<ServerConfig, HandshakeError> {
        let provider = match self.options.require_post_quantum {
            true => post_quantum_provider(),
            false => crypto_provider(),
        };
        let certified_key = Arc::clone(identity.svid().certified_key());
        let verifier = SvidClientVerifier::new(
            Arc::clone(identity),
            Arc::clone(&self.cache),
            self.options.trust_domains.clone(),
        );
        let mut config = ServerConfig::builder_with_provider(Arc::clone(provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(HandshakeError::Tls)?
            .with_client_cert_verifier(Arc::new(verifier))
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified_key)));
        // SECURITY: a resumed session would skip the check of the client's certificate, so
        // nothing is kept to resume from.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.max_early_data_size = 0;
        check_config(&config)?;
        config.alpn_protocols = self
            .options
            .alpn
            .iter()
            .map(|a| a.as_str().into())
            .collect();
        Ok(config)
    }
}
