//! The engine: an immutable snapshot of checked policies that decides calls.

mod build;
mod reference;
mod tally;

use std::{
    cell::OnceCell,
    sync::{Arc, OnceLock},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use cedar_policy::{Authorizer, Entities, PolicySet, Request};

use crate::{
    compile::{
        call::Call,
        fact::Declared,
        flips::Flips,
        index::{Entry, Index, Scope},
        lower::{Lowering, Unsupported},
        program::{EvalError, NodeId, Operands, Program},
    },
    decision::{Decision, PolicyNames, ReasonCode, Revision},
    entities,
    facts::Facts,
    limits, literals,
    load::{self, Origin, PolicyFile},
    obligation::Mode,
    problem::{LoadErrors, Source},
    reference::{self as cedar_facts, Translator},
    schema,
    signals::{SignalLimits, SignalSet},
    snapshot::Snapshot,
    stack,
};

use build::internal;
pub use reference::Reference;
pub(crate) use tally::{Outcome, Tally};

/// What an engine is made from.
#[derive(Clone, Debug, Default)]
pub struct Inputs {
    /// Policy files and entities files. Policies are listed in the order of their files.
    pub policies: Vec<PolicyFile>,
}

/// An immutable snapshot of policies. Deciding takes facts by reference, does no I/O and
/// cannot fail: what cannot be decided is denied.
///
/// ```
/// use std::{net::IpAddr, time::SystemTime};
/// use wayleave_authz::{
///     Action, Context, Direction, Engine, Facts, Inputs, NoClaims, NoHeaders, PolicyFile,
///     Principal, Resource, signals::SignalValues,
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
///         signals: &SignalValues::NONE,
///     },
/// });
/// assert!(decision.is_allow());
/// assert_eq!(decision.policies().next().map(|id| &**id), Some("web-reads-orders"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Engine {
    pub(crate) names: Arc<PolicyNames>,
    pub(crate) policies: Box<[Compiled]>,
    index: Index,
    conditions: Box<[NodeId]>,
    program: Program,
    snapshot: Snapshot,
    declared: Declared,
    headers_read: Box<[Box<str>]>,
    reads_query: bool,
    flips: Flips,
    signal_limits: SignalLimits,
    translator: Translator,
    /// The snapshot as Cedar has it, for policies that are left to Cedar. Made at load where
    /// there are such policies; none where it cannot be made.
    statics: OnceLock<Option<Entities>>,
}

/// One policy, ready to be evaluated.
#[derive(Debug)]
pub(crate) struct Compiled {
    pub(crate) scope: Scope,
    pub(crate) permit: bool,
    pub(crate) mode: Mode,
    pub(crate) condition: Condition,
    pub(crate) origin: Origin,
}

#[derive(Debug)]
pub(crate) enum Condition {
    /// Places in the engine's list of conditions: all of them must hold.
    Compiled(Operands),
    /// The policy alone, for Cedar to evaluate, and why it was not compiled.
    Cedar(Box<(PolicySet, Unsupported)>),
}

/// A call as Cedar has it, made when the first policy needs it.
type CedarCall = OnceCell<Option<(Request, Entities)>>;

impl Engine {
    /// Parses, checks, validates and compiles the inputs.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with them, each problem with its file, line and column.
    pub fn load(inputs: &Inputs) -> Result<Self, LoadErrors> {
        stack::deep(|| Self::load_here(inputs))
            .unwrap_or_else(|| Err(internal("no thread could be started to load policies")))
    }

    fn load_here(inputs: &Inputs) -> Result<Self, LoadErrors> {
        let source = |file: &PolicyFile| Source::new(&file.name, &file.text);
        let (policies, entities): (Vec<_>, Vec<_>) = inputs
            .policies
            .iter()
            .partition(|file| file.holds_policies());
        let policies: Vec<_> = policies.into_iter().map(source).collect();
        let entities: Vec<_> = entities.into_iter().map(source).collect();
        let mut problems = Vec::new();
        let files = entities::Files::read(&entities, &mut problems);
        let extension = files.extension(&mut problems);
        let extension = LoadErrors::none_or(std::mem::take(&mut problems), extension)?;
        let schema_text = extension.text();
        let schema = schema::parse(&schema_text).map_err(internal)?;
        let relations = files.relations(&schema, &mut problems);
        let type_names = schema.entity_types().map(ToString::to_string).collect();
        let policies = load::check(&policies, schema, &schema_text, &mut problems);
        limits::check(&policies, &mut problems);
        literals::check(&policies, &files.groups(), &mut problems);
        let policies = LoadErrors::none_or(problems, policies)?;
        let parts = inputs
            .policies
            .iter()
            .flat_map(|file| [file.name.as_str(), file.text.as_str()]);
        build::Parts {
            policies,
            relations,
            type_names,
            translator: Translator::new(&extension.declared).map_err(internal)?,
            declared: extension.declared,
            revision: build::revision(parts),
        }
        .build()
    }

    /// The ids of the policies, in the order in which they were loaded.
    pub fn policies(&self) -> impl ExactSizeIterator<Item = &Arc<str>> {
        self.names.names.iter().map(|name| &name.id)
    }

    /// The policies that are evaluated by Cedar's own, slower evaluator, each with the reason
    /// why it has no compiled form.
    pub fn not_compiled(&self) -> impl Iterator<Item = (&Arc<str>, String)> {
        let policies = self.policies.iter().zip(self.policies());
        policies.filter_map(|(policy, id)| match &policy.condition {
            Condition::Cedar(alone) => Some((id, alone.1.to_string())),
            Condition::Compiled(_) => None,
        })
    }

