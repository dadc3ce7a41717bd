//! One decision record and its JSON form.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::Method;
use serde::ser::{Serialize, SerializeMap, Serializer};
use time::OffsetDateTime;
use uuid::Uuid;
use wayleave_authz::{Decision, Direction, Effect, RecordedHeaders};
use wayleave_certs::TlsInfo;

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
    /// Who answered at the upstream's address did not prove to be the one that is meant.
    UpstreamIdentity,
    /// We have no SVID to show to an upstream that asks for one.
    NoIdentity,
    /// The address that the caller chose is not one that may be connected to.
    AddressRefused,
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
            Self::UpstreamIdentity => "upstream_identity",
            Self::NoIdentity => "no_identity",
            Self::AddressRefused => "address_refused",
        }
    }
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
            complete: false,
            decision_time: Duration::ZERO,
            call_time: Duration::ZERO,
        }
    }
}

impl Serialize for DecisionRecord {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("kind", "decision")?;
        map.serialize_entry("time", &rfc3339(self.time))?;
        map.serialize_entry("decision_id", &self.id)?;
        map.serialize_entry("listener", &*self.listener)?;
        map.serialize_entry("principal", &self.caller.id())?;
        map.serialize_entry("source", &self.source)?;
        map.serialize_entry("direction", self.direction.as_str())?;
        map.serialize_entry("action", &self.action)?;
        map.serialize_entry("resource", &ResourceView(self))?;
        let method = self.call.as_ref().and_then(Call::method);
        map.serialize_entry("method", &method.map(Method::as_str))?;
        let query = self.call.as_ref().and_then(Call::query);
        if let Some(query) = query.filter(|_| self.with_query) {
            map.serialize_entry("query", query)?;
        }
        if !self.headers.values.is_empty() {
            map.serialize_entry("headers", &self.headers.values)?;
        }
        if !self.headers.withheld.is_empty() {
            map.serialize_entry("withheld", &self.headers.withheld)?;
        }
        map.serialize_entry("protocol", &self.call.as_ref().map(Call::protocol))?;
        map.serialize_entry("effect", self.effect.as_str())?;
        map.serialize_entry("reason_code", self.reason_code)?;
        let decision = self.decision.as_ref();
        map.serialize_entry("policies", &decision.map(|d| ids(d.policies())))?;
        map.serialize_entry(
            "policy_revision",
            &decision.map(|d| d.revision().to_string()),
        )?;
        map.serialize_entry("policy_errors", &decision.map(|d| ids(d.errors())))?;
        map.serialize_entry(
            "would_have",
            &decision.and_then(Decision::would_have).map(Effect::as_str),
        )?;
        map.serialize_entry("audit_policies", &decision.map(|d| ids(d.audit_policies())))?;
        map.serialize_entry("status", &self.status)?;
        map.serialize_entry("failure", &self.failure.map(Failure::as_str))?;
        map.serialize_entry("decision_ns", &nanos(self.decision_time))?;
        map.serialize_entry("duration_us", &micros(self.call_time))?;
        map.serialize_entry("tls", &self.caller.tls().map(TlsView))?;
        map.serialize_entry("trace_id", &self.call.as_ref().and_then(Call::trace_id))?;
        map.end()
    }
}

struct ResourceView<'a>(&'a DecisionRecord);

impl Serialize for ResourceView<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let call = self.0.call.as_ref();
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("service", &self.0.service.as_deref())?;
        map.serialize_entry("endpoint", "*")?;
        map.serialize_entry("host", &call.map(Call::host))?;
        map.serialize_entry("path", &call.map(Call::path))?;
        map.serialize_entry("port", &self.0.port)?;
        if let Some(target) = &self.0.refused_target {
            map.serialize_entry("refused_target", target)?;
        }
        map.end()
    }
}

fn ids<'a>(policies: impl Iterator<Item = &'a Arc<str>>) -> Vec<&'a str> {
    policies.map(|id| &**id).collect()
}

struct TlsView<'a>(&'a TlsInfo);

impl Serialize for TlsView<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let tls = self.0;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("version", tls.version)?;
        map.serialize_entry("key_exchange", tls.key_exchange)?;
        map.serialize_entry("post_quantum", &tls.post_quantum)?;
        map.end()
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// RFC 3339 in UTC, always with six digits of fraction.
fn rfc3339(time: SystemTime) -> String {
    let time = OffsetDateTime::from(time);
    let (hour, minute, second, micro) = time.time().as_hms_micro();
    let (year, month, day) = (time.year(), u8::from(time.month()), time.day());
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micro:06}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_one_form() {
        let time = SystemTime::UNIX_EPOCH + Duration::from_micros(1_700_000_000_100_000);
        assert_eq!(rfc3339(time), "2023-11-14T22:13:20.100000Z");
        assert_eq!(
            rfc3339(SystemTime::UNIX_EPOCH),
            "1970-01-01T00:00:00.000000Z"
        );
    }
}
