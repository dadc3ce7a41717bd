//! Asks the policy decision point about a call and makes the answer a type: a [`Lease`],
//! without which nothing can be forwarded, or a [`Denial`].

mod counting;
mod kept_headers;
mod lease;
mod standing;

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use http::{HeaderMap, Method};
use wayleave_authz::signals::{Counted, RiskLevel, SignalValues};
use wayleave_authz::{
    Action, Context, Decision, Direction, Effect, Engine, Facts, Headers, NoClaims, ReasonCode,
    RecordedHeaders, Resource, Tls,
};

use crate::config::InboundMode;
use crate::denial::Denial;
use crate::policy_switch::ListenerPolicies;
use crate::protocol::{Call, Shape};
use crate::record::{Asked, Decided, Entry, Origin};
use crate::review::{Changes, Live};
use crate::standing::Standing;
pub(crate) use counting::{Counting, Meter};
use kept_headers::KeptHeaders;
pub(crate) use lease::Lease;
use lease::Seen;
use standing::Stands;

/// Where policies read none.
static NO_SIGNALS: SignalValues = SignalValues::NONE;

/// The enforcement point of one listener.
#[derive(Debug)]
pub(crate) struct Enforcer {
    /// What it decides with.
    pub(crate) policies: Arc<ListenerPolicies>,
    /// Towards the workload, or away from it.
    pub(crate) direction: Direction,
    /// What becomes of a call that policy denies.
    pub(crate) mode: InboundMode,
    /// Whether a denied caller is told the policy's `@reason`.
    pub(crate) show_reason: bool,
    /// What decisions depend on, counted.
    pub(crate) changes: Arc<Changes>,
    /// The open calls of this worker.
    pub(crate) live: Arc<Live>,
    /// What is known against principals.
    pub(crate) standing: Arc<Standing>,
}

/// What is to be decided: a call, where it came from and where it would go.
pub(crate) struct Ask<'a> {
    pub(crate) call: Call,
    pub(crate) origin: &'a Origin,
    /// The service that it is for, and the port that it is called on.
    pub(crate) service: &'a Arc<str>,
    pub(crate) port: u16,
    /// Those that will be forwarded.
    pub(crate) headers: &'a HeaderMap,
}

impl Enforcer {
    /// Decides one call.
    pub(crate) fn enforce(
        self: &Arc<Self>,
        mut entry: Entry,
        ask: Ask<'_>,
    ) -> Result<Lease, Denial> {
        let Ask {
            call,
            origin,
            service,
            port,
            headers,
        } = ask;
        // INVARIANT: read before the policies and before what stands against the caller, so that a
        // change behind this is noticed.
        let behaviour = origin.calls.behaviour();
        let mut seen = Seen {
            by_all: self.changes.count(),
            by_one: behaviour.map_or(0, |behaviour| behaviour.changes()),
            risk: RiskLevel::None,
        };
        let deciding = self.policies.deciding();
        if deciding.engine().is_none() {
            entry.refused("no_policy", Some(call), None);
            return Err(Denial::not_ready(entry));
        }
        let headers = ForwardedHeaders(headers);
        let asked = Asked {
            call: &call,
            caller: &origin.caller,
            direction: origin.direction,
            source: origin.source,
            service,
            port,
        };
        let began = Instant::now();
        let stands = self.stands(&asked, &origin.calls, entry.time());
        seen.risk = stands.risk;
        let (resource, method) = (resource(&asked), call.method().map(Method::as_str));
        let reads = deciding.signals_read();
        let (counting, signals) =
            Counting::begin(behaviour, reads, &resource, method, began).unzip();
        let values = signals.as_deref().unwrap_or(&NO_SIGNALS);
        let decided = deciding
            .decide(|engine| self.decide(engine, &asked, &stands, &headers, values, entry.time()));
        let Some((engine, decision)) = decided else {
            entry.refused("no_identity", Some(call), None);
            return Err(Denial::not_ready(entry));
        };
        let mut retry_after = None;
        if let Effect::Deny = decision.effect() {
            counting.iter().for_each(|counting| counting.denied(began));
            self.quarantine(&decision, &asked);
            let waits = counting.as_ref();
            retry_after = waits.and_then(|counting| counting.retry_after(&decision, began));
        }
        let action = action(&call);
        let kept = match decision.effect() {
            Effect::Allow => KeptHeaders::of(headers.0, engine),
            Effect::Deny => KeptHeaders::default(),
        };
        let headers = RecordedHeaders::of(&headers, engine);
        entry.decided(Decided {
            call,
            action: action.as_str(),
            service: Arc::clone(service),
            port,
            headers,
            query: engine.reads_query(),
            signals,
            decision,
            took: began.elapsed(),
        });
        match (entry.effect(), stands.refusal) {
            (Effect::Allow, _) => {
                if let Some(counting) = counting {
                    counting.allowed();
                    entry.counts(counting);
                }
                Ok(Lease::grant(entry, kept, self, seen))
            }
            (Effect::Deny, None) => Err(Denial::by_policy(entry, self.show_reason, retry_after)),
            (Effect::Deny, Some(refusal)) => Err(refusal.denial(entry)),
        }
    }

