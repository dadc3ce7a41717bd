//! Asks the policy decision point about a call and makes the answer a type: a [`Lease`],
//! without which nothing can be forwarded, or a [`Denial`].

mod lease;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use http::HeaderMap;
use wayleave_authz::{
    Action, Context, Direction, Effect, Facts, Headers, NoClaims, PolicyStore, Principal,
    RecordedHeaders, Resource, Tls,
};
use wayleave_certs::Peer;

use crate::config::InboundMode;
use crate::denial::Denial;
use crate::protocol::{Call, Shape};
use crate::record::{Decided, Entry};
pub(crate) use lease::Lease;

/// The enforcement point of one listener.
#[derive(Debug)]
pub(crate) struct Enforcer {
    /// The policies in force; swapped when they are loaded anew.
    pub(crate) policies: PolicyStore,
    /// The Cedar `Service` behind the listener.
    pub(crate) service: Arc<str>,
    /// Hosts that are served here; empty serves every host.
    pub(crate) hosts: Vec<String>,
    /// The port callers reach the service on.
    pub(crate) port: u16,
    /// What becomes of a call that policy denies.
    pub(crate) mode: InboundMode,
    /// Whether a denied caller is told the policy's `@reason`.
    pub(crate) show_reason: bool,
}

impl Enforcer {
    /// Decides one call. `headers` are those that will be forwarded.
    pub(crate) fn enforce(
        &self,
        mut entry: Entry,
        call: Call,
        peer: &Peer,
        source: SocketAddr,
        headers: &HeaderMap,
    ) -> Result<Lease, Denial> {
        if !self.serves(call.host()) {
            entry.refused("host_not_served", Some(call), None);
            return Err(Denial::host_not_served(entry));
        }
        let Some(engine) = self.policies.current() else {
            entry.refused("no_policy", Some(call), None);
            return Err(Denial::not_ready(entry));
        };
        let action = action(&call);
        let headers = ForwardedHeaders(headers);
        let facts = Facts {
            principal: Principal::Workload(peer.id()),
            action,
            resource: self.resource(&call),
            context: context(&entry, &call, peer, source, &headers),
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
            port: self.port,
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

    fn serves(&self, host: &str) -> bool {
        self.hosts.is_empty() || self.hosts.iter().any(|served| served == host)
    }

    fn resource<'a>(&'a self, call: &'a Call) -> Resource<'a> {
        Resource {
            service: &self.service,
            host: call.host(),
            path: call.path(),
            template: None,
            port: self.port,
            documented: false,
        }
    }
}

fn action(call: &Call) -> Action {
    match call.shape() {
        Shape::Grpc => Action::GRPC_CALL,
        Shape::Http | Shape::WebSocket => Action::from_http_method(call.method().as_str()),
    }
}

fn context<'a>(
    entry: &Entry,
    call: &'a Call,
    peer: &'a Peer,
    source: SocketAddr,
    headers: &'a ForwardedHeaders<'a>,
) -> Context<'a> {
    let tls = peer.tls();
    Context {
        direction: Direction::Inbound,
        time: entry.time(),
        source_ip: source.ip().to_canonical(),
        tls: Some(Tls {
            version: tls.version,
            key_exchange: tls.key_exchange,
            post_quantum: tls.post_quantum,
        }),
        method: Some(call.method().as_str()),
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
