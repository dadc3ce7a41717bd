//! The SPIFFE bundle format (SPIFFE Trust Domain and Bundle §4): a JWK set, and the map form
//! with one such set for each trust domain.
//!
//! Only `x509-svid` keys are used, each by the one certificate in `x5c`. Keys for other uses
//! and of unknown kinds are passed over, as the specification asks.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::CertificateDer;
use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use wayleave_identity::TrustDomain;

use super::jwk::{KeyParts, key_of};
use super::{BundleError, TrustBundle};
use crate::profile;

/// How soon to fetch a bundle again when its publisher gives no hint (SPIFFE Federation §4.1).
pub const DEFAULT_REFRESH: Duration = Duration::from_secs(300);

/// A bundle with what its publisher says about it.
#[derive(Debug, Clone, PartialEq)]
pub struct BundleDocument {
    /// The bundle, with its sequence number if it has one.
    pub bundle: TrustBundle,
    /// How soon the publisher wants it to be fetched again (`spiffe_refresh_hint`).
    pub refresh_hint: Option<Duration>,
}

/// Why a JSON text is not a SPIFFE bundle.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JwksError {
    /// It is not JSON of this form.
    #[error("it is not a SPIFFE bundle: {detail}")]
    Malformed {
        /// What the decoder says, with line and column.
        detail: String,
    },
    /// An `x509-svid` key has no certificate.
    #[error("key {position} is for x509-svid and has no `x5c` certificate (X509-SVID 6.1)")]
    NoCertificate {
        /// Its place in `keys`, from 1.
        position: usize,
    },
    /// The certificate is not base64.
    #[error("key {position}: `x5c` is not base64 (RFC 7517 4.7)")]
    NotBase64 {
        /// Its place in `keys`, from 1.
        position: usize,
    },
    /// The key is another than that of its certificate.
    #[error("key {position} is another than the one in its `x5c` certificate (RFC 7517 4.7)")]
    OtherKey {
        /// Its place in `keys`, from 1.
        position: usize,
    },
    /// The map form has no bundle for a trust domain that it was asked for.
    #[error("it has no bundle for trust domain `{0}`")]
    NoTrustDomain(TrustDomain),
    /// The certificates are not those of the trust domain's authorities.
    #[error(transparent)]
    Bundle(#[from] Box<BundleError>),
}

#[derive(Deserialize)]
struct RawBundle {
    keys: Vec<RawKey>,
    spiffe_sequence: Option<u64>,
    spiffe_refresh_hint: Option<u64>,
}

#[derive(Deserialize)]
struct RawKey {
    kty: String,
    #[serde(rename = "use")]
    usage: Option<String>,
    #[serde(default)]
    x5c: Vec<String>,
    #[serde(flatten)]
    parts: KeyParts,
}

#[derive(Deserialize)]
struct RawMap {
    trust_domains: UniqueMap,
}

/// A JSON object in which no key stands twice: the second would silently win.
struct UniqueMap(BTreeMap<String, RawBundle>);

impl<'de> Deserialize<'de> for UniqueMap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = UniqueMap;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of bundles by trust domain")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<UniqueMap, A::Error> {
                let mut entries = BTreeMap::new();
                while let Some((name, bundle)) = map.next_entry::<String, RawBundle>()? {
                    // Trust domains are compared without case, so they are keyed so as well.
                    let name = name.to_ascii_lowercase();
                    if entries.insert(name.clone(), bundle).is_some() {
                        return Err(A::Error::custom(format!("`{name}` stands there twice")));
                    }
                }
                Ok(UniqueMap(entries))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

impl BundleDocument {
    /// Reads the bundle of one trust domain, which the document itself does not name.
    ///
    /// # Errors
    ///
    /// When it is not a SPIFFE bundle, or a certificate is not a CA of this trust domain.
    pub fn from_jwks(trust_domain: TrustDomain, text: &[u8]) -> Result<Self, JwksError> {
        parse::<RawBundle>(text)?.into_document(trust_domain)
    }

    /// Reads the map form: `{"trust_domains": {"shop.example": {"keys": [...]}}}`.
    ///
    /// # Errors
    ///
    /// When it is not of that form, names a trust domain twice, or one bundle is not usable.
    pub fn from_jwks_map(text: &[u8]) -> Result<Vec<Self>, JwksError> {
        let UniqueMap(entries) = parse::<RawMap>(text)?.trust_domains;
        let documents = entries
            .into_iter()
            .map(|(name, raw)| raw.into_document(trust_domain_of(&name)?));
        documents.collect()
    }

    /// How soon to fetch it again.
    #[must_use]
    pub fn refresh_after(&self) -> Duration {
        self.refresh_hint.unwrap_or(DEFAULT_REFRESH)
    }
}

