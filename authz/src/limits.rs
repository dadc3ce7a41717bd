//! Limits on what a policy may ask of every decision. Within them the cost of a decision is
//! linear in what can match; beyond them a policy is refused at load.

use std::sync::Arc;

use cedar_policy::pst::{Clause, Expr, PatternElem};

use crate::{load::CheckedPolicy, problem::Problem};

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
        for clause in tree.body().clauses() {
            let (Clause::When(condition) | Clause::Unless(condition)) = clause;
            if let Some((message, help)) = excess(condition) {
                let origin = &policy.origin;
                let problem = origin.source.problem(origin.span.clone(), message);
                problems.push(problem.with_help(help));
            }
        }
    }
}

/// What in an expression is over a limit, and what to write instead. Walks with a stack of its
/// own, as expressions nest as deeply as Cedar's parser lets them.
fn excess(condition: &Arc<Expr>) -> Option<(String, &'static str)> {
    let mut open = vec![&**condition];
    while let Some(expression) = open.pop() {
        match expression {
            Expr::Like { expr, pattern } => {
                open.push(expr);
                if wildcards(pattern) > MOST_WILDCARDS {
                    return Some((
                        format!("a `like` has more than {MOST_WILDCARDS} wildcards"),
                        "write several shorter patterns",
                    ));
                }
            }
            Expr::Set(members) => {
                if members.len() > MOST_MEMBERS {
                    return Some((
                        format!("a set has more than {MOST_MEMBERS} members"),
                        "put them into a group, or into an attribute of an entity",
                    ));
                }
                open.extend(members.iter().map(|member| &**member));
            }
            Expr::UnaryOp { expr, .. }
            | Expr::GetAttr { expr, .. }
            | Expr::HasAttr { expr, .. } => open.push(expr),
            Expr::BinaryOp { left, right, .. } => open.extend([&**left, &**right]),
            Expr::Is { expr, in_expr, .. } => {
                open.push(expr);
                open.extend(in_expr.as_deref());
            }
            Expr::IfThenElse {
                cond,
                then_expr,
                else_expr,
            } => open.extend([&**cond, &**then_expr, &**else_expr]),
            Expr::Record(fields) => open.extend(fields.values().map(|value| &**value)),
            _ => {}
        }
    }
    None
}

fn wildcards(pattern: &[PatternElem]) -> usize {
    let is_wildcard = |element: &&PatternElem| matches!(element, PatternElem::Wildcard);
    pattern.iter().filter(is_wildcard).count()
}
