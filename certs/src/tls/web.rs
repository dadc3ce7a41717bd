//! TLS towards hosts of the web: they prove a host name by public or configured authorities, and
//! see no certificate of ours.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, SupportedKxGroup, aws_lc_rs};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::handshake_error::HandshakeError;
use super::provider::{crypto_provider, is_post_quantum};
use crate::{Alpn, disk, pem};

/// The provider with the suites of TLS 1.2 as well, which some hosts of the web still need.
static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
    let mut provider = aws_lc_rs::default_provider();
    provider
        .kx_groups
        .sort_by_key(|group: &&dyn SupportedKxGroup| !is_post_quantum(group.name()));
    Arc::new(provider)
});

/// What is spoken with hosts and clients of the web.
pub(super) fn web_provider() -> &'static Arc<CryptoProvider> {
    &PROVIDER
}

/// The authorities that hosts of the web are verified with. Cheap to clone.
#[derive(Clone)]
pub struct WebRoots(Arc<RootCertStore>);

/// Why there are no authorities.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WebRootsError {
    /// The file could not be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file is not PEM.
    #[error("{}: {detail}", path.display())]
    Pem {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// There is no authority among what was read.
    #[error("{0}: there is no authority")]
    Empty(String),
}

impl WebRoots {
    /// The authorities of the operating system.
    ///
    /// # Errors
    ///
    /// When it has none.
    pub fn system() -> Result<Self, WebRootsError> {
        let certificates = rustls_native_certs::load_native_certs().certs;
        Self::of(certificates, || {
            "the system's authorities (install `ca-certificates`)".to_owned()
        })
    }

    /// The authorities in a PEM file.
    ///
    /// # Errors
    ///
    /// When the file cannot be read, is not PEM, or has none.
    pub fn file(path: &Path) -> Result<Self, WebRootsError> {
        let bytes = disk::read(path).map_err(|source| WebRootsError::Io {
            path: path.to_owned(),
            source,
        })?;
        let certificates = pem::certificates(&bytes).map_err(|error| WebRootsError::Pem {
            path: path.to_owned(),
            detail: error.to_string(),
        })?;
        Self::of(certificates, || path.display().to_string())
    }

    fn of(
        certificates: Vec<rustls::pki_types::CertificateDer<'static>>,
        whence: impl FnOnce() -> String,
    ) -> Result<Self, WebRootsError> {
        let mut roots = RootCertStore::empty();
        let (added, _) = roots.add_parsable_certificates(certificates);
        match added {
            0 => Err(WebRootsError::Empty(whence())),
            _ => Ok(Self(Arc::new(roots))),
        }
    }

    /// How a host is verified, in TLS 1.3 alone: what is fetched by this program itself.
    pub(crate) fn tls13_config(&self) -> Result<ClientConfig, rustls::Error> {
        self.config(crypto_provider(), &[&rustls::version::TLS13])
    }

    fn config(
        &self,
        provider: &Arc<CryptoProvider>,
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> Result<ClientConfig, rustls::Error> {
        let roots = Arc::clone(&self.0);
        let verifier = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(provider))
            .build()
            .map_err(|error| rustls::Error::General(error.to_string()))?;
        let mut config = ClientConfig::builder_with_provider(Arc::clone(provider))
            .with_protocol_versions(versions)?
            .with_webpki_verifier(verifier)
            .with_no_client_auth();
        config.resumption = Resumption::disabled();
        Ok(config)
    }
}

impl fmt::Debug for WebRoots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WebRoots({} authorities)", self.0.len())
    }
}

/// Connects to hosts of the web, by TLS 1.3 or 1.2.
pub struct WebTls(Arc<ClientConfig>);

impl WebTls {
    /// Speaks one application protocol to hosts that these authorities vouch for.
    ///
    /// # Errors
    ///
    /// When rustls cannot make a configuration of this.
    pub fn new(roots: &WebRoots, alpn: Alpn) -> Result<Self, HandshakeError> {
        Self::speaking(roots, vec![alpn.as_str().into()])
    }

    /// For a protocol that has no name in ALPN, such as that of a database.
    ///
    /// # Errors
    ///
    /// When rustls cannot make a configuration of this.
    pub fn without_alpn(roots: &WebRoots) -> Result<Self, HandshakeError> {
        Self::speaking(roots, Vec::new())
    }

    fn speaking(roots: &WebRoots, protocols: Vec<Vec<u8>>) -> Result<Self, HandshakeError> {
        let mut config = roots
            .config(&PROVIDER, rustls::ALL_VERSIONS)
            .map_err(HandshakeError::Tls)?;
        config.alpn_protocols = protocols;
        Ok(Self(Arc::new(config)))
    }

    /// Runs the handshake with the host `name`, which is sent along and has to be proved. Sets no
    /// time limit; the caller does.
    ///
    /// # Errors
    ///
    /// When the handshake fails, or the host did not prove its name.
    pub async fn connect<IO>(
        &self,
        name: ServerName<'static>,
        io: IO,
    ) -> Result<TlsStream<IO>, HandshakeError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let connecting = TlsConnector::from(Arc::clone(&self.0)).connect(name, io);
        connecting.await.map_err(HandshakeError::from_io)
    }
}

impl fmt::Debug for WebTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WebTls")
    }
}
