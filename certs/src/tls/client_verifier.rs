//! The rule that rustls asks during a handshake: is this client's chain acceptable?
//!
//! The answer's details (who it is, or which rule it broke) do not fit through rustls, so they
//! are left in a slot that belongs to the task of this one handshake.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use wayleave_identity::TrustDomain;

use super::chain_cache::ChainCache;
use super::provider::crypto_provider;
use crate::Identity;
use crate::verify::{Verified, VerifyError};

/// What a handshake found out about its peer's chain.
pub(crate) type Outcome = Arc<OnceLock<Result<Arc<Verified>, VerifyError>>>;

tokio::task_local! {
    /// The slot of the handshake that runs in this task.
    pub(crate) static OUTCOME: Outcome;
}

/// Verifies clients against one snapshot of the trust bundles.
#[derive(Debug)]
pub(crate) struct SvidClientVerifier {
    identity: Arc<Identity>,
    cache: Arc<ChainCache>,
    /// All that have a bundle where there is none.
    trust_domains: Option<Arc<[TrustDomain]>>,
}

impl SvidClientVerifier {
    pub(crate) fn new(
        identity: Arc<Identity>,
        cache: Arc<ChainCache>,
        trust_domains: Option<Arc<[TrustDomain]>>,
    ) -> Self {
        Self {
            identity,
            cache,
            trust_domains,
        }
    }

    /// Whether workloads of the proved peer's trust domain are let in here.
    fn let_in(&self, verified: Arc<Verified>) -> Result<Arc<Verified>, VerifyError> {
        let id = &verified.leaf.id;
        match &self.trust_domains {
            Some(allowed) if !allowed.contains(id.trust_domain()) => {
                Err(VerifyError::TrustDomainNotAllowed { id: id.clone() })
            }
            _ => Ok(verified),
        }
    }
}

impl ClientCertVerifier for SvidClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        true
    }

    /// No hints: they would tell a stranger whom we trust, and grow with every trust domain.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(now.as_secs());
        let chain: Vec<_> = std::iter::once(end_entity)
            .chain(intermediates)
            .cloned()
            .collect();
        let outcome = self.cache.verify(&chain, &self.identity, now);
        let outcome = outcome.and_then(|verified| self.let_in(verified));
        let answer = match &outcome {
            Ok(_) => Ok(ClientCertVerified::assertion()),
            Err(error) => Err(Error::InvalidCertificate(alert_for(error))),
        };
        // SECURITY: without a slot nothing is recorded, and `accept` makes no peer of it.
        let _ = OUTCOME.try_with(|slot| slot.set(outcome));
        answer
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

/// The error that makes rustls send the most telling alert (RFC 8446 §6.2).
pub(super) fn alert_for(error: &VerifyError) -> CertificateError {
    match error {
        VerifyError::UnknownAuthority { .. } | VerifyError::UnknownTrustDomain { .. } => {
            CertificateError::UnknownIssuer
        }
        VerifyError::Expired { .. } => CertificateError::Expired,
        VerifyError::NotYetValid { .. } => CertificateError::NotValidYet,
        VerifyError::Revoked { .. } => CertificateError::Revoked,
        VerifyError::Profile(_) => CertificateError::BadEncoding,
        VerifyError::TrustDomainNotAllowed { .. } => {
            CertificateError::ApplicationVerificationFailure
        }
        other => CertificateError::Other(rustls::OtherError(Arc::new(other.clone()))),
    }
}
