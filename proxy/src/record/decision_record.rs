//! One decision record.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use uuid::Uuid;
use wayleave_authz::{Decision, Direction, Effect, RecordedHeaders};

use super::Origin;
use crate::caller::Caller;
use crate::protocol::Call;

/// What cut an allowed call short.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The caller closed before the answer was delivered whole.
    CallerGone,
    /// No upstream connection could be made.
    UpstreamUnreachable,
    /// The upstream did not answer in time.
    UpstreamTimeout,
    /// The upstream broke off, or answered what is not HTTP.
    UpstreamBroke,
    /// The peer's certificate expired or was revoked while the call was open.
    TrustEnded,
    /// The sidecar was stopping, and the call did not finish in the time for that.
    Drained,
    /// Not a byte moved either way for as long as that is waited for.
    IdleTimeout,
}

impl Failure {
    /// The stable code for records and metrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::CallerGone => "caller_gone",
            Self::UpstreamUnreachable => "upstream_unreachable",
            Self::UpstreamTimeout => "upstream_timeout",
            Self::UpstreamBroke => "upstream_broke",
            Self::TrustEnded => "trust_ended",
            Self::Drained => "drained",
            Self::IdleTimeout => "idle_timeout",
        }
    }
}

/// The bytes of a connection whose bytes are not looked into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Carried {
    /// From the caller.
    pub(crate) bytes_in: u64,
    /// To the caller.
    pub(crate) bytes_out: u64,
}

/// What is kept of one call.
#[derive(Debug)]
pub(crate) struct DecisionRecord {
    pub(super) id: Uuid,
    pub(super) time: SystemTime,
    pub(super) listener: Arc<str>,
    pub(super) service: Option<Arc<str>>,
    pub(super) direction: Direction,
    pub(super) caller: Caller,
    pub(super) source: SocketAddr,
    pub(super) call: Option<Call>,
    pub(super) refused_target: Option<String>,
    pub(super) port: Option<u16>,
    pub(super) headers: RecordedHeaders,
    pub(super) with_query: bool,
    pub(super) action: Option<&'static str>,
    pub(super) decision: Option<Decision>,
    pub(super) effect: Effect,
    pub(super) reason_code: &'static str,
    pub(super) status: Option<u16>,
    pub(super) failure: Option<Failure>,
    pub(super) carried: Option<Carried>,
    pub(super) complete: bool,
    pub(super) decision_time: Duration,
    pub(super) call_time: Duration,
}

impl DecisionRecord {
    pub(super) fn new(id: Uuid, time: SystemTime, origin: &Origin) -> Self {
        Self {
            id,
            time,
            listener: Arc::clone(&origin.listener),
            service: origin.service.clone(),
            direction: origin.direction,
            caller: origin.caller.clone(),
            source: origin.source,
            call: None,
            refused_target: None,
            port: None,
            headers: RecordedHeaders::default(),
            with_query: false,
            action: None,
            decision: None,
            effect: Effect::Deny,
            reason_code: "not_decided",
            status: None,
            failure: None,
            carried: None,
            complete: false,
            decision_time: Duration::ZERO,
            call_time: Duration::ZERO,
        }
    }
}
