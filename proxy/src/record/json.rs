//! The JSON form of a record, written straight into a buffer: a record is written for every call,
//! and a third of a generic serialiser's time would go into escaping names that never change.
//!
//! What a peer had a hand in is escaped by serde_json; nothing is written that it could break
//! out of.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::Method;
use serde::Serialize;
use time::OffsetDateTime;
use wayleave_authz::{Alert, Decision, Effect};
use wayleave_certs::TlsInfo;

use super::{DecisionRecord, Failure};
use crate::protocol::Call;
use crate::review::Trigger;

/// Writes records, one after the other.
#[derive(Debug, Default)]
pub(super) struct Writer {
    second: Second,
}

impl Writer {
    /// Appends one record, without a newline.
    pub(super) fn write(&mut self, record: &DecisionRecord, to: &mut Vec<u8>) {
        let (call, decision) = (record.call.as_ref(), record.decision.as_ref());
        to.extend_from_slice(b"{\"kind\":\"decision\",\"time\":\"");
        self.second.write(record.time, to);
        to.extend_from_slice(b"\",\"decision_id\":\"");
        let mut id = [0; uuid::fmt::Hyphenated::LENGTH];
        to.extend_from_slice(record.id.hyphenated().encode_lower(&mut id).as_bytes());
        to.push(b'"');
        let mut object = Object { to };
        object.text("listener", Some(&record.listener));
        object.text("principal", record.caller.id());
        object.source(record.source);
        object.plain("direction", Some(record.direction.as_str()));
        object.plain("action", record.action);
        object.resource(record, call);
        object.text("method", call.and_then(Call::method).map(Method::as_str));
        let query = call.and_then(Call::query).filter(|_| record.with_query);
        if query.is_some() {
            object.text("query", query);
        }
        object.values_unless(
            "headers",
            &record.headers.values,
            record.headers.values.is_empty(),
        );
        let withheld = &record.headers.withheld;
        object.values_unless("withheld", withheld, withheld.is_empty());
        if let Some(signals) = &record.signals {
            object.key("signals");
            serialised(signals, object.to);
        }
        object.plain("protocol", call.map(Call::protocol));
        object.decided(record, decision);
        object.number("status", record.status.map(u64::from));
        object.plain("failure", record.failure.map(Failure::as_str));
        if record.ended_by.is_some() {
            object.plain("ended_by", record.ended_by.map(Trigger::as_str));
        }
        if let Some(carried) = record.carried {
            object.number("bytes_in", Some(carried.bytes_in));
            object.number("bytes_out", Some(carried.bytes_out));
        }
        if record.attempts > 1 {
            object.number("attempts", Some(record.attempts.into()));
        }
        object.number("decision_ns", Some(nanos(record.decision_time)));
        object.number("duration_us", Some(micros(record.call_time)));
        object.tls(record.caller.tls());
        object.text("trace_id", call.and_then(Call::trace_id));
        to.push(b'}');
    }
}

/// An object with at least one member already.
struct Object<'a> {
    to: &'a mut Vec<u8>,
}

impl Object<'_> {
    fn key(&mut self, key: &str) {
        self.to.extend_from_slice(b",\"");
        self.to.extend_from_slice(key.as_bytes());
        self.to.extend_from_slice(b"\":");
    }

    /// A member whose value may hold anything.
    fn text(&mut self, key: &str, value: Option<&str>) {
        self.key(key);
        text(value, self.to);
    }

    /// A member with a name of our own, which needs no escaping.
    fn plain(&mut self, key: &str, value: Option<&'static str>) {
        self.key(key);
        match value {
            None => self.to.extend_from_slice(b"null"),
            Some(value) => quoted(value, self.to),
        }
    }

    fn number(&mut self, key: &str, value: Option<u64>) {
        self.key(key);
        serialised(&value, self.to);
    }

    fn values_unless(&mut self, key: &str, value: &impl Serialize, absent: bool) {
        if !absent {
            self.key(key);
            serialised(value, self.to);
        }
    }

    fn ids<'i>(&mut self, key: &str, ids: Option<impl Iterator<Item = &'i Arc<str>>>) {
        self.key(key);
        let Some(ids) = ids else {
            return self.to.extend_from_slice(b"null");
        };
        self.to.push(b'[');
        for (place, id) in ids.enumerate() {
            if place > 0 {
                self.to.push(b',');
            }
            text(Some(id), self.to);
        }
        self.to.push(b']');
    }

    fn source(&mut self, source: SocketAddr) {
        self.key("source");
        // Writing to a vector cannot fail.
        let _ = write!(self.to, "\"{source}\"");
    }

    fn resource(&mut self, record: &DecisionRecord, call: Option<&Call>) {
        self.key("resource");
        self.to.extend_from_slice(b"{\"endpoint\":\"*\"");
        self.text("service", record.service.as_deref());
        self.text("host", call.map(Call::host));
        self.text("path", call.map(Call::path));
        self.number("port", record.port.map(u64::from));
        if record.refused_target.is_some() {
            self.text("refused_target", record.refused_target.as_deref());
        }
        self.to.push(b'}');
    }

    fn decided(&mut self, record: &DecisionRecord, decision: Option<&Decision>) {
        self.plain("effect", Some(record.effect.as_str()));
        self.plain("reason_code", Some(record.reason_code));
        self.ids("policies", decision.map(Decision::policies));
        self.key("policy_revision");
        let _ = match decision {
            None => self.to.write_all(b"null"),
            Some(decision) => write!(self.to, "\"{}\"", decision.revision()),
        };
        self.ids("policy_errors", decision.map(Decision::errors));
        let would_have = decision.and_then(Decision::would_have);
        self.plain("would_have", would_have.map(Effect::as_str));
        self.ids("audit_policies", decision.map(Decision::audit_policies));
        let alert = decision.and_then(Decision::alert);
        if alert.is_some() {
            self.plain("alert", alert.map(Alert::as_str));
        }
    }

    fn tls(&mut self, tls: Option<&TlsInfo>) {
        self.key("tls");
        let Some(tls) = tls else {
            return self.to.extend_from_slice(b"null");
        };
        self.to.extend_from_slice(b"{\"version\":");
        quoted(tls.version, self.to);
        self.plain("key_exchange", Some(tls.key_exchange));
        self.key("post_quantum");
        serialised(&tls.post_quantum, self.to);
        self.to.push(b'}');
    }
}

