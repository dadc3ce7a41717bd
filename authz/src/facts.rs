//! The facts of one call, borrowed from whoever holds them. Building a [`Facts`] allocates
//! nothing and reads nothing: policy reads what it needs, when it needs it.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    time::{SystemTime, UNIX_EPOCH},
};

use wayleave_identity::SpiffeId;

use crate::{
    action::{Action, Family},
    signals::SignalValues,
};

/// Everything a decision is made from.
#[derive(Clone, Copy)]
pub struct Facts<'a> {
    /// Who calls.
    pub principal: Principal<'a>,
    /// What the caller asks to do.
    pub action: Action,
    /// What it asks to do it to.
    pub resource: Resource<'a>,
    /// The circumstances.
    pub context: Context<'a>,
}

/// Who calls: proved by a verified handshake, never named by a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Principal<'a> {
    /// `Workload::"<SPIFFE ID>"`
    Workload(&'a SpiffeId),
    /// `Anonymous::"anonymous"`: a peer that proved nothing, where a listener admits such.
    Anonymous,
}

/// What is called. HTTP and gRPC calls meet an `Endpoint`, TCP connections a `Port`; both
/// are `in` their `Service`.
#[derive(Clone, Copy, Debug)]
pub struct Resource<'a> {
    /// The service behind the listener, as configured: the id of its `Service` entity.
    pub service: &'a str,
    /// The host that was asked for: lower case, without port and trailing dot.
    pub host: &'a str,
    /// The canonical path, without query. Empty for TCP.
    pub path: &'a str,
    /// The route template where one is known, such as `/orders/{id}`.
    pub template: Option<&'a str>,
    /// The port that was called.
    pub port: u16,
    /// Whether an API description lists this endpoint.
    pub documented: bool,
}

/// The circumstances of a call.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// Towards the workload or away from it.
    pub direction: Direction,
    /// When the call is decided.
    pub time: SystemTime,
    /// The address the call came from.
    pub source_ip: IpAddr,
    /// The TLS session, where there is one.
    pub tls: Option<Tls<'a>>,
    /// The HTTP method as it was sent. HTTP and gRPC calls must have it.
    pub method: Option<&'a str>,
    /// The query without its `?`, as it is forwarded.
    pub query: Option<&'a str>,
    /// The request's headers.
    pub headers: &'a dyn Headers,
    /// The claims of a verified token.
    pub claims: &'a dyn Claims,
    /// The gRPC method. A gRPC call must have it.
    pub rpc: Option<Rpc<'a>>,
    /// How the caller behaves, and what is known against it: what of it the policies read.
    pub signals: &'a SignalValues,
}

/// Which way a call goes, as seen from the workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Towards the workload.
    Inbound,
    /// Away from the workload.
    Outbound,
}

impl Direction {
    /// `"inbound"` or `"outbound"`, as policies compare it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }
}

/// The TLS session a call came by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tls<'a> {
    /// `"1.3"`
    pub version: &'a str,
    /// The key exchange group, such as `X25519MLKEM768`.
    pub key_exchange: &'a str,
    /// Whether that group resists a quantum computer.
    pub post_quantum: bool,
}

/// A gRPC method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rpc<'a> {
    /// The full service name, such as `shop.v1.Orders`.
    pub service: &'a str,
    /// The method of that service, such as `GetOrder`.
    pub method: &'a str,
}

/// Read access to a request's headers.
///
/// Policies see a header as the set of all its values, so that a repeated header cannot
/// hide one of them.
pub trait Headers {
    /// Calls `test` with each value of the header `name` (lower case) until it returns true,
    /// and returns whether it did.
    ///
    /// A value that is not UTF-8 is passed with each offending sequence replaced by U+FFFD,
    /// as [`String::from_utf8_lossy`] does it.
    fn any(&self, name: &str, test: &mut dyn FnMut(&str) -> bool) -> bool;
}

/// No headers at all.
#[derive(Clone, Copy, Debug)]
pub struct NoHeaders;