    /// What a call that was allowed would be now.
    ///
    /// SECURITY: what cannot be known is no: no policies, no principal, or a header that the
    /// policies of today read and those of then did not, so that it was not kept.
    fn again(&self, entry: &Entry, headers: &KeptHeaders) -> Again {
        let current = self.policies.current();
        let (Some(engine), Some(asked)) = (current.as_deref(), entry.asked()) else {
            return Again::Denied;
        };
        let (headers, now) = (headers.recall(), SystemTime::now());
        let stands = self.stands(&asked, entry.calls(), now);
        let signals = Self::signals_again(engine, entry);
        let Some(decision) = self.decide(engine, &asked, &stands, &headers, &signals, now) else {
            return Again::Denied;
        };
        if decision.is_allow() && !headers.asked_in_vain() {
            return Again::Allowed;
        }
        self.quarantine(&decision, &asked);
        match decision.reason() {
            ReasonCode::Revoked => Again::Revoked,
            ReasonCode::Quarantined => Again::Quarantined,
            _ => Again::Denied,
        }
    }

    /// The signals of this moment, of a call that began before.
    fn signals_again(engine: &Engine, entry: &Entry) -> SignalValues {
        let (reads, now) = (engine.signals_read(), Instant::now());
        match (entry.counting(), entry.calls().behaviour()) {
            (Some(counting), _) => {
                counting.read(entry.signals().unwrap_or(&NO_SIGNALS), reads, now)
            }
            // It began when policies read no signals: there is nothing that it counted into.
            (None, Some(behaviour)) => behaviour.read(&Counted::default(), &NO_SIGNALS, reads, now),
            (None, None) => SignalValues::NONE,
        }
    }

    fn decide(
        &self,
        engine: &Engine,
        asked: &Asked<'_>,
        stands: &Stands,
        headers: &dyn Headers,
        signals: &SignalValues,
        time: SystemTime,
    ) -> Option<Decision> {
        let facts = facts(asked, headers, signals, time)?;
        let decision = match &stands.refusal {
            Some(refusal) => engine.refuse(refusal.reason()),
            None => engine.decide(&facts),
        };
        Some(match self.mode {
            InboundMode::Enforce => decision,
            InboundMode::Audit => decision.in_audit_mode(),
        })
    }
}

/// What a call would be that was allowed once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Again {
    Allowed,
    /// Policy denies it, or it cannot be decided.
    Denied,
    Revoked,
    Quarantined,
}

fn action(call: &Call) -> Action {
    match (call.shape(), call.method()) {
        (Shape::Grpc, _) => Action::GRPC_CALL,
        (Shape::Http | Shape::WebSocket, Some(method)) => Action::from_http_method(method.as_str()),
        (Shape::Tcp, _) | (_, None) => Action::TCP_CONNECT,
    }
}

/// The facts of a call; none where nobody can be named as its principal.
fn facts<'a>(
    asked: &Asked<'a>,
    headers: &'a dyn Headers,
    signals: &'a SignalValues,
    time: SystemTime,
) -> Option<Facts<'a>> {
    let Asked { call, caller, .. } = *asked;
    Some(Facts {
        principal: caller.principal()?,
        action: action(call),
        resource: resource(asked),
        context: Context {
            direction: asked.direction,
            time,
            source_ip: asked.source.ip().to_canonical(),
            tls: caller.tls().map(|tls| Tls {
                version: tls.version,
                key_exchange: tls.key_exchange,
                post_quantum: tls.post_quantum,
            }),
            method: call.method().map(Method::as_str),
            query: call.query(),
            headers,
            claims: &NoClaims,
            rpc: call.rpc(),
            signals,
        },
    })
}

fn resource<'a>(asked: &Asked<'a>) -> Resource<'a> {
    Resource {
        service: asked.service,
        host: asked.call.host(),
        path: asked.call.path(),
        template: None,
        port: asked.port,
        documented: false,
    }
}

/// The headers of a call as policy reads them.
struct ForwardedHeaders<'a>(&'a HeaderMap);

impl Headers for ForwardedHeaders<'_> {
    fn any(&self, name: &str, test: &mut dyn FnMut(&str) -> bool) -> bool {
        let mut values = self.0.get_all(name).iter();
        values.any(|value| match std::str::from_utf8(value.as_bytes()) {
            Ok(text) => test(text),
            Err(_) => test(&String::from_utf8_lossy(value.as_bytes())),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_of_a_repeated_header_is_seen() {
        let mut headers = HeaderMap::new();
        headers.append("x-role", "reader".parse().unwrap());
        headers.append("x-role", "admin".parse().unwrap());
        assert!(ForwardedHeaders(&headers).any("x-role", &mut |value| value == "admin"));
        assert!(!ForwardedHeaders(&headers).any("x-other", &mut |_| true));
    }

    #[test]
    fn a_value_that_is_not_utf_8_is_seen_too() {
        let mut headers = HeaderMap::new();
        let value = http::HeaderValue::from_bytes(b"adm\xffin").unwrap();
        headers.append("x-role", value);
        assert!(ForwardedHeaders(&headers).any("x-role", &mut |value| value == "adm\u{fffd}in"));
    }
}
