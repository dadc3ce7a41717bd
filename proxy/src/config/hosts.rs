//! Which hosts a destination is called by: a name, all names below one, or any.

use std::fmt;

use super::problem::{Wrong, quoted};
use super::scalar::{canonical_host, text};
use super::tree::Node;

/// A host as it is asked for, or many. In lower case, without port and trailing dot; an IPv6
/// address stands in brackets.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HostPattern {
    /// One host.
    Exact(String),
    /// Every name below this one, at any depth, but not itself: `*.` and a name.
    Below(String),
    /// Every host: `*`.
    Any,
}

impl HostPattern {
    /// Whether a host, in its canonical form, is meant.
    #[must_use]
    pub fn matches(&self, host: &str) -> bool {
        match self {
            Self::Exact(name) => name == host,
            Self::Below(name) => host
                .strip_suffix(name.as_str())
                .and_then(|rest| rest.strip_suffix('.'))
                .is_some_and(|label| !label.is_empty()),
            Self::Any => true,
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => f.write_str(name),
            Self::Below(name) => write!(f, "*.{name}"),
            Self::Any => f.write_str("*"),
        }
    }
}

/// A host, `*.` and a name, or `*`.
pub(super) fn host_pattern(node: &Node) -> Result<HostPattern, Wrong> {
    let expected = "a host without a port, such as `api.example`, `*.api.example` for all below it, \
                    or `*`";
    let written = text(node, expected)?;
    if written == "*" {
        return Ok(HostPattern::Any);
    }
    let (name, below) = match written.strip_prefix("*.") {
        Some(name) => (name, true),
        None => (written, false),
    };
    let host =
        canonical_host(name).filter(|host| !below || host.parse::<std::net::IpAddr>().is_err());
    let Some(host) = host else {
        let wrong = Wrong::new(format!("`{}` is not a host", quoted(written)));
        return Err(wrong.help(format!("expected {expected}")));
    };
    Ok(match below {
        true => HostPattern::Below(host),
        false => HostPattern::Exact(in_brackets(host)),
    })
}

/// The name that TLS asks for and verifies: a host without brackets.
pub(super) fn server_name(node: &Node) -> Result<String, Wrong> {
    let expected = "a host without a port, such as `api.example`";
    let written = text(node, expected)?;
    canonical_host(written).ok_or_else(|| {
        let wrong = Wrong::new(format!("`{}` is not a host", quoted(written)));
        wrong.help(format!("expected {expected}"))
    })
}

/// An IPv6 address stands in brackets in a Host header.
pub(super) fn in_brackets(host: String) -> String {
    match host.contains(':') {
        true => format!("[{host}]"),
        false => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_stands_for_what_is_below_it_and_not_for_itself() {
        let below = HostPattern::Below("api.example".into());
        for host in ["a.api.example", "a.b.api.example"] {
            assert!(below.matches(host), "{host}");
        }
        for host in [
            "api.example",
            ".api.example",
            "xapi.example",
            "api.example.evil",
        ] {
            assert!(!below.matches(host), "{host}");
        }
        assert!(HostPattern::Any.matches("a"));
        assert!(!HostPattern::Exact("a".into()).matches("b"));
    }
}
