//! Finds the certificates in a file of any form, without a look at what they say.

use rustls_pki_types::CertificateDer;
use x509_parser::asn1_rs::{Any, FromDer};

use crate::bundle::jwks;
use crate::pem::{self, PemError};
use crate::profile;

/// The first byte of a certificate in DER: a sequence.
const SEQUENCE: u8 = 0x30;

/// What a file seems to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A chain of certificates that begins with a leaf.
    Svid,
    /// Certificates that sign others.
    Bundle,
    /// A JWK set: the SPIFFE bundle format.
    Jwks,
}

/// Why there are no certificates to look at.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// Neither PEM nor DER nor JSON.
    #[error("it is neither certificates in PEM or DER nor a SPIFFE bundle in JSON")]
    Unknown,
    /// The PEM is of something else, or broken.
    #[error(transparent)]
    Pem(#[from] PemError),
}

/// What a file seems to be: by its form, and by whether its first certificate is a CA.
///
/// # Errors
///
/// When there is no certificate in it.
pub fn kind_of(bytes: &[u8]) -> Result<Kind, ReadError> {
    if jwks::is_json(bytes) {
        return Ok(Kind::Jwks);
    }
    let certificates = certificates(bytes)?;
    let first = certificates.first().ok_or(ReadError::Unknown)?;
    let is_ca = profile::parse(first).is_ok_and(|c| profile::is_ca(&c) == Ok(true));
    Ok(if is_ca { Kind::Bundle } else { Kind::Svid })
}

/// The certificates in PEM, or in DER one after the other.
///
/// # Errors
///
/// When there are none.
pub fn certificates(bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, ReadError> {
    if bytes.first() == Some(&SEQUENCE) {
        return Ok(sequences(bytes));
    }
    pem::certificates(bytes).map_err(|error| match error {
        PemError::NotPem { .. } => ReadError::Unknown,
        other => other.into(),
    })
}

/// Splits DER into its outermost values; what cannot be split is left as it is, and found
/// malformed later.
fn sequences(mut bytes: &[u8]) -> Vec<CertificateDer<'static>> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let rest = Any::from_der(bytes).map_or(&[][..], |(rest, _)| rest);
        let (value, rest) = bytes.split_at(bytes.len() - rest.len());
        found.push(CertificateDer::from(value.to_vec()));
        bytes = rest;
    }
    found
}
