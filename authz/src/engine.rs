//! The engine: an immutable snapshot of checked policies that decides calls.

use std::sync::Arc;

use cedar_policy::{Authorizer, Entities, PolicyId, PolicySet};
use sha2::{Digest as _, Sha256};

use crate::{
    decision::{
        Audit, Decision, Effect, PolicyList, PolicyName, PolicyNames, ReasonCode, Revision,
    },
    facts::Facts,
    load::{self, CheckedPolicy, PolicyFile},
    obligation::Mode,
    problem::{LoadErrors, Problem, Source},
    reference::{self, Inexpressible, Translator},
    schema,
};

/// What an engine is made from.
#[derive(Clone, Debug, Default)]
pub struct Inputs {
    /// The policy files, in the order in which their policies are listed.
    pub policies: Vec<PolicyFile>,
}

/// An immutable snapshot of policies. Deciding takes facts by reference, does no I/O and
/// cannot fail: what cannot be decided is denied.
///
/// ```
/// use std::{net::IpAddr, time::SystemTime};
/// use wayleave_authz::{
///     Action, Context, Direction, Engine, Facts, Inputs, NoClaims, NoHeaders, PolicyFile,
///     Principal, Resource,
/// };
///
/// let engine = Engine::load(&Inputs {
///     policies: vec![PolicyFile {
///         name: "orders.cedar".to_owned(),
///         text: r#"
///             @id("web-reads-orders")
///             permit (
///               principal in SpiffePath::"spiffe://shop.example/ns/web",
///               action in Action::"http:read",
///               resource in Service::"orders"
///             );
///         "#
///         .to_owned(),
///     }],
///     ..Inputs::default()
/// })?;
///
/// let cart = "spiffe://shop.example/ns/web/sa/cart".parse()?;
/// let decision = engine.decide(&Facts {
///     principal: Principal::Workload(&cart),
///     action: Action::from_http_method("GET"),
///     resource: Resource {
///         service: "orders",
///         host: "orders.shop.example",
///         path: "/orders/7",
///         template: None,
///         port: 443,
///         documented: false,
///     },
///     context: Context {
///         direction: Direction::Inbound,
///         time: SystemTime::now(),
///         source_ip: IpAddr::from([10, 0, 0, 7]),
///         tls: None,
///         method: Some("GET"),
///         query: None,
///         headers: &NoHeaders,
///         claims: &NoClaims,
///         rpc: None,
///     },
/// });
/// assert!(decision.is_allow());
/// assert_eq!(decision.policies().next().map(|id| &**id), Some("web-reads-orders"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Engine {
    names: Arc<PolicyNames>,
    policies: Vec<CheckedPolicy>,
    set: PolicySet,
    entities: Entities,
    translator: Translator,
}

impl Engine {
    /// Parses, checks and validates the inputs.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with them, each problem with its file, line and column.
    pub fn load(inputs: &Inputs) -> Result<Self, LoadErrors> {
        let sources: Vec<_> = inputs
            .policies
            .iter()
            .map(|file| Source::new(&file.name, &file.text))
            .collect();
        let mut problems = Vec::new();
        let schema = schema::parse(&schema::built_in()).map_err(internal)?;
        let entities = schema.action_entities().map_err(internal)?;
        let policies = load::check(&sources, schema, &mut problems);
        let set = LoadErrors::none_or(problems, policies.iter())
            .map(|policies| PolicySet::from_policies(policies.enumerate().map(numbered)))?
            .map_err(internal)?;
        let headers = schema::HEADERS.map(str::to_owned).to_vec();
        Ok(Self {
            names: Arc::new(names(&policies, revision(inputs))),
            policies,
            set,
            entities,
            translator: Translator::new(headers).map_err(internal)?,
        })
    }

    /// The ids of the policies, in the order in which they were loaded.
    pub fn policies(&self) -> impl ExactSizeIterator<Item = &Arc<str>> {
        self.names.names.iter().map(|name| &name.id)
    }

    /// The revision: a hash over all inputs.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.names.revision
    }

    /// Decides one call.
    #[must_use]
    pub fn decide(&self, facts: &Facts<'_>) -> Decision {
        let mut tally = Tally::default();
        if facts.defect().is_some() {
            return tally.decision(&self.names, Some(ReasonCode::IncompleteFacts));
        }
        if self.policies.is_empty() {
            return tally.decision(&self.names, Some(ReasonCode::NoPolicy));
        }
        match self.evaluate(facts, &mut tally) {
            Ok(()) => tally.decision(&self.names, None),
            Err(_) => tally.decision(&self.names, Some(ReasonCode::PolicyError)),
        }
    }

    fn evaluate(&self, facts: &Facts<'_>, tally: &mut Tally) -> Result<(), Inexpressible> {
        let request = self.translator.request(facts)?;
        let entities = reference::with_entities(&self.entities, self.translator.entities(facts)?)?;
        for index in 0..self.policies.len() {
            let Some(alone) = self.set.policy(&PolicyId::new(index.to_string())) else {
                continue;
            };
            let Ok(set) = PolicySet::from_policies([alone.clone()]) else {
                continue;
            };
            let response = Authorizer::new().is_authorized(&request, &set, &entities);
            let outcome = if response.diagnostics().errors().next().is_some() {
                Outcome::Error
            } else if response.diagnostics().reason().next().is_some() {
                Outcome::True
            } else {
                Outcome::False
            };
            self.count(index, outcome, tally);
        }
        Ok(())
    }

    fn count(&self, index: usize, outcome: Outcome, tally: &mut Tally) {
        let Some(policy) = self.policies.get(index) else {
            return;
        };
        let permit = policy.policy.effect() == cedar_policy::Effect::Permit;
        tally.count(index as u32, permit, policy.annotations.mode, outcome);
    }
}

fn numbered((index, checked): (usize, &CheckedPolicy)) -> cedar_policy::Policy {
    checked.policy.new_id(PolicyId::new(index.to_string()))
}

fn internal(error: impl std::fmt::Display) -> LoadErrors {
    Problem::of_file("built-in schema".as_ref(), error.to_string()).into()
}

fn names(policies: &[CheckedPolicy], revision: Revision) -> PolicyNames {
    let name = |policy: &CheckedPolicy| PolicyName {
        id: Arc::clone(&policy.annotations.id),
        obligations: policy.annotations.obligations.clone(),
    };
    PolicyNames {
        revision,
        names: policies.iter().map(name).collect(),
    }
}

/// Hashes names and texts, each with its length, so that no two inputs look alike.
fn revision(inputs: &Inputs) -> Revision {
    let mut hash = Sha256::new();
    for file in &inputs.policies {
        for part in [&file.name, &file.text] {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
    }
    let mut first = [0; 16];
    for (to, from) in first.iter_mut().zip(hash.finalize()) {
        *to = from;
    }
    Revision(first)
}

/// What came of one policy whose scope matched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    True,
    False,
    Error,
}

/// Collects outcomes and turns them into the decision.
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
