//! Collects what came of each policy and turns it into the decision.

use std::sync::Arc;

use crate::{
    decision::{Audit, Decision, Effect, PolicyList, PolicyNames, ReasonCode},
    obligation::Mode,
};

/// What came of one policy whose scope matched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    True,
    False,
    Error,
}

/// The outcomes so far.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    permits: PolicyList,
    forbids: PolicyList,
    errors: PolicyList,
    forbid_failed: bool,
    audit: PolicyList,
    audit_permits: bool,
    audit_forbids: bool,
}

impl Tally {
    pub(crate) fn count(&mut self, policy: u32, permit: bool, mode: Mode, outcome: Outcome) {
        match (outcome, mode) {
            (Outcome::False, _) => {}
            (Outcome::Error, mode) => {
                self.errors.push(policy);
                // SECURITY: Cedar skips a policy that errs. Skipping a forbid allows what it
                // might have denied, so here it denies.
                self.forbid_failed |= !permit && mode == Mode::Enforce;
            }
            (Outcome::True, Mode::Audit) => {
                self.audit.push(policy);
                self.audit_permits |= permit;
                self.audit_forbids |= !permit;
            }
            (Outcome::True, Mode::Enforce) if permit => self.permits.push(policy),
            (Outcome::True, Mode::Enforce) => self.forbids.push(policy),
        }
    }

    /// Whether a permit can no longer change the outcome.
    pub(crate) fn denied(&self) -> bool {
        self.forbid_failed || !self.forbids.is_empty()
    }

    /// Deny overrides; without a permit, deny.
    pub(crate) fn decision(
        mut self,
        names: &Arc<PolicyNames>,
        failure: Option<ReasonCode>,
    ) -> Decision {
        let (effect, reason) = match failure {
            Some(failure) => (Effect::Deny, failure),
            None if !self.forbids.is_empty() => (Effect::Deny, ReasonCode::PolicyDeny),
            None if self.forbid_failed => (Effect::Deny, ReasonCode::PolicyError),
            None if !self.permits.is_empty() => (Effect::Allow, ReasonCode::PolicyAllow),
            None => (Effect::Deny, ReasonCode::NoMatchingPolicy),
        };
        let would = self.would(reason);
        let mut determining = match reason {
            ReasonCode::PolicyAllow => self.permits,
            ReasonCode::PolicyDeny => self.forbids,
            _ => PolicyList::default(),
        };
        determining.sort();
        self.errors.sort();
        self.audit.sort();
        Decision {
            effect,
            reason,
            names: Arc::clone(names),
            determining,
            errors: self.errors,
            audit: Audit {
                would,
                policies: self.audit,
            },
        }
    }

    /// The effect if the policies in audit mode counted.
    fn would(&self, reason: ReasonCode) -> Option<Effect> {
        match reason {
            ReasonCode::PolicyAllow if self.audit_forbids => Some(Effect::Deny),
            ReasonCode::NoMatchingPolicy if self.audit_permits && !self.audit_forbids => {
                Some(Effect::Allow)
            }
            _ => None,
        }
    }
}