    /// Whether policies read the query. Where none does, records leave it out: it may hold
    /// secrets.
    #[must_use]
    pub fn reads_query(&self) -> bool {
        self.reads_query
    }

    /// The first moment after `now` at which the clock alone can change a decision: what is
    /// still in use of an allow is to be decided again then. None where no policy reads the time.
    ///
    /// Where a policy reads the time otherwise than by comparing it with one moment, that is
    /// within a second.
    #[must_use]
    pub fn next_change(&self, now: SystemTime) -> Option<SystemTime> {
        let now = now.duration_since(UNIX_EPOCH).ok()?;
        let next = self.flips.next(i64::try_from(now.as_millis()).ok()?)?;
        Some(UNIX_EPOCH + Duration::from_millis(u64::try_from(next).ok()?))
    }

    /// The signals that policies read.
    #[must_use]
    pub fn signals_read(&self) -> SignalSet {
        self.signal_limits.read()
    }

    /// What policies compare signals with: a call that is open is to be decided again when one
    /// passes such a limit.
    #[must_use]
    pub fn signal_limits(&self) -> &SignalLimits {
        &self.signal_limits
    }

    /// A deny that no policy made, and that audit mode does not waive.
    #[must_use]
    pub fn refuse(&self, reason: ReasonCode) -> Decision {
        Tally::default().decision(&self.names, Some(reason))
    }

    /// Every header that policies of this set could read, by lower-case name.
    pub fn headers_declared(&self) -> impl ExactSizeIterator<Item = &str> {
        self.declared.headers.iter().map(|name| &**name)
    }

    /// The headers that policies read, by lower-case name.
    pub fn headers_read(&self) -> impl Iterator<Item = &str> {
        self.headers_read.iter().map(|name| &**name)
    }

    /// The claims that policies may read.
    pub fn claims_declared(&self) -> impl Iterator<Item = &str> {
        self.declared.claims.iter().map(|(name, _)| &**name)
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
        self.evaluate(&self.call(facts), &mut tally);
        tally.decision(&self.names, None)
    }

    pub(crate) fn call<'a>(&'a self, facts: &'a Facts<'a>) -> Call<'a> {
        Call::new(facts, &self.snapshot, &self.declared)
    }

    /// Compiles conditions for calls on this engine, into a program of their own.
    pub(crate) fn lowering(&self) -> Lowering<'_> {
        Lowering::new(&self.snapshot, &self.declared)
    }

    /// Forbids first: where one denies, no permit need be tried.
    fn evaluate(&self, call: &Call<'_>, tally: &mut Tally) {
        let cedar = CedarCall::new();
        let candidates = self.index.candidates(call);
        for bucket in candidates.iter() {
            self.evaluate_all(self.index.forbids(bucket), call, &cedar, tally);
        }
        if tally.denied() {
            return;
        }
        for bucket in candidates.iter() {
            self.evaluate_all(self.index.permits(bucket), call, &cedar, tally);
        }
    }

    fn evaluate_all(
        &self,
        entries: &[Entry],
        call: &Call<'_>,
        cedar: &CedarCall,
        tally: &mut Tally,
    ) {
        for entry in entries {
            if !entry.admits(call.facts.action) {
                continue;
            }
            if let Some(policy) = self.policies.get(entry.policy as usize) {
                let outcome = self.outcome(&policy.condition, call, cedar);
                tally.count(entry.policy, policy.permit, policy.mode, outcome);
            }
        }
    }

    /// What comes of a policy whose scope matches.
    fn outcome(&self, condition: &Condition, call: &Call<'_>, cedar: &CedarCall) -> Outcome {
        match condition {
            Condition::Compiled(conditions) => match self.all_hold(*conditions, call) {
                Ok(true) => Outcome::True,
                Ok(false) => Outcome::False,
                Err(_) => Outcome::Error,
            },
            Condition::Cedar(alone) => self.ask_cedar(&alone.0, call, cedar),
        }
    }

    fn conditions(&self, places: Operands) -> &[NodeId] {
        self.conditions
            .get(places.start as usize..places.end as usize)
            .unwrap_or(&[])
    }

    fn all_hold(&self, places: Operands, call: &Call<'_>) -> Result<bool, EvalError> {
        for condition in self.conditions(places) {
            if !self.program.holds(*condition, call)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn ask_cedar(&self, alone: &PolicySet, call: &Call<'_>, cedar: &CedarCall) -> Outcome {
        let Some((request, entities)) = cedar.get_or_init(|| self.cedar_call(call)) else {
            return Outcome::Error;
        };
        let response = Authorizer::new().is_authorized(request, alone, entities);
        if response.diagnostics().errors().next().is_some() {
            Outcome::Error
        } else if response.diagnostics().reason().next().is_some() {
            Outcome::True
        } else {
            Outcome::False
        }
    }

    fn statics(&self) -> Option<&Entities> {
        self.statics
            .get_or_init(|| self.translator.statics(&self.snapshot).ok())
            .as_ref()
    }

    pub(crate) fn cedar_call(&self, call: &Call<'_>) -> Option<(Request, Entities)> {
        let request = self.translator.request(call.facts).ok()?;
        let own = self.translator.entities(call).ok()?;
        let entities = cedar_facts::with_entities(self.statics()?, own).ok()?;
        Some((request, entities))
    }
}