/// What a JWK set says, before anybody has looked at its certificates.
#[derive(Debug)]
pub(crate) struct Unchecked {
    /// In the map form: whose bundle it is.
    pub(crate) trust_domain: Option<TrustDomain>,
    pub(crate) certificates: Vec<CertificateDer<'static>>,
    pub(crate) sequence: Option<u64>,
    pub(crate) refresh_hint: Option<Duration>,
}

/// Reads a document of either form without a look at its certificates.
pub(crate) fn read_unchecked(text: &[u8]) -> Result<Vec<Unchecked>, JwksError> {
    if !is_map(text) {
        return Ok(vec![parse::<RawBundle>(text)?.unchecked(None)?]);
    }
    let UniqueMap(entries) = parse::<RawMap>(text)?.trust_domains;
    let each = entries.into_iter();
    each.map(|(name, raw)| raw.unchecked(Some(trust_domain_of(&name)?)))
        .collect()
}

fn trust_domain_of(name: &str) -> Result<TrustDomain, JwksError> {
    name.parse().map_err(|error| JwksError::Malformed {
        detail: format!("`{name}`: {error}"),
    })
}

/// Whether a text is JSON rather than PEM.
pub(crate) fn is_json(text: &[u8]) -> bool {
    text.trim_ascii_start().first() == Some(&b'{')
}

/// Whether a JSON text is of the map form.
pub(crate) fn is_map(text: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Form {
        trust_domains: Option<serde::de::IgnoredAny>,
    }
    serde_json::from_slice::<Form>(text).is_ok_and(|form| form.trust_domains.is_some())
}

fn parse<'de, T: Deserialize<'de>>(text: &'de [u8]) -> Result<T, JwksError> {
    serde_json::from_slice(text).map_err(|error| JwksError::Malformed {
        detail: error.to_string(),
    })
}

impl RawBundle {
    fn unchecked(&self, trust_domain: Option<TrustDomain>) -> Result<Unchecked, JwksError> {
        Ok(Unchecked {
            trust_domain,
            certificates: self.certificates()?,
            sequence: self.spiffe_sequence,
            refresh_hint: self.spiffe_refresh_hint.map(Duration::from_secs),
        })
    }

    /// The certificates of all keys that are for X509-SVIDs.
    fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, JwksError> {
        (1..)
            .zip(&self.keys)
            .filter(|(_, key)| key.is_for_x509_svids())
            .filter_map(|(position, key)| key.certificate(position).transpose())
            .collect()
    }

    fn into_document(self, trust_domain: TrustDomain) -> Result<BundleDocument, JwksError> {
        let certificates = self.certificates()?;
        let bundle = TrustBundle::from_der(trust_domain, certificates).map_err(Box::new)?;
        Ok(BundleDocument {
            bundle: bundle.with_sequence(self.spiffe_sequence),
            refresh_hint: self.spiffe_refresh_hint.map(Duration::from_secs),
        })
    }
}

impl RawKey {
    fn is_for_x509_svids(&self) -> bool {
        let known = matches!(self.kty.as_str(), "EC" | "RSA" | "OKP" | "AKP");
        known && self.usage.as_deref() == Some("x509-svid")
    }

    /// None for a kind of key that X509-SVIDs are not verified with here.
    fn certificate(&self, position: usize) -> Result<Option<CertificateDer<'static>>, JwksError> {
        let text = self
            .x5c
            .first()
            .ok_or(JwksError::NoCertificate { position })?;
        let der = STANDARD
            .decode(text)
            .map_err(|_| JwksError::NotBase64 { position })?;
        let Ok(certificate) = profile::parse(&der) else {
            // What is wrong with it is told by whoever reads the bundle.
            return Ok(Some(CertificateDer::from(der)));
        };
        match key_of(&certificate) {
            // Nobody here could verify with it, so it is passed over like an unknown `kty`.
            None => Ok(None),
            Some((kty, parts)) if kty == self.kty && self.parts.hold(&parts) => {
                Ok(Some(CertificateDer::from(der)))
            }
            Some(_) => Err(JwksError::OtherKey { position }),
        }
    }
}

#[derive(Serialize)]
struct WrittenBundle {
    keys: Vec<WrittenKey>,
    #[serde(skip_serializing_if = "Option::is_none")]
    spiffe_sequence: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    spiffe_refresh_hint: Option<u64>,
}

#[derive(Serialize)]
struct WrittenKey {
    kty: &'static str,
    #[serde(rename = "use")]
    usage: &'static str,
    #[serde(flatten)]
    parts: KeyParts,
    x5c: [String; 1],
}

