//! From a decision record back to the facts it was decided by, so that the call can be
//! decided again: by the same policies or by others.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::Deserialize;
use serde_json::json;
use wayleave_authz::RecordedFacts;

/// What of a record is read. Records grow fields, so unknown ones are passed over.
#[derive(Debug, Deserialize)]
struct Line {
    kind: String,
    time: String,
    decision_id: String,
    principal: Option<String>,
    source: SocketAddr,
    direction: Option<String>,
    action: Option<String>,
    resource: Resource,
    method: Option<String>,
    query: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, Vec<String>>,
    #[serde(default)]
    withheld: Vec<String>,
    signals: Option<serde_json::Value>,
    effect: String,
    reason_code: String,
    policies: Option<Vec<String>>,
    tls: Option<serde_json::Value>,
}

#[derive(Debug, Deserialize)]
struct Resource {
    service: Option<String>,
    host: Option<String>,
    path: Option<String>,
    port: Option<u16>,
}

/// A recorded call, ready to be decided again.
#[derive(Debug)]
pub(crate) struct Recorded {
    pub(crate) decision_id: String,
    /// `allow` or `deny`, as it was decided then.
    pub(crate) effect: String,
    pub(crate) reason_code: String,
    pub(crate) policies: Vec<String>,
    pub(crate) facts: RecordedFacts,
}

/// Why a line is not a call that can be decided again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReplayError {
    #[error("this is not a decision record: {0}")]
    NotARecord(#[from] serde_json::Error),
    #[error("this line is of kind `{0}`; only `decision` can be decided again")]
    OtherKind(String),
    #[error("the call was refused before any policy was asked ({0}); there is nothing to decide")]
    NotDecided(String),
}

impl Recorded {
    /// What the policies said then, also where a listener in audit mode let it pass.
    pub(crate) fn decided_by_policy(&self) -> &str {
        match self.reason_code.as_str() {
            "audit_allow" => "deny",
            _ => &self.effect,
        }
    }

    /// Reads one line.
    pub(crate) fn read(line: &str) -> Result<Self, ReplayError> {
        let line: Line = serde_json::from_str(line)?;
        if line.kind != "decision" {
            return Err(ReplayError::OtherKind(line.kind));
        }
        let (Some(action), Some(service), Some(host), Some(port)) = (
            &line.action,
            &line.resource.service,
            &line.resource.host,
            line.resource.port,
        ) else {
            return Err(ReplayError::NotDecided(line.reason_code));
        };
        if matches!(line.reason_code.as_str(), "quarantined" | "revoked") {
            return Err(ReplayError::NotDecided(line.reason_code));
        }
        let path = line.resource.path.as_deref().unwrap_or_default();
        let signals = line.signals.unwrap_or_else(|| json!({}));
        let facts = json!({
            "principal": line.principal,
            "action": action,
            "service": service,
            "host": host,
            "path": path,
            "port": port,
            "direction": line.direction.as_deref().unwrap_or("inbound"),
            "time": line.time,
            "source_ip": line.source.ip().to_canonical(),
            "tls": line.tls,
            "method": line.method,
            "query": line.query,
            "headers": line.headers,
            "withheld": line.withheld,
            "signals": signals,
            "rpc": (action == "grpc:call").then(|| rpc(path)),
        });
        Ok(Self {
            decision_id: line.decision_id,
            effect: line.effect,
            reason_code: line.reason_code,
            policies: line.policies.unwrap_or_default(),
            facts: serde_json::from_value(facts)?,
        })
    }
}

fn rpc(path: &str) -> serde_json::Value {
    match path.trim_start_matches('/').split_once('/') {
        Some((service, method)) => json!({ "service": service, "method": method }),
        None => serde_json::Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORD: &str = r#"{"kind":"decision","time":"2026-11-22T18:21:09.544504Z",
        "decision_id":"01a2047d-9828-711f-9ed0-e794c0717d20","listener":"inbound",
        "principal":"spiffe://dev.wayleave/ns/default/sa/frontend","source":"127.0.0.1:39638",
        "direction":"inbound","action":"http:get",
        "resource":{"service":"app","endpoint":"*","host":"localhost","path":"/a","port":8443},
        "method":"GET","query":"b=c","headers":{"accept":["*/*"]},"protocol":"2","effect":"allow",
        "reason_code":"policy_allow","policies":["frontend-reads"],"status":200,
        "tls":{"version":"1.3","key_exchange":"X25519","post_quantum":false}}"#;

    #[test]
    fn a_record_becomes_the_facts_it_was_decided_by() {
        let recorded = Recorded::read(RECORD).unwrap();
        let facts = recorded.facts.facts();
        assert_eq!(facts.resource.path, "/a");
        assert_eq!(facts.context.query, Some("b=c"));
        assert_eq!(recorded.policies, ["frontend-reads"]);
        assert!(
            facts
                .context
                .headers
                .any("accept", &mut |value| value == "*/*")
        );
    }

    #[test]
    fn says_why_a_line_cannot_be_decided_again() {
        let refused = RECORD.replace(r#""action":"http:get""#, r#""action":null"#);
        assert!(matches!(
            Recorded::read(&refused),
            Err(ReplayError::NotDecided(_))
        ));
        let other = RECORD.replace(r#""kind":"decision""#, r#""kind":"other""#);
        assert!(matches!(
            Recorded::read(&other),
            Err(ReplayError::OtherKind(_))
        ));
        assert!(matches!(
            Recorded::read("{"),
            Err(ReplayError::NotARecord(_))
        ));
    }
}
