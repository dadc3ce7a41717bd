//! What an event does, and whom that is told: the one place where what is said against principals
//! comes into force and is kept.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use wayleave_authz::signals::{Change, Origin, Revocation, Revoked, Risk, RiskLevel};
use wayleave_identity::SpiffeId;

use crate::standing::Standing;

/// Where an effect comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Because {
    /// The transmitter's name in the configuration.
    pub(crate) transmitter: Arc<str>,
    /// The event's token.
    pub(crate) jti: String,
    /// The event's name.
    pub(crate) event_type: &'static str,
    /// When it happened, in milliseconds since the epoch.
    pub(crate) at_ms: u64,
    /// What the transmitter tells administrators.
    pub(crate) reason_admin: Option<String>,
}

/// There is no place for an effect, or it would not outlive this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotKept;

/// Takes what events do. An event whose effects are not kept is sent again, so every one must be
/// idempotent.
pub(crate) trait Effects: Send + Sync + fmt::Debug {
    /// The principal may do nothing, until an operator says otherwise.
    fn revoke(&self, principal: &SpiffeId, because: &Because) -> Result<(), NotKept>;

    /// The certificate of this serial number, in lower-case hexadecimal without leading zeros,
    /// proves nothing any more.
    fn revoke_serial(&self, serial: &str, because: &Because) -> Result<(), NotKept>;

    /// The principal's risk is this from now on.
    fn risk(
        &self,
        principal: &SpiffeId,
        level: RiskLevel,
        because: &Because,
    ) -> Result<(), NotKept>;

    /// Completes when everything before outlives this process.
    fn kept(&self) -> Pin<Box<dyn Future<Output = Result<(), NotKept>> + Send + '_>>;
}

impl Because {
    fn origin(&self) -> Origin {
        let reason = match &self.reason_admin {
            Some(said) => format!("{} {}: {said}", self.event_type, self.jti),
            None => format!("{} {}", self.event_type, self.jti),
        };
        Origin {
            by: format!("ssf:{}", self.transmitter).into(),
            reason: Some(reason.into()),
            at_ms: self.at_ms,
        }
    }
}

impl Effects for Standing {
    fn revoke(&self, principal: &SpiffeId, because: &Because) -> Result<(), NotKept> {
        let subject = Revoked::Principal(principal.as_str().into());
        make(self, revoked(subject, because))
    }

    fn revoke_serial(&self, serial: &str, because: &Because) -> Result<(), NotKept> {
        make(self, revoked(Revoked::Serial(serial.into()), because))
    }

    fn risk(
        &self,
        principal: &SpiffeId,
        level: RiskLevel,
        because: &Because,
    ) -> Result<(), NotKept> {
        let risk = Risk {
            principal: principal.as_str().into(),
            level,
            origin: because.origin(),
        };
        make(self, Change::Rated(risk))
    }

    fn kept(&self) -> Pin<Box<dyn Future<Output = Result<(), NotKept>> + Send + '_>> {
        Box::pin(async { self.written().await.map_err(|_| NotKept) })
    }
}

fn revoked(subject: Revoked, because: &Because) -> Change {
    let origin = because.origin();
    Change::Revoked(Revocation { subject, origin })
}

fn make(standing: &Standing, change: Change) -> Result<(), NotKept> {
    standing.report(change).map(|_| ()).map_err(|_| NotKept)
}
