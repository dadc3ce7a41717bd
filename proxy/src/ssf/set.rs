//! A security event token (RFC 8417) as the Shared Signals Framework has it, from bytes to what
//! it says: first its form, then its signature, then its claims. Each step is a type, so that no
//! claim can be read before the signature was checked.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::json;
use super::keys::KeySet;
use super::refusal::Refusal;
use crate::config::{Algorithm, TransmitterConfig};

/// Largest token, in bytes.
pub(crate) const MAX_BYTES: usize = 64 << 10;
/// Longest `jti`, in bytes.
const MAX_ID: usize = 512;

/// A token whose form is right; who signed it is not known yet.
#[derive(Debug)]
pub(super) struct Unverified<'a> {
    /// What is signed: header and claims, still encoded.
    signed: &'a str,
    claims: &'a str,
    signature: Vec<u8>,
    algorithm: Algorithm,
    kid: Option<String>,
}

/// Claims that a key of the transmitter has signed.
#[derive(Debug)]
pub(super) struct Verified(Map<String, Value>);

/// What a token says, all rules about its claims kept.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Set {
    pub(super) jti: String,
    /// When it was issued, in milliseconds since the epoch.
    pub(super) issued: u64,
    pub(super) subject: Map<String, Value>,
    pub(super) event_type: String,
    pub(super) event: Map<String, Value>,
}

impl<'a> Unverified<'a> {
    /// Reads the form of a token and its header.
    ///
    /// # Errors
    /// When it is no signed token of the right type, by an algorithm that is allowed.
    pub(super) fn read(bytes: &'a [u8], allowed: &[Algorithm]) -> Result<Self, Refusal> {
        if bytes.len() > MAX_BYTES {
            return Err(Refusal::TooLarge);
        }
        let token = std::str::from_utf8(bytes).map_err(|_| Refusal::NotCompact)?;
        let (signed, signature) = token.rsplit_once('.').ok_or(Refusal::NotCompact)?;
        let (header, claims) = signed.split_once('.').ok_or(Refusal::NotCompact)?;
        if claims.contains('.') {
            return Err(Refusal::NotCompact);
        }
        let header = decode(header)?;
        let signature = decode(signature)?;
        let header = json::object(&header).ok_or(Refusal::Header)?;
        let algorithm = check_header(&header, allowed)?;
        let kid = match header.get("kid") {
            None => None,
            Some(Value::String(kid)) => Some(kid.clone()),
            Some(_) => return Err(Refusal::Header),
        };
        Ok(Self {
            signed,
            claims,
            signature,
            algorithm,
            kid,
        })
    }

    /// Whether a key of the set may have signed this.
    pub(super) fn has_key_in(&self, keys: &KeySet) -> bool {
        !keys.fitting(self.kid.as_deref(), self.algorithm).is_empty()
    }

    /// The claims, once a key of the transmitter has vouched for them.
    ///
    /// # Errors
    /// When no key fits, or the signature is another's.
    pub(super) fn verify(&self, keys: &KeySet) -> Result<Verified, Refusal> {
        let fitting = keys.fitting(self.kid.as_deref(), self.algorithm);
        if fitting.is_empty() {
            return Err(Refusal::UnknownKey);
        }
        let message = self.signed.as_bytes();
        let mut fitting = fitting.iter();
        if !fitting.any(|key| key.verifies(self.algorithm, message, &self.signature)) {
            return Err(Refusal::Signature);
        }
        let claims = decode(self.claims)?;
        json::object(&claims).map(Verified).ok_or(Refusal::Claims)
    }
}

/// Says which algorithm the header asks for, where that may be.
fn check_header(header: &Map<String, Value>, allowed: &[Algorithm]) -> Result<Algorithm, Refusal> {
    let text = |name: &str| header.get(name).and_then(Value::as_str);
    // SECURITY: without it, any other token of the issuer would do (RFC 8417 §4.1 to §4.8).
    let kind = text("typ").unwrap_or_default();
    let kind = match kind.split_at_checked("application/".len()) {
        Some((prefix, rest)) if prefix.eq_ignore_ascii_case("application/") => rest,
        _ => kind,
    };
    if !kind.eq_ignore_ascii_case("secevent+jwt") {
        return Err(Refusal::Type);
    }
    if header.contains_key("crit") {
        return Err(Refusal::Critical);
    }
    // SECURITY: `none` and HS256 have no name here, so that nothing can allow them.
    let algorithm = text("alg").and_then(Algorithm::named);
    algorithm
        .filter(|algorithm| allowed.contains(algorithm))
        .ok_or(Refusal::Algorithm)
}

