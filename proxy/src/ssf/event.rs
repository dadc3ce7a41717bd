//! The events that a transmitter may tell of: those of CAEP 1.0, and the two by which the
//! Shared Signals Framework speaks about its streams. Anything else is taken and has no effect.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use wayleave_authz::signals::RiskLevel;

use super::refusal::Refusal;
use super::set::millis;
use crate::standing::canonical_serial;

const CAEP: &str = "https://schemas.openid.net/secevent/caep/event-type/";
const SSF: &str = "https://schemas.openid.net/secevent/ssf/event-type/";
/// Longest reason that is kept, in characters.
const REASON: usize = 256;

/// The kind of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum EventType {
    SessionRevoked,
    CredentialChange,
    RiskLevelChange,
    AssuranceLevelChange,
    DeviceComplianceChange,
    Verification,
    StreamUpdated,
    /// Not known here.
    Other,
}

/// What an event says, as far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Event {
    SessionRevoked,
    /// An X.509 credential was revoked or deleted.
    CertificateRevoked {
        /// In lower-case hexadecimal without leading zeros.
        serial: Option<Box<str>>,
    },
    Risk(RiskLevel),
    Compliance {
        compliant: bool,
    },
    Stream(StreamStatus),
    /// Nothing that changes what a principal may do.
    Told,
}

/// What a transmitter says of its stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StreamStatus {
    Enabled,
    Paused,
    Disabled,
}

impl EventType {
    pub(super) fn of(uri: &str) -> Self {
        let name = uri.strip_prefix(CAEP).or_else(|| {
            let own = uri.strip_prefix(SSF)?;
            matches!(own, "verification" | "stream-updated").then_some(own)
        });
        match name {
            Some("session-revoked") => Self::SessionRevoked,
            Some("credential-change") => Self::CredentialChange,
            Some("risk-level-change") => Self::RiskLevelChange,
            Some("assurance-level-change") => Self::AssuranceLevelChange,
            Some("device-compliance-change") => Self::DeviceComplianceChange,
            Some("verification") if uri.starts_with(SSF) => Self::Verification,
            Some("stream-updated") if uri.starts_with(SSF) => Self::StreamUpdated,
            _ => Self::Other,
        }
    }

    /// Its name in logs and metrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::SessionRevoked => "session_revoked",
            Self::CredentialChange => "credential_change",
            Self::RiskLevelChange => "risk_level_change",
            Self::AssuranceLevelChange => "assurance_level_change",
            Self::DeviceComplianceChange => "device_compliance_change",
            Self::Verification => "verification",
            Self::StreamUpdated => "stream_updated",
            Self::Other => "other",
        }
    }
}

impl StreamStatus {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Enabled => "enabled",
            Self::Paused => "paused",
            Self::Disabled => "disabled",
        }
    }
}

impl Event {
    /// Reads what an event says.
    ///
    /// # Errors
    /// When a member that its effect hangs on is missing or not what the specification has.
    pub(super) fn read(kind: EventType, event: &Map<String, Value>) -> Result<Self, Refusal> {
        Ok(match kind {
            EventType::SessionRevoked => Self::SessionRevoked,
            EventType::CredentialChange => return credential(event),
            EventType::RiskLevelChange => Self::Risk(match text(event, "current_level")? {
                "LOW" => RiskLevel::Low,
                "MEDIUM" => RiskLevel::Medium,
                "HIGH" => RiskLevel::High,
                _ => return Err(Refusal::Event("current_level")),
            }),
            EventType::DeviceComplianceChange => Self::Compliance {
                compliant: match text(event, "current_status")? {
                    "compliant" => true,
                    "not-compliant" => false,
                    _ => return Err(Refusal::Event("current_status")),
                },
            },
            EventType::StreamUpdated => Self::Stream(match text(event, "status")? {
                "enabled" => StreamStatus::Enabled,
                "paused" => StreamStatus::Paused,
                "disabled" => StreamStatus::Disabled,
                _ => return Err(Refusal::Event("status")),
            }),
            EventType::AssuranceLevelChange => {
                text(event, "current_level")?;
                Self::Told
            }
            EventType::Verification | EventType::Other => Self::Told,
        })
    }
}

/// When an event happened, in milliseconds: as it says, and never later than it was told.
pub(super) fn happened(event: &Map<String, Value>, issued: u64) -> Result<u64, Refusal> {
    match event.get("event_timestamp") {
        None => Ok(issued),
        // SECURITY: a time far ahead would make all that comes later look old.
        Some(value) => millis(value)
            .map(|at| at.min(issued))
            .ok_or(Refusal::Event("event_timestamp")),
    }
}

/// The reason for administrators: a text, or the English or first one of several languages.
pub(super) fn reason_admin(event: &Map<String, Value>) -> Option<String> {
    let reason = match event.get("reason_admin")? {
        Value::String(text) => text,
        Value::Object(texts) => {
            let one = texts.get("en").or_else(|| texts.values().next());
            one?.as_str()?
        }
        _ => return None,
    };
    Some(reason.chars().take(REASON).collect())
}

