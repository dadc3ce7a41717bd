//! Facts that outlive their call: what decision records carry, and what explanations, policy
//! tests and comparisons read, so that all of them speak of calls in one form.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    time::{Duration, UNIX_EPOCH},
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use wayleave_identity::SpiffeId;

use crate::{
    action::Action,
    calendar,
    engine::Engine,
    facts::{Claim, Claims, Context, Direction, Facts, Headers, Principal, Resource, Rpc, Tls},
    signals::SignalValues,
};

/// Headers whose values are credentials: never written to a record.
const SECRET: [&str; 3] = ["authorization", "cookie", "proxy-authorization"];

/// The facts of one call, owned, with serde. Absent optional fields are left out.
///
/// As JSON:
///
/// ```
/// let facts: wayleave_authz::RecordedFacts = serde_json::from_str(r#"{
///     "principal": "spiffe://shop.example/ns/web/sa/cart",
///     "action": "http:get",
///     "service": "orders",
///     "host": "orders.shop.example",
///     "path": "/orders/7",
///     "port": 443,
///     "direction": "inbound",
///     "time": "2026-11-22T18:00:00.000Z",
///     "source_ip": "10.0.0.7",
///     "method": "GET"
/// }"#)?;
/// assert_eq!(facts.action.as_str(), "http:get");
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordedFacts {
    /// The caller's SPIFFE ID; none for an anonymous peer.
    #[serde(with = "text_option", default, skip_serializing_if = "Option::is_none")]
    pub principal: Option<SpiffeId>,
    /// The action by its name.
    #[serde(with = "action")]
    pub action: Action,
    /// The service behind the listener.
    pub service: String,
    /// The host that was asked for.
    pub host: String,
    /// The canonical path; empty for TCP.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub path: String,
    /// The route template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
    /// Whether an API description lists the endpoint.
    #[serde(default, skip_serializing_if = "is_false")]
    pub documented: bool,
    /// The port that was called.
    pub port: u16,
    /// Towards the workload or away from it.
    #[serde(with = "direction")]
    pub direction: Direction,
    /// When the call was decided: milliseconds since the epoch, written as RFC 3339 in UTC.
    #[serde(with = "time", rename = "time")]
    pub time_ms: i64,
    /// The address the call came from.
    pub source_ip: IpAddr,
    /// The TLS session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<RecordedTls>,
    /// The HTTP method.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// The query, where policies read it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query: Option<String>,
    /// The values of the headers that policies read, by lower-case name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, Vec<String>>,
    /// The names of headers that policies read and that were sent, but whose values are
    /// credentials and so are not recorded.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub withheld: Vec<String>,
    /// The claims that policies may read.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub claims: BTreeMap<String, ClaimValue>,
    /// The gRPC method.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rpc: Option<RecordedRpc>,
    /// The signals that policies read, by their names below `context.signals`.
    #[serde(default, skip_serializing_if = "SignalValues::is_empty")]
    pub signals: SignalValues,
}

/// The headers of a call that policies read, as records keep them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecordedHeaders {
    /// As [`RecordedFacts::headers`].
    pub values: BTreeMap<String, Vec<String>>,
    /// As [`RecordedFacts::withheld`].
    pub withheld: Vec<String>,
}

impl RecordedHeaders {
    /// Copies the headers that the engine's policies read; no allocation where they read none.
    #[must_use]
    pub fn of(headers: &dyn Headers, engine: &Engine) -> Self {
        let mut recorded = Self::default();
        for name in engine.headers_read() {
            let mut values = Vec::new();
            headers.any(name, &mut |value| {
                values.push(value.to_owned());
                false
            });
            if values.is_empty() {
                continue;
            }
            if SECRET.contains(&name) {
                recorded.withheld.push(name.to_owned());
            } else {
                recorded.values.insert(name.to_owned(), values);
            }
        }
        recorded
    }
}

/// As [`Tls`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordedTls {
    /// As [`Tls::version`].
    pub version: String,
    /// As [`Tls::key_exchange`].
    pub key_exchange: String,
    /// As [`Tls::post_quantum`].
    pub post_quantum: bool,
}

/// As [`Rpc`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordedRpc {
    /// As [`Rpc::service`].
    pub service: String,
    /// As [`Rpc::method`].
    pub method: String,
}

/// As [`Claim`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ClaimValue {
    /// A boolean.
    Bool(bool),
    /// An integer.
    Long(i64),
    /// A string.
    Text(String),
    /// A list of strings.
    Texts(Vec<String>),
}

impl Claims for BTreeMap<String, ClaimValue> {
    fn claim(&self, name: &str) -> Option<Claim<'_>> {
        Some(match self.get(name)? {
            ClaimValue::Bool(value) => Claim::Bool(*value),
            ClaimValue::Long(value) => Claim::Long(*value),
            ClaimValue::Text(value) => Claim::Text(value),
            ClaimValue::Texts(values) => Claim::Texts(values),
        })
    }
}

