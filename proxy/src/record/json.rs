//! The JSON form of a record, written straight into a buffer: a record is written for every call,
//! and a third of a generic serialiser's time would go into escaping names that never change.
//!
//! What a peer had a hand in is escaped by serde_json; nothing is written that it could break
//! out of.

use std::fmt::Display;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::Method;
use serde::Serialize;
use time::OffsetDateTime;
use wayleave_authz::{Alert, Decision, Effect, Revision};
use wayleave_certs::TlsInfo;

use super::{DecisionRecord, Failure};
use crate::protocol::Call;
use crate::review::Trigger;

/// Writes records, one after the other.
#[derive(Debug, Default)]
pub(super) struct Writer {
    second: Second,
    source: Last<SocketAddr>,
    revision: Last<Revision>,
}

/// A value as it was written last: most records have the same as the one before.
#[derive(Debug)]
struct Last<T> {
    value: Option<T>,
    text: String,
}

impl<T> Default for Last<T> {
    fn default() -> Self {
        Self {
            value: None,
            text: String::new(),
        }
    }
}

impl<T: PartialEq + Display> Last<T> {
    /// The text of a value.
    fn text(&mut self, value: T) -> &str {
        if self.value.as_ref() != Some(&value) {
            self.text = value.to_string();
            self.value = Some(value);
        }
        &self.text
    }
}

/// A member's name as it stands behind another member: a constant, so that it is copied as one.
macro_rules! key {
    ($name:literal) => {
        concat!(",\"", $name, "\":")
    };
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
        object.text(key!("listener"), Some(&record.listener));
        object.text(key!("principal"), record.caller.id());
        object.plain(key!("source"), Some(self.source.text(record.source)));
        object.plain(key!("direction"), Some(record.direction.as_str()));
        object.plain(key!("action"), record.action);
        object.resource(record, call);
        let method = call.and_then(Call::method).map(Method::as_str);
        object.text(key!("method"), method);
        let query = call.and_then(Call::query).filter(|_| record.with_query);
        if query.is_some() {
            object.text(key!("query"), query);
        }
        let (headers, withheld) = (&record.headers.values, &record.headers.withheld);
        object.values_unless(key!("headers"), headers, headers.is_empty());
        object.values_unless(key!("withheld"), withheld, withheld.is_empty());
        if let Some(signals) = &record.signals {
            object.values_unless(key!("signals"), signals, false);
        }
        object.plain(key!("protocol"), call.map(Call::protocol));
        let revision = decision.map(|decision| self.revision.text(decision.revision()));
        object.decided(record, decision, revision);
        object.number(key!("status"), record.status.map(u64::from));
        object.plain(key!("failure"), record.failure.map(Failure::as_str));
        if record.ended_by.is_some() {
            object.plain(key!("ended_by"), record.ended_by.map(Trigger::as_str));
        }
        if let Some(carried) = record.carried {
            object.number(key!("bytes_in"), Some(carried.bytes_in));
            object.number(key!("bytes_out"), Some(carried.bytes_out));
        }
        if record.attempts > 1 {
            object.number(key!("attempts"), Some(record.attempts.into()));
        }
        object.number(key!("decision_ns"), Some(nanos(record.decision_time)));
        object.number(key!("duration_us"), Some(micros(record.call_time)));
        object.tls(record.caller.tls());
        object.text(key!("trace_id"), call.and_then(Call::trace_id));
        to.push(b'}');
    }
}

/// An object with at least one member already.
struct Object<'a> {
    to: &'a mut Vec<u8>,
}

