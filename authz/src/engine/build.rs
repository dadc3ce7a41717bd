//! From checked policies to an engine.

use std::sync::{Arc, OnceLock};

use cedar_policy::{Effect, PolicyId, PolicySet};
use sha2::{Digest as _, Sha256};

use crate::{
    compile::{
        fact::Declared,
        flips::Flips,
        index::{Index, Scope},
        lower::{Lowering, Unsupported},
        program::{NodeId, Operands},
        reads, signals,
    },
    decision::{PolicyName, PolicyNames, Revision},
    load::CheckedPolicy,
    problem::{LoadErrors, Problem},
    reference::Translator,
    snapshot::{Builder, Relations, Snapshot},
};

use super::{Compiled, Condition, Engine};

/// What an engine is built from once everything is checked.
pub(super) struct Parts {
    pub(super) policies: Vec<CheckedPolicy>,
    pub(super) relations: Relations,
    pub(super) type_names: Vec<String>,
    pub(super) declared: Declared,
    pub(super) translator: Translator,
    pub(super) revision: Revision,
}

impl Parts {
    pub(super) fn build(self) -> Result<Engine, LoadErrors> {
        let snapshot = self.snapshot();
        let mut lowering = Lowering::new(&snapshot, &self.declared);
        let mut conditions = Vec::new();
        let mut compiled = Vec::with_capacity(self.policies.len());
        let mut scopes = Vec::with_capacity(self.policies.len());
        let mut limits = Vec::with_capacity(self.policies.len());
        for policy in &self.policies {
            let mark = lowering.mark();
            let one = compile(policy, &snapshot, &mut lowering, &mut conditions)?;
            limits.push(match &one.condition {
                Condition::Compiled(_) => signals::compared(lowering.program(), mark),
                Condition::Cedar(_) => signals::unknown(reads::signals(policy.tree.as_ref())),
            });
            scopes.push((one.scope, one.permit));
            compiled.push(one);
        }
        let program = lowering.finish();
        let time_left_to_cedar = self
            .policies
            .iter()
            .zip(&compiled)
            .any(|(checked, policy)| {
                let alone = matches!(policy.condition, Condition::Cedar(_));
                alone && checked.origin.text().contains("time")
            });
        let left_to_cedar = compiled
            .iter()
            .any(|policy| matches!(policy.condition, Condition::Cedar(_)));
        let engine = Engine {
            signal_limits: signals::limits(&limits),
            names: Arc::new(names(&self.policies, limits, self.revision)),
            index: Index::new(&scopes, &snapshot),
            policies: compiled.into(),
            conditions: conditions.into(),
            flips: Flips::of(&program, time_left_to_cedar),
            program,
            headers_read: headers_read(&self.policies, &self.declared),
            reads_query: reads_query(&self.policies),
            statics: OnceLock::new(),
            translator: self.translator,
            declared: self.declared,
            snapshot,
        };
        if left_to_cedar && engine.statics().is_none() {
            return Err(internal("the entities cannot be put to cedar"));
        }
        Ok(engine)
    }

    /// Numbers every entity that policies and entity files name.
    fn snapshot(&self) -> Snapshot {
        let mut builder = Builder::new();
        for name in &self.type_names {
            builder.type_id(name);
        }
        for policy in &self.policies {
            for uid in policy.policy.entity_literals() {
                builder.add(&uid.type_name().to_string(), uid.id().unescaped());
            }
        }
        builder.build(&self.relations)
    }
}

fn compile(
    checked: &CheckedPolicy,
    snapshot: &Snapshot,
    lowering: &mut Lowering<'_>,
    conditions: &mut Vec<NodeId>,
) -> Result<Compiled, LoadErrors> {
    let policy = &checked.policy;
    let scope = Scope::of(policy, snapshot)
        .ok_or_else(|| internal("a scope names an entity without a number"))?;
    let condition = match lower(checked, lowering) {
        Ok(nodes) => {
            let start = conditions.len() as u32;
            conditions.extend(nodes);
            let end = conditions.len() as u32;
            Condition::Compiled(Operands { start, end })
        }
        Err(why) => {
            let alone = policy.new_id(PolicyId::new("0"));
            let set = PolicySet::from_policies([alone]).map_err(internal)?;
            Condition::Cedar(Box::new((set, why)))
        }
    };
    Ok(Compiled {
        scope,
        permit: policy.effect() == Effect::Permit,
        mode: checked.annotations.mode,
        condition,
        origin: checked.origin.clone(),
    })
}

fn lower(checked: &CheckedPolicy, lowering: &mut Lowering<'_>) -> Result<Vec<NodeId>, Unsupported> {
    let tree = checked.tree.as_ref().ok_or(Unsupported::Operation)?;
    lowering.clauses(tree.body().clauses())
}

/// The declared headers whose names stand somewhere in the policies: those that are read, and
/// seldom one more.
fn headers_read(policies: &[CheckedPolicy], declared: &Declared) -> Box<[Box<str>]> {
    let headers = declared.headers.iter();
    let read = headers.filter(|header| {
        let mut texts = policies.iter().map(|policy| policy.origin.text());
        texts.any(|text| text.contains("headers") && text.contains(&***header))
    });
    read.cloned().collect()
}

/// Whether the word stands somewhere in the policies.
fn reads_query(policies: &[CheckedPolicy]) -> bool {
    let mut texts = policies.iter().map(|policy| policy.origin.text());
    texts.any(|text| text.contains("query"))
}

/// A failure that no input should be able to cause; told as a problem, never a panic.
pub(super) fn internal(error: impl std::fmt::Display) -> LoadErrors {
    Problem::of_file("built-in schema".as_ref(), error.to_string()).into()
}

fn names(
    policies: &[CheckedPolicy],
    limits: Vec<signals::Compared>,
    revision: Revision,
) -> PolicyNames {
    let name = |(policy, limits): (&CheckedPolicy, signals::Compared)| PolicyName {
        id: Arc::clone(&policy.annotations.id),
        obligations: policy.annotations.obligations.clone(),
        limits: limits.into(),
    };
    let names: Box<[_]> = policies.iter().zip(limits).map(name).collect();
    PolicyNames {
        revision,
        quarantine: names
            .iter()
            .any(|name| name.obligations.quarantine.is_some()),
        names,
    }
}

/// Hashes the parts, each with its length, so that no two lists of parts look alike.
pub(super) fn revision<'a>(parts: impl Iterator<Item = &'a str>) -> Revision {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let mut first = [0; 16];
    for (to, from) in first.iter_mut().zip(hash.finalize()) {
        *to = from;
    }
    Revision(first)
}
