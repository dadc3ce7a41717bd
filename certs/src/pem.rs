//! PEM (RFC 7468) as SVIDs, keys and bundles are stored in.
//!
//! Decodes text into DER and says what it found where it expected something else. What the
//! DER means is checked elsewhere.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::pem::{PemObject, SectionKind};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};

/// Why a PEM text could not be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PemError {
    /// There is nothing in it.
    #[error("it is empty; expected `-----BEGIN {expected}-----`")]
    Empty {
        /// The label that was expected.
        expected: &'static str,
    },
    /// There is no `-----BEGIN` line, so it may be DER or something else entirely.
    #[error(
        "it is not PEM; expected `-----BEGIN {expected}-----` \
         (convert DER with `openssl x509 -inform der` or `openssl pkey -inform der`)"
    )]
    NotPem {
        /// The label that was expected.
        expected: &'static str,
    },
    /// It is PEM, but of something else.
    #[error("it holds `{found}`; expected `{expected}`")]
    WrongLabel {
        /// The label that was expected.
        expected: &'static str,
        /// The first label that was found.
        found: String,
    },
    /// The private key is encrypted.
    #[error(
        "the private key is encrypted; write it unencrypted with mode 0600 \
         (`openssl pkey -in KEY -out PLAIN-KEY`)"
    )]
    EncryptedKey,
    /// There is more than one private key.
    #[error("it holds {count} private keys; exactly one is expected")]
    SeveralKeys {
        /// How many there are.
        count: usize,
    },
    /// A section is cut off or is not base64.
    #[error("its PEM is broken: {detail}; it may have been cut off while it was written")]
    Broken {
        /// What the decoder says.
        detail: String,
    },
}

const CERTIFICATE: &str = "CERTIFICATE";
const PRIVATE_KEY: &str = "PRIVATE KEY";
const CRL: &str = "X509 CRL";

/// All certificates in a PEM text, in their order. Other sections are passed over.
///
/// # Errors
///
/// When there is no certificate, or a section is broken.
pub fn certificates(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let found = sections(text, CERTIFICATE, |kind| kind == SectionKind::Certificate)?;
    Ok(found
        .into_iter()
        .map(|(_, der)| CertificateDer::from(der))
        .collect())
}

/// All revocation lists in a PEM text, in their order.
///
/// # Errors
///
/// When there is none, or a section is broken.
pub fn revocation_lists(
    text: &[u8],
) -> Result<Vec<CertificateRevocationListDer<'static>>, PemError> {
    let found = sections(text, CRL, |kind| kind == SectionKind::Crl)?;
    Ok(found
        .into_iter()
        .map(|(_, der)| CertificateRevocationListDer::from(der))
        .collect())
}

/// The one private key in a PEM text (PKCS#8, SEC1 or PKCS#1).
///
/// # Errors
///
/// When there is none, more than one, it is encrypted, or a section is broken.
pub fn private_key(text: &[u8]) -> Result<PrivateKeyDer<'static>, PemError> {
    if is_encrypted(text) {
        return Err(PemError::EncryptedKey);
    }
    let mut found = sections(text, PRIVATE_KEY, is_private_key)?;
    match (found.pop(), found.len()) {
        (Some((kind, der)), 0) => PrivateKeyDer::from_pem(kind, der).ok_or(PemError::NotPem {
            expected: PRIVATE_KEY,
        }),
        (_, more) => Err(PemError::SeveralKeys { count: more + 1 }),
    }
}

fn is_private_key(kind: SectionKind) -> bool {
    matches!(
        kind,
        SectionKind::PrivateKey | SectionKind::RsaPrivateKey | SectionKind::EcPrivateKey
    )
}

/// PKCS#8 says it in the label, the older OpenSSL form in a header line.
fn is_encrypted(text: &[u8]) -> bool {
    labels(text).any(|label| label == "ENCRYPTED PRIVATE KEY")
        || text
            .split(|b| *b == b'\n')
            .any(|line| line.starts_with(b"Proc-Type: 4,ENCRYPTED"))
}

