//! The answer to one call, and why.

use std::{fmt, sync::Arc};

use crate::{
    obligation::{Alert, Obligations, QuarantineTerms},
    signals::Signal,
};

/// Whether the call may pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// It may.
    Allow,
    /// It may not.
    Deny,
}

impl Effect {
    /// `"allow"` or `"deny"`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a decision is what it is. The names are stable: logs, metrics and callers read them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ReasonCode {
    /// A permit allowed it and no forbid spoke against it.
    PolicyAllow,
    /// A forbid denied it.
    PolicyDeny,
    /// No permit allows it.
    NoMatchingPolicy,
    /// A forbid could not be evaluated, so nobody knows that it would not have denied.
    PolicyError,
    /// There are no policies at all.
    NoPolicy,
    /// The facts lack something that every call of their kind has.
    IncompleteFacts,
    /// The listener is in audit mode and lets pass what policy denies.
    AuditAllow,
    /// The principal is in quarantine.
    Quarantined,
    /// The principal, or the SVID that it has shown, is revoked.
    Revoked,
}

impl ReasonCode {
    /// The stable name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PolicyAllow => "policy_allow",
            Self::PolicyDeny => "policy_deny",
            Self::NoMatchingPolicy => "no_matching_policy",
            Self::PolicyError => "policy_error",
            Self::NoPolicy => "no_policy",
            Self::IncompleteFacts => "incomplete_facts",
            Self::AuditAllow => "audit_allow",
            Self::Quarantined => "quarantined",
            Self::Revoked => "revoked",
        }
    }
}

impl fmt::Display for ReasonCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Which sources a decision was made from: the first 128 bits of their SHA-256.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Revision(pub(crate) [u8; 16]);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Every record names it: one write instead of sixteen formatted numbers.
        const DIGITS: [char; 16] = [
            '0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f',
        ];
        let digit = |nibble: u8| DIGITS.get(usize::from(nibble)).copied().unwrap_or('0');
        let digits = self.0.iter().flat_map(|byte| [byte >> 4, byte & 15]);
        f.write_str(&digits.map(digit).collect::<String>())
    }
}

impl fmt::Debug for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Revision({self})")
    }
}

/// What the policies of one revision are called and ask for; shared by all its decisions.
#[derive(Debug)]
pub(crate) struct PolicyNames {
    pub(crate) revision: Revision,
    pub(crate) names: Box<[PolicyName]>,
    /// Whether any of them asks for a quarantine.
    pub(crate) quarantine: bool,
}

#[derive(Debug)]
pub(crate) struct PolicyName {
    pub(crate) id: Arc<str>,
    pub(crate) obligations: Obligations,
    /// The signals that it reads, each with what it is compared with; without a limit where that
    /// is no constant.
    pub(crate) limits: Box<[(Signal, Option<i64>)]>,
}

/// The answer to one call, with the policies that determined it. Cheap to clone.
#[derive(Clone)]
pub struct Decision {
    pub(crate) effect: Effect,
    pub(crate) reason: ReasonCode,
    pub(crate) names: Arc<PolicyNames>,
    pub(crate) determining: PolicyList,
    pub(crate) errors: PolicyList,
    pub(crate) audit: Audit,
}

/// What policies in audit mode had to say.
#[derive(Clone, Debug, Default)]
pub(crate) struct Audit {
    pub(crate) would: Option<Effect>,
    pub(crate) policies: PolicyList,
}

impl Decision {
    /// Allow or deny.
    #[must_use]
    pub fn effect(&self) -> Effect {
        self.effect
    }

    /// Whether the call may pass.
    #[must_use]
    pub fn is_allow(&self) -> bool {
        self.effect == Effect::Allow
    }

    /// Why.
    #[must_use]
    pub fn reason(&self) -> ReasonCode {
        self.reason
    }

    /// The ids of the policies that determined it: of an allow, all permits that apply; of a
    /// deny, all forbids that apply.
    pub fn policies(&self) -> impl Iterator<Item = &Arc<str>> {
        self.ids(&self.determining)
    }

    /// The ids of the policies whose evaluation failed.
    pub fn errors(&self) -> impl Iterator<Item = &Arc<str>> {
        self.ids(&self.errors)
    }