/// A string that may hold anything.
fn text(value: Option<&str>, to: &mut Vec<u8>) {
    let harmless = |byte: &u8| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\');
    match value {
        None => to.extend_from_slice(b"null"),
        Some(value) if value.as_bytes().iter().all(harmless) => quoted(value, to),
        Some(value) => serialised(value, to),
    }
}

fn quoted(value: &str, to: &mut Vec<u8>) {
    to.push(b'"');
    to.extend_from_slice(value.as_bytes());
    to.push(b'"');
}

fn serialised<T: Serialize + ?Sized>(value: &T, to: &mut Vec<u8>) {
    let began = to.len();
    if serde_json::to_writer(&mut *to, value).is_err() {
        to.truncate(began);
        to.extend_from_slice(b"null");
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// The last second that a time was written in: most records begin in the same one.
#[derive(Debug, Default)]
struct Second {
    since_epoch: Option<u64>,
    text: String,
}

impl Second {
    /// RFC 3339 in UTC, always with six digits of fraction. Times before 1970 are told as 1970.
    fn write(&mut self, time: SystemTime, to: &mut Vec<u8>) {
        let since = time
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        if self.since_epoch != Some(since.as_secs()) {
            self.since_epoch = Some(since.as_secs());
            let time = OffsetDateTime::from(SystemTime::UNIX_EPOCH + since);
            let (hour, minute, second) = time.time().as_hms();
            let (year, month, day) = (time.year(), u8::from(time.month()), time.day());
            self.text = format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}");
        }
        to.extend_from_slice(self.text.as_bytes());
        let _ = write!(to, ".{:06}Z", since.subsec_micros());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(time: SystemTime) -> String {
        let mut text = Vec::new();
        Second::default().write(time, &mut text);
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn times_have_one_form() {
        let time = SystemTime::UNIX_EPOCH + Duration::from_micros(1_700_000_000_100_000);
        assert_eq!(written(time), "2023-11-14T22:13:20.100000Z");
        let epoch = SystemTime::UNIX_EPOCH;
        assert_eq!(written(epoch), "1970-01-01T00:00:00.000000Z");
    }

    #[test]
    fn the_second_that_is_kept_is_the_right_one() {
        let (mut second, mut text) = (Second::default(), Vec::new());
        for millis in [999, 1_000, 1_500, 0] {
            let time = SystemTime::UNIX_EPOCH + Duration::from_millis(millis);
            second.write(time, &mut text);
        }
        let text = String::from_utf8(text).unwrap();
        let seconds: Vec<_> = text.split('Z').map(|time| time.get(17..)).collect();
        let expected = ["00.999000", "01.000000", "01.500000", "00.000000"].map(Some);
        assert_eq!(seconds[..4], expected);
    }

    #[test]
    fn nothing_breaks_out_of_a_string() {
        for hostile in ["a\"b", "a\\b", "a\nb", "\u{1b}[2J", "é", "\0", ""] {
            let mut written = Vec::new();
            text(Some(hostile), &mut written);
            let read: String = serde_json::from_slice(&written).unwrap();
            assert_eq!(read, hostile);
            assert!(!written.contains(&b'\n'));
        }
    }
}
