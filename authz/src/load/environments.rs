//! In which environments a policy has to be validated. Cedar checks every policy in each: for
//! each action, with each type of principal and of resource that it applies to. Here are told
//! apart those that can find the same as all of them together:
//!
//! - where the scope admits some actions and not this one, Cedar's typechecker finds the scope
//!   false and looks no further;
//! - of actions that apply to the same types in the same context, one finds what all find, if
//!   the policy's conditions do not ask which action it is.
//!
//! A narrower schema has all types and all actions, but its other actions apply to nothing.

use cedar_policy::{ActionConstraint, EntityUid, Policy, Schema, SchemaFragment, pst};

use crate::{action::Action, tree};

/// A set of actions, a bit for each by its index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Actions(u16);

impl Actions {
    /// The actions that the scope admits. None where it admits none or names what is no action:
    /// then Cedar has something to say of the scope itself.
    fn admitted(policy: &Policy) -> Option<Self> {
        let admitted = match policy.action_constraint() {
            ActionConstraint::Any => Some(Self::of(|_| true)),
            ActionConstraint::Eq(uid) => Self::named(&uid, false),
            ActionConstraint::In(uids) => uids.iter().try_fold(Self(0), |all, uid| {
                Some(Self(all.0 | Self::named(uid, true)?.0))
            }),
        };
        admitted.filter(|actions| actions.0 != 0)
    }

    fn named(uid: &EntityUid, or_in: bool) -> Option<Self> {
        let of_type = uid.type_name();
        if of_type.basename() != "Action" || !of_type.namespace().is_empty() {
            return None;
        }
        let name = uid.id().unescaped();
        let is_named = |action: Action| {
            action.as_str() == name || (or_in && action.groups().any(|group| group == name))
        };
        Some(Self::of(is_named)).filter(|named| named.0 != 0)
    }

    fn of(holds: impl Fn(Action) -> bool) -> Self {
        let bits = Action::ALL.into_iter().filter(|action| holds(*action));
        Self(bits.fold(0, |all, action| all | bit(action)))
    }

    fn has(self, action: Action) -> bool {
        self.0 & bit(action) != 0
    }
}

fn bit(action: Action) -> u16 {
    1_u16.checked_shl(action.index().into()).unwrap_or(0)
}

/// A schema, and how to make narrower ones from it.
pub(super) struct Environments {
    whole: serde_json::Value,
    /// For each action, in order, the first that applies to the same types in the same context.
    alike: Vec<Action>,
}

impl Environments {
    /// None where Cedar cannot write the schema in a form that can be narrowed.
    pub(super) fn new(schema: &str) -> Option<Self> {
        let (fragment, _warnings) = SchemaFragment::from_cedarschema_str(schema).ok()?;
        let whole = fragment.to_json_value().ok()?;
        let alike = Action::ALL.map(|action| {
            let mut others = Action::ALL.into_iter();
            others.find(|other| applies_to(&whole, *other) == applies_to(&whole, action))
        });
        let alike = alike.into_iter().collect::<Option<_>>()?;
        Some(Self { whole, alike })
    }

    /// The actions for which the policy has to be validated; none for all that there are.
    pub(super) fn of(&self, policy: &Policy, tree: &pst::Policy) -> Option<Actions> {
        let admitted = Actions::admitted(policy)?;
        let conditions = tree.body().clauses();
        if conditions.iter().any(asks_for_action) {
            return Some(admitted);
        }
        let alike = |action: Action| self.alike.get(usize::from(action.index()));
        Some(Actions::of(|action| {
            let mut admitted = Action::ALL.into_iter().filter(|each| admitted.has(*each));
            admitted.find(|each| alike(*each) == alike(action)) == Some(action)
        }))
    }

    /// The schema in which only these actions apply to anything.
    pub(super) fn narrowed(&self, actions: Actions) -> Option<Schema> {
        let mut narrow = self.whole.clone();
        let all = narrow.get_mut("")?.get_mut("actions")?.as_object_mut()?;
        for action in Action::ALL {
            if !actions.has(action) {
                all.get_mut(action.as_str())?
                    .as_object_mut()?
                    .remove("appliesTo")?;
            }
        }
        Schema::from_json_value(narrow).ok()
    }
}

fn applies_to(schema: &serde_json::Value, action: Action) -> Option<&serde_json::Value> {
    schema
        .get("")?
        .get("actions")?
        .get(action.as_str())?
        .get("appliesTo")
}

fn asks_for_action(clause: &pst::Clause) -> bool {
    tree::expressions(clause).any(|expression| {
        // What may come with a later Cedar is taken to ask.
        !matches!(
            expression,
            pst::Expr::Literal(_)
                | pst::Expr::Var(pst::Var::Principal | pst::Var::Resource | pst::Var::Context)
                | pst::Expr::UnaryOp { .. }
                | pst::Expr::BinaryOp { .. }
                | pst::Expr::GetAttr { .. }
                | pst::Expr::HasAttr { .. }
                | pst::Expr::Like { .. }
                | pst::Expr::Is { .. }
                | pst::Expr::IfThenElse { .. }
                | pst::Expr::Set(_)
                | pst::Expr::Record(_)
        )
    })
}
