//! The messages of the X509-SVID profile (SPIFFE Workload API §5.1).
//!
//! Each is the full state: what is not in it has been taken away.

use std::collections::BTreeMap;
use std::fmt;

use super::protobuf::{Fields, WireError, put, put_always, text};

/// Why a message of the Workload API cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MessageError {
    /// The bytes are not protobuf.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// A mandatory field is empty (SPIFFE Workload API §4.5).
    #[error("the mandatory field `{0}` is empty (SPIFFE Workload API 4.5)")]
    Mandatory(&'static str),
    /// A map names a trust domain twice.
    #[error("the bundle of `{0}` is there twice")]
    Twice(String),
}

/// `X509SVIDResponse`: all SVIDs of a workload and whom it is to trust.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct X509Context {
    /// The SVIDs; the first is the default.
    pub svids: Vec<X509Svid>,
    /// Revocation lists in DER.
    pub crls: Vec<Vec<u8>>,
    /// CA certificates of other trust domains, concatenated DER, by `spiffe://` ID.
    pub federated_bundles: BTreeMap<String, Vec<u8>>,
}

/// `X509SVID`: one SVID with its key and its trust domain's bundle.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct X509Svid {
    /// The SPIFFE ID.
    pub spiffe_id: String,
    /// The certificate chain, leaf first, concatenated DER.
    pub x509_svid: Vec<u8>,
    /// The private key, PKCS#8 DER.
    pub x509_svid_key: Vec<u8>,
    /// The CA certificates of its trust domain, concatenated DER.
    pub bundle: Vec<u8>,
    /// What the operator says it is for; empty if nothing.
    pub hint: String,
}

/// `X509BundlesResponse`: whom to trust, for those who need no SVID.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct X509Bundles {
    /// Revocation lists in DER.
    pub crls: Vec<Vec<u8>>,
    /// CA certificates, concatenated DER, by `spiffe://` ID of the trust domain.
    pub bundles: BTreeMap<String, Vec<u8>>,
}

// SECURITY: written by hand so that the key cannot reach a log.
impl fmt::Debug for X509Svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("X509Svid")
            .field("spiffe_id", &self.spiffe_id)
            .field("hint", &self.hint)
            .finish_non_exhaustive()
    }
}

impl X509Context {
    /// Reads an `X509SVIDResponse`.
    ///
    /// # Errors
    ///
    /// When it is not protobuf, or a mandatory field is empty.
    pub fn decode(message: &[u8]) -> Result<Self, MessageError> {
        let mut context = Self::default();
        let mut fields = Fields::new(message);
        while let Some((field, bytes)) = fields.next()? {
            match field {
                1 => context.svids.push(X509Svid::decode(bytes)?),
                2 => context.crls.push(bytes.to_vec()),
                3 => add_entry(&mut context.federated_bundles, bytes)?,
                _ => {}
            }
        }
        if context.svids.is_empty() {
            return Err(MessageError::Mandatory("svids"));
        }
        Ok(context)
    }

    /// Writes an `X509SVIDResponse`.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut message = Vec::new();
        for svid in &self.svids {
            put_always(&mut message, 1, &svid.encode());
        }
        for crl in &self.crls {
            put_always(&mut message, 2, crl);
        }
        for (id, bundle) in &self.federated_bundles {
            put_always(&mut message, 3, &entry(id, bundle));
        }
        message
    }
}

impl X509Svid {
    fn decode(message: &[u8]) -> Result<Self, MessageError> {
        let mut svid = Self::default();
        let mut fields = Fields::new(message);
        while let Some((field, bytes)) = fields.next()? {
            match field {
                1 => svid.spiffe_id = text(bytes)?,
                2 => svid.x509_svid = bytes.to_vec(),
                3 => svid.x509_svid_key = bytes.to_vec(),
                4 => svid.bundle = bytes.to_vec(),
                5 => svid.hint = text(bytes)?,
                _ => {}
            }
        }
        svid.check()?;
        Ok(svid)
    }