fn credential(event: &Map<String, Value>) -> Result<Event, Refusal> {
    let change = text(event, "change_type")?;
    if !matches!(change, "create" | "update" | "revoke" | "delete") {
        return Err(Refusal::Event("change_type"));
    }
    // Other credentials are of no use with a workload that shows an X509-SVID.
    if text(event, "credential_type")? != "x509" || matches!(change, "create" | "update") {
        return Ok(Event::Told);
    }
    let serial = match event.get("x509_serial") {
        None => None,
        Some(value) => {
            let serial = value
                .as_str()
                .map(|text| text.strip_prefix("0x").unwrap_or(text));
            let serial = serial.and_then(|text| canonical_serial(text).ok());
            Some(serial.ok_or(Refusal::Event("x509_serial"))?)
        }
    };
    Ok(Event::CertificateRevoked { serial })
}

fn text<'a>(event: &'a Map<String, Value>, name: &'static str) -> Result<&'a str, Refusal> {
    let value = event.get(name).and_then(Value::as_str);
    value.ok_or(Refusal::Event(name))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(kind: EventType, event: Value) -> Result<Event, Refusal> {
        Event::read(kind, event.as_object().unwrap())
    }

    #[test]
    fn knows_the_events_by_their_whole_names() {
        let caep = |name: &str| EventType::of(&format!("{CAEP}{name}"));
        assert_eq!(caep("session-revoked"), EventType::SessionRevoked);
        assert_eq!(caep("risk-level-change"), EventType::RiskLevelChange);
        assert_eq!(caep("verification"), EventType::Other);
        assert_eq!(
            EventType::of(&format!("{SSF}verification")),
            EventType::Verification
        );
        assert_eq!(
            EventType::of(&format!("{SSF}session-revoked")),
            EventType::Other
        );
        assert_eq!(EventType::of("session-revoked"), EventType::Other);
    }

    #[test]
    fn only_a_certificate_that_is_gone_matters() {
        let change = |kind: &str, change: &str, serial: &str| {
            let event =
                json!({"credential_type": kind, "change_type": change, "x509_serial": serial});
            read(EventType::CredentialChange, event)
        };
        for gone in ["revoke", "delete"] {
            let expected = Event::CertificateRevoked {
                serial: Some("ab12".into()),
            };
            assert_eq!(change("x509", gone, "00:AB:12"), Ok(expected));
        }
        assert_eq!(change("x509", "update", "ab"), Ok(Event::Told));
        assert_eq!(change("password", "revoke", "ab"), Ok(Event::Told));
        let wrong = Err(Refusal::Event("x509_serial"));
        for serial in ["", "00", "0xZZ", "-1", &"a".repeat(41)] {
            assert_eq!(change("x509", "revoke", serial), wrong);
        }
        let wrong = Err(Refusal::Event("change_type"));
        assert_eq!(change("x509", "renew", "ab"), wrong);
    }

    #[test]
    fn refuses_levels_and_states_that_are_not_in_the_specification() {
        let risk = |level: Value| read(EventType::RiskLevelChange, json!({"current_level": level}));
        assert_eq!(risk(json!("HIGH")), Ok(Event::Risk(RiskLevel::High)));
        for level in [json!("high"), json!("CRITICAL"), json!(3), Value::Null] {
            assert_eq!(risk(level), Err(Refusal::Event("current_level")));
        }
        let stream = read(EventType::StreamUpdated, json!({"status": "gone"}));
        assert_eq!(stream, Err(Refusal::Event("status")));
        let device = read(EventType::DeviceComplianceChange, json!({}));
        assert_eq!(device, Err(Refusal::Event("current_status")));
    }

    #[test]
    fn an_event_does_not_happen_after_it_was_told() {
        let at = |value: Value| {
            happened(
                json!({"event_timestamp": value}).as_object().unwrap(),
                5_000,
            )
        };
        assert_eq!(at(json!(3)), Ok(3_000));
        assert_eq!(at(json!(3.25)), Ok(3_250));
        assert_eq!(at(json!(1_700_000_000_000_u64)), Ok(5_000));
        assert_eq!(at(json!("3")), Err(Refusal::Event("event_timestamp")));
        assert_eq!(at(json!(-3)), Err(Refusal::Event("event_timestamp")));
        assert_eq!(happened(&Map::new(), 5_000), Ok(5_000));
    }

    #[test]
    fn a_reason_is_short_and_in_english_where_it_can_be() {
        let reason =
            |value: Value| reason_admin(json!({"reason_admin": value}).as_object().unwrap());
        let both = reason(json!({"de": "Richtlinie", "en": "policy"}));
        assert_eq!(both.as_deref(), Some("policy"));
        assert_eq!(reason(json!("x".repeat(1_000))).unwrap().len(), REASON);
        assert_eq!(reason(json!(7)), None);
    }
}
