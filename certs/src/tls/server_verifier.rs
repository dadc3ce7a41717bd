//! The rule that rustls asks when we call: is this server the workload that we mean?
//!
//! A server's name is its SPIFFE ID; the DNS name or address that was dialled proves nothing
//! and is not looked at.

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, Error, OtherError, SignatureScheme};
use wayleave_identity::SpiffeId;

use super::provider::crypto_provider;
use crate::TrustBundles;
use crate::verify::{self, Role};

/// Accepts exactly one SPIFFE ID.
#[derive(Debug)]
pub(crate) struct SvidServerVerifier {
    bundles: TrustBundles,
    expected: SpiffeId,
}

/// The server is somebody else.
#[derive(Debug, thiserror::Error)]
#[error("the server is `{found}`, not `{expected}`")]
struct OtherServer {
    expected: SpiffeId,
    found: SpiffeId,
}

impl SvidServerVerifier {
    pub(crate) fn new(bundles: TrustBundles, expected: SpiffeId) -> Self {
        Self { bundles, expected }
    }
}

impl ServerCertVerifier for SvidServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(now.as_secs());
        let chain: Vec<_> = std::iter::once(end_entity)
            .chain(intermediates)
            .cloned()
            .collect();
        let verified = verify::verify(&chain, &self.bundles, Role::Server, now)
            .map_err(|error| refusal(Arc::new(error)))?;
        if *verified.id() != self.expected {
            return Err(refusal(Arc::new(OtherServer {
                expected: self.expected.clone(),
                found: verified.id().clone(),
            })));
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &crypto_provider().signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &crypto_provider().signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        crypto_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

fn refusal(error: Arc<dyn std::error::Error + Send + Sync>) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(error)))
}

/// What a failed handshake says in words: rustls prints a refusal of ours by its fields.
pub(crate) fn words(error: &io::Error) -> String {
    let tls = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<Error>());
    match tls {
        Some(Error::InvalidCertificate(CertificateError::Other(OtherError(refusal)))) => {
            refusal.to_string()
        }
        _ => error.to_string(),
    }
}
