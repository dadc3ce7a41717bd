//! Trust domains (SPIFFE-ID §2.1): the name of one root of trust.
//!
//! Owns the rules for the name alone. Which keys speak for a trust domain is not known here.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The longest trust domain name, in bytes (SPIFFE-ID §2.3).
pub(crate) const MAX_TRUST_DOMAIN_BYTES: usize = 255;

/// The name of a trust domain, in lower case. Cheap to clone.
///
/// The specification compares trust domains without regard to case, so upper case is
/// accepted when parsing and is lower case from then on.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrustDomain(Arc<str>);

/// Why a text is not a trust domain name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TrustDomainError {
    /// There is no name at all.
    #[error("the trust domain is empty; write a name such as `shop.example`")]
    Empty,
    /// The name has more than 255 bytes.
    #[error("the trust domain has {length} bytes; at most 255 are allowed")]
    TooLong {
        /// Its length in bytes.
        length: usize,
    },
    /// A character outside `a-z`, `0-9`, `.`, `-` and `_`.
    #[error(
        "the trust domain has the character {character:?} at byte {offset}; \
         only letters, digits, `.`, `-` and `_` are allowed"
    )]
    BadCharacter {
        /// The first character that is not allowed.
        character: char,
        /// Where it stands, in bytes from the start of the name.
        offset: usize,
    },
    /// The authority names a user (`user@`).
    #[error("the trust domain holds a user name before `@`; a SPIFFE ID has none")]
    UserInfo,
    /// The authority names a port (`:8443`).
    #[error("the trust domain holds a port after `:`; a SPIFFE ID has none")]
    Port,
}

impl TrustDomain {
    /// The canonical name, for example `shop.example`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Takes a name that [`check`] has accepted.
    pub(crate) fn from_checked(name: &str) -> Self {
        Self(Arc::from(name.to_ascii_lowercase()))
    }
}

/// Checks the characters and the length of a trust domain name (SPIFFE-ID §2.1).
pub(crate) fn check(name: &str) -> Result<(), TrustDomainError> {
    if name.is_empty() {
        return Err(TrustDomainError::Empty);
    }
    if name.contains('@') {
        return Err(TrustDomainError::UserInfo);
    }
    if name.contains(':') {
        return Err(TrustDomainError::Port);
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if let Some((offset, character)) = name.char_indices().find(|(_, c)| !allowed(*c)) {
        return Err(TrustDomainError::BadCharacter { character, offset });
    }
    if name.len() > MAX_TRUST_DOMAIN_BYTES {
        return Err(TrustDomainError::TooLong { length: name.len() });
    }
    Ok(())
}

impl FromStr for TrustDomain {
    type Err = TrustDomainError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        check(name)?;
        Ok(Self::from_checked(name))
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TrustDomain({})", self.0)
    }
}

impl AsRef<str> for TrustDomain {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

// INVARIANT: `Eq`, `Ord` and `Hash` are derived from the text, so that a map keyed by trust
// domain can be asked with a `&str`.
impl Borrow<str> for TrustDomain {
    fn borrow(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_every_allowed_character() {
        let name = "abcdefghijklmnopqrstuvwxyz0123456789.-_";
        assert_eq!(name.parse::<TrustDomain>().unwrap().as_str(), name);
    }

    #[test]
    fn upper_case_names_the_same_trust_domain() {
        let upper: TrustDomain = "Shop.Example".parse().unwrap();
        assert_eq!(upper, "shop.example".parse().unwrap());
        assert_eq!(upper.to_string(), "shop.example");
    }

    #[test]
    fn refuses_what_is_not_a_trust_domain() {
        use TrustDomainError as E;
        let bad = |character, offset| E::BadCharacter { character, offset };
        let table = [
            ("", E::Empty),
            ("user@shop.example", E::UserInfo),
            ("shop.example:8443", E::Port),
            ("shop example", bad(' ', 4)),
            ("shop%2eexample", bad('%', 4)),
            ("shöp.example", bad('ö', 2)),
            ("shop/example", bad('/', 4)),
            ("shop.example\0", bad('\0', 12)),
            ("[::1]", E::Port),
        ];
        for (name, expected) in table {
            assert_eq!(name.parse::<TrustDomain>(), Err(expected), "{name:?}");
        }
    }

    #[test]
    fn refuses_more_than_255_bytes() {
        assert!("a".repeat(255).parse::<TrustDomain>().is_ok());
        assert_eq!(
            "a".repeat(256).parse::<TrustDomain>(),
            Err(TrustDomainError::TooLong { length: 256 })
        );
    }
}
