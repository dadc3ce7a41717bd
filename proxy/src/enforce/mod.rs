//! Asks the policy decision point about a call and makes the answer a type: a [`Lease`],
//! without which nothing can be forwarded, or a [`Denial`].

mod lease;

use std::sync::Arc;
use std::time::Instant;

use http::{HeaderMap, Method};
use wayleave_authz::{
    Action, Context, Direction, Effect, Facts, Headers, NoClaims, PolicyStore, RecordedHeaders,
    Resource, Tls,
};

use crate::config::InboundMode;
use crate::denial::Denial;
use crate::protocol::{Call, Shape};
use crate::record::{Decided, Entry, Origin};
pub(crate) use lease::Lease;

/// The enforcement point of one listener.
#[derive(Debug)]
pub(crate) struct Enforcer {
    /// The policies in force; swapped when they are loaded anew.
    pub(crate) policies: PolicyStore,
    /// Towards the workload, or away from it.
    pub(crate) direction: Direction,
    /// What becomes of a call that policy denies.
    pub(crate) mode: InboundMode,
    /// Whether a denied caller is told the policy's `@reason`.
    pub(crate) show_reason: bool,
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
    pub(crate) fn enforce(&self, mut entry: Entry, ask: Ask<'_>) -> Result<Lease, Denial> {
        let Ask {
            call,
            origin,
            service,
            port,
            headers,
        } = ask;
        let Some(principal) = origin.caller.principal() else {
            entry.refused("no_identity", Some(call), None);
            return Err(Denial::not_ready(entry));
        };
        let Some(engine) = self.policies.current() else {
            entry.refused("no_policy", Some(call), None);
            return Err(Denial::not_ready(entry));
        };
        let action = action(&call);
        let headers = ForwardedHeaders(headers);
        let facts = Facts {
            principal,
            action,
            resource: resource(&call, service, port),
            context: context(&entry, &call, origin, &headers),
        };
        let began = Instant::now();
        let decision = match self.mode {
            InboundMode::Enforce => engine.decide(&facts),
            InboundMode::Audit => engine.decide(&facts).in_audit_mode(),
        };
        let headers = RecordedHeaders::of(&headers, &engine);
        entry.decided(Decided {
            call,
            action: action.as_str(),
            service: Arc::clone(service),
            port,
            headers,
            query: engine.reads_query(),
            decision,
            took: began.elapsed(),
        });
        match entry.effect() {
            Effect::Allow => Ok(Lease::grant(entry)),
            Effect::Deny => Err(Denial::by_policy(entry, self.show_reason)),
        }
    }
}

fn resource<'a>(call: &'a Call, service: &'a str, port: u16) -> Resource<'a> {
    Resource {
        service,
        host: call.host(),
        path: call.path(),
        template: None,
        port,
        documented: false,
    }
}

fn action(call: &Call) -> Action {
    match (call.shape(), call.method()) {
        (Shape::Grpc, _) => Action::GRPC_CALL,
        (Shape::Http | Shape::WebSocket, Some(method)) => Action::from_http_method(method.as_str()),
        (Shape::Tcp, _) | (_, None) => Action::TCP_CONNECT,
    }
}

fn context<'a>(
    entry: &Entry,
    call: &'a Call,
    origin: &'a Origin,
    headers: &'a ForwardedHeaders<'a>,
) -> Context<'a> {
    let tls = origin.caller.tls().map(|tls| Tls {
        version: tls.version,
        key_exchange: tls.key_exchange,
        post_quantum: tls.post_quantum,
    });
    Context {
        direction: origin.direction,
        time: entry.time(),
        source_ip: origin.source.ip().to_canonical(),
        tls,
        method: call.method().map(Method::as_str),
        query: call.query(),
        headers,
        claims: &NoClaims,
        rpc: call.rpc(),
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