impl RecordedFacts {
    /// Copies what the engine's policies can read of a call. Credentials are withheld.
    #[must_use]
    pub fn of(facts: &Facts<'_>, engine: &Engine) -> Self {
        let resource = &facts.resource;
        let context = &facts.context;
        let mut recorded = Self {
            principal: match facts.principal {
                Principal::Workload(id) => Some(id.clone()),
                Principal::Anonymous => None,
            },
            action: facts.action,
            service: resource.service.to_owned(),
            host: resource.host.to_owned(),
            path: resource.path.to_owned(),
            template: resource.template.map(str::to_owned),
            documented: resource.documented,
            port: resource.port,
            direction: context.direction,
            time_ms: context.time_ms().unwrap_or_default(),
            source_ip: context.source_ip,
            tls: context.tls.map(|tls| RecordedTls {
                version: tls.version.to_owned(),
                key_exchange: tls.key_exchange.to_owned(),
                post_quantum: tls.post_quantum,
            }),
            method: context.method.map(str::to_owned),
            query: context
                .query
                .filter(|_| engine.reads_query())
                .map(str::to_owned),
            headers: BTreeMap::new(),
            withheld: Vec::new(),
            claims: BTreeMap::new(),
            rpc: context.rpc.map(|rpc| RecordedRpc {
                service: rpc.service.to_owned(),
                method: rpc.method.to_owned(),
            }),
            signals: context.signals.only(engine.signals_read()),
        };
        recorded.copy_headers(facts, engine);
        recorded.copy_claims(facts, engine);
        recorded
    }

    fn copy_headers(&mut self, facts: &Facts<'_>, engine: &Engine) {
        let RecordedHeaders { values, withheld } =
            RecordedHeaders::of(facts.context.headers, engine);
        self.headers = values;
        self.withheld = withheld;
    }

    fn copy_claims(&mut self, facts: &Facts<'_>, engine: &Engine) {
        for name in engine.claims_declared() {
            let value = match facts.context.claims.claim(name) {
                Some(Claim::Text(value)) => ClaimValue::Text(value.to_owned()),
                Some(Claim::Long(value)) => ClaimValue::Long(value),
                Some(Claim::Bool(value)) => ClaimValue::Bool(value),
                Some(Claim::Texts(values)) => ClaimValue::Texts(values.to_vec()),
                None => continue,
            };
            self.claims.insert(name.to_owned(), value);
        }
    }

    /// Reads one line of a decision log: a record that has its facts under `facts`, or the
    /// facts alone.
    ///
    /// # Errors
    ///
    /// Says what of the line is not as it should be.
    pub fn from_record(line: &str) -> Result<Self, String> {
        let mut record: serde_json::Value =
            serde_json::from_str(line).map_err(|error| format!("not JSON: {error}"))?;
        let facts = match record.get_mut("facts") {
            Some(facts) => facts.take(),
            None => record,
        };
        serde_json::from_value(facts).map_err(|error| format!("not the facts of a call: {error}"))
    }

    /// The facts as an engine reads them.
    #[must_use]
    pub fn facts(&self) -> Facts<'_> {
        let elapsed = u64::try_from(self.time_ms).unwrap_or_default();
        Facts {
            principal: match &self.principal {
                Some(id) => Principal::Workload(id),
                None => Principal::Anonymous,
            },
            action: self.action,
            resource: Resource {
                service: &self.service,
                host: &self.host,
                path: &self.path,
                template: self.template.as_deref(),
                port: self.port,
                documented: self.documented,
            },
            context: Context {
                direction: self.direction,
                time: UNIX_EPOCH + Duration::from_millis(elapsed),
                source_ip: self.source_ip,
                tls: self.tls.as_ref().map(|tls| Tls {
                    version: &tls.version,
                    key_exchange: &tls.key_exchange,
                    post_quantum: tls.post_quantum,
                }),
                method: self.method.as_deref(),
                query: self.query.as_deref(),
                headers: &self.headers,
                claims: &self.claims,
                rpc: self.rpc.as_ref().map(|rpc| Rpc {
                    service: &rpc.service,
                    method: &rpc.method,
                }),
                signals: &self.signals,
            },
        }
    }
}

fn is_false(value: &bool) -> bool {
    !value
}

mod text_option {
    use super::*;

    pub(super) fn serialize<S: Serializer>(
        id: &Option<SpiffeId>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        id.as_ref().map(SpiffeId::as_str).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<SpiffeId>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        text.map(|text| {
            text.parse()
                .map_err(|error| D::Error::custom(format!("`{text}` is not a SPIFFE ID: {error}")))
        })
        .transpose()
    }
}

mod action {
    use super::*;

    pub(super) fn serialize<S: Serializer>(action: &Action, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(action.as_str())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Action, D::Error> {
        let name = String::deserialize(from)?;
        Action::from_name(&name)
            .ok_or_else(|| D::Error::custom(format!("there is no action `{name}`")))
    }
}

mod direction {
    use super::*;

    pub(super) fn serialize<S: Serializer>(value: &Direction, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(value.as_str())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Direction, D::Error> {
        match String::deserialize(from)?.as_str() {
            "inbound" => Ok(Direction::Inbound),
            "outbound" => Ok(Direction::Outbound),
            other => Err(D::Error::custom(format!(
                "`{other}` is not a direction; use `inbound` or `outbound`"
            ))),
        }
    }
}

mod time {
    use super::*;

    pub(super) fn serialize<S: Serializer>(ms: &i64, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&calendar::format(*ms))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<i64, D::Error> {
        let text = String::deserialize(from)?;
        calendar::parse(&text).filter(|ms| *ms >= 0).ok_or_else(|| {
            D::Error::custom(format!(
                "`{text}` is not a time like 2026-11-22T18:00:00.000Z"
            ))
        })
    }
}
