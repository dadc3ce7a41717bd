//! Which signals a policy reads, told from its syntax tree alone: for policies that are left to
//! Cedar. Where that is not certain, all of them.

use cedar_policy::pst::{Expr, Policy, Var};

use crate::{signals::SignalSet, tree};

use super::lower::{path, signal_at};

/// The signals that a policy reads; all where it has no tree.
pub(crate) fn signals(tree: Option<&Policy>) -> SignalSet {
    let mut read = SignalSet::EMPTY;
    let Some(tree) = tree else {
        return SignalSet::all();
    };
    tree::visit(tree.body().clauses(), |expression| match expression {
        Expr::GetAttr { .. } => match path(expression) {
            Some((Var::Context, names)) if names.first() == Some(&"signals") => {
                read = match signal_at(&names) {
                    Some(signal) => read.with(signal),
                    None => SignalSet::all(),
                };
                false
            }
            Some((Var::Context, _)) => false,
            _ => true,
        },
        // Whether something is there tells no value.
        Expr::HasAttr { expr, .. } => path(expr).is_none(),
        Expr::Var(Var::Context) | Expr::Unknown { .. } => {
            read = SignalSet::all();
            false
        }
        _ => true,
    });
    read
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signals::Signal;

    fn read_by(condition: &str) -> SignalSet {
        let text = format!("permit (principal, action, resource) when {{ {condition} }};");
        let policy: cedar_policy::Policy = text.parse().unwrap();
        signals(Some(&Policy::try_from(policy.as_ref().clone()).unwrap()))
    }

    #[test]
    fn what_reads_a_signal_or_may_do_so_is_found() {
        let set = |signals: &[Signal]| {
            let all = signals.iter();
            all.fold(SignalSet::EMPTY, |set, signal| set.with(*signal))
        };
        for (condition, expected) in [
            ("context.method == \"GET\"", SignalSet::EMPTY),
            ("context has signals.risk", SignalSet::EMPTY),
            (
                "[context.signals.risk, \"a\"].contains(\"b\") || context.signals[\"in_flight\"] > 3",
                set(&[Signal::Risk, Signal::InFlight]),
            ),
            (
                "context.signals.endpoint[\"calls_per_\\u{68}our\"] > 3",
                set(&[Signal::EndpointCallsPerHour]),
            ),
            (
                "{a: context.signals.endpoint}.a.calls_per_hour > 1",
                SignalSet::all(),
            ),
            (
                "(if true then context else context).signals.stale",
                SignalSet::all(),
            ),
            ("[context.signals].isEmpty()", SignalSet::all()),
        ] {
            assert_eq!(read_by(condition), expected, "{condition}");
        }
    }
}
