//! What a new set of policies would change about calls that were recorded.

use std::{collections::BTreeMap, fmt, sync::Arc};

use serde::Serialize;

use crate::{decision::Decision, engine::Engine, record::RecordedFacts};

/// How many calls of a group are kept; all are counted.
const KEPT: usize = 5;

/// The calls whose decision changes.
#[derive(Clone, Debug, Serialize)]
pub struct Difference {
    /// How many calls were decided both ways.
    pub examined: usize,
    /// Of those, how many are decided otherwise.
    pub changed: usize,
    /// How many of the changed were allowed and would be denied.
    pub now_denied: usize,
    /// How many of the changed were denied and would be allowed.
    pub now_allowed: usize,
    /// The changes by the policy that makes them: one that newly decides or, where none does,
    /// one that no longer does.
    pub by_policy: BTreeMap<Arc<str>, Group>,
}

/// The changes that one policy makes.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Group {
    /// How many there are.
    pub count: usize,
    /// The first few of them.
    pub examples: Vec<Change>,
}

/// One call and its two decisions.
#[derive(Clone, Debug, Serialize)]
pub struct Change {
    /// The call.
    pub facts: RecordedFacts,
    /// The decision of the old policies.
    pub old: Told,
    /// The decision of the new ones.
    pub new: Told,
}

/// A decision in short.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Told {
    /// `"allow"` or `"deny"`.
    pub effect: &'static str,
    /// The reason code.
    pub reason: &'static str,
    /// The policies that determined it.
    pub policies: Vec<Arc<str>>,
}

impl From<&Decision> for Told {
    fn from(decision: &Decision) -> Self {
        Self {
            effect: decision.effect().as_str(),
            reason: decision.reason().as_str(),
            policies: decision.policies().cloned().collect(),
        }
    }
}

impl Difference {
    /// Decides every recorded call by both sets of policies. Calls are read one at a time.
    #[must_use]
    pub fn between(
        old: &Engine,
        new: &Engine,
        records: impl IntoIterator<Item = RecordedFacts>,
    ) -> Self {
        let mut difference = Self {
            examined: 0,
            changed: 0,
            now_denied: 0,
            now_allowed: 0,
            by_policy: BTreeMap::new(),
        };
        for facts in records {
            difference.examined += 1;
            let before = old.decide(&facts.facts());
            let after = new.decide(&facts.facts());
            if before.effect() != after.effect() {
                difference.add(facts, &before, &after);
            }
        }
        difference
    }

    fn add(&mut self, facts: RecordedFacts, before: &Decision, after: &Decision) {
        self.changed += 1;
        if after.is_allow() {
            self.now_allowed += 1;
        } else {
            self.now_denied += 1;
        }
        let change = Change {
            facts,
            old: before.into(),
            new: after.into(),
        };
        let responsible = match change.new.policies.is_empty() {
            true => change.old.policies.clone(),
            false => change.new.policies.clone(),
        };
        let nobody = || vec![Arc::from(change.new.reason)];
        let responsible = match responsible.is_empty() {
            true => nobody(),
            false => responsible,
        };
        for policy in responsible {
            let group = self.by_policy.entry(policy).or_default();
            group.count += 1;
            if group.examples.len() < KEPT {
                group.examples.push(change.clone());
            }
        }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} of {} calls change: {} would be denied, {} would be allowed",
            self.changed, self.examined, self.now_denied, self.now_allowed
        )?;
        for (policy, group) in &self.by_policy {
            writeln!(f, "\n{policy}: {}", group.count)?;
            for change in &group.examples {
                writeln!(f, "  {change}")?;
            }
            if group.count > group.examples.len() {
                writeln!(f, "  and {} more", group.count - group.examples.len())?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let facts = &self.facts;
        let principal = facts
            .principal
            .as_ref()
            .map_or("anonymous", |id| id.as_str());
        // Paths come from callers: nothing in them may steer a terminal.
        let path = facts.path.escape_debug();
        write!(
            f,
            "{principal} {} {} {path}: {} ({}) -> {} ({})",
            facts.action,
            facts.service.escape_debug(),
            self.old.effect,
            self.old.reason,
            self.new.effect,
            self.new.reason
        )
    }
}
