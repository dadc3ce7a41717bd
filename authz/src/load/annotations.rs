//! Checks the annotations of a policy: which there are, what they hold, and whether they
//! contradict each other.

use std::{collections::BTreeMap, ops::Range, sync::Arc, time::Duration};

use cedar_policy::Effect;

use crate::{
    obligation::{Alert, Mode, Obligations, QuarantineScope, QuarantineTerms},
    problem::{Problem, Source, did_you_mean},
};

use super::scan::{self, AnnotationSpan};

const KNOWN: [&str; 6] = ["id", "reason", "mode", "status", "quarantine", "alert"];

/// The statuses that a denial may have. 401 is not among them: it promises the caller a
/// challenge, and mutual TLS has none.
const STATUSES: [u16; 6] = [403, 404, 410, 429, 451, 503];

const LONGEST_REASON: usize = 200;
const LONGEST_ID: usize = 128;
const LONGEST_QUARANTINE: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// What the annotations of one policy say.
#[derive(Debug)]
pub(crate) struct Annotations {
    pub(crate) id: Arc<str>,
    pub(crate) mode: Mode,
    pub(crate) obligations: Obligations,
}

/// Reads one policy's annotations and collects what is wrong with them.
pub(super) struct Reader<'a> {
    pub(super) source: &'a Source,
    /// Where the policy's text stands in the source.
    pub(super) span: Range<usize>,
    pub(super) effect: Effect,
    /// Name and value of each; asking the policy for one by name parses that name.
    pub(super) annotations: BTreeMap<&'a str, &'a str>,
    pub(super) problems: &'a mut Vec<Problem>,
}

impl<'a> Reader<'a> {
    pub(super) fn read(mut self) -> Option<Annotations> {
        let text = self.source.text().get(self.span.clone())?;
        let spans = scan::annotations(text);
        let before = self.problems.len();
        self.refuse_unknown(text, &spans);
        let id = self.id(text, &spans);
        let mode = self.mode(text, &spans);
        let obligations = self.obligations(text, &spans);
        if self.problems.len() > before {
            return None;
        }
        Some(Annotations {
            id: id?,
            mode: mode.unwrap_or_default(),
            obligations,
        })
    }

    fn value(&self, name: &str) -> Option<&'a str> {
        self.annotations.get(name).copied()
    }

    fn refuse_unknown(&mut self, text: &str, spans: &[AnnotationSpan]) {
        for span in spans {
            let name = text.get(span.name.clone()).unwrap_or_default();
            if KNOWN.contains(&name) {
                continue;
            }
            let known = KNOWN.map(|known| format!("`@{known}`")).join(", ");
            let help = match did_you_mean(name, KNOWN) {
                Some(meant) => format!("did you mean `@{meant}`? Annotations are {known}"),
                None => format!("annotations are {known}; put other remarks in a `//` comment"),
            };
            self.problem(
                span.whole.clone(),
                format!("unknown annotation `@{name}`"),
                help,
            );
        }
    }

    fn id(&mut self, text: &str, spans: &[AnnotationSpan]) -> Option<Arc<str>> {
        let Some(id) = self.value("id").map(str::to_owned) else {
            self.problem(
                first_line(text),
                "this policy has no `@id`",
                "write `@id(\"a-name\")` before it: decisions are recorded by it",
            );
            return None;
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || "._:/-".contains(c);
        if id.is_empty() || id.len() > LONGEST_ID || !id.chars().all(plain) {
            self.problem(
                place_of("id", text, spans),
                format!("`{id}` is not a policy id"),
                format!(
                    "use 1 to {LONGEST_ID} of the characters a-z, A-Z, 0-9, `.`, `_`, `:`, `/`, `-`"
                ),
            );
            return None;
        }
        Some(id.into())
    }

    fn mode(&mut self, text: &str, spans: &[AnnotationSpan]) -> Option<Mode> {
        match self.value("mode")? {
            "audit" => Some(Mode::Audit),
            "enforce" => Some(Mode::Enforce),
            other => {
                let message = format!("`{other}` is not a mode");
                self.problem(
                    place_of("mode", text, spans),
                    message,
                    "write `@mode(\"audit\")` to record without enforcing, or leave it out",
                );
                None
            }
        }
    }

    fn obligations(&mut self, text: &str, spans: &[AnnotationSpan]) -> Obligations {
        Obligations {
            status: self.checked(text, spans, "status", parse_status),
            reason: self.checked(text, spans, "reason", parse_reason),
            quarantine: self.checked(text, spans, "quarantine", parse_quarantine),
            alert: self.checked(text, spans, "alert", parse_alert),
        }
    }

    /// The parsed value of an annotation, or the problem with it.
    fn checked<T>(
        &mut self,
        text: &str,
        spans: &[AnnotationSpan],
        name: &str,
        parse: fn(&str) -> Result<T, Mistake>,
    ) -> Option<T> {
        let value = self.value(name)?;
        let (message, help) = if only_denies(name) && self.effect == Effect::Permit {
            (
                format!("`@{name}` on a permit"),
                format!("only a `forbid` denies: move `@{name}` to one, or leave it out"),
            )
        } else {
            match parse(value) {
                Ok(value) => return Some(value),
                Err(mistake) => mistake,
            }
        };
        self.problem(place_of(name, text, spans), message, help);
        None
    }

    fn problem(&mut self, span: Range<usize>, message: impl Into<String>, help: impl Into<String>) {
        let span = self.span.start + span.start..self.span.start + span.end;
        self.problems
            .push(self.source.problem(span, message).with_help(help));
    }
}

