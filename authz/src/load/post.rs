//! Refuses a `forbid` of POST that gRPC calls slip past.
//!
//! SECURITY: a gRPC call is a POST by a content type that its caller chooses. `grpc:call` is in
//! `http:post`, so a policy that says `action in` covers it; one that compares for equality does
//! not, which nobody means who forbids.

use cedar_policy::pst::{BinaryOp, Clause, Expr, Literal, UnaryOp};
use cedar_policy::{ActionConstraint, Effect};

use super::CheckedPolicy;
use crate::problem::Problem;

const POST: &str = "http:post";

/// The problem of a policy, if it is such a `forbid`.
pub(super) fn refuse(checked: &CheckedPolicy) -> Option<Problem> {
    let text = checked.origin.text();
    // Only where it can be: an escape may hide the name.
    let may_name = text.contains(POST) || text.contains('\\');
    if checked.policy.effect() != Effect::Forbid || !may_name {
        return None;
    }
    let conditions = checked.tree.iter().flat_map(|tree| tree.body().clauses());
    if !scope_is_post(checked) && !conditions.into_iter().any(holds_for_post_alone) {
        return None;
    }
    let message = "this `forbid` lets gRPC calls pass, which are POST requests as well";
    let problem = checked
        .origin
        .source
        .problem(checked.origin.find(POST), message.to_owned());
    Some(problem.with_help(
        "write `action in Action::\"http:post\"`, which covers them; where they are to pass, add \
         `unless { action == Action::\"grpc:call\" }`",
    ))
}

fn scope_is_post(checked: &CheckedPolicy) -> bool {
    match checked.policy.action_constraint() {
        ActionConstraint::Eq(uid) => uid.id().unescaped() == POST,
        ActionConstraint::Any | ActionConstraint::In(_) => false,
    }
}

/// Whether a clause compares with POST so that it holds for POST and not for what is in it.
/// Walks with a stack of its own, as expressions nest deeply.
fn holds_for_post_alone(clause: &Clause) -> bool {
    let mut open = match clause {
        Clause::When(condition) => vec![(&**condition, true)],
        Clause::Unless(condition) => vec![(&**condition, false)],
    };
    while let Some((expression, wanted)) = open.pop() {
        match expression {
            Expr::UnaryOp {
                op: UnaryOp::Not,
                expr,
            } => open.push((&**expr, !wanted)),
            Expr::IfThenElse {
                cond,
                then_expr,
                else_expr,
            } => {
                open.extend([(&**cond, true), (&**cond, false)]);
                open.extend([(&**then_expr, wanted), (&**else_expr, wanted)]);
            }
            Expr::BinaryOp { op, left, right } => {
                let alone = match op {
                    BinaryOp::Eq | BinaryOp::Contains | BinaryOp::ContainsAny => wanted,
                    BinaryOp::NotEq => !wanted,
                    _ => false,
                };
                if alone && (names_post(left) || names_post(right)) {
                    return true;
                }
                open.extend([(&**left, wanted), (&**right, wanted)]);
            }
            _ => {}
        }
    }
    false
}

fn names_post(expression: &Expr) -> bool {
    match expression {
        Expr::Literal(Literal::EntityUID(uid)) => {
            uid.ty.to_string() == "Action" && uid.eid.as_str() == POST
        }
        Expr::Set(members) => members.iter().any(|member| names_post(member)),
        _ => false,
    }
}
