//! What somebody says against a principal: a quarantine, a revocation, a level of risk; and the
//! changes to that, as they are applied, kept in a file and shared by a fleet.

use serde::{Deserialize, Serialize};

use super::signal::RiskLevel;

/// Who said something against a principal, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Origin {
    /// Where it comes from: `policy:ID`, `operator`, or `ssf:TRANSMITTER`.
    pub by: Box<str>,
    /// In words, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Box<str>>,
    /// When it was said: milliseconds since the epoch.
    pub at_ms: u64,
}

/// What of a principal's calls a quarantine denies.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// All.
    #[default]
    Everything,
    /// Those of one service.
    Service(Box<str>),
}

/// A principal that is denied for a while.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quarantine {
    /// The SPIFFE ID, or `anonymous`.
    pub principal: Box<str>,
    /// What is denied.
    #[serde(default)]
    pub scope: Scope,
    /// When it ends: milliseconds since the epoch.
    pub until_ms: u64,
    /// The status that the policy which started it denies with, where it names one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Who put it there, and why.
    pub origin: Origin,
}

/// What a revocation names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Revoked {
    /// A principal by its SPIFFE ID: every SVID of it, also those to come.
    Principal(Box<str>),
    /// One SVID by its serial number: hexadecimal, lower case, without separators and leading
    /// zeros.
    Serial(Box<str>),
}

/// Something that is revoked until somebody says otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Revocation {
    /// What is.
    pub subject: Revoked,
    /// Who revoked it, and why.
    pub origin: Origin,
}

/// How risky a principal is said to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Risk {
    /// The SPIFFE ID.
    pub principal: Box<str>,
    /// How risky.
    pub level: RiskLevel,
    /// Who says so, and why.
    pub origin: Origin,
}

/// What stands against one principal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Against {
    /// Whether its SPIFFE ID is revoked.
    pub revoked: bool,
    /// How risky it is said to be.
    pub risk: RiskLevel,
    /// The quarantines that it is in, or was.
    pub quarantines: Vec<Quarantine>,
}

impl Against {
    /// The quarantine that denies a call of `service` at this moment: that which ends last.
    #[must_use]
    pub fn quarantine(&self, service: &str, now_ms: u64) -> Option<&Quarantine> {
        let applies = |quarantine: &&Quarantine| {
            quarantine.until_ms > now_ms
                && match &quarantine.scope {
                    Scope::Everything => true,
                    Scope::Service(name) => **name == *service,
                }
        };
        let all = self.quarantines.iter().filter(applies);
        all.max_by_key(|quarantine| quarantine.until_ms)
    }
}

/// Everything that is known against principals, as it is kept in a file, shared by a fleet or
/// shown to an operator.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Known {
    /// At most one for a principal and scope.
    pub quarantines: Vec<Quarantine>,
    /// At most one for a subject.
    pub revocations: Vec<Revocation>,
    /// At most one for a principal.
    pub risks: Vec<Risk>,
}

/// One change to what is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// A principal is in quarantine. One that is in the same scope already stays as long as the
    /// longer of the two says.
    Quarantined(Quarantine),
    /// Every quarantine of a principal that was said before is over.
    Released {
        /// Who was in quarantine.
        principal: Box<str>,
        /// Who ended it, and why.
        origin: Origin,
    },
    /// A principal or an SVID is revoked.
    Revoked(Revocation),
    /// It is not revoked any more, if that was said before.
    Reinstated {
        /// What was revoked.
        subject: Revoked,
        /// Who said so, and why.
        origin: Origin,
    },
    /// A principal is said to be so risky. What was said earlier than the latest is not taken.
    Rated(Risk),
}

impl Change {
    /// Who said it, when and why.
    #[must_use]
    pub fn origin(&self) -> &Origin {
        match self {
            Self::Quarantined(quarantine) => &quarantine.origin,
            Self::Revoked(revocation) => &revocation.origin,
            Self::Rated(risk) => &risk.origin,
            Self::Released { origin, .. } | Self::Reinstated { origin, .. } => origin,
        }
    }

    pub(super) fn origin_mut(&mut self) -> &mut Origin {
        match self {
            Self::Quarantined(quarantine) => &mut quarantine.origin,
            Self::Revoked(revocation) => &mut revocation.origin,
            Self::Rated(risk) => &mut risk.origin,
            Self::Released { origin, .. } | Self::Reinstated { origin, .. } => origin,
        }
    }
}

impl Known {
    /// The changes that make this known where nothing was.
    pub fn into_changes(self) -> impl Iterator<Item = Change> {
        let quarantines = self.quarantines.into_iter().map(Change::Quarantined);
        let revocations = self.revocations.into_iter().map(Change::Revoked);
        let risks = self.risks.into_iter().map(Change::Rated);
        quarantines.chain(revocations).chain(risks)
    }
}
