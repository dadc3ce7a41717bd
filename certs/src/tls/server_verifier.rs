//! The rule that rustls asks when we call: is this server the workload that we mean?
//!
//! A server's name is its SPIFFE ID; the DNS name or address that was dialled proves nothing
//! and is not looked at.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, Error, SignatureScheme};
use wayleave_identity::SpiffeIdPattern;

use super::chain_cache::ChainCache;
use super::client_verifier::{OUTCOME, alert_for};
use super::provider::crypto_provider;
use crate::verify::{self, Role, Verified, VerifyError};
use crate::{Identity, TrustBundles};

/// Accepts the workloads that are meant.
#[derive(Debug)]
pub(crate) struct SvidServerVerifier {
    trust: Trust,
    expected: SpiffeIdPattern,
}

/// What a server's chain is verified against.
#[derive(Debug)]
pub(crate) enum Trust {
    /// Bundles that are not those of an identity.
    Bundles(TrustBundles),
    /// A snapshot of our identity; who was verified before is remembered.
    Identity(Arc<Identity>, Arc<ChainCache>),
}

impl SvidServerVerifier {
    pub(crate) fn new(trust: Trust, expected: SpiffeIdPattern) -> Self {
        Self { trust, expected }
    }

    fn verify(
        &self,
        chain: &[CertificateDer<'_>],
        now: SystemTime,
    ) -> Result<Arc<Verified>, VerifyError> {
        let verified = match &self.trust {
            Trust::Bundles(bundles) => Arc::new(verify::verify(chain, bundles, Role::Server, now)?),
            Trust::Identity(identity, cache) => cache.verify(chain, identity, now)?,
        };
        if !self.expected.matches(verified.id()) {
            return Err(VerifyError::UnexpectedIdentity {
                found: verified.id().clone(),
                expected: Box::new(self.expected.clone()),
            });
        }
        Ok(verified)
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
        let outcome = self.verify(&chain, now);
        let answer = match &outcome {
            Ok(_) => Ok(ServerCertVerified::assertion()),
            Err(error) => Err(Error::InvalidCertificate(alert_for(error))),
        };
        // SECURITY: without a slot nothing is recorded, and `connect` makes no peer of it.
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
