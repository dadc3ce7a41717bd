//! SPIFFE IDs (SPIFFE-ID §2): the name of one workload, `spiffe://trust-domain/path`.
//!
//! Parses once, keeps the canonical form, and refuses everything the specification does not
//! allow; there is no lenient mode and no percent-decoding.

use std::borrow::Borrow;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;
use std::sync::Arc;

use crate::trust_domain::{self, TrustDomain, TrustDomainError};

const SCHEME: &str = "spiffe://";

/// The longest SPIFFE ID, in bytes (SPIFFE-ID §2.3).
const MAX_SPIFFE_ID_BYTES: usize = 2048;

/// A SPIFFE ID in canonical form. Cheap to clone.
///
/// Scheme and trust domain are lower case; the path is kept as it was written, because it is
/// compared case by case. An ID without a path names the trust domain itself and is never a
/// workload (see [`SpiffeId::is_root`]).
#[derive(Clone)]
pub struct SpiffeId {
    // INVARIANT: "spiffe://" + trust_domain + path, and `path_start` is where the path begins.
    text: Arc<str>,
    trust_domain: TrustDomain,
    path_start: usize,
}

/// Why a text is not a SPIFFE ID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SpiffeIdError {
    /// The text does not begin with `spiffe://`.
    #[error("it does not begin with `spiffe://`")]
    WrongScheme,
    /// The text has more than 2048 bytes.
    #[error("it has {length} bytes; at most 2048 are allowed")]
    TooLong {
        /// Its length in bytes.
        length: usize,
    },
    /// The trust domain is not a valid name.
    #[error(transparent)]
    TrustDomain(#[from] TrustDomainError),
    /// The text has a query (`?`).
    #[error("it has a query (`?`); a SPIFFE ID has none")]
    Query,
    /// The text has a fragment (`#`).
    #[error("it has a fragment (`#`); a SPIFFE ID has none")]
    Fragment,
    /// The path ends with a slash.
    #[error("the path ends with `/`; leave the last slash out")]
    TrailingSlash,
    /// The path has two slashes in a row.
    #[error("the path has an empty segment (`//`)")]
    EmptySegment,
    /// A segment of the path is `.` or `..`.
    #[error("the path has a `.` or `..` segment; paths are not resolved")]
    DotSegment,
    /// The path has a percent sign.
    #[error("the path has a `%` at byte {offset}; percent-encoding is not allowed")]
    PercentEncoding {
        /// Where it stands, in bytes from the start of the path.
        offset: usize,
    },
    /// A character in the path outside `a-z`, `A-Z`, `0-9`, `.`, `-`, `_` and `/`.
    #[error(
        "the path has the character {character:?} at byte {offset}; \
         only letters, digits, `.`, `-`, `_` and `/` are allowed"
    )]
    BadPathCharacter {
        /// The first character that is not allowed.
        character: char,
        /// Where it stands, in bytes from the start of the path.
        offset: usize,
    },
}

impl SpiffeId {
    /// The canonical text, for example `spiffe://shop.example/ns/web/sa/cart`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The trust domain whose bundle alone may vouch for this ID.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The path with its leading slash, for example `/ns/web`; empty for the root.
    #[must_use]
    pub fn path(&self) -> &str {
        self.text.get(self.path_start..).unwrap_or_default()
    }

    /// Whether the ID has no path and so names the trust domain, not a workload in it.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.path_start == self.text.len()
    }

    /// Every prefix by whole segments, from `spiffe://td` to the full ID itself.
    ///
    /// ```
    /// let id: wayleave_identity::SpiffeId = "spiffe://td/ns/web".parse()?;
    /// let prefixes: Vec<_> = id.prefixes().collect();
    /// assert_eq!(prefixes, ["spiffe://td", "spiffe://td/ns", "spiffe://td/ns/web"]);
    /// # Ok::<(), wayleave_identity::SpiffeIdError>(())
    /// ```
    #[must_use]
    pub fn prefixes(&self) -> Prefixes<'_> {
        Prefixes {
            text: &self.text,
            next_end: Some(self.path_start),
        }
    }

    /// The ID of a trust domain itself: `spiffe://td`, without a path.
    #[must_use]
    pub fn root_of(trust_domain: &TrustDomain) -> Self {
        Self::from_parts(trust_domain.clone(), "")
    }

    fn from_parts(trust_domain: TrustDomain, path: &str) -> Self {
        let path_start = SCHEME.len() + trust_domain.as_str().len();
        Self {
            text: Arc::from(format!("{SCHEME}{trust_domain}{path}")),
            trust_domain,
            path_start,
        }
    }
}

