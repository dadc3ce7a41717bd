//! Certificate revocation lists (RFC 5280 §5).
//!
//! A list is checked in full when it is read, and its signature when it is used: path
//! validation asks only lists that the issuer of the certificate in question has signed.

use std::time::SystemTime;

use rustls_pki_types::CertificateRevocationListDer;
use webpki::{CertRevocationList, OwnedCertRevocationList};
use x509_parser::prelude::{CertificateRevocationList, FromDer};

use crate::pem::{self, PemError};
use crate::profile;

/// One revocation list.
#[derive(Debug)]
pub struct RevocationList {
    der: CertificateRevocationListDer<'static>,
    parsed: CertRevocationList<'static>,
    next_update: SystemTime,
}

/// Why bytes are not a revocation list.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RevocationListError {
    /// The PEM could not be read.
    #[error(transparent)]
    Pem(#[from] PemError),
    /// The DER could not be read, or holds what is not supported.
    #[error("revocation list cannot be used: {detail}")]
    Malformed {
        /// What the decoder says.
        detail: String,
    },
    /// It does not say when the next list is due (RFC 5280 §5.1.2.5 requires it).
    #[error(
        "revocation list has no nextUpdate, so it could never go out of date (RFC 5280 5.1.2.5)"
    )]
    NoNextUpdate,
}

impl RevocationList {
    /// Reads all lists in a PEM text, or one in DER.
    ///
    /// # Errors
    ///
    /// When there is none, or one cannot be used.
    pub fn from_pem_or_der(bytes: &[u8]) -> Result<Vec<Self>, RevocationListError> {
        // DER of a list begins with a SEQUENCE; PEM is text.
        if bytes.first() == Some(&0x30) {
            return Ok(vec![Self::from_der(bytes.to_vec().into())?]);
        }
        let lists = pem::revocation_lists(bytes)?;
        lists.into_iter().map(Self::from_der).collect()
    }

    /// Reads one list in DER.
    ///
    /// # Errors
    ///
    /// When it is malformed, of an unsupported kind, or does not say when the next is due.
    pub fn from_der(
        der: CertificateRevocationListDer<'static>,
    ) -> Result<Self, RevocationListError> {
        let malformed = |detail| RevocationListError::Malformed { detail };
        let owned = OwnedCertRevocationList::from_der(&der)
            .map_err(|error| malformed(format!("{error:?}")))?;
        let (_, list) = CertificateRevocationList::from_der(&der)
            .map_err(|error| malformed(error.to_string()))?;
        let next_update = list
            .next_update()
            .ok_or(RevocationListError::NoNextUpdate)?;
        Ok(Self {
            next_update: profile::system_time(next_update),
            parsed: owned.into(),
            der,
        })
    }

    /// When the next list is due; from then on this one is out of date.
    #[must_use]
    pub fn next_update(&self) -> SystemTime {
        self.next_update
    }

    pub(crate) fn for_webpki(&self) -> &CertRevocationList<'static> {
        &self.parsed
    }
}

impl PartialEq for RevocationList {
    fn eq(&self, other: &Self) -> bool {
        self.der == other.der
    }
}

impl Eq for RevocationList {}