fn sections(
    text: &[u8],
    expected: &'static str,
    wanted: impl Fn(SectionKind) -> bool,
) -> Result<Vec<(SectionKind, Vec<u8>)>, PemError> {
    let mut found = Vec::new();
    for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(text) {
        let (kind, der) = section.map_err(|error| PemError::Broken {
            detail: error.to_string(),
        })?;
        if wanted(kind) {
            found.push((kind, der));
        }
    }
    if found.is_empty() {
        return Err(nothing_found(text, expected));
    }
    Ok(found)
}

fn nothing_found(text: &[u8], expected: &'static str) -> PemError {
    if text.trim_ascii().is_empty() {
        return PemError::Empty { expected };
    }
    match labels(text).next() {
        Some(found) => PemError::WrongLabel { expected, found },
        None => PemError::NotPem { expected },
    }
}

/// The labels of all `-----BEGIN` lines.
fn labels(text: &[u8]) -> impl Iterator<Item = String> {
    text.split(|b| *b == b'\n').filter_map(|line| {
        let label = line.strip_prefix(b"-----BEGIN ")?;
        let label = label.trim_ascii_end().strip_suffix(b"-----")?;
        Some(String::from_utf8_lossy(label).into_owned())
    })
}

/// Writes one PEM section with lines of 64 characters.
#[must_use]
pub fn encode(label: &str, der: &[u8]) -> String {
    let body = STANDARD.encode(der);
    let mut text = format!("-----BEGIN {label}-----\n");
    for line in body.as_bytes().chunks(64) {
        text.push_str(&String::from_utf8_lossy(line));
        text.push('\n');
    }
    text.push_str(&format!("-----END {label}-----\n"));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_what_it_reads() {
        for length in [1, 2, 3, 47, 48, 49, 500] {
            let der: Vec<u8> = (0..length).map(|i| (i * 7 % 251) as u8).collect();
            let text = encode(CERTIFICATE, &der);
            assert_eq!(certificates(text.as_bytes()).unwrap()[0].as_ref(), der);
        }
    }

    #[test]
    fn names_what_is_wrong() {
        let key = encode(PRIVATE_KEY, b"key");
        let certificate = encode(CERTIFICATE, b"certificate");
        let cut = &certificate[..certificate.len() - 20];
        let wrong = |found: &str| {
            let found = found.to_owned();
            Err(PemError::WrongLabel {
                expected: CERTIFICATE,
                found,
            })
        };
        assert_eq!(certificates(key.as_bytes()), wrong(PRIVATE_KEY));
        assert_eq!(
            certificates(b"-----BEGIN PKCS7-----\nAA==\n-----END PKCS7-----\n"),
            wrong("PKCS7")
        );
        assert_eq!(
            certificates(b" \n"),
            Err(PemError::Empty {
                expected: CERTIFICATE
            })
        );
        assert_eq!(
            certificates(&[0x30, 0x82]),
            Err(PemError::NotPem {
                expected: CERTIFICATE
            })
        );
        assert!(matches!(
            certificates(cut.as_bytes()),
            Err(PemError::Broken { .. })
        ));
    }

    #[test]
    fn refuses_an_encrypted_or_a_second_key() {
        let pkcs8 = encode("ENCRYPTED PRIVATE KEY", b"x");
        assert_eq!(private_key(pkcs8.as_bytes()), Err(PemError::EncryptedKey));
        let old = b"-----BEGIN EC PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nAA==\n-----END EC PRIVATE KEY-----\n";
        assert_eq!(private_key(old), Err(PemError::EncryptedKey));
        let two = encode(PRIVATE_KEY, b"a") + &encode(PRIVATE_KEY, b"b");
        assert_eq!(
            private_key(two.as_bytes()),
            Err(PemError::SeveralKeys { count: 2 })
        );
    }
}
