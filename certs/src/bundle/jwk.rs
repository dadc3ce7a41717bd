//! Public keys as JSON Web Keys have them (RFC 7517, RFC 7518 §6, RFC 8037, and
//! draft-ietf-cose-dilithium for ML-DSA), as far as bundles need to write and compare them.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use x509_parser::certificate::X509Certificate;
use x509_parser::public_key::{ECPoint, PublicKey, RSAPublicKey};

use crate::profile;

/// The parts of a public key that its certificate must agree with.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct KeyParts {
    #[serde(skip_serializing_if = "Option::is_none")]
    crv: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    x: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    y: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    n: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    e: Option<String>,
    #[serde(rename = "pub", skip_serializing_if = "Option::is_none")]
    public: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    alg: Option<String>,
}

impl KeyParts {
    /// Whether every part of a certificate's key is the same here; other members are free.
    pub(super) fn hold(&self, key: &Self) -> bool {
        let parts = |k: &Self| {
            let Self {
                crv,
                x,
                y,
                n,
                e,
                public,
                alg,
            } = k;
            [crv, x, y, n, e, public, alg].map(Clone::clone)
        };
        let (mine, others) = (parts(self), parts(key));
        mine.iter()
            .zip(&others)
            .all(|(mine, other)| other.is_none() || mine == other)
    }
}

/// A certificate's key as a JWK has it; none for kinds that TLS does not verify with.
pub(super) fn key_of(certificate: &X509Certificate<'_>) -> Option<(&'static str, KeyParts)> {
    match certificate.public_key().parsed().ok()? {
        PublicKey::EC(point) => Some(("EC", ec_key(&point)?)),
        PublicKey::RSA(key) => Some(("RSA", rsa_key(&key))),
        PublicKey::Unknown(key) => other_key_of(certificate, key),
        _ => None,
    }
}

/// A point in uncompressed form: a byte that says so, then both coordinates.
fn ec_key(point: &ECPoint<'_>) -> Option<KeyParts> {
    let [0x04, coordinates @ ..] = point.data() else {
        return None;
    };
    let (x, y) = coordinates.split_at_checked(coordinates.len() / 2)?;
    let crv = match (x.len(), y.len()) {
        (32, 32) => "P-256",
        (48, 48) => "P-384",
        (66, 66) => "P-521",
        _ => return None,
    };
    Some(KeyParts {
        crv: Some(crv.to_owned()),
        x: Some(URL_SAFE_NO_PAD.encode(x)),
        y: Some(URL_SAFE_NO_PAD.encode(y)),
        ..KeyParts::default()
    })
}

fn rsa_key(key: &RSAPublicKey<'_>) -> KeyParts {
    let encode = |number| Some(URL_SAFE_NO_PAD.encode(profile::unsigned(number)));
    KeyParts {
        n: encode(key.modulus),
        e: encode(key.exponent),
        ..KeyParts::default()
    }
}

/// Ed25519 (RFC 8037) and ML-DSA (draft-ietf-cose-dilithium).
fn other_key_of(certificate: &X509Certificate<'_>, key: &[u8]) -> Option<(&'static str, KeyParts)> {
    let key = Some(URL_SAFE_NO_PAD.encode(key));
    let ml_dsa = |alg: &str| KeyParts {
        alg: Some(alg.to_owned()),
        public: key.clone(),
        ..KeyParts::default()
    };
    match certificate
        .public_key()
        .algorithm
        .algorithm
        .to_id_string()
        .as_str()
    {
        "1.3.101.112" => {
            let crv = Some("Ed25519".to_owned());
            let x = key;
            Some((
                "OKP",
                KeyParts {
                    crv,
                    x,
                    ..KeyParts::default()
                },
            ))
        }
        "2.16.840.1.101.3.4.3.17" => Some(("AKP", ml_dsa("ML-DSA-44"))),
        "2.16.840.1.101.3.4.3.18" => Some(("AKP", ml_dsa("ML-DSA-65"))),
        "2.16.840.1.101.3.4.3.19" => Some(("AKP", ml_dsa("ML-DSA-87"))),
        _ => None,
    }
}
