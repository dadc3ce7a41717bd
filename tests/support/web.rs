//! A host of the web, as far as its clients can tell: TLS by a certificate of an authority made
//! here, and HTTP/1.1 or HTTP/2 behind it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::Acceptor;
use time::{Duration, OffsetDateTime};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::LazyConfigAcceptor;

/// An authority of the web.
pub(crate) struct WebCa(CertifiedIssuer<'static, KeyPair>);

impl WebCa {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params
            .distinguished_name
            .push(DnType::OrganizationName, "Wayleave tests web CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().unwrap();
        Self(CertifiedIssuer::self_signed(params, key).unwrap())
    }

    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    /// A server's configuration for `host`, with a certificate that ended so long ago.
    pub(crate) fn server(&self, host: &str, ended: Duration, version: Version) -> ServerConfig {
        let mut params = CertificateParams::new(vec![host.to_owned()]).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let now = OffsetDateTime::now_utc();
        params.not_before = now - Duration::hours(48);
        params.not_after = now - ended;
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        let chain = vec![CertificateDer::from(certificate.der().to_vec())];
        let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let versions = match version {
            Version::Tls12 => &rustls::version::TLS12,
            Version::Tls13 => &rustls::version::TLS13,
        };
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[versions])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        config
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    Tls12,
    Tls13,
}

/// A handshake as the host saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hello {
    pub(crate) name: Option<String>,
    pub(crate) alpn: Vec<String>,
    /// Whether the client accepted our certificate.
    pub(crate) finished: bool,
}

/// The host: ends TLS, and hands what is inside to an upstream that remembers.
pub(crate) struct WebHost {
    pub(crate) address: SocketAddr,
    hellos: Arc<Mutex<Vec<Hello>>>,
}

impl WebHost {
    pub(crate) async fn start(config: ServerConfig, behind: SocketAddr) -> Self {
        Self::on(
            TcpListener::bind("127.0.0.1:0").await.unwrap(),
            config,
            behind,
        )
    }

    /// A host on a socket of the test's own.
    pub(crate) fn on(listener: TcpListener, config: ServerConfig, behind: SocketAddr) -> Self {
        let address = listener.local_addr().unwrap();
        let hellos = Arc::new(Mutex::new(Vec::new()));
        let (seen, config) = (Arc::clone(&hellos), Arc::new(config));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(
                    stream,
                    Arc::clone(&config),
                    behind,
                    Arc::clone(&seen),
                ));
            }
        });
        Self { address, hellos }
    }

    pub(crate) fn hellos(&self) -> Vec<Hello> {
        self.hellos.lock().unwrap().clone()
    }
}

async fn serve(
    stream: TcpStream,
    config: Arc<ServerConfig>,
    behind: SocketAddr,
    seen: Arc<Mutex<Vec<Hello>>>,
) {
    let Ok(start) = LazyConfigAcceptor::new(Acceptor::default(), stream).await else {
        return;
    };
    let hello = start.client_hello();
    let alpn = hello.alpn().into_iter().flatten();
    let mut hello = Hello {
        name: hello.server_name().map(str::to_owned),
        alpn: alpn
            .map(|name| String::from_utf8_lossy(name).into_owned())
            .collect(),
        finished: false,
    };
    let accepted = start.into_stream(config).await;
    hello.finished = accepted.is_ok();
    seen.lock().unwrap().push(hello);
    let Ok(mut stream) = accepted else { return };
    if let Ok(mut inside) = TcpStream::connect(behind).await {
        let _ = tokio::io::copy_bidirectional(&mut stream, &mut inside).await;
    }
}
