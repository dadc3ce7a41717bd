//! A change as it is kept in the store: under which field, and by which numbers it is merged.
//!
//! SECURITY: what comes from the store is checked as an operator's order is. Whoever writes there
//! is trusted to quarantine and to lift, and with nothing else.

use std::time::Duration;

use wayleave_authz::signals::{Change, Quarantine, Revoked, RiskLevel, Scope};

use crate::standing::order::{LONGEST, OrderError, canonical_serial, principal_of};

/// The largest change that is read, in bytes.
const LARGEST: usize = 16 << 10;
/// How far ahead of ours another sidecar's clock may be.
const AHEAD: u64 = 24 * 3_600_000;
/// The longest quarantine, in milliseconds.
const LONGEST_MS: u64 = LONGEST.as_secs() * 1_000;
/// How long an entry that has no effect any more is kept: as long as a lift is remembered.
const KEPT: u64 = LONGEST_MS + Duration::from_secs(24 * 3_600).as_millis() as u64;
const STATUSES: std::ops::RangeInclusive<u16> = 400..=599;
/// The longest name of a service, and the longest text for people, in bytes.
const NAME: usize = 255;
const TEXT: usize = 1_024;

/// One change, with its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// One for each subject and kind of statement: a lift has another than what it lifts.
    pub(super) field: String,
    pub(super) numbers: Numbers,
    pub(super) change: Change,
}

/// What entries of one field are compared by; each number for itself, the higher one stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Numbers {
    /// When it was said, in milliseconds since the epoch; of a rating, four times that and the
    /// level.
    pub(super) rank: u64,
    /// When a quarantine ends; nought of what does not end.
    pub(super) ends: u64,
}

impl Numbers {
    /// Whether something with these numbers is no news where `known` is known.
    pub(super) fn are_in(self, known: Self) -> bool {
        self.rank <= known.rank && self.ends <= known.ends
    }
}

/// Why something in the store is no change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unfit {
    #[error("it is longer than {LARGEST} bytes")]
    Large,
    #[error("it is not written as an entry is")]
    Form,
    #[error("it is no change that this version knows: {0}")]
    Json(String),
    #[error(transparent)]
    Subject(#[from] OrderError),
    #[error("it is in another entry's place")]
    Place,
    #[error("it was said more than a day from now; compare the clocks")]
    Future,
    #[error("it is a quarantine of more than 720 h")]
    Long,
    #[error("its status or its service is none")]
    Value,
}

impl Entry {
    pub(super) fn of(change: Change) -> Self {
        let at_ms = change.origin().at_ms;
        let number = |rank| Numbers { rank, ends: 0 };
        let (field, numbers) = match &change {
            Change::Quarantined(quarantine) => (
                of_quarantine(quarantine),
                Numbers {
                    rank: at_ms,
                    ends: quarantine.until_ms,
                },
            ),
            Change::Released { principal, .. } => (format!("released {principal}"), number(at_ms)),
            Change::Revoked(revocation) => {
                (of_subject("revoked", &revocation.subject), number(at_ms))
            }
            Change::Reinstated { subject, .. } => {
                (of_subject("reinstated", subject), number(at_ms))
            }
            Change::Rated(risk) => {
                let rank = at_ms.saturating_mul(4).saturating_add(level(risk.level));
                (format!("risk {}", risk.principal), number(rank))
            }
        };
        Self {
            field,
            numbers,
            change,
        }
    }

    /// Reads what is published.
    ///
    /// # Errors
    /// When it is no change that somebody could have said by now.
    pub(super) fn heard(json: &[u8], now_ms: u64) -> Result<Self, Unfit> {
        if json.len() > LARGEST {
            return Err(Unfit::Large);
        }
        let change: Change = serde_json::from_slice(json).map_err(|error| {
            // Without the text around it, which is somebody else's.
            Unfit::Json(format!("line {}, column {}", error.line(), error.column()))
        })?;
        Ok(Self::of(checked(change, now_ms)?))
    }