impl BundleDocument {
    /// Writes the bundle in the SPIFFE bundle format.
    ///
    /// Authorities whose keys TLS cannot verify with have no form in it and are left out.
    #[must_use]
    pub fn to_jwks(&self) -> String {
        let key = |der: &CertificateDer<'_>| {
            let (kty, parts) = key_of(&profile::parse(der).ok()?)?;
            let x5c = [STANDARD.encode(der)];
            Some(WrittenKey {
                kty,
                usage: "x509-svid",
                parts,
                x5c,
            })
        };
        let authorities = self.bundle.authorities().iter();
        let written = WrittenBundle {
            keys: authorities.filter_map(|a| key(a.certificate())).collect(),
            spiffe_sequence: self.bundle.sequence(),
            spiffe_refresh_hint: self.refresh_hint.map(|hint| hint.as_secs()),
        };
        // Strings and numbers alone: there is nothing here that JSON cannot say.
        serde_json::to_string_pretty(&written).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ca::CertificateAuthority;
    use serde_json::{Value, json};
    use std::time::SystemTime;

    #[test]
    fn writes_and_compares_keys_of_every_kind() {
        let kinds = [
            (&rcgen::PKCS_ECDSA_P256_SHA256, "EC"),
            (&rcgen::PKCS_ECDSA_P384_SHA384, "EC"),
            (&rcgen::PKCS_ECDSA_P521_SHA512, "EC"),
            (&rcgen::PKCS_ED25519, "OKP"),
            (&rcgen::PKCS_RSA_SHA256, "RSA"),
            (&rcgen::PKCS_ML_DSA_44, "AKP"),
            (&rcgen::PKCS_ML_DSA_65, "AKP"),
            (&rcgen::PKCS_ML_DSA_87, "AKP"),
        ];
        for (algorithm, kty) in kinds {
            let certificate = || {
                let mut params = rcgen::CertificateParams::default();
                params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
                let key = rcgen::KeyPair::generate_for(algorithm).unwrap();
                params.self_signed(&key).unwrap().der().clone()
            };
            let bundle = TrustBundle::from_der(trust_domain(), vec![certificate(), certificate()]);
            let document = BundleDocument {
                bundle: bundle.unwrap(),
                refresh_hint: None,
            };
            let mut value: Value = serde_json::from_str(&document.to_jwks()).unwrap();
            assert_eq!(value["keys"][0]["kty"], kty);
            value["keys"][0]["kid"] = json!("free");
            assert_eq!(read(&value).unwrap(), document, "{algorithm:?}");
            value["keys"][0]["x5c"] = value["keys"][1]["x5c"].clone();
            assert_eq!(
                read(&value),
                Err(JwksError::OtherKey { position: 1 }),
                "{algorithm:?}"
            );
        }
    }

    fn trust_domain() -> TrustDomain {
        "shop.example".parse().unwrap()
    }

    /// A bundle of two authorities, as JSON that a test can bend.
    fn document() -> Value {
        let ca = || {
            let year = Duration::from_secs(365 * 24 * 3600);
            CertificateAuthority::create(&trust_domain(), year, SystemTime::now()).unwrap()
        };
        let certificates = vec![ca().certificate().clone(), ca().certificate().clone()];
        let bundle = TrustBundle::from_der(trust_domain(), certificates).unwrap();
        let document = BundleDocument {
            bundle: bundle.with_sequence(Some(7)),
            refresh_hint: Some(Duration::from_secs(60)),
        };
        serde_json::from_str(&document.to_jwks()).unwrap()
    }

    fn read(value: &Value) -> Result<BundleDocument, JwksError> {
        BundleDocument::from_jwks(trust_domain(), value.to_string().as_bytes())
    }

    #[test]
    fn reads_what_it_writes() {
        let read = read(&document()).unwrap();
        assert_eq!(read.bundle.authorities().len(), 2);
        assert_eq!(read.bundle.sequence(), Some(7));
        assert_eq!(read.refresh_after(), Duration::from_secs(60));
        let again = BundleDocument::from_jwks(trust_domain(), read.to_jwks().as_bytes());
        assert_eq!(again.unwrap(), read);
    }

    #[test]
    fn passes_over_other_uses_and_unknown_kinds() {
        let mut value = document();
        let jwt = json!({"kty": "EC", "use": "jwt-svid", "kid": "a", "crv": "P-256"});
        let unknown = json!({"kty": "LATTICE", "use": "x509-svid"});
        let unused = json!({"kty": "EC", "x5c": ["AA=="]});
        value["keys"]
            .as_array_mut()
            .unwrap()
            .extend([jwt, unknown, unused]);
        value["later"] = json!({"of": ["a", "newer"], "version": true});
        assert_eq!(read(&value).unwrap().bundle.authorities().len(), 2);
    }

