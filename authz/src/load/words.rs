//! Cedar's findings in the words of somebody who writes Wayleave policies: once each, without
//! Cedar's inner numbering, and with a remedy.

use std::ops::Range;

use miette::Diagnostic;

use crate::problem::{Problem, Source};

/// A finding about the policy at `span` of `source`. `base` is where the text begins that Cedar
/// parsed, and counts its offsets from.
pub(super) fn problem(
    source: &Source,
    span: &Range<usize>,
    base: usize,
    found: &dyn Diagnostic,
) -> Problem {
    let label = found
        .labels()
        .and_then(|mut labels| labels.next())
        .map(|label| (label.offset(), label.len()));
    let place = match label {
        Some((offset, length)) => {
            let start = (base + offset).clamp(span.start, span.end);
            start..(start + length).clamp(start, span.end)
        }
        None => span.clone(),
    };
    let message = plain(&found.to_string());
    let remedy = remedy(&message, found.help().map(|help| help.to_string()));
    let problem = source.problem(place, message);
    match remedy {
        Some(remedy) => problem.with_help(remedy),
        None => problem,
    }
}

/// Without the number under which Cedar knows the policy, and without the one action of many
/// for which it tells the same thing.
fn plain(message: &str) -> String {
    let message = message
        .strip_prefix("for policy `")
        .and_then(|rest| rest.split_once("`, "))
        .map_or(message, |(_, rest)| rest);
    match message.split_once(" in context for Action::") {
        // What only TCP connections lack is told apart: its remedy is another one.
        Some((_, action)) if action.starts_with("\"tcp:connect\"") => message.to_owned(),
        Some((start, action)) => {
            let end = action
                .split_once('"')
                .and_then(|(_, rest)| rest.split_once('"'));
            format!("{start} in context{}", end.map_or("", |(_, end)| end))
        }
        None => message.to_owned(),
    }
}

const NO_PATH_IN_TCP: &str = "the scope admits TCP connections, which have no such thing: write \
     `resource is Endpoint`, or name the HTTP or gRPC actions";

/// Cedar's own help where it is of use, ours where it is not.
fn remedy(message: &str, help: Option<String>) -> Option<String> {
    let ours = if message.contains("on entity type `Port` not found")
        || message.contains("for Action::\"tcp:connect\" not found")
    {
        NO_PATH_IN_TCP
    } else if message.contains("attribute `headers.") {
        "policies read headers that are built in, or that an entities file declares: \
         `schema: { headers: [x-name] }`"
    } else if message.contains("attribute `claims.") {
        "policies read claims that an entities file declares: \
         `schema: { claims: { name: String } }`"
    } else if message == "unexpected end of input" {
        "a policy is `permit (…) when {…};`: look for a missing `;` or bracket"
    } else if message.starts_with("unable to find an applicable action") {
        "no action is taken by such a principal on such a resource: HTTP and gRPC calls meet \
         an `Endpoint`, TCP connections a `Port`"
    } else if message.starts_with("policy is impossible") {
        "correct its scope or condition, or remove it: as it stands it does nothing"
    } else {
        return help;
    };
    Some(ours.to_owned())
}

/// The findings about one policy, without those that only follow from others.
pub(super) fn settle(mut found: Vec<Problem>) -> Vec<Problem> {
    let follows = |problem: &Problem| {
        let message = problem.message();
        // In the order of what follows from what.
        [
            "policy is impossible",
            "unable to find an applicable action",
        ]
        .iter()
        .position(|start| message.starts_with(start))
    };
    let least = found
        .iter()
        .map(|problem| follows(problem).unwrap_or(2))
        .max();
    found.retain(|problem| Some(follows(problem).unwrap_or(2)) == least);
    found.sort_by_key(|problem| problem.to_string());
    found.dedup_by_key(|problem| problem.to_string());
    without_what_nothing_has(&mut found);
    found
}

/// What is found nowhere is no affair of TCP connections, whose remedy would mislead.
fn without_what_nothing_has(found: &mut Vec<Problem>) {
    let nowhere: Vec<String> = found
        .iter()
        .filter_map(|problem| problem.message().strip_suffix(" in context not found"))
        .map(|what| format!("{what} in context for Action::\"tcp:connect\" not found"))
        .collect();
    found.retain(|problem| !nowhere.iter().any(|told| told == problem.message()));
}
