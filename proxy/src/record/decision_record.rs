//! One decision record.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use uuid::Uuid;
use wayleave_authz::signals::SignalValues;
use wayleave_authz::{Decision, Direction, Effect, RecordedHeaders};

use super::Origin;
use crate::caller::Caller;
use crate::protocol::Call;
use crate::review::Trigger;

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
    /// The upstream's TLS agreed on another protocol than is configured.
    UpstreamProtocol,
    /// A limit on what may be held towards the upstream was reached.
    UpstreamOverloaded,
    /// The peer's certificate expired or was revoked while the call was open.
    TrustEnded,
    /// The call was decided again while it was open, and denied.
    LeaseEnded,
    /// The sidecar was stopping, and the call did not finish in the time for that.
    Drained,
    /// Not a byte moved either way for as long as that is waited for.
    IdleTimeout,
    /// The caller stopped sending the body, or reading the answer, for the time for that.
    BodyTimeout,
    /// The call took longer than a call may.
    RequestTimeout,
    /// The connection was too old, and the call did not finish in the grace for that.
    ConnectionAge,
    /// The connection was broken off because its caller flooded it.
    Flooded,
    /// Who answered at the upstream's address did not prove to be the one that is meant.
    UpstreamIdentity,
    /// We have no SVID to show to an upstream that asks for one.
    NoIdentity,
    /// The address that the caller chose is not one that may be connected to.
    AddressRefused,
}

impl Failure {
    /// Whether the upstream was at fault.
    fn is_upstreams(self) -> bool {
        matches!(
            self,
            Self::UpstreamUnreachable
                | Self::UpstreamTimeout
                | Self::UpstreamBroke
                | Self::UpstreamProtocol
                | Self::UpstreamOverloaded
                | Self::UpstreamIdentity
        )
    }

    /// The stable code for records and metrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::CallerGone => "caller_gone",
            Self::UpstreamUnreachable => "upstream_unreachable",
            Self::UpstreamTimeout => "upstream_timeout",
            Self::UpstreamBroke => "upstream_broke",
            Self::UpstreamProtocol => "upstream_protocol",
            Self::UpstreamOverloaded => "upstream_overloaded",
            Self::TrustEnded => "trust_ended",
            Self::LeaseEnded => "lease_ended",
            Self::Drained => "drained",
            Self::IdleTimeout => "idle_timeout",
            Self::BodyTimeout => "body_timeout",
            Self::RequestTimeout => "request_timeout",
            Self::ConnectionAge => "connection_age",
            Self::Flooded => "flooded",
            Self::UpstreamIdentity => "upstream_identity",
            Self::NoIdentity => "no_identity",
            Self::AddressRefused => "address_refused",
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
    /// Those that policies read.
    pub(super) signals: Option<Box<SignalValues>>,
    pub(super) action: Option<&'static str>,
    pub(super) decision: Option<Decision>,
    pub(super) effect: Effect,
    pub(super) reason_code: &'static str,
    pub(super) status: Option<u16>,
    pub(super) failure: Option<Failure>,
    /// What had the call decided again, where that ended it.
    pub(super) ended_by: Option<Trigger>,
    /// How often the upstream was tried.
    pub(super) attempts: u32,
    pub(super) carried: Option<Carried>,
    /// Whether the status of a gRPC call was other than OK.
    pub(super) grpc_failed: bool,
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
            signals: None,
            action: None,
            decision: None,
            effect: Effect::Deny,
            reason_code: "not_decided",
            status: None,
            failure: None,
            ended_by: None,
            attempts: 1,
            carried: None,
            grpc_failed: false,
            complete: false,
            decision_time: Duration::ZERO,
            call_time: Duration::ZERO,
        }
    }

    /// Makes a used record a new one, in its place: what the calls of one connection share is
    /// mostly there already.
    ///
    /// SECURITY: every field is named, so that none can be forgotten and tell of another call.
    pub(super) fn renew(&mut self, new_id: Uuid, now: SystemTime, origin: &Origin) {
        let Self {
            id,
            time,
            listener,
            service,
            direction,
            caller,
            source,
            call,
            refused_target,
            port,
            headers,
            with_query,
            action,
            decision,
            effect,
            reason_code,
            status,
            failure,
            ended_by,
            attempts,
            carried,
            complete,
            decision_time,
            call_time,
            signals,
            grpc_failed,
        } = self;
        *id = new_id;
        *time = now;
        share(listener, &origin.listener);
        match (service, &origin.service) {
            // Once decided, it is the service that was called, which need not be the only one.
            (Some(before), Some(only)) => share(before, only),
            (before, only) => before.clone_from(only),
        }
        *direction = origin.direction;
        *caller = origin.caller.clone();
        *source = origin.source;
        *call = None;
        *refused_target = None;
        *port = None;
        *headers = RecordedHeaders::default();
        *with_query = false;
        *action = None;
        *decision = None;
        *effect = Effect::Deny;
        *reason_code = "not_decided";
        *status = None;
        *failure = None;
        *ended_by = None;
        *attempts = 1;
        *carried = None;
        *complete = false;
        *decision_time = Duration::ZERO;
        *call_time = Duration::ZERO;
        *signals = None;
        *grpc_failed = false;
    }

    /// Whether an allowed call was answered with an error, or broken off by the upstream.
    pub(super) fn is_error(&self) -> bool {
        let broke = self.failure.is_some_and(Failure::is_upstreams);
        broke || self.grpc_failed || self.status.is_some_and(|status| status >= 400)
    }
}

/// Makes one name another, which mostly it is already.
fn share(name: &mut Arc<str>, other: &Arc<str>) {
    if !Arc::ptr_eq(name, other) {
        *name = Arc::clone(other);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::Admission;
    use crate::config::{LimitsConfig, MaxMemory};
    use crate::memory::Memory;
    use crate::record::Calls;

    fn origin(listener: &str) -> Origin {
        let memory = Arc::new(Memory::with_limit(MaxMemory::Off));
        let admission = Arc::new(Admission::new(&LimitsConfig::default(), memory));
        Origin {
            listener: listener.into(),
            service: Some(listener.into()),
            direction: Direction::Inbound,
            caller: Caller::Anonymous,
            source: ([127, 0, 0, 1], 1).into(),
            calls: Arc::new(Calls::at(admission.place(&Caller::Anonymous), None)),
        }
    }

    #[test]
    fn nothing_of_an_earlier_call_is_left_in_a_record_that_is_used_again() {
        let (first, second) = (origin("first"), origin("second"));
        let mut used = DecisionRecord::new(Uuid::max(), SystemTime::UNIX_EPOCH, &first);
        used.call = Some(Call::tcp("a"));
        used.refused_target = Some("t".to_owned());
        used.port = Some(1);
        used.headers.withheld.push("x".into());
        used.with_query = true;
        used.action = Some("tcp:connect");
        used.effect = Effect::Allow;
        used.reason_code = "permitted";
        used.status = Some(200);
        used.failure = Some(Failure::CallerGone);
        used.ended_by = Some(Trigger::Time);
        used.attempts = 3;
        used.carried = Some(Carried {
            bytes_in: 1,
            bytes_out: 2,
        });
        used.complete = true;
        used.grpc_failed = true;
        used.signals = Some(Box::default());
        used.decision_time = Duration::from_secs(1);
        used.call_time = Duration::from_secs(1);
        let (id, now) = (Uuid::nil(), SystemTime::now());
        used.renew(id, now, &second);
        let new = DecisionRecord::new(id, now, &second);
        assert_eq!(format!("{used:?}"), format!("{new:?}"));
    }
}
