//! From source texts to checked policies: parsed, annotated, validated against the schema.
//! Collects every problem before it gives up; touches no file except in [`read`].

mod annotations;
mod environments;
mod files;
mod post;
mod scan;
mod validate;
mod words;

use std::{collections::HashMap, ops::Range, sync::Arc};

use cedar_policy::{Policy, PolicyId, PolicySet, Schema, pst};

use crate::{
    problem::{Problem, Source},
    stack,
};

pub(crate) use annotations::Annotations;
pub use files::{PolicyFile, read, read_tests};

/// A policy that passed every check.
#[derive(Debug)]
pub(crate) struct CheckedPolicy {
    pub(crate) policy: Policy,
    pub(crate) tree: Option<pst::Policy>,
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

    /// Where this text stands in the policy; the whole policy if it is written otherwise.
    pub(crate) fn find(&self, text: &str) -> Range<usize> {
        match self.text().find(text) {
            Some(at) => self.span.start + at..self.span.start + at + text.len(),
            None => self.span.clone(),
        }
    }

    pub(crate) fn line(&self) -> usize {
        self.source.place(self.span.start).0
    }
}

/// A policy that parsed.
struct Parsed {
    policy: Policy,
    tree: Option<pst::Policy>,
    origin: Origin,
    /// Where the text begins that the policy was parsed from, alone or with others.
    base: usize,
}

/// Checks all policies of all files. `schema_text` is what the schema was parsed from.
pub(crate) fn check(
    sources: &[Source],
    schema: Schema,
    schema_text: &str,
    problems: &mut Vec<Problem>,
) -> Vec<CheckedPolicy> {
    let parsed = parse_all(sources, problems);
    problems.extend(validate::validate(&parsed, schema, schema_text));
    let checked = annotate_all(parsed, problems);
    refuse_duplicate_ids(&checked, problems);
    problems.extend(checked.iter().filter_map(post::refuse));
    checked
}

fn parse_all(sources: &[Source], problems: &mut Vec<Problem>) -> Vec<Parsed> {
    let origins: Vec<Origin> = sources
        .iter()
        .flat_map(|source| {
            let spans = scan::policies(source.text()).into_iter();
            spans.map(|span| Origin {
                source: source.clone(),
                span,
            })
        })
        .collect();
    let parts = stack::deep_parts(&origins, |_, part| {
        let of_one_source = |a: &Origin, b: &Origin| a.source.name() == b.source.name();
        let of_one_source = part.chunk_by(of_one_source);
        let together = of_one_source.flat_map(|origins| origins.chunks(TOGETHER));
        together.flat_map(parse_together).collect::<Vec<_>>()
    });
    let mut parsed = Vec::with_capacity(origins.len());
    for result in parts.into_iter().flatten() {
        match result {
            Ok(policy) => parsed.push(policy),
            Err(found) => problems.extend(found),
        }
    }
    parsed
}

/// So many policies are parsed at one call. Cedar's parser warms up anew at every call, so a call
/// for each policy is several times slower; but each problem is hashed and compared with the whole
/// text of its call, so one call for all is slower still where every policy is wrong.
const TOGETHER: usize = 64;

/// Parses policies that follow each other in one file; problems are told policy by policy.
fn parse_together(origins: &[Origin]) -> Vec<Result<Parsed, Vec<Problem>>> {
    match parse_at_once(origins) {
        Some(parsed) => parsed.into_iter().map(Ok).collect(),
        None => origins.iter().map(parse).collect(),
    }
}

/// Nothing unless every policy is in order and Cedar finds the same policies as we do.
fn parse_at_once(origins: &[Origin]) -> Option<Vec<Parsed>> {
    let (first, last) = (origins.first()?, origins.last()?);
    let within = |origin: &Origin| scan::within_limits(origin.text()).is_ok();
    if !origins.iter().all(within) {
        return None;
    }
    let text = first.source.text().get(first.span.start..last.span.end)?;
    let set: PolicySet = text.parse().ok()?;
    if set.num_of_policies() != origins.len() || set.num_of_templates() != 0 {
        return None;
    }
    let parsed = origins.iter().enumerate().map(|(number, origin)| {
        let policy = set.policy(&PolicyId::new(format!("policy{number}")))?;
        Some(Parsed {
            tree: tree(policy),
            policy: policy.clone(),
            origin: origin.clone(),
            base: first.span.start,
        })
    });
    parsed.collect()
}

fn parse(origin: &Origin) -> Result<Parsed, Vec<Problem>> {
    let Origin { source, span } = origin;
    scan::within_limits(origin.text()).map_err(|excess| vec![too_much(source, span, &excess)])?;
    match Policy::parse(None, origin.text()) {
        Ok(policy) => Ok(Parsed {
            tree: tree(&policy),
            policy,
            origin: origin.clone(),
            base: span.start,
        }),
        Err(errors) => Err(errors
            .iter()
            .map(|error| words::problem(source, span, span.start, error))
            .collect()),
    }
}

/// The syntax tree of what Cedar evaluates. `to_pst` would parse the text once more, for a tree
/// that is closer to it, and take longer than all else that loading does. The conversion used here
/// is public but left out of Cedar's documentation: should a later version drop it, this does not
/// compile.
fn tree(policy: &Policy) -> Option<pst::Policy> {
    pst::Policy::try_from(policy.as_ref().clone()).ok()
}

fn too_much(source: &Source, span: &Range<usize>, excess: &scan::TooMuch) -> Problem {
    let (at, message) = match excess {
        scan::TooMuch::Nesting(at) => (
            at,
            format!("brackets nest deeper than {} levels", scan::DEEPEST),
        ),
        scan::TooMuch::Operators(at) => (
            at,
            format!(
                "the policy has more than {} operators",
                scan::MOST_OPERATORS
            ),
        ),
    };
    let start = (span.start + at).min(span.end);
    source
        .problem(start..span.end, message)
        .with_help("write several policies, or put what they compare with into a set or a group")
}

fn annotate_all(parsed: Vec<Parsed>, problems: &mut Vec<Problem>) -> Vec<CheckedPolicy> {
    let mut checked = Vec::with_capacity(parsed.len());
    for Parsed {
        policy,
        tree,
        origin,
        ..
    } in parsed
    {
        let reader = annotations::Reader {
            source: &origin.source,
            span: origin.span.clone(),
            effect: policy.effect(),
            annotations: policy.annotations().collect(),
            problems,
        };
        if let Some(annotations) = reader.read() {
            checked.push(CheckedPolicy {
                policy,
                tree,
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