impl Verified {
    /// What the token says, if it is for us, from the transmitter, and of this time.
    ///
    /// # Errors
    /// The first rule that its claims break.
    pub(super) fn check(
        mut self,
        config: &TransmitterConfig,
        now: SystemTime,
    ) -> Result<Set, Refusal> {
        if self.text("iss").ok_or(Refusal::Malformed("iss"))? != config.issuer {
            return Err(Refusal::Issuer);
        }
        self.check_audience(&config.audience)?;
        // SECURITY: with these it could be, or pass for, a token that lets somebody in.
        for name in ["sub", "exp"] {
            if self.0.contains_key(name) {
                return Err(Refusal::NotAllowed(name));
            }
        }
        let issued = self.issued(config, now)?;
        let jti = self.text("jti").ok_or(Refusal::Malformed("jti"))?;
        if jti.is_empty() || jti.len() > MAX_ID {
            return Err(Refusal::Malformed("jti"));
        }
        let jti = jti.to_owned();
        let subject = self.take_object("sub_id")?;
        let events = self.take_object("events")?;
        let mut events = events.into_iter();
        let (Some((event_type, event)), None) = (events.next(), events.next()) else {
            return Err(Refusal::NotOneEvent);
        };
        let Value::Object(event) = event else {
            return Err(Refusal::Malformed("events"));
        };
        Ok(Set {
            jti,
            issued,
            subject,
            event_type,
            event,
        })
    }

    fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).and_then(Value::as_str)
    }

    fn take_object(&mut self, name: &'static str) -> Result<Map<String, Value>, Refusal> {
        match self.0.remove(name) {
            Some(Value::Object(object)) => Ok(object),
            _ => Err(Refusal::Malformed(name)),
        }
    }

    fn check_audience(&self, ours: &[String]) -> Result<(), Refusal> {
        let is_ours = |one: &str| ours.iter().any(|own| own == one);
        let found = match self.0.get("aud") {
            Some(Value::String(one)) => is_ours(one),
            Some(Value::Array(all)) => {
                let mut all = all.iter();
                all.any(|one| one.as_str().is_some_and(is_ours))
            }
            _ => return Err(Refusal::Malformed("aud")),
        };
        if found {
            Ok(())
        } else {
            Err(Refusal::Audience)
        }
    }

    fn issued(&self, config: &TransmitterConfig, now: SystemTime) -> Result<u64, Refusal> {
        let issued = self.0.get("iat").and_then(millis);
        let issued = issued.ok_or(Refusal::Malformed("iat"))?;
        let now = since_epoch(now);
        if issued > now.saturating_add(whole_millis(config.clock_skew)) {
            return Err(Refusal::FromTheFuture);
        }
        if issued.saturating_add(whole_millis(config.max_age)) < now {
            return Err(Refusal::TooOld);
        }
        Ok(issued)
    }
}

/// A NumericDate (RFC 7519 §2) in milliseconds.
pub(super) fn millis(value: &Value) -> Option<u64> {
    if let Some(seconds) = value.as_u64() {
        return seconds.checked_mul(1_000);
    }
    let seconds = value.as_f64()?;
    if !(0.0..1e12).contains(&seconds) {
        return None;
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the range was checked"
    )]
    Some((seconds * 1_000.0) as u64)
}

/// A moment in milliseconds since the epoch.
pub(super) fn since_epoch(at: SystemTime) -> u64 {
    whole_millis(at.duration_since(UNIX_EPOCH).unwrap_or_default())
}

pub(super) fn whole_millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// base64url without padding, and with no bits left over.
fn decode(text: &str) -> Result<Vec<u8>, Refusal> {
    URL_SAFE_NO_PAD
        .decode(text)
        .map_err(|_| Refusal::NotCompact)
}