    /// Reads what is kept under a field.
    ///
    /// # Errors
    /// When it is no change that somebody could have said by now, or belongs elsewhere.
    pub(super) fn kept(field: &[u8], value: &[u8], now_ms: u64) -> Result<Self, Unfit> {
        let mut parts = value.splitn(3, |byte| *byte == b' ');
        let mut number = || {
            let digits = std::str::from_utf8(parts.next()?).ok()?;
            digits.parse().ok()
        };
        let numbers = number().zip(number());
        let numbers = numbers.map(|(rank, ends)| Numbers { rank, ends });
        let (numbers, json) = numbers.zip(parts.next()).ok_or(Unfit::Form)?;
        let mut entry = Self::heard(json, now_ms)?;
        if let Change::Quarantined(mut quarantine) = entry.change.clone() {
            // What was said last and what lasts longest need not be the same statement.
            quarantine.origin.at_ms = numbers.rank;
            quarantine.until_ms = numbers.ends;
            entry = Self::of(checked(Change::Quarantined(quarantine), now_ms)?);
        }
        let in_place = entry.field.as_bytes() == field && entry.numbers == numbers;
        in_place.then_some(entry).ok_or(Unfit::Place)
    }

    /// As it is written.
    pub(super) fn json(&self) -> Vec<u8> {
        // Strings and numbers: there is nothing here that JSON cannot say.
        serde_json::to_vec(&self.change).unwrap_or_default()
    }

    /// Whether nobody need know of it any more.
    pub(super) fn is_over(&self, now_ms: u64) -> bool {
        match &self.change {
            Change::Quarantined(quarantine) => quarantine.until_ms <= now_ms,
            Change::Released { origin, .. } | Change::Reinstated { origin, .. } => {
                origin.at_ms.saturating_add(KEPT) <= now_ms
            }
            Change::Revoked(_) | Change::Rated(_) => false,
        }
    }
}

fn of_quarantine(quarantine: &Quarantine) -> String {
    match &quarantine.scope {
        Scope::Everything => format!("quarantine {}", quarantine.principal),
        Scope::Service(name) => format!("quarantine {} {name}", quarantine.principal),
    }
}

fn of_subject(kind: &str, subject: &Revoked) -> String {
    match subject {
        Revoked::Principal(principal) => format!("{kind} principal {principal}"),
        Revoked::Serial(serial) => format!("{kind} serial {serial}"),
    }
}

fn level(level: RiskLevel) -> u64 {
    match level {
        RiskLevel::None => 0,
        RiskLevel::Low => 1,
        RiskLevel::Medium => 2,
        RiskLevel::High => 3,
    }
}

/// The change, if it can have been said by now; with texts that can be shown.
fn checked(mut change: Change, now_ms: u64) -> Result<Change, Unfit> {
    if change.origin().at_ms > now_ms.saturating_add(AHEAD) {
        return Err(Unfit::Future);
    }
    let origin = match &mut change {
        Change::Quarantined(quarantine) => {
            principal(&quarantine.principal)?;
            if quarantine.until_ms > now_ms.saturating_add(LONGEST_MS + AHEAD) {
                return Err(Unfit::Long);
            }
            let status = quarantine.status.is_none_or(|s| STATUSES.contains(&s));
            if !status || !is_scope(&quarantine.scope) {
                return Err(Unfit::Value);
            }
            &mut quarantine.origin
        }
        Change::Released {
            principal: of,
            origin,
        } => {
            principal(of)?;
            origin
        }
        Change::Revoked(revocation) => {
            named(&revocation.subject)?;
            &mut revocation.origin
        }
        Change::Reinstated { subject, origin } => {
            named(subject)?;
            origin
        }
        Change::Rated(risk) => {
            principal(&risk.principal)?;
            &mut risk.origin
        }
    };
    origin.by = shown(&origin.by);
    origin.reason = origin.reason.as_deref().map(shown);
    Ok(change)
}

fn is_scope(scope: &Scope) -> bool {
    match scope {
        Scope::Everything => true,
        Scope::Service(name) => {
            !name.is_empty() && name.len() <= NAME && !name.chars().any(char::is_control)
        }
    }
}

/// SECURITY: in its one form, or a lift of it could be written in another and pass it by.
fn principal(name: &str) -> Result<(), Unfit> {
    match *principal_of(name)? == *name {
        true => Ok(()),
        false => Err(OrderError::Principal(name.to_owned()).into()),
    }
}

fn named(subject: &Revoked) -> Result<(), Unfit> {
    match subject {
        Revoked::Principal(name) => principal(name),
        Revoked::Serial(serial) if *canonical_serial(serial)? == **serial => Ok(()),
        Revoked::Serial(serial) => Err(OrderError::Serial(serial.to_string()).into()),
    }
}

