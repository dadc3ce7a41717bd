//! TLS as a host of the web: one certificate, no question who the client is. For those who tell
//! us something and prove themselves by what they say, such as a transmitter of signed events.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::server::NoServerSessionStorage;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::fips::{FipsError, check_config};
use super::handshake_error::HandshakeError;
use super::web::web_provider;
use crate::{Alpn, disk, pem};

/// Accepts connections with a certificate from PEM files, by TLS 1.3 or 1.2.
#[derive(Clone)]
pub struct WebServerTls(Arc<ServerConfig>);

/// Why a certificate cannot be served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WebServerError {
    /// A file could not be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file is not the PEM that it should be.
    #[error("{}: {source}", path.display())]
    Pem {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: pem::PemError,
    },
    /// The certificate and the key cannot be served together.
    #[error("{} with {} cannot be served: {source}", certificate.display(), key.display())]
    Pair {
        /// The file of the certificate.
        certificate: PathBuf,
        /// The file of the key.
        key: PathBuf,
        /// What rustls says.
        #[source]
        source: rustls::Error,
    },
    /// This build is for FIPS mode and does not run in it.
    #[error(transparent)]
    Fips(#[from] FipsError),
}

impl WebServerTls {
    /// Reads a certificate chain, leaf first, and its key.
    ///
    /// # Errors
    ///
    /// When a file cannot be read, or the two do not belong together.
    pub fn load(certificate: &Path, key: &Path) -> Result<Self, WebServerError> {
        let chain = read(certificate, pem::certificates)?;
        let private = read(key, pem::private_key)?;
        let pair = |source| WebServerError::Pair {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
            source,
        };
        let mut config = ServerConfig::builder_with_provider(Arc::clone(web_provider()))
            .with_protocol_versions(rustls::ALL_VERSIONS)
            .map_err(pair)?
            .with_no_client_auth()
            .with_single_cert(chain, private)
            .map_err(pair)?;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.max_early_data_size = 0;
        check_config(&config)?;
        let alpn = [Alpn::Http2, Alpn::Http1];
        config.alpn_protocols = alpn.iter().map(|one| one.as_str().into()).collect();
        Ok(Self(Arc::new(config)))
    }

    /// Runs the handshake, and says what is spoken inside. Sets no time limit; the caller does.
    ///
    /// # Errors
    ///
    /// When the handshake fails.
    pub async fn accept<IO>(&self, io: IO) -> Result<(TlsStream<IO>, Alpn), HandshakeError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let accepting = TlsAcceptor::from(Arc::clone(&self.0)).accept(io);
        let stream = accepting.await.map_err(HandshakeError::from_io)?;
        let alpn = match stream.get_ref().1.alpn_protocol() {
            Some(name) if name == Alpn::Http2.as_str().as_bytes() => Alpn::Http2,
            _ => Alpn::Http1,
        };
        Ok((stream, alpn))
    }
}

impl fmt::Debug for WebServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WebServerTls")
    }
}

fn read<T>(
    path: &Path,
    parse: impl Fn(&[u8]) -> Result<T, pem::PemError>,
) -> Result<T, WebServerError> {
    let bytes = disk::read(path).map_err(|source| WebServerError::Io {
        path: path.to_owned(),
        source,
    })?;
    parse(&bytes).map_err(|source| WebServerError::Pem {
        path: path.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(directory: &Path, name: &str) -> (PathBuf, PathBuf) {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let paths = (directory.join(name), directory.join(format!("{name}.key")));
        std::fs::write(&paths.0, certificate.pem()).unwrap();
        std::fs::write(&paths.1, key.serialize_pem()).unwrap();
        paths
    }

    #[test]
    fn takes_a_certificate_with_its_own_key_alone() {
        let directory = tempfile::tempdir().unwrap();
        let (certificate, key) = pair(directory.path(), "a");
        let (_, other) = pair(directory.path(), "b");
        assert!(WebServerTls::load(&certificate, &key).is_ok());
        let strangers = WebServerTls::load(&certificate, &other);
        assert!(matches!(strangers, Err(WebServerError::Pair { .. })));
        let swapped = WebServerTls::load(&key, &certificate);
        assert!(matches!(swapped, Err(WebServerError::Pem { .. })));
        let missing = WebServerTls::load(&directory.path().join("none"), &key);
        assert!(matches!(missing, Err(WebServerError::Io { .. })));
    }
}
