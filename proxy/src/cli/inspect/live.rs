//! A live peer: one TLS 1.3 handshake that records whatever chain the peer sends.
//!
//! SECURITY: the handshake succeeds with any certificate, because nothing is trusted and
//! nothing is sent after it. What the chain is worth is said by the checks alone.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use wayleave_certs::inspect::Check;
use wayleave_certs::pem;
use wayleave_certs::tls::{crypto_provider, group_name, is_post_quantum};
use wayleave_certs::verify::Role;

use super::findings::{ClientCertificate, Findings, Kind, Tls};
use super::{InspectArgs, InspectError, paper};
use crate::cli::run::control_runtime;
use crate::config::HostPort;

/// In TLS 1.3 a server refuses a client's certificate after the client's side is done; so long
/// is its alert waited for.
const ALERT: Duration = Duration::from_secs(1);

/// Shakes hands with a peer and looks at its chain.
pub(super) fn look(
    args: &InspectArgs,
    address: &HostPort,
    now: SystemTime,
) -> Result<Findings, InspectError> {
    if args.kind.is_some() {
        let (option, with) = ("--as", "a live peer");
        return Err(InspectError::Usage { option, with });
    }
    if args.key.is_some() && args.cert.is_none() {
        let (option, with) = ("--key without --cert", "a live peer");
        return Err(InspectError::Usage { option, with });
    }
    let client = Arc::new(Client::new(args)?);
    let met = control_runtime()?.block_on(meet(&client, address, args.timeout))?;
    let chain = client.recorder.chain();
    let mut findings = Findings::new(&args.target, Kind::Peer);
    paper::describe_chain(&mut findings, args, &chain, Role::Server, now)?;
    let proof = Check::new(
        "proves that it holds the leaf's key",
        "RFC 8446 4.4.3",
        client.recorder.proof(),
    );
    findings.checks.push(proof.into());
    findings.tls = met;
    Ok(findings.counted())
}

/// What goes into the handshake, and what is remembered of it.
struct Client {
    recorder: Arc<Recorder>,
    shown: Arc<Shown>,
}

impl Client {
    fn new(args: &InspectArgs) -> Result<Self, InspectError> {
        let own = match (&args.cert, &args.key) {
            (Some(cert), Some(key)) => Some(Arc::new(own_key(cert, key)?)),
            _ => None,
        };
        Ok(Self {
            recorder: Arc::default(),
            shown: Arc::new(Shown {
                own,
                asked: AtomicBool::new(false),
            }),
        })
    }

