//! Patterns over SPIFFE IDs for configuration: one ID, everything below a path, or a whole
//! trust domain.
//!
//! Prefixes go by whole path segments, so `.../ns/web/*` never matches `.../ns/website`. There
//! are no other wildcards; finer rules are policy.

use std::fmt;
use std::str::FromStr;

use crate::{SpiffeId, SpiffeIdError, TrustDomain};

/// Which SPIFFE IDs are meant.
///
/// Written as `spiffe://td/ns/web` (that ID alone), `spiffe://td/ns/web/*` (every ID below
/// that path) or `spiffe://td/*` (every workload of the trust domain).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum SpiffeIdPattern {
    /// Exactly this ID.
    Exact(SpiffeId),
    /// Every ID whose path begins with all segments of this one and has at least one more.
    Below(SpiffeId),
    /// Every workload of this trust domain.
    TrustDomain(TrustDomain),
}

/// Why a text is not a pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SpiffeIdPatternError {
    /// A `*` somewhere else than as the whole last segment.
    #[error("`*` is only allowed as the whole last segment, as in `spiffe://td/ns/web/*`")]
    Wildcard,
    /// What stands before the `*`, or the whole text, is not a SPIFFE ID.
    #[error("it is not a SPIFFE ID: {0}")]
    SpiffeId(#[from] SpiffeIdError),
    /// The ID has no path, so no workload could ever match.
    #[error("`{0}` names no workload; write `{0}/*` for every workload of the trust domain")]
    NoWorkload(SpiffeId),
}

impl SpiffeIdPattern {
    /// Whether `id` is one of those meant.
    #[must_use]
    pub fn matches(&self, id: &SpiffeId) -> bool {
        match self {
            Self::Exact(exact) => exact == id,
            Self::Below(prefix) => id
                .as_str()
                .strip_prefix(prefix.as_str())
                .is_some_and(|rest| rest.starts_with('/')),
            Self::TrustDomain(name) => id.trust_domain() == name && !id.is_root(),
        }
    }
}

impl FromStr for SpiffeIdPattern {
    type Err = SpiffeIdPatternError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (base, below) = match text.strip_suffix("/*") {
            Some(base) => (base, true),
            None => (text, false),
        };
        if base.contains('*') {
            return Err(SpiffeIdPatternError::Wildcard);
        }
        let id: SpiffeId = base.parse()?;
        match (below, id.is_root()) {
            (true, true) => Ok(Self::TrustDomain(id.trust_domain().clone())),
            (true, false) => Ok(Self::Below(id)),
            (false, true) => Err(SpiffeIdPatternError::NoWorkload(id)),
            (false, false) => Ok(Self::Exact(id)),
        }
    }
}

impl fmt::Display for SpiffeIdPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(id) => write!(f, "{id}"),
            Self::Below(id) => write!(f, "{id}/*"),
            Self::TrustDomain(name) => write!(f, "spiffe://{name}/*"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_by_whole_segments() {
        let table = [
            ("spiffe://td/ns/web", "spiffe://td/ns/web", true),
            ("spiffe://td/ns/web", "spiffe://td/ns/web/sa", false),
            ("spiffe://td/ns/web/*", "spiffe://td/ns/web/sa/cart", true),
            ("spiffe://td/ns/web/*", "spiffe://td/ns/web", false),
            ("spiffe://td/ns/web/*", "spiffe://td/ns/website/sa", false),
            ("spiffe://td/ns/web/*", "spiffe://td2/ns/web/sa", false),
            ("spiffe://td/*", "spiffe://td/a", true),
            ("spiffe://td/*", "spiffe://td", false),
            ("spiffe://td/*", "spiffe://td.example/a", false),
            ("spiffe://TD/*", "spiffe://td/a", true),
        ];
        for (pattern, id, expected) in table {
            let parsed: SpiffeIdPattern = pattern.parse().unwrap();
            assert_eq!(
                parsed.matches(&id.parse().unwrap()),
                expected,
                "{pattern} {id}"
            );
        }
    }

    #[test]
    fn prints_as_it_is_written() {
        for text in ["spiffe://td/a", "spiffe://td/a/*", "spiffe://td/*"] {
            let pattern: SpiffeIdPattern = text.parse().unwrap();
            assert_eq!(pattern.to_string(), text);
        }
    }

    #[test]
    fn refuses_what_is_not_a_pattern() {
        use SpiffeIdPatternError as E;
        let root: SpiffeId = "spiffe://td".parse().unwrap();
        let table = [
            ("spiffe://td/a*", E::Wildcard),
            ("spiffe://td/*/b", E::Wildcard),
            ("spiffe://*/*", E::Wildcard),
            ("*", E::Wildcard),
            ("spiffe://td", E::NoWorkload(root)),
            ("spiffe://td/a/", SpiffeIdError::TrailingSlash.into()),
            ("http://td/*", SpiffeIdError::WrongScheme.into()),
        ];
        for (text, expected) in table {
            assert_eq!(text.parse::<SpiffeIdPattern>(), Err(expected), "{text:?}");
        }
    }
}
