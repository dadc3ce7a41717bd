//! A decision as one readable line, for a person at a terminal.

use std::borrow::Cow;
use std::fmt::Write;

use time::OffsetDateTime;
use wayleave_authz::Effect;

use super::DecisionRecord;
use super::Failure;

const GREEN: &str = "\x1b[32m";
const RED: &str = "\x1b[31m";
const DIM: &str = "\x1b[2m";
const RESET: &str = "\x1b[0m";

/// The line of a record, with its newline.
pub(super) fn line(record: &DecisionRecord, colour: bool) -> String {
    let paint = |code: &'static str| if colour { code } else { "" };
    let strong = paint(if record.effect == Effect::Allow {
        GREEN
    } else {
        RED
    });
    let (dim, reset) = (paint(DIM), paint(RESET));
    let time = OffsetDateTime::from(record.time).time();
    let mut line = format!(
        "{dim}{:02}:{:02}:{:02}{reset} {strong}{:<5}{reset} {} {} {} {dim}{}, {:.1} us to decide, {:.1} ms in all{reset}",
        time.hour(),
        time.minute(),
        time.second(),
        record.effect.as_str(),
        record
            .status
            .map_or_else(|| "---".into(), |status| status.to_string()),
        record.caller.name(),
        asked(record),
        why(record),
        record.decision_time.as_secs_f64() * 1e6,
        record.call_time.as_secs_f64() * 1_000.0,
    );
    if let Some(failure) = record.failure {
        let _ = write!(line, " {strong}{}{reset}", failure_words(failure));
    }
    if let Some(trigger) = record.ended_by {
        let _ = write!(line, " {strong}({}){reset}", trigger.as_str());
    }
    line.push('\n');
    line
}

fn asked(record: &DecisionRecord) -> Cow<'_, str> {
    match (&record.call, &record.refused_target) {
        (Some(call), _) => match call.method() {
            Some(method) => Cow::Owned(format!("{method} {}", call.path())),
            // SECURITY: a server name is the caller's, and is shown as a refused target is.
            None => Cow::Owned(format!("tcp {}", call.host().escape_debug())),
        },
        // SECURITY: a target that was refused may hold anything; a terminal must not obey it.
        (None, Some(target)) => Cow::Owned(target.escape_debug().to_string()),
        (None, None) => Cow::Borrowed("?"),
    }
}

fn why(record: &DecisionRecord) -> String {
    let ids: Vec<&str> = match &record.decision {
        Some(decision) => decision.policies().map(|id| &**id).collect(),
        None => Vec::new(),
    };
    if ids.is_empty() {
        record.reason_code.to_owned()
    } else {
        format!("by {}", ids.join(", "))
    }
}

fn failure_words(failure: Failure) -> &'static str {
    match failure {
        Failure::CallerGone => "caller gone",
        Failure::UpstreamUnreachable => "upstream unreachable",
        Failure::UpstreamTimeout => "upstream timed out",
        Failure::UpstreamBroke => "upstream broke off",
        Failure::UpstreamProtocol => "upstream speaks another protocol",
        Failure::UpstreamOverloaded => "upstream overloaded",
        Failure::TrustEnded => "peer no longer trusted",
        Failure::LeaseEnded => "no longer allowed",
        Failure::Drained => "cut by the end of draining",
        Failure::IdleTimeout => "idle for too long",
        Failure::BodyTimeout => "caller stopped sending or reading",
        Failure::RequestTimeout => "took longer than a call may",
        Failure::ConnectionAge => "connection too old",
        Failure::Flooded => "caller flooded the connection",
        Failure::UpstreamIdentity => "upstream is not the one that is meant",
        Failure::NoIdentity => "no identity to call with",
        Failure::AddressRefused => "upstream address refused",
    }
}