    fn config(&self) -> Result<ClientConfig, rustls::Error> {
        let recorder: Arc<Recorder> = Arc::clone(&self.recorder);
        let mut config = ClientConfig::builder_with_provider(Arc::clone(crypto_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(recorder)
            .with_client_cert_resolver(Arc::<Shown>::clone(&self.shown));
        config.resumption = Resumption::disabled();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }

    /// What became of our certificate; waits for an alert where there may be one.
    async fn answer(&self, stream: &mut TlsStream<TcpStream>) -> ClientCertificate {
        if !self.shown.asked.load(Ordering::Relaxed) {
            return ClientCertificate::NotRequested;
        }
        let mut byte = [0];
        match timeout(ALERT, stream.read(&mut byte)).await {
            Ok(Err(_)) if self.shown.own.is_none() => ClientCertificate::Required,
            Ok(Err(error)) => ClientCertificate::Refused(error.to_string()),
            _ if self.shown.own.is_some() => ClientCertificate::NotRefused,
            _ => ClientCertificate::Optional,
        }
    }
}

fn own_key(cert: &std::path::Path, key: &std::path::Path) -> Result<CertifiedKey, InspectError> {
    let broken = |path: &std::path::Path, source| InspectError::Pem {
        path: path.to_owned(),
        source,
    };
    let chain = pem::certificates(&paper::read(cert)?).map_err(|e| broken(cert, e))?;
    let der = pem::private_key(&paper::read(key)?).map_err(|e| broken(key, e))?;
    CertifiedKey::from_der(chain, der, crypto_provider()).map_err(|error| InspectError::Key {
        path: key.to_owned(),
        detail: error.to_string(),
    })
}

/// Connects and shakes hands. Without TLS facts the peer broke off after it had sent its chain.
async fn meet(
    client: &Client,
    address: &HostPort,
    limit: Duration,
) -> Result<Option<Tls>, InspectError> {
    let no_handshake = |detail: String| InspectError::NoHandshake {
        address: address.clone(),
        detail,
    };
    let attempt = async {
        let socket = TcpStream::connect((address.host.as_str(), address.port)).await;
        let socket = socket.map_err(|source| InspectError::Connect {
            address: address.clone(),
            source,
        })?;
        let name = ServerName::try_from(address.host.clone())
            .map_err(|error| no_handshake(error.to_string()))?;
        let config = client.config().map_err(|e| no_handshake(e.to_string()))?;
        let connector = TlsConnector::from(Arc::new(config));
        match connector.connect(name, socket).await {
            Ok(stream) => Ok(Some(stream)),
            Err(_) if !client.recorder.chain().is_empty() => Ok(None),
            Err(error) => Err(no_handshake(error.to_string())),
        }
    };
    let stream = timeout(limit, attempt)
        .await
        .map_err(|_| InspectError::TimedOut {
            address: address.clone(),
            limit,
        })??;
    let Some(mut stream) = stream else {
        return Ok(None);
    };
    let answer = client.answer(&mut stream).await;
    Ok(Some(Tls::new(stream.get_ref().1, answer)))
}

impl Tls {
    fn new(connection: &ClientConnection, client_certificate: ClientCertificate) -> Self {
        let group = connection
            .negotiated_key_exchange_group()
            .map(|group| group.name());
        let suite = connection.negotiated_cipher_suite();
        let alpn = connection.alpn_protocol();
        Self {
            version: "1.3",
            key_exchange: group.map_or("none", group_name),
            post_quantum: group.is_some_and(is_post_quantum),
            cipher_suite: suite.map_or_else(String::new, |suite| format!("{:?}", suite.suite())),
            alpn: alpn.map(|name| name.escape_ascii().to_string()),
            client_certificate,
        }
    }
}

/// Remembers the chain and whether the peer holds its key.
#[derive(Debug, Default)]
struct Recorder(Mutex<Recorded>);

#[derive(Debug, Default)]
struct Recorded {
    chain: Vec<CertificateDer<'static>>,
    proof: Option<Result<(), String>>,
}

impl Recorder {
    fn lock(&self) -> std::sync::MutexGuard<'_, Recorded> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn chain(&self) -> Vec<CertificateDer<'static>> {
        self.lock().chain.clone()
    }

    fn proof(&self) -> Result<(), String> {
        let none = || Err("the handshake ended before its proof".to_owned());
        self.lock().proof.clone().unwrap_or_else(none)
    }
}

impl ServerCertVerifier for Recorder {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let chain = std::iter::once(end_entity).chain(intermediates);
        self.lock().chain = chain.map(|der| der.clone().into_owned()).collect();
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &crypto_provider().signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &crypto_provider().signature_verification_algorithms;
        let proof = verify_tls13_signature(message, cert, dss, algorithms);
        self.lock().proof = Some(proof.map(|_| ()).map_err(|error| error.to_string()));
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        crypto_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// Shows our certificate when asked, and remembers that it was asked for.
#[derive(Debug)]
struct Shown {
    own: Option<Arc<CertifiedKey>>,
    asked: AtomicBool,
}

impl ResolvesClientCert for Shown {
    fn resolve(
        &self,
        _root_hint_subjects: &[&[u8]],
        _sigschemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        self.asked.store(true, Ordering::Relaxed);
        self.own.clone()
    }

    fn has_certs(&self) -> bool {
        true
    }
}
