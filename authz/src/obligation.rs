//! What a policy asks for besides its effect, written as annotations and checked at load.

use std::{fmt, sync::Arc, time::Duration};

/// What the deciding policies ask the enforcement point to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Obligations {
    /// `@status`: the HTTP status to deny with, instead of 403.
    pub status: Option<u16>,
    /// `@reason`: told to the caller where the listener shows reasons.
    pub reason: Option<Arc<str>>,
    /// `@quarantine`: deny this principal everything for so long.
    pub quarantine: Option<Duration>,
    /// `@alert`: mark the record and count it.
    pub alert: Option<Alert>,
}

impl Obligations {
    /// Adds what another deciding policy asks for: the first status and reason, the longest
    /// quarantine, the highest alert.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.status = self.status.or(other.status);
        if self.reason.is_none() {
            self.reason.clone_from(&other.reason);
        }
        self.quarantine = self.quarantine.max(other.quarantine);
        self.alert = self.alert.max(other.alert);
    }
}

/// How loudly a decision is to be reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Alert {
    /// `@alert("low")`
    Low,
    /// `@alert("medium")`
    Medium,
    /// `@alert("high")`
    High,
    /// `@alert("critical")`
    Critical,
}

impl Alert {
    pub(crate) const NAMES: [&'static str; 4] = ["low", "medium", "high", "critical"];

    pub(crate) fn from_name(name: &str) -> Option<Self> {
        match name {
            "low" => Some(Self::Low),
            "medium" => Some(Self::Medium),
            "high" => Some(Self::High),
            "critical" => Some(Self::Critical),
            _ => None,
        }
    }

    /// The word in the annotation.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }
}

impl fmt::Display for Alert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whether a policy's answer counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// It counts.
    #[default]
    Enforce,
    /// `@mode("audit")`: it is evaluated and recorded, nothing else.
    Audit,
}

impl Mode {
    /// `"enforce"` or `"audit"`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Audit => "audit",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merging_keeps_the_first_words_and_the_strictest_measures() {
        let mut first = Obligations {
            status: None,
            reason: Some("a".into()),
            quarantine: Some(Duration::from_secs(5)),
            alert: Some(Alert::Low),
        };
        first.merge(&Obligations {
            status: Some(429),
            reason: Some("b".into()),
            quarantine: Some(Duration::from_secs(60)),
            alert: Some(Alert::High),
        });
        assert_eq!(
            first,
            Obligations {
                status: Some(429),
                reason: Some("a".into()),
                quarantine: Some(Duration::from_secs(60)),
                alert: Some(Alert::High),
            }
        );
    }
}
