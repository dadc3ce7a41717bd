//! What an event does, told to whoever decides about calls.

use std::sync::Arc;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use wayleave_identity::SpiffeId;

use super::event::EventType;

/// How much a principal is to be trusted (CAEP 1.0 §3.8).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum RiskLevel {
    Low,
    Medium,
    High,
}

impl RiskLevel {
    /// Its name in logs and policies.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
        }
    }
}

/// Where an effect comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Because {
    /// The transmitter's name in the configuration.
    pub(crate) transmitter: Arc<str>,
    /// The event's token.
    pub(crate) jti: String,
    pub(crate) event_type: EventType,
    /// When the event was taken. At a start, what was taken before it is told again with the
    /// time of then: whatever an operator said later holds.
    pub(crate) at: SystemTime,
    /// What the transmitter tells administrators.
    pub(crate) reason_admin: Option<String>,
}

/// Takes what events do. Told again at a start, so every one must be idempotent; called on a
/// thread of its own that may wait, and not for long.
pub(crate) trait Effects: Send + Sync {
    /// The principal may do nothing, until an operator says otherwise.
    fn revoke(&self, principal: &SpiffeId, because: &Because);

    /// The certificate of this serial number, in lower-case hexadecimal without leading zeros,
    /// proves nothing any more; of any issuer where none is named.
    fn revoke_serial(&self, issuer: Option<&str>, serial: &str, because: &Because);

    /// The principal's risk is this from now on.
    fn risk(&self, principal: &SpiffeId, level: RiskLevel, because: &Because);
}

/// Tells the log, where nobody else is to be told.
#[derive(Debug)]
pub(crate) struct Logged;

impl Effects for Logged {
    fn revoke(&self, principal: &SpiffeId, because: &Because) {
        tell(because, Some(principal), "principal revoked");
    }

    fn revoke_serial(&self, issuer: Option<&str>, serial: &str, because: &Because) {
        tracing::info!(issuer, serial, "the certificate");
        tell(because, None, "certificate revoked");
    }

    fn risk(&self, principal: &SpiffeId, level: RiskLevel, because: &Because) {
        tracing::info!(level = level.as_str(), "the level");
        tell(because, Some(principal), "risk level changed");
    }
}

fn tell(because: &Because, principal: Option<&SpiffeId>, what: &str) {
    tracing::warn!(
        transmitter = &*because.transmitter,
        jti = because.jti,
        event = because.event_type.as_str(),
        reason = because.reason_admin,
        principal = principal.map(SpiffeId::as_str),
        "{what}"
    );
}
