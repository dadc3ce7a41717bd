//! An X509-SVID of our own: the certificate chain, its private key and what the leaf says.
//!
//! Checks that the parts belong together and keep the profile. Whether somebody trusts the
//! chain is for the peers to say.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use wayleave_identity::SpiffeId;

use crate::pem::{self, PemError};
use crate::profile::{Leaf, ProfileError};
use crate::tls::crypto_provider;

/// A certificate chain, leaf first, with its private key.
///
/// The key is never printed, and not kept in any other form than the one TLS signs with.
pub struct Svid {
    leaf: Leaf,
    certified_key: Arc<CertifiedKey>,
}

/// Why a certificate and a key are not an X509-SVID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SvidError {
    /// The certificate's PEM could not be read.
    #[error("the certificate cannot be read: {0}")]
    CertificatePem(#[source] PemError),
    /// The key's PEM could not be read.
    #[error("the private key cannot be read: {0}")]
    KeyPem(#[source] PemError),
    /// There is no certificate.
    #[error("there is no certificate")]
    NoCertificate,
    /// The leaf breaks a rule of the X509-SVID profile.
    #[error(transparent)]
    Profile(#[from] ProfileError),
    /// The private key is of a kind that TLS cannot sign with.
    #[error(
        "the private key cannot be used: {0}; use ECDSA P-256, P-384, Ed25519 or RSA 2048 and up"
    )]
    UnusableKey(String),
    /// The key is not that of the leaf certificate.
    #[error("the private key does not belong to the certificate of `{id}`")]
    KeyMismatch {
        /// Whom the certificate names.
        id: SpiffeId,
    },
}

impl Svid {
    /// Reads a chain (leaf first) and its key from PEM.
    ///
    /// # Errors
    ///
    /// When either cannot be read, the leaf breaks the profile, or the key is another's.
    pub fn from_pem(certificates: &[u8], key: &[u8]) -> Result<Self, SvidError> {
        let chain = pem::certificates(certificates).map_err(SvidError::CertificatePem)?;
        let key = pem::private_key(key).map_err(SvidError::KeyPem)?;
        Self::from_der(chain, key)
    }

    /// Takes a chain (leaf first) and its key in DER.
    ///
    /// # Errors
    ///
    /// When the leaf breaks the profile, or the key is unusable or another's.
    pub fn from_der(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Self, SvidError> {
        let leaf = Leaf::from_der(chain.first().ok_or(SvidError::NoCertificate)?)?;
        let key = crypto_provider()
            .key_provider
            .load_private_key(key)
            .map_err(|error| SvidError::UnusableKey(error.to_string()))?;
        let certified_key = CertifiedKey::new(chain, key);
        if certified_key.keys_match().is_err() {
            return Err(SvidError::KeyMismatch { id: leaf.id });
        }
        Ok(Self {
            leaf,
            certified_key: Arc::new(certified_key),
        })
    }

    /// Whom it names.
    #[must_use]
    pub fn id(&self) -> &SpiffeId {
        &self.leaf.id
    }

    /// What the leaf certificate says.
    #[must_use]
    pub fn leaf(&self) -> &Leaf {
        &self.leaf
    }

    /// The chain in DER, leaf first.
    #[must_use]
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.certified_key.cert
    }

    /// The serial number in lower-case hexadecimal.
    #[must_use]
    pub fn serial_hex(&self) -> String {
        hex(&self.leaf.serial)
    }

    /// The first moment at which the leaf is valid.
    #[must_use]
    pub fn not_before(&self) -> SystemTime {
        self.leaf.not_before
    }

    /// The last moment at which the leaf is valid.
    #[must_use]
    pub fn not_after(&self) -> SystemTime {
        self.leaf.not_after
    }

    /// Whether the leaf is valid at `now`.
    #[must_use]
    pub fn is_valid_at(&self, now: SystemTime) -> bool {
        self.leaf.not_before <= now && now <= self.leaf.not_after
    }

    /// The chain and key as TLS takes them.
    pub(crate) fn certified_key(&self) -> &Arc<CertifiedKey> {
        &self.certified_key
    }
}

// SECURITY: written by hand so that no key material can reach a log.
impl fmt::Debug for Svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Svid")
            .field("id", &self.leaf.id)
            .field("serial", &self.serial_hex())
            .field("not_after", &self.leaf.not_after)
            .finish_non_exhaustive()
    }
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