/// A message and its remedy.
type Mistake = (String, String);

/// Whether the annotation says how to deny, which a permit never does.
fn only_denies(name: &str) -> bool {
    matches!(name, "status" | "quarantine")
}

fn parse_status(value: &str) -> Result<u16, Mistake> {
    value
        .parse()
        .ok()
        .filter(|status| STATUSES.contains(status))
        .ok_or_else(|| {
            (
                format!("`{value}` is not a status to deny with"),
                format!("use one of {}", STATUSES.map(|s| s.to_string()).join(", ")),
            )
        })
}

fn parse_reason(value: &str) -> Result<Arc<str>, Mistake> {
    if value.is_empty() || value.len() > LONGEST_REASON || value.chars().any(char::is_control) {
        return Err((
            "this reason cannot be shown to a caller".to_owned(),
            format!("use 1 to {LONGEST_REASON} bytes of printable text on one line"),
        ));
    }
    Ok(value.into())
}

/// A time, and behind a space what is denied, where that is not everything.
fn parse_quarantine(value: &str) -> Result<QuarantineTerms, Mistake> {
    let (time, scope) = match value.split_once(' ') {
        Some((time, scope)) => (time, Some(scope)),
        None => (value, None),
    };
    let time = parse_duration(time)
        .filter(|time| !time.is_zero() && *time <= LONGEST_QUARANTINE)
        .ok_or_else(|| {
            (
                format!("`{time}` is not a time to be in quarantine"),
                "write a number and a unit, such as `60s`, `15m`, `12h` or `7d`, up to `30d`"
                    .to_owned(),
            )
        })?;
    let scope = match scope {
        None => QuarantineScope::Everything,
        Some("service") => QuarantineScope::Service,
        Some(other) => {
            return Err((
                format!("`{other}` is not what a quarantine can be confined to"),
                "write `service` behind the time for the service that was called alone, or \
                 nothing for everything"
                    .to_owned(),
            ));
        }
    };
    Ok(QuarantineTerms { scope, time })
}

fn parse_duration(value: &str) -> Option<Duration> {
    let split = value.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = value.split_at(split);
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 60 * 60,
        "d" => 24 * 60 * 60,
        _ => return None,
    };
    let number: u64 = number.parse().ok()?;
    Some(Duration::from_secs(number.checked_mul(seconds)?))
}

fn parse_alert(value: &str) -> Result<Alert, Mistake> {
    Alert::from_name(value).ok_or_else(|| {
        let help = match did_you_mean(value, Alert::NAMES) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => format!("use one of {}", Alert::NAMES.join(", ")),
        };
        (format!("`{value}` is not an alert level"), help)
    })
}

fn place_of(name: &str, text: &str, spans: &[AnnotationSpan]) -> Range<usize> {
    spans
        .iter()
        .find(|span| text.get(span.name.clone()) == Some(name))
        .map_or_else(|| first_line(text), |span| span.whole.clone())
}

/// The first line of a policy, for problems of the policy as a whole.
fn first_line(text: &str) -> Range<usize> {
    0..text.lines().next().unwrap_or_default().len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quarantines_are_a_number_and_a_unit() {
        for (value, seconds) in [
            ("60s", 60),
            ("15m", 900),
            ("12h", 43_200),
            ("30d", 2_592_000),
        ] {
            for (written, scope) in [
                (value.to_owned(), QuarantineScope::Everything),
                (format!("{value} service"), QuarantineScope::Service),
            ] {
                let time = Duration::from_secs(seconds);
                let terms = Some(QuarantineTerms { scope, time });
                assert_eq!(parse_quarantine(&written).ok(), terms, "{written}");
            }
        }
        for value in [
            "",
            "60",
            "s",
            "0s",
            "31d",
            "-1s",
            "1.5h",
            "60 s",
            "60s everything",
            "60s  service",
            "60s service ",
            "service",
            " service",
            "99999999999999999999s",
        ] {
            assert!(parse_quarantine(value).is_err(), "{value}");
        }
    }
}
