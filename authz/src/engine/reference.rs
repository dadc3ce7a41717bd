//! The same policies decided by Cedar's own authorizer.

use cedar_policy::{Authorizer, Policy, PolicyId, PolicySet};

use crate::{
    decision::{Decision, ReasonCode},
    facts::Facts,
    obligation::Mode,
    problem::LoadErrors,
};

use super::{Compiled, Engine, Inputs, Outcome, Tally, build::internal};

/// Decides with [`cedar_policy::Authorizer`] what [`Engine`] decides compiled. Slow: it exists
/// so that the two can be compared, in tests, in benchmarks, or where somebody doubts.
///
/// It differs from Cedar where [`Engine`] does on purpose: a `forbid` that cannot be evaluated
/// denies, and policies in audit mode are not enforced.
#[derive(Debug)]
pub struct Reference {
    engine: Engine,
    enforced: PolicySet,
    /// Forbids and permits apart: Cedar tells the permits that apply only where no forbid does.
    audited: [PolicySet; 2],
}

impl Reference {
    /// Loads the inputs as [`Engine::load`] does.
    ///
    /// # Errors
    ///
    /// As [`Engine::load`].
    pub fn load(inputs: &Inputs) -> Result<Self, LoadErrors> {
        let engine = Engine::load(inputs)?;
        Ok(Self {
            enforced: engine.cedar_policies(|policy| policy.mode == Mode::Enforce)?,
            audited: [
                engine.cedar_policies(|policy| policy.mode == Mode::Audit && !policy.permit)?,
                engine.cedar_policies(|policy| policy.mode == Mode::Audit && policy.permit)?,
            ],
            engine,
        })
    }

    /// Decides one call.
    #[must_use]
    pub fn decide(&self, facts: &Facts<'_>) -> Decision {
        let names = &self.engine.names;
        let mut tally = Tally::default();
        if facts.defect().is_some() {
            return tally.decision(names, Some(ReasonCode::IncompleteFacts));
        }
        if self.engine.policies.is_empty() {
            return tally.decision(names, Some(ReasonCode::NoPolicy));
        }
        for (permits, audited) in [false, true].into_iter().zip(&self.audited) {
            if tally.denied() {
                break;
            }
            for set in [&self.enforced, audited] {
                if self.ask(set, permits, facts, &mut tally).is_none() {
                    return tally.decision(names, Some(ReasonCode::PolicyError));
                }
            }
        }
        tally.decision(names, None)
    }

    /// Counts what Cedar says of the permits or of the forbids in a set.
    fn ask(
        &self,
        set: &PolicySet,
        permits: bool,
        facts: &Facts<'_>,
        tally: &mut Tally,
    ) -> Option<()> {
        let call = self.engine.call(facts);
        let (request, entities) = self.engine.cedar_call(&call)?;
        let response = Authorizer::new().is_authorized(&request, set, &entities);
        let mut count = |id: &PolicyId, outcome| -> Option<()> {
            let number: u32 = AsRef::<str>::as_ref(id).parse().ok()?;
            let policy = self.engine.policies.get(number as usize)?;
            if policy.permit == permits {
                tally.count(number, policy.permit, policy.mode, outcome);
            }
            Some(())
        };
        for error in response.diagnostics().errors() {
            let cedar_policy::AuthorizationError::PolicyEvaluationError(error) = error;
            count(error.policy_id(), Outcome::Error)?;
        }
        for id in response.diagnostics().reason() {
            count(id, Outcome::True)?;
        }
        Some(())
    }
}

impl Engine {
    /// Some policies, parsed again, each under its number.
    fn cedar_policies(&self, wanted: impl Fn(&Compiled) -> bool) -> Result<PolicySet, LoadErrors> {
        let mut set = PolicySet::new();
        for (number, policy) in self.policies.iter().enumerate() {
            if wanted(policy) {
                let id = PolicyId::new(number.to_string());
                let parsed = Policy::parse(Some(id), policy.origin.text()).map_err(internal)?;
                set.add(parsed).map_err(internal)?;
            }
        }
        Ok(set)
    }
}