/// Iterates over the prefixes of a [`SpiffeId`], shortest first.
#[derive(Debug, Clone)]
pub struct Prefixes<'a> {
    text: &'a str,
    next_end: Option<usize>,
}

impl<'a> Iterator for Prefixes<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let end = self.next_end?;
        self.next_end = match self.text.get(end + 1..) {
            None => None,
            Some(rest) => Some(rest.find('/').map_or(self.text.len(), |i| end + 1 + i)),
        };
        self.text.get(..end)
    }
}

impl FromStr for SpiffeId {
    type Err = SpiffeIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > MAX_SPIFFE_ID_BYTES {
            return Err(SpiffeIdError::TooLong { length: text.len() });
        }
        let rest = strip_scheme(text).ok_or(SpiffeIdError::WrongScheme)?;
        if rest.contains('?') {
            return Err(SpiffeIdError::Query);
        }
        if rest.contains('#') {
            return Err(SpiffeIdError::Fragment);
        }
        let (name, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        trust_domain::check(name)?;
        check_path(path)?;
        Ok(Self::from_parts(TrustDomain::from_checked(name), path))
    }
}

/// Takes the scheme off, which is compared without regard to case (SPIFFE-ID §2).
pub(crate) fn strip_scheme(text: &str) -> Option<&str> {
    let (scheme, rest) = text.split_at_checked(SCHEME.len())?;
    scheme.eq_ignore_ascii_case(SCHEME).then_some(rest)
}

/// Checks a path that is empty or begins with a slash (SPIFFE-ID §2.2).
fn check_path(path: &str) -> Result<(), SpiffeIdError> {
    if path.is_empty() {
        return Ok(());
    }
    for (offset, character) in path.char_indices() {
        match character {
            '%' => return Err(SpiffeIdError::PercentEncoding { offset }),
            'a'..='z' | 'A'..='Z' | '0'..='9' | '.' | '-' | '_' | '/' => {}
            _ => return Err(SpiffeIdError::BadPathCharacter { character, offset }),
        }
    }
    if path.ends_with('/') {
        return Err(SpiffeIdError::TrailingSlash);
    }
    path.split('/').skip(1).try_for_each(check_segment)
}

fn check_segment(segment: &str) -> Result<(), SpiffeIdError> {
    match segment {
        "" => Err(SpiffeIdError::EmptySegment),
        "." | ".." => Err(SpiffeIdError::DotSegment),
        _ => Ok(()),
    }
}

// INVARIANT: the text is canonical, so equality, order and hash are those of the text, and a
// map keyed by ID can be asked with a `&str`.
impl PartialEq for SpiffeId {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for SpiffeId {}

impl PartialOrd for SpiffeId {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for SpiffeId {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.text.cmp(&other.text)
    }
}

impl Hash for SpiffeId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.text.hash(state);
    }
}

impl Borrow<str> for SpiffeId {
    fn borrow(&self) -> &str {
        &self.text
    }
}

impl AsRef<str> for SpiffeId {
    fn as_ref(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SpiffeId({})", self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id(text: &str) -> SpiffeId {
        text.parse().unwrap()
    }

    #[test]
    fn splits_into_trust_domain_and_path() {
        let cart = id("spiffe://shop.example/ns/web/sa/cart");
        assert_eq!(cart.trust_domain().as_str(), "shop.example");
        assert_eq!(cart.path(), "/ns/web/sa/cart");
        assert!(!cart.is_root());
        assert_eq!(cart.to_string(), "spiffe://shop.example/ns/web/sa/cart");
    }