    #[test]
    fn no_keys_revoke_everything() {
        let read = read(&json!({"keys": []})).unwrap();
        assert!(read.bundle.authorities().is_empty());
        assert_eq!(read.bundle.sequence(), None);
        assert_eq!(read.refresh_after(), DEFAULT_REFRESH);
    }

    #[test]
    fn refuses_what_is_not_a_bundle() {
        let bent = |bend: fn(&mut Value)| {
            let mut value = document();
            bend(&mut value);
            read(&value).unwrap_err()
        };
        let malformed = |error: JwksError| matches!(error, JwksError::Malformed { .. });
        assert!(malformed(bent(|v| {
            v.as_object_mut().unwrap().remove("keys");
        })));
        assert!(malformed(bent(|v| v["keys"] = json!({}))));
        assert!(malformed(bent(
            |v| v["keys"][0] = json!({"use": "x509-svid"})
        )));
        assert!(malformed(bent(|v| v["spiffe_sequence"] = json!(-1))));
        assert!(malformed(bent(|v| v["spiffe_sequence"] = json!("7"))));
        assert!(malformed(bent(|v| v["spiffe_refresh_hint"] = json!(1.5))));
        let first = 1;
        let none = bent(|v| v["keys"][0]["x5c"] = json!([]));
        assert_eq!(none, JwksError::NoCertificate { position: first });
        let text = bent(|v| v["keys"][0]["x5c"] = json!(["!"]));
        assert_eq!(text, JwksError::NotBase64 { position: first });
        let swapped = bent(|v| v["keys"][0]["x"] = v["keys"][1]["x"].clone());
        assert_eq!(swapped, JwksError::OtherKey { position: first });
        let junk = bent(|v| v["keys"][1]["x5c"] = json!(["AAAA"]));
        assert!(matches!(junk, JwksError::Bundle(_)), "{junk}");
    }

    #[test]
    fn passes_over_a_certificate_whose_kind_of_key_nobody_verifies_with() {
        let mut value = document();
        let text = value["keys"][0]["x5c"][0].as_str().unwrap();
        let der = STANDARD.decode(text).unwrap();
        let ec_public_key = [0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
        let at = der
            .windows(7)
            .position(|bytes| bytes == ec_public_key)
            .unwrap();
        let mut unknown = der.clone();
        unknown[at + 4] ^= 1;
        value["keys"][0]["x5c"][0] = json!(STANDARD.encode(unknown));
        let read = read(&value).unwrap();
        assert_eq!(read.bundle.authorities().len(), 1);
        let again = BundleDocument::from_jwks(trust_domain(), read.to_jwks().as_bytes());
        assert_eq!(again.unwrap(), read);
    }

    #[test]
    fn refuses_authorities_of_another_trust_domain() {
        let text = document().to_string();
        let other = "partner.example".parse().unwrap();
        let error = BundleDocument::from_jwks(other, text.as_bytes()).unwrap_err();
        assert!(
            error.to_string().contains("`spiffe://shop.example`"),
            "{error}"
        );
    }

    #[test]
    fn reads_the_map_form() {
        let text = json!({"trust_domains": {
            "Shop.Example": document(),
            "partner.example": {"keys": []},
        }});
        let text = text.to_string();
        assert!(is_json(text.as_bytes()) && is_map(text.as_bytes()));
        let documents = BundleDocument::from_jwks_map(text.as_bytes()).unwrap();
        let names: Vec<_> = documents
            .iter()
            .map(|d| d.bundle.trust_domain().as_str())
            .collect();
        assert_eq!(names, ["partner.example", "shop.example"]);
        assert!(!is_map(document().to_string().as_bytes()));
    }

    #[test]
    fn refuses_a_trust_domain_that_stands_twice() {
        let empty = r#"{"keys": []}"#;
        for (first, second) in [("a", "a"), ("a", "A")] {
            let text =
                format!(r#"{{"trust_domains": {{"{first}": {empty}, "{second}": {empty}}}}}"#);
            let error = BundleDocument::from_jwks_map(text.as_bytes()).unwrap_err();
            assert!(
                error.to_string().contains("`a` stands there twice"),
                "{error}"
            );
        }
        let text = format!(r#"{{"trust_domains": {{"a b": {empty}}}}}"#);
        assert!(BundleDocument::from_jwks_map(text.as_bytes()).is_err());
        let text = r#"{"keys": [], "keys": []}"#;
        let error = BundleDocument::from_jwks(trust_domain(), text.as_bytes()).unwrap_err();
        assert!(error.to_string().contains("duplicate field"), "{error}");
    }
}