    /// The revision of the policies it was made by.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.names.revision
    }

    /// What the determining policies ask for.
    #[must_use]
    pub fn obligations(&self) -> Obligations {
        let mut all = Obligations::default();
        for name in self.determining_names() {
            all.merge(&name.obligations);
        }
        all
    }

    /// How loudly the determining policies ask for the decision to be reported.
    #[must_use]
    pub fn alert(&self) -> Option<Alert> {
        let names = self.determining_names();
        names.filter_map(|name| name.obligations.alert).max()
    }

    /// Whether a policy that decided asks for a quarantine; told without looking at them where no
    /// policy does.
    #[must_use]
    pub fn asks_for_quarantine(&self) -> bool {
        self.names.quarantine && self.quarantine().is_some()
    }

    /// The quarantine that the policies which denied ask for, and the one of them that asks for
    /// most. None where the deny is not enforced.
    #[must_use]
    pub fn quarantine(&self) -> Option<(&Arc<str>, QuarantineTerms)> {
        if self.is_allow() {
            return None;
        }
        let asked = |name: &&PolicyName| name.obligations.quarantine;
        let names = || self.determining_names();
        // The first of those that ask for as much.
        let most = names().filter(|name| asked(name).is_some());
        let most = most.reduce(|most, name| match asked(&name) > asked(&most) {
            true => name,
            false => most,
        })?;
        let terms = names().filter_map(|name| asked(&name));
        Some((&most.id, terms.reduce(QuarantineTerms::merged)?))
    }

    /// Of each policy that determined it, the signals that it reads, each with what it is compared
    /// with as [`Limits::at`](crate::signals::Limits::at) has it; without a limit where that is no
    /// constant.
    pub fn signal_limits(&self) -> impl Iterator<Item = &[(Signal, Option<i64>)]> {
        self.determining_names().map(|name| &*name.limits)
    }

    /// What would have been decided if the policies in audit mode counted, where that is
    /// something else, or where a listener in audit mode did not enforce a deny.
    #[must_use]
    pub fn would_have(&self) -> Option<Effect> {
        self.audit.would.filter(|would| *would != self.effect)
    }

    /// The ids of the policies in audit mode that apply to the call.
    pub fn audit_policies(&self) -> impl Iterator<Item = &Arc<str>> {
        self.ids(&self.audit.policies)
    }

    /// The decision as a listener in audit mode enforces it: what policy denies passes, and
    /// the record says that it would have been denied.
    ///
    /// Only the answer of policies is waived. Where there is none (no policies, a forbid that
    /// cannot be evaluated, incomplete facts) the call stays denied.
    #[must_use]
    pub fn in_audit_mode(mut self) -> Self {
        // SECURITY: the list is of what audit mode may waive, not of what it may not, so that
        // a new reason to deny is enforced until somebody decides otherwise.
        let waived = matches!(
            self.reason,
            ReasonCode::PolicyDeny | ReasonCode::NoMatchingPolicy
        );
        if waived {
            self.effect = Effect::Allow;
            self.reason = ReasonCode::AuditAllow;
            self.audit.would = Some(Effect::Deny);
        }
        self
    }

    fn determining_names(&self) -> impl Iterator<Item = &PolicyName> {
        let names = self.determining.iter();
        names.filter_map(|index| self.names.names.get(index as usize))
    }

    fn ids<'a>(&'a self, list: &'a PolicyList) -> impl Iterator<Item = &'a Arc<str>> {
        list.iter()
            .filter_map(|index| self.names.names.get(index as usize))
            .map(|name| &name.id)
    }
}

impl fmt::Debug for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decision")
            .field("effect", &self.effect)
            .field("reason", &self.reason)
            .field("policies", &self.policies().collect::<Vec<_>>())
            .field("errors", &self.errors().collect::<Vec<_>>())
            .field("would_have", &self.would_have())
            .field("revision", &self.names.revision)
            .finish()
    }
}

/// A few policy indexes without allocation; many with.
#[derive(Clone, Debug, Default)]
pub(crate) struct PolicyList {
    few: [u32; PolicyList::FEW],
    length: usize,
    many: Vec<u32>,
}

impl PolicyList {
    const FEW: usize = 6;

    pub(crate) fn push(&mut self, policy: u32) {
        match self.few.get_mut(self.length) {
            Some(place) => *place = policy,
            None => self.many.push(policy),
        }
        self.length += 1;
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.length == 0
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        let few = self.few.get(..self.length.min(Self::FEW)).unwrap_or(&[]);
        few.iter().chain(&self.many).copied()
    }

    /// Puts the list in the order in which the policies were loaded.
    pub(crate) fn sort(&mut self) {
        if self.many.is_empty() {
            if let Some(few) = self.few.get_mut(..self.length) {
                few.sort_unstable();
            }
            return;
        }
        let mut all: Vec<u32> = self.iter().collect();
        all.sort_unstable();
        *self = Self::default();
        all.into_iter().for_each(|policy| self.push(policy));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_list_is_sorted_and_complete() {
        let mut list = PolicyList::default();
        for policy in [9, 3, 7, 1, 8, 2, 6, 4, 5, 0] {
            list.push(policy);
        }
        list.sort();
        assert!(list.iter().eq(0..10));
    }

    fn decision(reason: ReasonCode) -> Decision {
        Decision {
            effect: Effect::Deny,
            reason,
            names: Arc::new(PolicyNames {
                revision: Revision([0; 16]),
                names: Box::new([]),
                quarantine: false,
            }),
            determining: PolicyList::default(),
            errors: PolicyList::default(),
            audit: Audit::default(),
        }
    }

    #[test]
    fn a_listener_in_audit_mode_waives_what_policies_deny() {
        for reason in [ReasonCode::PolicyDeny, ReasonCode::NoMatchingPolicy] {
            let waived = decision(reason).in_audit_mode();
            assert!(waived.is_allow());
            assert_eq!(waived.reason(), ReasonCode::AuditAllow);
            assert_eq!(waived.would_have(), Some(Effect::Deny));
        }
    }

    #[test]
    fn audit_mode_never_turns_a_failure_into_an_allow() {
        for reason in [
            ReasonCode::PolicyError,
            ReasonCode::NoPolicy,
            ReasonCode::IncompleteFacts,
            ReasonCode::Quarantined,
            ReasonCode::Revoked,
        ] {
            assert!(!decision(reason).in_audit_mode().is_allow());
        }
    }
}