    #[test]
    fn an_id_without_path_is_the_root() {
        let root = id("spiffe://shop.example");
        assert!(root.is_root());
        assert_eq!(root.path(), "");
        assert_eq!(root, SpiffeId::root_of(root.trust_domain()));
        assert_eq!(
            root.prefixes().collect::<Vec<_>>(),
            ["spiffe://shop.example"]
        );
    }

    #[test]
    fn scheme_and_trust_domain_ignore_case_and_the_path_does_not() {
        assert_eq!(
            id("SPIFFE://Shop.Example/Ns"),
            id("spiffe://shop.example/Ns")
        );
        assert_ne!(
            id("spiffe://shop.example/Ns"),
            id("spiffe://shop.example/ns")
        );
    }

    #[test]
    fn prefixes_are_whole_segments() {
        let id = id("spiffe://td/ns/web");
        let expected = ["spiffe://td", "spiffe://td/ns", "spiffe://td/ns/web"];
        assert_eq!(id.prefixes().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn refuses_what_is_not_a_spiffe_id() {
        use SpiffeIdError as E;
        let bad = |character, offset| E::BadPathCharacter { character, offset };
        let table = [
            ("", E::WrongScheme),
            ("spiffe:/td/a", E::WrongScheme),
            ("spiffe:td", E::WrongScheme),
            ("http://td/a", E::WrongScheme),
            (" spiffe://td/a", E::WrongScheme),
            ("spiffe://", TrustDomainError::Empty.into()),
            ("spiffe:///a", TrustDomainError::Empty.into()),
            ("spiffe://u@td/a", TrustDomainError::UserInfo.into()),
            ("spiffe://td:1/a", TrustDomainError::Port.into()),
            ("spiffe://td/a?b", E::Query),
            ("spiffe://td?b", E::Query),
            ("spiffe://td/a#b", E::Fragment),
            ("spiffe://td/", E::TrailingSlash),
            ("spiffe://td/a/", E::TrailingSlash),
            ("spiffe://td//a", E::EmptySegment),
            ("spiffe://td/a//b", E::EmptySegment),
            ("spiffe://td/./a", E::DotSegment),
            ("spiffe://td/a/..", E::DotSegment),
            ("spiffe://td/a%2fb", E::PercentEncoding { offset: 2 }),
            ("spiffe://td/a b", bad(' ', 2)),
            ("spiffe://td/a\0", bad('\0', 2)),
            ("spiffe://td/ä", bad('ä', 1)),
            ("spiffe://td/a\\b", bad('\\', 2)),
        ];
        for (text, expected) in table {
            assert_eq!(text.parse::<SpiffeId>(), Err(expected), "{text:?}");
        }
    }

    #[test]
    fn refuses_more_than_2048_bytes() {
        let longest = format!("spiffe://td/{}", "a".repeat(2048 - 12));
        assert_eq!(longest.len(), 2048);
        assert!(longest.parse::<SpiffeId>().is_ok());
        let longer = format!("{longest}a");
        assert_eq!(
            longer.parse::<SpiffeId>(),
            Err(SpiffeIdError::TooLong { length: 2049 })
        );
    }

    proptest! {
        #[test]
        fn printing_and_parsing_agree(
            name in "[A-Za-z0-9._-]{1,40}",
            segments in prop::collection::vec("[A-Za-z0-9_-][A-Za-z0-9._-]{0,9}", 0..6),
        ) {
            let path: String = segments.iter().map(|s| format!("/{s}")).collect();
            let first = id(&format!("spiffe://{name}{path}"));
            prop_assert_eq!(first.path(), path);
            prop_assert_eq!(&id(first.as_str()), &first);
            prop_assert_eq!(first.prefixes().count(), segments.len() + 1);
            prop_assert_eq!(first.prefixes().last(), Some(first.as_str()));
        }

        #[test]
        fn any_text_is_accepted_canonically_or_refused(text in "(spiffe://)?\\PC{0,40}") {
            if let Ok(id) = text.parse::<SpiffeId>() {
                prop_assert!(text.eq_ignore_ascii_case(id.as_str()));
                prop_assert_eq!(id.as_str().parse::<SpiffeId>().unwrap(), id);
            }
        }
    }
}
