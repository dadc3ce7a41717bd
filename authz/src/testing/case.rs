//! Tests as they are written.

use std::{collections::BTreeMap, net::IpAddr};

use serde::Deserialize;
use serde_saphyr::Spanned;
use wayleave_identity::SpiffeId;

use crate::{
    action::Action,
    calendar,
    facts::Direction,
    record::{ClaimValue, RecordedFacts, RecordedRpc, RecordedTls},
    signals::SignalValues,
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawFile {
    #[serde(default)]
    pub(super) defaults: CallSpec,
    pub(super) tests: Vec<RawCase>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawCase {
    pub(super) name: Spanned<String>,
    #[serde(default)]
    pub(super) request: CallSpec,
    pub(super) expect: Expected,
    #[serde(default)]
    pub(super) by: Option<Vec<Spanned<String>>>,
    #[serde(default)]
    pub(super) reason: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Expected {
    Allow,
    Deny,
}

impl Expected {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }
}

/// A call as a person describes it: what is left out has a default. Policy tests and
/// `wayleave explain` read calls so.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CallSpec {
    /// A SPIFFE ID; left out, an anonymous peer.
    pub principal: Option<String>,
    /// An action by its name; left out, that of the method, of `rpc` or `http:get`.
    pub action: Option<String>,
    /// The HTTP method; left out, that of the action.
    pub method: Option<String>,
    /// The service; `"service"` by default.
    pub service: Option<String>,
    /// The host; the service's name by default.
    pub host: Option<String>,
    /// The path, with the query after a `?` if there is one; `/` by default.
    pub path: Option<String>,
    /// The route template; none by default.
    pub template: Option<String>,
    /// Whether the endpoint is documented; by default, where it has a template.
    pub documented: Option<bool>,
    /// The port; 443 by default.
    pub port: Option<u16>,
    /// `inbound`, the default, or `outbound`.
    pub direction: Option<String>,
    /// RFC 3339 in UTC; `2026-01-01T12:00:00Z` by default.
    pub time: Option<String>,
    /// The caller's address; 127.0.0.1 by default.
    pub source_ip: Option<IpAddr>,
    /// The TLS session; TLS 1.3 with X25519MLKEM768 by default, `false` for none.
    pub tls: Option<TlsSpec>,
    /// Headers: a value, or a list of values.
    pub headers: BTreeMap<String, HeaderValues>,
    /// Claims.
    pub claims: BTreeMap<String, ClaimValue>,
    /// A gRPC method as `package.Service/Method`.
    pub rpc: Option<String>,
    /// Signals by their names below `context.signals`; each that is left out is nought, `false`
    /// or `NONE`.
    pub signals: SignalValues,
}

/// The TLS session of a [`CallSpec`].
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum TlsSpec {
    /// Whether there is one.
    Present(bool),
    /// This one.
    Session(RecordedTls),
}

/// The values of one header of a [`CallSpec`].
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum HeaderValues {
    /// One value.
    One(String),
    /// Several.
    Many(Vec<String>),
}

impl CallSpec {
    /// This call with everything that it leaves out taken from `defaults`.
    #[must_use]
    pub fn over(&self, defaults: &Self) -> Self {
        fn or<T: Clone>(own: &Option<T>, default: &Option<T>) -> Option<T> {
            own.clone().or_else(|| default.clone())
        }
        let mut merged = Self {
            principal: or(&self.principal, &defaults.principal),
            action: or(&self.action, &defaults.action),
            method: or(&self.method, &defaults.method),
            service: or(&self.service, &defaults.service),
            host: or(&self.host, &defaults.host),
            path: or(&self.path, &defaults.path),
            template: or(&self.template, &defaults.template),
            documented: or(&self.documented, &defaults.documented),
            port: or(&self.port, &defaults.port),
            direction: or(&self.direction, &defaults.direction),
            time: or(&self.time, &defaults.time),
            source_ip: or(&self.source_ip, &defaults.source_ip),
            tls: or(&self.tls, &defaults.tls),
            headers: defaults.headers.clone(),
            claims: defaults.claims.clone(),
            rpc: or(&self.rpc, &defaults.rpc),
            signals: defaults.signals,
        };
        merged.headers.extend(self.headers.clone());
        merged.claims.extend(self.claims.clone());
        for signal in self.signals.known().iter() {
            merged.signals.set(signal, self.signals.value(signal));
        }
        merged
    }

    /// The facts of the call.
    ///
    /// # Errors
    ///
    /// Names the first field that holds nothing sensible, and what it may hold.
    pub fn recorded(&self) -> Result<RecordedFacts, String> {
        let action = self.action()?;
        let is_tcp = action == Action::TCP_CONNECT;
        let service = self.service.clone().unwrap_or_else(|| "service".to_owned());
        let (path, query) = self.path_and_query();
        Ok(RecordedFacts {
            principal: self.principal()?,
            action,
            host: self.host.clone().unwrap_or_else(|| service.clone()),
            service,
            path: if is_tcp { String::new() } else { path },
            template: self.template.clone(),
            documented: self.documented.unwrap_or(self.template.is_some()),
            port: self.port.unwrap_or(443),
            direction: self.direction()?,
            time_ms: self.time_ms()?,
            source_ip: self.source_ip.unwrap_or(IpAddr::from([127, 0, 0, 1])),
            tls: self.tls(),
            method: if is_tcp { None } else { self.method(action)? },
            query,
            headers: self.header_values(),
            withheld: Vec::new(),
            claims: self.claims.clone(),
            rpc: self.rpc()?,
            signals: self.signals,
        })
    }

    fn principal(&self) -> Result<Option<SpiffeId>, String> {
        let parse = |text: &String| {
            text.parse()
                .map_err(|error| format!("`{text}` is not a SPIFFE ID: {error}"))
        };
        self.principal.as_ref().map(parse).transpose()
    }

    fn action(&self) -> Result<Action, String> {
        match (&self.action, &self.method, &self.rpc) {
            (Some(name), ..) => {
                Action::from_name(name).ok_or_else(|| format!("there is no action `{name}`"))
            }
            (None, _, Some(_)) => Ok(Action::GRPC_CALL),
            (None, Some(method), None) => Ok(Action::from_http_method(method)),
            (None, None, None) => Ok(Action::from_http_method("GET")),
        }
    }

    fn method(&self, action: Action) -> Result<Option<String>, String> {
        if let Some(method) = &self.method {
            return Ok(Some(method.clone()));
        }
        if action == Action::GRPC_CALL {
            return Ok(Some("POST".to_owned()));
        }
        let of_action = action.as_str().strip_prefix("http:").unwrap_or_default();
        if of_action == "other" {
            return Err("`http:other` needs a `method`".to_owned());
        }
        Ok(Some(of_action.to_ascii_uppercase()))
    }

    fn path_and_query(&self) -> (String, Option<String>) {
        let path = self.path.as_deref().unwrap_or("/");
        match path.split_once('?') {
            Some((path, query)) => (path.to_owned(), Some(query.to_owned())),
            None => (path.to_owned(), None),
        }
    }

    fn direction(&self) -> Result<Direction, String> {
        match self.direction.as_deref() {
            None | Some("inbound") => Ok(Direction::Inbound),
            Some("outbound") => Ok(Direction::Outbound),
            Some(other) => Err(format!(
                "`{other}` is not a direction; use `inbound` or `outbound`"
            )),
        }
    }

    fn time_ms(&self) -> Result<i64, String> {
        let text = self.time.as_deref().unwrap_or("2026-01-01T12:00:00Z");
        calendar::parse(text)
            .filter(|ms| *ms >= 0)
            .ok_or_else(|| format!("`{text}` is not a time like 2026-01-01T12:00:00Z"))
    }

    fn tls(&self) -> Option<RecordedTls> {
        match &self.tls {
            Some(TlsSpec::Present(false)) => None,
            Some(TlsSpec::Session(session)) => Some(session.clone()),
            None | Some(TlsSpec::Present(true)) => Some(RecordedTls {
                version: "1.3".to_owned(),
                key_exchange: "X25519MLKEM768".to_owned(),
                post_quantum: true,
            }),
        }
    }

    fn header_values(&self) -> BTreeMap<String, Vec<String>> {
        let values = |values: &HeaderValues| match values {
            HeaderValues::One(value) => vec![value.clone()],
            HeaderValues::Many(values) => values.clone(),
        };
        let headers = self.headers.iter();
        headers
            .map(|(name, each)| (name.to_ascii_lowercase(), values(each)))
            .collect()
    }

    fn rpc(&self) -> Result<Option<RecordedRpc>, String> {
        let Some(text) = &self.rpc else {
            return Ok(None);
        };
        let (service, method) = text
            .trim_start_matches('/')
            .rsplit_once('/')
            .ok_or_else(|| format!("`{text}` is not a gRPC method like package.Service/Method"))?;
        Ok(Some(RecordedRpc {
            service: service.to_owned(),
            method: method.to_owned(),
        }))
    }
}