    fn check(&self) -> Result<(), MessageError> {
        let mandatory = [
            ("spiffe_id", self.spiffe_id.is_empty()),
            ("x509_svid", self.x509_svid.is_empty()),
            ("x509_svid_key", self.x509_svid_key.is_empty()),
            ("bundle", self.bundle.is_empty()),
        ];
        match mandatory.into_iter().find(|(_, empty)| *empty) {
            Some((name, _)) => Err(MessageError::Mandatory(name)),
            None => Ok(()),
        }
    }

    fn encode(&self) -> Vec<u8> {
        let mut message = Vec::new();
        put(&mut message, 1, self.spiffe_id.as_bytes());
        put(&mut message, 2, &self.x509_svid);
        put(&mut message, 3, &self.x509_svid_key);
        put(&mut message, 4, &self.bundle);
        put(&mut message, 5, self.hint.as_bytes());
        message
    }
}

impl X509Bundles {
    /// Writes an `X509BundlesResponse`.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut message = Vec::new();
        for crl in &self.crls {
            put_always(&mut message, 1, crl);
        }
        for (id, bundle) in &self.bundles {
            put_always(&mut message, 2, &entry(id, bundle));
        }
        message
    }
}

/// An entry of a `map<string, bytes>`.
fn entry(key: &str, value: &[u8]) -> Vec<u8> {
    let mut message = Vec::new();
    put(&mut message, 1, key.as_bytes());
    put(&mut message, 2, value);
    message
}

/// Protobuf lets a later entry win over an earlier one; a second bundle is not guessed about.
fn add_entry(map: &mut BTreeMap<String, Vec<u8>>, message: &[u8]) -> Result<(), MessageError> {
    let (mut key, mut value) = (String::new(), Vec::new());
    let mut fields = Fields::new(message);
    while let Some((field, bytes)) = fields.next()? {
        match field {
            1 => key = text(bytes)?,
            2 => value = bytes.to_vec(),
            _ => {}
        }
    }
    match map.insert(key.clone(), value) {
        None => Ok(()),
        Some(_) => Err(MessageError::Twice(key)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context() -> X509Context {
        X509Context {
            svids: vec![X509Svid {
                spiffe_id: "spiffe://td/a".to_owned(),
                x509_svid: vec![1],
                x509_svid_key: vec![2],
                bundle: vec![3],
                hint: "internal".to_owned(),
            }],
            crls: vec![vec![4], vec![5]],
            federated_bundles: [("spiffe://partner".to_owned(), vec![6])].into(),
        }
    }

    #[test]
    fn reads_what_it_writes() {
        assert_eq!(X509Context::decode(&context().encode()), Ok(context()));
    }

    #[test]
    fn is_the_form_of_proto3() {
        let expected = b"\x0a\x22\x0a\x0dspiffe://td/a\x12\x01\x01\x1a\x01\x02\x22\x01\x03\
            \x2a\x08internal\x12\x01\x04\x12\x01\x05\x1a\x15\x0a\x10spiffe://partner\x12\x01\x06";
        assert_eq!(context().encode(), expected);
    }

    #[test]
    fn refuses_an_empty_mandatory_field() {
        let bent = |bend: fn(&mut X509Context)| {
            let mut context = context();
            bend(&mut context);
            X509Context::decode(&context.encode()).unwrap_err()
        };
        let mandatory = MessageError::Mandatory;
        assert_eq!(bent(|c| c.svids.clear()), mandatory("svids"));
        assert_eq!(
            bent(|c| c.svids[0].spiffe_id.clear()),
            mandatory("spiffe_id")
        );
        assert_eq!(
            bent(|c| c.svids[0].x509_svid.clear()),
            mandatory("x509_svid")
        );
        assert_eq!(
            bent(|c| c.svids[0].x509_svid_key.clear()),
            mandatory("x509_svid_key")
        );
        assert_eq!(bent(|c| c.svids[0].bundle.clear()), mandatory("bundle"));
    }

    #[test]
    fn refuses_two_bundles_of_one_trust_domain() {
        let mut message = context().encode();
        put_always(&mut message, 3, &entry("spiffe://partner", b"other"));
        let twice = MessageError::Twice("spiffe://partner".to_owned());
        assert_eq!(X509Context::decode(&message), Err(twice));
    }
}
