//! Walking over Cedar's syntax trees.

use cedar_policy::pst::{Clause, Expr};

/// The condition of a clause and every expression in it. Walks with a stack of its own, as
/// expressions nest as deeply as Cedar's parser lets them.
pub(crate) fn expressions(clause: &Clause) -> impl Iterator<Item = &Expr> {
    let (Clause::When(condition) | Clause::Unless(condition)) = clause;
    let mut open = vec![&**condition];
    std::iter::from_fn(move || {
        let expression = open.pop()?;
        open_parts(expression, &mut open);
        Some(expression)
    })
}

/// Visits the expressions of some clauses from the outside in, as far as `enter` says so.
pub(crate) fn visit<'a>(
    clauses: impl IntoIterator<Item = &'a Clause>,
    mut enter: impl FnMut(&Expr) -> bool,
) {
    let condition = |clause: &'a Clause| {
        let (Clause::When(condition) | Clause::Unless(condition)) = clause;
        &**condition
    };
    let mut open: Vec<&Expr> = clauses.into_iter().map(condition).collect();
    while let Some(expression) = open.pop() {
        if enter(expression) {
            open_parts(expression, &mut open);
        }
    }
}

fn open_parts<'a>(expression: &'a Expr, open: &mut Vec<&'a Expr>) {
    match expression {
        Expr::Set(members) => open.extend(members.iter().map(|member| &**member)),
        Expr::UnaryOp { expr, .. }
        | Expr::GetAttr { expr, .. }
        | Expr::HasAttr { expr, .. }
        | Expr::Like { expr, .. } => open.push(expr),
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
