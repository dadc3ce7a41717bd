//! A transmitter's public keys, from a JSON Web Key Set (RFC 7517), and what they verify.
//!
//! Keys of a kind that is not known are passed over, as the RFC has it; shared secrets are never
//! keys here. A key verifies only with the algorithms of its own kind, so that no token can
//! choose to have a public key taken for a secret.

use aws_lc_rs::signature::{
    self, ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256,
    RSA_PSS_2048_8192_SHA256, RsaParameters, RsaPublicKeyComponents, UnparsedPublicKey,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::json;
use crate::config::Algorithm;

/// Most keys of one set.
const MOST: usize = 64;
/// Largest key set, in bytes.
pub(super) const MAX_BYTES: usize = 256 << 10;

/// The keys of a transmitter that can verify anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KeySet(Vec<Key>);

/// One public key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Key {
    kid: Option<String>,
    /// The one algorithm that the key is for; any of its kind where it does not say.
    algorithm: Option<Algorithm>,
    material: Material,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Material {
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
    /// An uncompressed point.
    P256(Vec<u8>),
    /// An uncompressed point.
    P384(Vec<u8>),
    Ed25519(Vec<u8>),
}

/// Why there are no keys.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum KeySetError {
    #[error("it is larger than 256 KiB")]
    TooLarge,
    #[error("it is not a JSON Web Key Set: expected an object with a list `keys` (RFC 7517)")]
    NotAKeySet,
    #[error("it has more than {MOST} keys")]
    TooMany,
    #[error("none of its keys can verify a token: expected RSA, P-256, P-384 or Ed25519 keys")]
    NoKey,
}

impl KeySet {
    /// Reads a key set.
    ///
    /// # Errors
    /// When it is none, or has no key that could be used.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, KeySetError> {
        if bytes.len() > MAX_BYTES {
            return Err(KeySetError::TooLarge);
        }
        let document = json::object(bytes).ok_or(KeySetError::NotAKeySet)?;
        let keys = document.get("keys").and_then(Value::as_array);
        let keys = keys.ok_or(KeySetError::NotAKeySet)?;
        if keys.len() > MOST {
            return Err(KeySetError::TooMany);
        }
        let keys: Vec<Key> = keys
            .iter()
            .filter_map(|key| Key::read(key.as_object()?))
            .collect();
        match keys.is_empty() {
            true => Err(KeySetError::NoKey),
            false => Ok(Self(keys)),
        }
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The keys that a token with this header may be signed by. One without `kid` has to leave
    /// no choice.
    pub(super) fn fitting(&self, kid: Option<&str>, algorithm: Algorithm) -> Vec<&Key> {
        let fits = self.0.iter().filter(|key| key.is_for(algorithm));
        match kid {
            Some(kid) => fits.filter(|key| key.kid.as_deref() == Some(kid)).collect(),
            None => {
                let all: Vec<&Key> = fits.collect();
                if all.len() == 1 { all } else { Vec::new() }
            }
        }
    }
}

impl Key {
    /// The key, where it is of a kind and a use that are known.
    fn read(jwk: &Map<String, Value>) -> Option<Self> {
        let text = |name: &str| jwk.get(name).and_then(Value::as_str);
        if text("use").is_some_and(|usage| usage != "sig") {
            return None;
        }
        let operations = jwk.get("key_ops").and_then(Value::as_array);
        if operations.is_some_and(|all| !all.iter().any(|one| one == "verify")) {
            return None;
        }
        let number = |name: &str| URL_SAFE_NO_PAD.decode(text(name)?).ok();
        // Some publish the sign of an ASN.1 integer along, which is no part of the number.
        let unsigned = |name: &str| {
            let bytes = number(name)?;
            Some(
                bytes
                    .strip_prefix(&[0])
                    .map(<[u8]>::to_vec)
                    .unwrap_or(bytes),
            )
        };
        let material = match (text("kty")?, text("crv")) {
            ("RSA", _) => Material::Rsa {
                n: unsigned("n")?,
                e: unsigned("e")?,
            },
            ("EC", Some("P-256")) => Material::P256(point(&number("x")?, &number("y")?, 32)?),
            ("EC", Some("P-384")) => Material::P384(point(&number("x")?, &number("y")?, 48)?),
            ("OKP", Some("Ed25519")) => Material::Ed25519(number("x")?),
            _ => return None,
        };
        // A key for an algorithm that is not known here is for none that is.
        let algorithm = match text("alg") {
            Some(name) => Some(Algorithm::named(name)?),
            None => None,
        };
        Some(Self {
            kid: text("kid").map(str::to_owned),
            algorithm,
            material,
        })
    }

    fn is_for(&self, algorithm: Algorithm) -> bool {
        let kind = match self.material {
            Material::Rsa { .. } => matches!(algorithm, Algorithm::Rs256 | Algorithm::Ps256),
            Material::P256(_) => algorithm == Algorithm::Es256,
            Material::P384(_) => algorithm == Algorithm::Es384,
            Material::Ed25519(_) => algorithm == Algorithm::EdDsa,
        };
        kind && self.algorithm.is_none_or(|own| own == algorithm)
    }

    /// Whether `signature` over `message` is this key's.
    pub(super) fn verifies(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        // SECURITY: by the key's kind and not by the token's word alone.
        if !self.is_for(algorithm) {
            return false;
        }
        match &self.material {
            Material::Rsa { n, e } => {
                let scheme: &RsaParameters = match algorithm {
                    Algorithm::Ps256 => &RSA_PSS_2048_8192_SHA256,
                    _ => &RSA_PKCS1_2048_8192_SHA256,
                };
                let key = RsaPublicKeyComponents { n, e };
                key.verify(scheme, message, signature).is_ok()
            }
            Material::P256(point) => plain(&ECDSA_P256_SHA256_FIXED, point, message, signature),
            Material::P384(point) => plain(&ECDSA_P384_SHA384_FIXED, point, message, signature),
            Material::Ed25519(point) => plain(&ED25519, point, message, signature),
        }
    }
}

fn plain(
    scheme: &'static dyn signature::VerificationAlgorithm,
    key: &[u8],
    message: &[u8],
    signature: &[u8],
) -> bool {
    let key = UnparsedPublicKey::new(scheme, key);
    key.verify(message, signature).is_ok()
}

/// The uncompressed form of a point (SEC 1 §2.3.3), of coordinates of the curve's length.
fn point(x: &[u8], y: &[u8], length: usize) -> Option<Vec<u8>> {
    (x.len() == length && y.len() == length).then(|| [&[4], x, y].concat())
}
