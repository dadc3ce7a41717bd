//! What a policy asks for besides its effect, written as annotations and checked at load.

use std::{fmt, sync::Arc, time::Duration};

/// What the deciding policies ask the enforcement point to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Obligations {
    /// `@status`: the HTTP status to deny with, instead of 403.
    pub status: Option<u16>,
    /// `@reason`: told to the caller where the listener shows reasons.
    pub reason: Option<Arc<str>>,
    /// `@quarantine`: deny this principal for a while.
    pub quarantine: Option<QuarantineTerms>,
    /// `@alert`: mark the record and count it.
    pub alert: Option<Alert>,
}

impl Obligations {
    /// Adds what another deciding policy asks for: the first status and reason, the widest
    /// and longest quarantine, the highest alert.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.status = self.status.or(other.status);
        if self.reason.is_none() {
            self.reason.clone_from(&other.reason);
        }
        self.quarantine = match (self.quarantine, other.quarantine) {
            (Some(one), Some(other)) => Some(one.merged(other)),
            (one, other) => one.or(other),
        };
        self.alert = self.alert.max(other.alert);
    }
}

/// What a `@quarantine` asks for. The order is of how much that is: the wider scope, then the
/// longer time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct QuarantineTerms {
    /// What is denied.
    pub scope: QuarantineScope,
    /// For how long.
    pub time: Duration,
}

impl QuarantineTerms {
    /// The wider scope and the longer time of the two.
    pub(crate) fn merged(self, other: Self) -> Self {
        Self {
            scope: self.scope.max(other.scope),
            time: self.time.max(other.time),
        }
    }
}

/// What of a principal's calls a `@quarantine` denies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum QuarantineScope {
    /// `@quarantine("60s service")`: those of the service that was called.
    Service,
    /// `@quarantine("60s")`: all.
    Everything,
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

    fn terms(scope: QuarantineScope, seconds: u64) -> Option<QuarantineTerms> {
        let time = Duration::from_secs(seconds);
        Some(QuarantineTerms { scope, time })
    }

    #[test]
    fn merging_keeps_the_first_words_and_the_strictest_measures() {
        let mut first = Obligations {
            status: None,
            reason: Some("a".into()),
            quarantine: terms(QuarantineScope::Everything, 5),
            alert: Some(Alert::Low),
        };
        first.merge(&Obligations {
            status: Some(429),
            reason: Some("b".into()),
            quarantine: terms(QuarantineScope::Service, 60),
            alert: Some(Alert::High),
        });
        assert_eq!(
            first,
            Obligations {
                status: Some(429),
                reason: Some("a".into()),
                quarantine: terms(QuarantineScope::Everything, 60),
                alert: Some(Alert::High),
            }
        );
    }
}