impl Object<'_> {
    #[inline]
    fn raw(&mut self, text: &str) {
        self.to.extend_from_slice(text.as_bytes());
    }

    /// A member whose value may hold anything.
    #[inline]
    fn text(&mut self, key: &'static str, value: Option<&str>) {
        self.raw(key);
        text(value, self.to);
    }

    /// A member with a value of our own making, which needs no escaping.
    #[inline]
    fn plain(&mut self, key: &'static str, value: Option<&str>) {
        self.raw(key);
        match value {
            None => self.raw("null"),
            Some(value) => quoted(value, self.to),
        }
    }

    #[inline]
    fn number(&mut self, key: &'static str, value: Option<u64>) {
        self.raw(key);
        serialised(&value, self.to);
    }

    fn values_unless(&mut self, key: &'static str, value: &impl Serialize, absent: bool) {
        if !absent {
            self.raw(key);
            serialised(value, self.to);
        }
    }

    fn ids<'i>(&mut self, key: &'static str, ids: Option<impl Iterator<Item = &'i Arc<str>>>) {
        self.raw(key);
        let Some(ids) = ids else {
            return self.raw("null");
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

    fn resource(&mut self, record: &DecisionRecord, call: Option<&Call>) {
        self.raw(",\"resource\":{\"endpoint\":\"*\"");
        self.text(key!("service"), record.service.as_deref());
        self.text(key!("host"), call.map(Call::host));
        self.text(key!("path"), call.map(Call::path));
        self.number(key!("port"), record.port.map(u64::from));
        if record.refused_target.is_some() {
            let target = record.refused_target.as_deref();
            self.text(key!("refused_target"), target);
        }
        self.to.push(b'}');
    }

    fn decided(
        &mut self,
        record: &DecisionRecord,
        decision: Option<&Decision>,
        revision: Option<&str>,
    ) {
        self.plain(key!("effect"), Some(record.effect.as_str()));
        self.plain(key!("reason_code"), Some(record.reason_code));
        self.ids(key!("policies"), decision.map(Decision::policies));
        self.plain(key!("policy_revision"), revision);
        self.ids(key!("policy_errors"), decision.map(Decision::errors));
        let would_have = decision.and_then(Decision::would_have);
        self.plain(key!("would_have"), would_have.map(Effect::as_str));
        let audited = decision.map(Decision::audit_policies);
        self.ids(key!("audit_policies"), audited);
        let alert = decision.and_then(Decision::alert);
        if alert.is_some() {
            self.plain(key!("alert"), alert.map(Alert::as_str));
        }
    }

    fn tls(&mut self, tls: Option<&TlsInfo>) {
        let Some(tls) = tls else {
            return self.raw(",\"tls\":null");
        };
        self.raw(",\"tls\":{\"version\":");
        quoted(tls.version, self.to);
        self.plain(key!("key_exchange"), Some(tls.key_exchange));
        self.raw(key!("post_quantum"));
        serialised(&tls.post_quantum, self.to);
        self.to.push(b'}');
    }
}

/// A string that may hold anything.
fn text(value: Option<&str>, to: &mut Vec<u8>) {
    match value {
        None => to.extend_from_slice(b"null"),
        Some(value) if is_harmless(value) => quoted(value, to),
        Some(value) => serialised(value, to),
    }
}

/// Whether a string needs no escaping. Every byte is looked at, whatever was found before: so many
/// are looked at together.
fn is_harmless(value: &str) -> bool {
    let harmless = |byte: u8| matches!(byte, b' '..=b'~') & (byte != b'"') & (byte != b'\\');
    value.bytes().fold(true, |all, byte| all & harmless(byte))
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
        let mut fraction = *b".000000Z";
        let mut left = since.subsec_micros();
        for digit in fraction.iter_mut().rev().skip(1).take(6) {
            *digit = b'0' + u8::try_from(left % 10).unwrap_or_default();
            left /= 10;
        }
        to.extend_from_slice(&fraction);
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
        let odd = epoch + Duration::from_nanos(1_023_456_789);
        assert_eq!(written(odd), "1970-01-01T00:00:01.023456Z");
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
    fn the_value_that_is_kept_is_the_right_one() {
        let mut last = Last::default();
        let texts: Vec<_> = [7, 7, 8, 7]
            .map(|value: u32| last.text(value).to_owned())
            .into();
        assert_eq!(texts, ["7", "7", "8", "7"]);
    }

    #[test]
    fn a_long_string_with_one_bad_byte_is_escaped() {
        for place in 0..100 {
            let mut hostile = "a".repeat(100);
            hostile.replace_range(place..=place, "\"");
            assert!(!is_harmless(&hostile), "{place}");
        }
        assert!(is_harmless(&"a".repeat(100)));
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
