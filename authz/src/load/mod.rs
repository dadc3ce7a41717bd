//! From source texts to checked policies: parsed, annotated, validated against the schema.
//! Collects every problem before it gives up; touches no file except in [`read`].

mod annotations;
mod files;
mod scan;

use std::{collections::HashMap, ops::Range, sync::Arc};

use cedar_policy::{Policy, PolicyId, PolicySet, Schema, ValidationMode, Validator};
use miette::Diagnostic;

use crate::problem::{Problem, Source};

pub(crate) use annotations::Annotations;
pub use files::{PolicyFile, read};

/// A policy that passed every check.
#[derive(Debug)]
pub(crate) struct CheckedPolicy {
    pub(crate) policy: Policy,
    pub(crate) annotations: Annotations,
    pub(crate) origin: Origin,
}

/// Where a policy is written.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    pub(crate) source: Source,
    pub(crate) span: Range<usize>,
}

impl Origin {
    pub(crate) fn text(&self) -> &str {
        self.source
            .text()
            .get(self.span.clone())
            .unwrap_or_default()
    }

    pub(crate) fn line(&self) -> usize {
        self.source.place(self.span.start).0
    }
}

/// A policy that parsed; its number is its Cedar policy id while it is checked.
struct Parsed {
    policy: Policy,
    origin: Origin,
}

/// Checks all policies of all files.
pub(crate) fn check(
    sources: &[Source],
    schema: Schema,
    problems: &mut Vec<Problem>,
) -> Vec<CheckedPolicy> {
    let parsed = parse_all(sources, problems);
    validate(&parsed, schema, problems);
    let checked = annotate_all(parsed, problems);
    refuse_duplicate_ids(&checked, problems);
    checked
}

fn parse_all(sources: &[Source], problems: &mut Vec<Problem>) -> Vec<Parsed> {
    let mut parsed = Vec::new();
    for source in sources {
        for span in scan::policies(source.text()) {
            let text = source.text().get(span.clone()).unwrap_or_default();
            match Policy::parse(Some(PolicyId::new(parsed.len().to_string())), text) {
                Ok(policy) => parsed.push(Parsed {
                    policy,
                    origin: Origin {
                        source: source.clone(),
                        span,
                    },
                }),
                Err(errors) => problems.extend(
                    errors
                        .iter()
                        .map(|error| from_diagnostic(source, &span, error)),
                ),
            }
        }
    }
    parsed
}

/// The problem that Cedar reports about the policy at `span`.
fn from_diagnostic(source: &Source, span: &Range<usize>, error: &dyn Diagnostic) -> Problem {
    let label = error
        .labels()
        .and_then(|mut labels| labels.next())
        .map(|label| (label.offset(), label.len()));
    let (offset, length) = label.unwrap_or((0, 0));
    let start = (span.start + offset).min(span.end);
    let end = (start + length).min(span.end);
    let problem = source.problem(start..end, without_policy_number(&error.to_string()));
    match error.help() {
        Some(help) => problem.with_help(help.to_string()),
        None => problem,
    }
}

/// Cedar begins its validation messages with the id under which it knows the policy, which is
/// a number that the user never wrote.
fn without_policy_number(message: &str) -> &str {
    let Some(rest) = message.strip_prefix("for policy `") else {
        return message;
    };
    rest.split_once("`, ").map_or(message, |(_, rest)| rest)
}

fn validate(parsed: &[Parsed], schema: Schema, problems: &mut Vec<Problem>) {
    let Ok(set) = PolicySet::from_policies(parsed.iter().map(|parsed| parsed.policy.clone()))
    else {
        return;
    };
    let result = Validator::new(schema).validate(&set, ValidationMode::Strict);
    let mut report = |id: &PolicyId, diagnostic: &dyn Diagnostic| {
        let number: Option<usize> = AsRef::<str>::as_ref(id).parse().ok();
        let Some(parsed) = number.and_then(|number| parsed.get(number)) else {
            return;
        };
        let origin = &parsed.origin;
        problems.push(from_diagnostic(&origin.source, &origin.span, diagnostic));
    };
    for error in result.validation_errors() {
        report(error.policy_id(), error);
    }
    // A policy that can never apply, or whose text deceives the eye, is a mistake: a warning
    // would scroll away and the policy would protect nothing.
    for warning in result.validation_warnings() {
        report(warning.policy_id(), warning);
    }
}

fn annotate_all(parsed: Vec<Parsed>, problems: &mut Vec<Problem>) -> Vec<CheckedPolicy> {
    let mut checked = Vec::with_capacity(parsed.len());
    for Parsed { policy, origin } in parsed {
        let reader = annotations::Reader {
            source: &origin.source,
            span: origin.span.clone(),
            policy: &policy,
            problems,
        };
        if let Some(annotations) = reader.read() {
            checked.push(CheckedPolicy {
                policy,
                annotations,
                origin,
            });
        }
    }
    checked
}

fn refuse_duplicate_ids(checked: &[CheckedPolicy], problems: &mut Vec<Problem>) {
    let mut first: HashMap<&Arc<str>, &Origin> = HashMap::new();
    for each in checked {
        let id = &each.annotations.id;
        let Some(earlier) = first.get(id) else {
            first.insert(id, &each.origin);
            continue;
        };
        let place = format!("{}:{}", earlier.source.name(), earlier.line());
        problems.push(
            each.origin
                .source
                .problem(
                    each.origin.span.clone(),
                    format!("a second policy has the id `{id}`"),
                )
                .with_help(format!(
                    "the first one is at {place}; every `@id` is unique"
                )),
        );
    }
}