/// On one line, and of a bounded length.
fn shown(text: &str) -> Box<str> {
    let mut end = text.len().min(TEXT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let text = text.get(..end).unwrap_or_default();
    text.replace(char::is_control, " ").into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use wayleave_authz::signals::{Origin, Revocation, Risk};

    const CART: &str = "spiffe://shop.example/ns/web/sa/cart";
    const NOW: u64 = 1_800_000_000_000;

    fn origin() -> Origin {
        Origin {
            by: "operator:uid=0".into(),
            reason: Some("sweeps\nthe API".into()),
            at_ms: NOW,
        }
    }

    fn quarantine(until_ms: u64) -> Quarantine {
        Quarantine {
            principal: CART.into(),
            scope: Scope::Service("orders".into()),
            until_ms,
            status: Some(429),
            origin: origin(),
        }
    }

    fn value(entry: &Entry) -> Vec<u8> {
        let Numbers { rank, ends } = entry.numbers;
        let mut value = format!("{rank} {ends} ").into_bytes();
        value.extend(entry.json());
        value
    }

    #[test]
    fn every_change_is_read_as_it_was_written_and_has_a_place_of_its_own() {
        let subjects = [
            Revoked::Serial("1f".into()),
            Revoked::Principal(CART.into()),
        ];
        let mut changes = vec![
            Change::Quarantined(quarantine(NOW + 1)),
            Change::Released {
                principal: CART.into(),
                origin: origin(),
            },
            Change::Rated(Risk {
                principal: CART.into(),
                level: RiskLevel::High,
                origin: origin(),
            }),
        ];
        for subject in subjects {
            let origin = origin();
            changes.push(Change::Reinstated {
                subject: subject.clone(),
                origin: origin.clone(),
            });
            changes.push(Change::Revoked(Revocation { subject, origin }));
        }
        let mut fields = std::collections::BTreeSet::new();
        for change in changes {
            let entry = Entry::of(change);
            let read = Entry::kept(entry.field.as_bytes(), &value(&entry), NOW).unwrap();
            assert_eq!(read.numbers, entry.numbers);
            let reason = read.change.origin().reason.as_deref();
            assert_eq!(reason, Some("sweeps the API"));
            assert!(Entry::kept(b"elsewhere", &value(&entry), NOW).is_err());
            assert!(fields.insert(entry.field));
        }
    }

    #[test]
    fn a_quarantine_that_was_merged_has_the_latest_time_and_the_longest_end() {
        let entry = Entry::of(Change::Quarantined(quarantine(NOW + 5)));
        let merged = [
            format!("{} {} ", NOW + 1, NOW + 9).into_bytes(),
            entry.json(),
        ]
        .concat();
        let read = Entry::kept(entry.field.as_bytes(), &merged, NOW).unwrap();
        let Change::Quarantined(read) = read.change else {
            panic!("{read:?}");
        };
        assert_eq!((read.origin.at_ms, read.until_ms), (NOW + 1, NOW + 9));
    }

    #[test]
    fn what_nobody_can_have_said_is_refused() {
        let mut other_form = quarantine(NOW);
        other_form.principal = "SPIFFE://shop.example/ns/web".into();
        let mut no_principal = quarantine(NOW);
        no_principal.principal = "cart".into();
        let mut success = quarantine(NOW);
        success.status = Some(200);
        let mut future = quarantine(NOW);
        future.origin.at_ms = NOW + AHEAD + 1;
        let mut scope = quarantine(NOW);
        scope.scope = Scope::Service("a\nb".into());
        let for_ever = quarantine(u64::MAX);
        for wrong in [other_form, no_principal, success, future, scope, for_ever] {
            let entry = Entry::of(Change::Quarantined(wrong));
            assert!(Entry::heard(&entry.json(), NOW).is_err(), "{entry:?}");
        }
        let serial = Revoked::Serial("0F".into());
        let origin = origin();
        let entry = Entry::of(Change::Revoked(Revocation {
            subject: serial,
            origin,
        }));
        assert!(Entry::heard(&entry.json(), NOW).is_err());
        for text in ["", "{}", "{\"forgotten\":{}}", "1 2", "x y z"] {
            assert!(Entry::heard(text.as_bytes(), NOW).is_err());
            assert!(Entry::kept(b"f", text.as_bytes(), NOW).is_err());
        }
        assert_eq!(
            Entry::heard(&vec![b' '; LARGEST + 1], NOW),
            Err(Unfit::Large)
        );
    }
}
