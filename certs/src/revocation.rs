//! Certificate revocation lists (RFC 5280 §5).
//!
//! A list is checked in full when it is read, and its signature when it is used: path
//! validation asks only lists that the issuer of the certificate in question has signed.

use std::time::SystemTime;

use rustls_pki_types::{CertificateRevocationListDer, TrustAnchor};
use webpki::{CertRevocationList, OwnedCertRevocationList};
use x509_parser::asn1_rs::Any;
use x509_parser::prelude::{CertificateRevocationList, FromDer};

use crate::pem::{self, PemError};
use crate::profile;
use crate::tls::crypto_provider;

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
    /// It names an authority as its issuer that has not signed it.
    #[error(
        "revocation list names an authority of a trust bundle as its issuer, but was not signed with that authority's key"
    )]
    Forged,
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

    /// Whether a trust anchor's name is the list's issuer, and whether its key signed the list.
    pub(crate) fn is_issued_by(&self, anchor: &TrustAnchor<'_>) -> IssuedBy {
        if self.parsed.issuer() != anchor.subject.as_ref() {
            return IssuedBy::Other;
        }
        match self.is_signed_by(anchor) {
            Some(true) => IssuedBy::Signed,
            _ => IssuedBy::NameAlone,
        }
    }

    /// None when the DER is not what it was when it was read.
    fn is_signed_by(&self, anchor: &TrustAnchor<'_>) -> Option<bool> {
        let (_, list) = Any::from_der(&self.der).ok()?;
        let (rest, signed) = raw_element(list.data)?;
        let (rest, _) = raw_element(rest)?;
        let (_, signature) = Any::from_der(rest).ok()?;
        let (_, signature_algorithm) = Any::from_der(list.data.get(signed.len()..)?).ok()?;
        let (rest, key_algorithm) = Any::from_der(&anchor.subject_public_key_info).ok()?;
        let (_, key) = Any::from_der(rest).ok()?;
        // A bit string begins with the number of unused bits, 0 for both.
        let (signature, key) = (signature.data.get(1..)?, key.data.get(1..)?);
        let known = crypto_provider().signature_verification_algorithms.all;
        Some(known.iter().any(|algorithm| {
            algorithm.signature_alg_id().as_ref() == signature_algorithm.data
                && algorithm.public_key_alg_id().as_ref() == key_algorithm.data
                && algorithm.verify_signature(key, signed, signature).is_ok()
        }))
    }

    pub(crate) fn for_webpki(&self) -> &CertRevocationList<'static> {
        &self.parsed
    }
}

/// What a trust anchor has to do with a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum IssuedBy {
    /// Its name and its key.
    Signed,
    /// Its name, but another key.
    NameAlone,
    /// Nothing.
    Other,
}

/// Splits the first DER element, header included, from what follows it.
fn raw_element(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (rest, _) = Any::from_der(bytes).ok()?;
    let element = bytes.get(..bytes.len() - rest.len())?;
    Some((rest, element))
}

impl PartialEq for RevocationList {
    fn eq(&self, other: &Self) -> bool {
        self.der == other.der
    }
}

impl Eq for RevocationList {}