impl Headers for NoHeaders {
    fn any(&self, _name: &str, _test: &mut dyn FnMut(&str) -> bool) -> bool {
        false
    }
}

/// Pairs of (lower-case name, value), a name may come several times.
impl<N: AsRef<str>, V: AsRef<str>> Headers for [(N, V)] {
    fn any(&self, name: &str, test: &mut dyn FnMut(&str) -> bool) -> bool {
        self.iter()
            .any(|(each, value)| each.as_ref() == name && test(value.as_ref()))
    }
}

/// As the slice it borrows.
impl<N: AsRef<str>, V: AsRef<str>> Headers for &[(N, V)] {
    fn any(&self, name: &str, test: &mut dyn FnMut(&str) -> bool) -> bool {
        (**self).any(name, test)
    }
}

impl Headers for BTreeMap<String, Vec<String>> {
    fn any(&self, name: &str, test: &mut dyn FnMut(&str) -> bool) -> bool {
        self.get(name)
            .is_some_and(|values| values.iter().any(|value| test(value)))
    }
}

/// Read access to the claims of a verified token.
pub trait Claims {
    /// The claim with this name, if the token has it.
    fn claim(&self, name: &str) -> Option<Claim<'_>>;
}

/// The value of one claim. A claim whose value has another type than the schema extension
/// declares counts as absent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim<'a> {
    /// A string.
    Text(&'a str),
    /// An integer.
    Long(i64),
    /// A boolean.
    Bool(bool),
    /// A list of strings, which policies see as a set.
    Texts(&'a [String]),
}

/// No token, so no claims.
#[derive(Clone, Copy, Debug)]
pub struct NoClaims;

impl Claims for NoClaims {
    fn claim(&self, _name: &str) -> Option<Claim<'_>> {
        None
    }
}

/// The last millisecond of the year 9999: the end of what a Cedar `datetime` can be written as.
pub(crate) const LAST_MILLISECOND: i64 = 253_402_300_799_999;

impl Facts<'_> {
    /// What is missing for these facts to be a call at all. Such facts are denied.
    pub(crate) fn defect(&self) -> Option<&'static str> {
        match self.action.family() {
            Family::Http | Family::Grpc if self.context.method.is_none() => {
                Some("an HTTP call without its method")
            }
            Family::Grpc if self.context.rpc.is_none() => Some("a gRPC call without its method"),
            _ if self.context.time_ms().is_none() => Some("a time that no calendar can write"),
            _ => None,
        }
    }
}

impl Context<'_> {
    /// Milliseconds since the epoch, where that is within the years 1970 to 9999.
    pub(crate) fn time_ms(&self) -> Option<i64> {
        let since = self.time.duration_since(UNIX_EPOCH).ok()?;
        i64::try_from(since.as_millis())
            .ok()
            .filter(|ms| *ms <= LAST_MILLISECOND)
    }
}

impl Resource<'_> {
    /// The id of this endpoint's entity: `METHOD template`, or the service's catch-all `*`
    /// where no template is known, never the raw path.
    pub(crate) fn endpoint_id(&self, method: &str) -> String {
        match self.template {
            None => "*".to_owned(),
            Some(template) => format!("{method} {template}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_its_template_and_never_its_path() {
        let mut resource = Resource {
            service: "orders",
            host: "orders",
            path: "/orders/7",
            template: None,
            port: 443,
            documented: false,
        };
        assert_eq!(resource.endpoint_id("GET"), "*");
        resource.template = Some("/orders/{id}");
        assert_eq!(resource.endpoint_id("GET"), "GET /orders/{id}");
    }

    #[test]
    fn every_value_of_a_repeated_header_is_seen() {
        let headers: &[_] = &[("x-team", "a"), ("accept", "b"), ("x-team", "c")];
        let mut seen = Vec::new();
        assert!(!headers.any("x-team", &mut |value| {
            seen.push(value.to_owned());
            false
        }));
        assert_eq!(seen, ["a", "c"]);
    }
}
