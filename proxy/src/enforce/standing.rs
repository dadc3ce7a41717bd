//! What stands against a caller, looked at before any policy is asked.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use wayleave_authz::signals::{Change, Origin, Quarantine, RiskLevel, Scope};
use wayleave_authz::{Decision, QuarantineScope, ReasonCode};

use super::Enforcer;
use crate::denial::Denial;
use crate::record::{Asked, Calls, Entry};
use crate::standing::now_ms;

/// What stands against the caller of one call.
#[derive(Debug)]
pub(super) struct Stands {
    pub(super) refusal: Option<Refusal>,
    pub(super) risk: RiskLevel,
}

/// Why no policy is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    Revoked,
    Quarantined {
        /// That of the policy which started it, where it names one.
        status: Option<u16>,
        left: Duration,
    },
}

impl Refusal {
    pub(super) fn reason(self) -> ReasonCode {
        match self {
            Self::Revoked => ReasonCode::Revoked,
            Self::Quarantined { .. } => ReasonCode::Quarantined,
        }
    }

    pub(super) fn denial(self, entry: Entry) -> Denial {
        match self {
            Self::Revoked => Denial::revoked(entry),
            Self::Quarantined { status, left } => Denial::quarantined(entry, status, left),
        }
    }
}

impl Enforcer {
    /// What stands against a caller at a moment.
    pub(super) fn stands(&self, asked: &Asked<'_>, calls: &Calls, now: SystemTime) -> Stands {
        let mut stands = Stands {
            refusal: None,
            risk: RiskLevel::None,
        };
        if let Some(behaviour) = calls.behaviour() {
            let against = behaviour.against();
            stands.risk = against.risk;
            if against.revoked {
                stands.refusal = Some(Refusal::Revoked);
            } else if !against.quarantines.is_empty() {
                let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
                let now_ms = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
                let quarantine = against.quarantine(asked.service, now_ms);
                stands.refusal = quarantine.map(|quarantine| Refusal::Quarantined {
                    status: quarantine.status,
                    left: Duration::from_millis(quarantine.until_ms.saturating_sub(now_ms)),
                });
            }
        }
        if let Some(peer) = asked.caller.peer()
            && self
                .standing
                .principals()
                .is_serial_revoked(|| calls.serial(peer))
        {
            stands.refusal = Some(Refusal::Revoked);
        }
        stands
    }

    /// Puts a caller in quarantine where the policies that denied its call ask for that.
    pub(super) fn quarantine(&self, decision: &Decision, asked: &Asked<'_>) {
        if !decision.asks_for_quarantine() {
            return;
        }
        let Some((policy, terms)) = decision.quarantine() else {
            return;
        };
        let (obligations, now) = (decision.obligations(), now_ms());
        let time = u64::try_from(terms.time.as_millis()).unwrap_or(u64::MAX);
        let quarantine = Quarantine {
            principal: asked.caller.name().into(),
            scope: match terms.scope {
                QuarantineScope::Everything => Scope::Everything,
                QuarantineScope::Service => Scope::Service(asked.service.into()),
            },
            until_ms: now.saturating_add(time),
            status: obligations.status,
            origin: Origin {
                by: format!("policy:{policy}").into(),
                reason: obligations.reason.as_deref().map(Box::from),
                at_ms: now,
            },
        };
        // What cannot be kept is told; this call is denied in any case.
        let _ = self.standing.say(Change::Quarantined(quarantine));
    }
}
