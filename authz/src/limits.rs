//! Limits on what a policy may ask of every decision. Within them the cost of a decision is
//! linear in what can match; beyond them a policy is refused at load.

use std::collections::BTreeSet;

use cedar_policy::pst::{Expr, PatternElem};

use crate::{load::CheckedPolicy, problem::Problem, tree};

const MOST_POLICIES: usize = 100_000;
const MOST_MEMBERS: usize = 10_000;
const MOST_WILDCARDS: usize = 32;

/// How many groups one member may be in, directly or through other groups.
pub(crate) const MOST_GROUPS: usize = 250;

/// Checks every policy.
pub(crate) fn check(policies: &[CheckedPolicy], problems: &mut Vec<Problem>) {
    if let Some(first_over) = policies.get(MOST_POLICIES) {
        let origin = &first_over.origin;
        problems.push(
            origin
                .source
                .problem(
                    origin.span.clone(),
                    format!("there are more than {MOST_POLICIES} policies"),
                )
                .with_help("put what they have in common into groups"),
        );
    }
    for policy in policies {
        let Some(tree) = &policy.tree else {
            continue;
        };
        let expressions = tree.body().clauses().iter().flat_map(tree::expressions);
        let found: BTreeSet<_> = expressions.filter_map(excess).collect();
        for (message, help) in found {
            let origin = &policy.origin;
            let problem = origin.source.problem(origin.span.clone(), message);
            problems.push(problem.with_help(help));
        }
    }
}

/// What in an expression itself is over a limit, and what to write instead.
fn excess(expression: &Expr) -> Option<(String, &'static str)> {
    match expression {
        Expr::Like { pattern, .. } if wildcards(pattern) > MOST_WILDCARDS => Some((
            format!("a `like` has more than {MOST_WILDCARDS} wildcards"),
            "write several shorter patterns",
        )),
        Expr::Set(members) if members.len() > MOST_MEMBERS => Some((
            format!("a set has more than {MOST_MEMBERS} members"),
            "put them into a group, or into an attribute of an entity",
        )),
        _ => None,
    }
}

fn wildcards(pattern: &[PatternElem]) -> usize {
    let is_wildcard = |element: &&PatternElem| matches!(element, PatternElem::Wildcard);
    pattern.iter().filter(is_wildcard).count()
}
