//! Why a decision is what it is, down to the single condition. Slower than deciding, and for
//! people: the text of policies is in it, so it is never sent to a caller.

use std::{fmt, str::FromStr as _, sync::Arc};

use cedar_policy::{EvalResult, Expression, Policy, eval_expression};
use serde::Serialize;

use crate::{
    compile::{
        call::Call,
        lower::conjuncts,
        program::{NodeId, Program},
    },
    decision::Decision,
    engine::{Compiled, Condition, Engine},
    facts::Facts,
    obligation::Mode,
    stack,
};

/// A decision with its reasons. [`fmt::Display`] writes it for a terminal, serde as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// `"allow"` or `"deny"`.
    pub effect: &'static str,
    /// The stable reason code.
    pub reason: &'static str,
    /// The revision of the policies.
    pub revision: String,
    /// What policies in audit mode would have made of it, where that differs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub would_have: Option<&'static str>,
    /// What the facts lack, where they are incomplete.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub defect: Option<&'static str>,
    /// The policies that determined it.
    pub determining: Vec<ExplainedPolicy>,
    /// The policies whose evaluation failed.
    pub errors: Vec<ExplainedPolicy>,
    /// The policies in audit mode that apply.
    pub audit: Vec<ExplainedPolicy>,
    /// Of a deny that no forbid made: the permits that came nearest to allowing it.
    pub nearest_permits: Vec<ExplainedPolicy>,
}

/// One policy and what came of each part of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ExplainedPolicy {
    /// Its `@id`.
    pub id: Arc<str>,
    /// `"permit"` or `"forbid"`.
    pub effect: &'static str,
    /// `"enforce"` or `"audit"`.
    pub mode: &'static str,
    /// The file it is written in.
    pub file: Arc<str>,
    /// The line on which it begins, counted from 1.
    pub line: usize,
    /// Its text.
    pub text: String,
    /// Whether its scope matches the principal, the action and the resource.
    pub scope: ExplainedScope,
    /// Its conditions, split at every outermost `&&`, in order.
    pub conditions: Vec<ExplainedCondition>,
}

/// Which parts of a scope match.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ExplainedScope {
    /// The principal.
    pub principal: bool,
    /// The action.
    pub action: bool,
    /// The resource.
    pub resource: bool,
}

/// One condition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ExplainedCondition {
    /// As Cedar writes it; of an `unless`, with `!` before it.
    pub text: String,
    /// What came of it.
    pub outcome: ConditionOutcome,
}

/// What came of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ConditionOutcome {
    /// It holds.
    True,
    /// It does not.
    False,
    /// It could not be evaluated.
    Error,
    /// An earlier part failed, so that it does not matter.
    NotReached,
}

impl ExplainedPolicy {
    /// The first part that keeps the policy from applying, in words; none if it applies.
    #[must_use]
    pub fn obstacle(&self) -> Option<String> {
        let parts = [
            (
                self.scope.principal,
                "its scope does not match the principal",
            ),
            (self.scope.action, "its scope does not match the action"),
            (self.scope.resource, "its scope does not match the resource"),
        ];
        if let Some((_, words)) = parts.into_iter().find(|(matches, _)| !matches) {
            return Some(words.to_owned());
        }
        self.conditions
            .iter()
            .find_map(|condition| match condition.outcome {
                ConditionOutcome::False => Some(format!("`{}` is false", condition.text)),
                ConditionOutcome::Error => {
                    Some(format!("`{}` cannot be evaluated", condition.text))
                }
                ConditionOutcome::True | ConditionOutcome::NotReached => None,
            })
    }

    /// How much of the policy matches: the scope counts before the conditions.
    fn nearness(&self) -> (usize, usize) {
        let scope = [self.scope.principal, self.scope.action, self.scope.resource];
        let held = |condition: &&ExplainedCondition| condition.outcome == ConditionOutcome::True;
        (
            scope.into_iter().filter(|matches| *matches).count(),
            self.conditions.iter().take_while(held).count(),
        )
    }
}

/// How many permits are shown that did not apply.
const NEAREST: usize = 3;

impl Engine {
    /// Decides one call and tells why.
    #[must_use]
    pub fn explain(&self, facts: &Facts<'_>) -> Explanation {
        let decision = self.decide(facts);
        let call = self.call(facts);
        let defect = facts.defect();
        let list = |ids: &mut dyn Iterator<Item = u32>| -> Vec<ExplainedPolicy> {
            ids.filter_map(|policy| self.explain_policy(policy, &call))
                .collect()
        };
        Explanation {
            effect: decision.effect().as_str(),
            reason: decision.reason().as_str(),
            revision: decision.revision().to_string(),
            would_have: decision.would_have().map(|effect| effect.as_str()),
            defect,
            determining: list(&mut decision.determining.iter()),
            errors: list(&mut decision.errors.iter()),
            audit: list(&mut decision.audit.policies.iter()),
            nearest_permits: match defect {
                None => self.nearest_permits(&decision, &call),
                Some(_) => Vec::new(),
            },
        }
    }

    fn nearest_permits(&self, decision: &Decision, call: &Call<'_>) -> Vec<ExplainedPolicy> {
        if decision.is_allow() || !decision.determining.is_empty() {
            return Vec::new();
        }
        let permits = (0..).zip(&self.policies).filter(|(_, policy)| {
            policy.permit && policy.mode == Mode::Enforce && scope_of(policy, call).0 >= 2
        });
        let mut nearest: Vec<_> = permits
            .filter_map(|(number, _)| self.explain_policy(number, call))
            .filter(|policy| policy.obstacle().is_some())
            .collect();
        nearest.sort_by_key(|policy| std::cmp::Reverse(policy.nearness()));
        nearest.truncate(NEAREST);
        nearest
    }

    fn explain_policy(&self, number: u32, call: &Call<'_>) -> Option<ExplainedPolicy> {
        let policy = self.policies.get(number as usize)?;
        let scope = scope_of(policy, call).1;
        let reached = scope.principal && scope.action && scope.resource;
        Some(ExplainedPolicy {
            id: Arc::clone(&self.names.names.get(number as usize)?.id),
            effect: if policy.permit { "permit" } else { "forbid" },
            mode: policy.mode.as_str(),
            file: Arc::clone(policy.origin.source.name()),
            line: policy.origin.line(),
            text: policy.origin.text().to_owned(),
            scope,
            conditions: self.explain_conditions(policy, reached, call),
        })
    }

    fn explain_conditions(
        &self,
        policy: &Compiled,
        mut reached: bool,
        call: &Call<'_>,
    ) -> Vec<ExplainedCondition> {
        let Some(parts) = stack::deep(|| self.parts(policy)).flatten() else {
            return Vec::new();
        };
        let mut explained = Vec::with_capacity(parts.tests.len());
        for (text, test) in parts.tests {
            let outcome = match reached {
                true => self.outcome_of(&test, &parts.program, call),
                false => ConditionOutcome::NotReached,
            };
            reached &= outcome == ConditionOutcome::True;
            explained.push(ExplainedCondition { text, outcome });
        }
        explained
    }

    /// The conditions of a policy as they are written, which is not quite how they are decided:
    /// for Cedar `a > b` is `!(a <= b)`. So they are compiled once more from the text.
    fn parts(&self, policy: &Compiled) -> Option<Parts> {
        let tree = Policy::parse(None, policy.origin.text()).ok()?;
        let tree = tree.to_pst().ok()?;
        let clauses = tree.body().clauses();
        let mut lowering = self.lowering();
        let nodes = match &policy.condition {
            Condition::Compiled(_) => lowering.clauses(clauses).unwrap_or_default(),
            Condition::Cedar(_) => Vec::new(),
        };
        let tests = conjuncts(clauses).enumerate().map(|(place, conjunct)| {
            let text = match conjunct.negated {
                true => format!("!({})", conjunct.expression),
                false => conjunct.expression.to_string(),
            };
            let test = match nodes.get(place) {
                Some(node) => Test::Compiled(*node),
                None => Test::Cedar(Expression::from_str(&text).ok()),
            };
            (text, test)
        });
        Some(Parts {
            tests: tests.collect(),
            program: lowering.finish(),
        })
    }

    /// From a program where programs decide, from Cedar where Cedar decides.
    fn outcome_of(&self, test: &Test, program: &Program, call: &Call<'_>) -> ConditionOutcome {
        let holds = match test {
            Test::Compiled(node) => program.holds(*node, call).ok(),
            Test::Cedar(expression) => self.cedar_call(call).and_then(|(request, entities)| {
                match eval_expression(&request, &entities, expression.as_ref()?) {
                    Ok(EvalResult::Bool(holds)) => Some(holds),
                    _ => None,
                }
            }),
        };
        match holds {
            Some(true) => ConditionOutcome::True,
            Some(false) => ConditionOutcome::False,
            None => ConditionOutcome::Error,
        }
    }
}

/// The conditions of one policy, with the program in which the compiled ones stand.
struct Parts {
    tests: Vec<(String, Test)>,
    program: Program,
}

/// How to tell what comes of a condition.
enum Test {
    Compiled(NodeId),
    /// Of what cannot be read alone there is no expression.
    Cedar(Option<Expression>),
}

/// How many parts of the scope match, and which.
fn scope_of(policy: &Compiled, call: &Call<'_>) -> (usize, ExplainedScope) {
    let scope = ExplainedScope {
        principal: policy.scope.principal_matches(call),
        action: policy.scope.admits(call.facts.action),
        resource: policy.scope.resource_matches(call),
    };
    let parts = [scope.principal, scope.action, scope.resource];
    (parts.into_iter().filter(|part| *part).count(), scope)
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} ({})", self.effect, self.reason)?;
        writeln!(f, "policy revision {}", self.revision)?;
        if let Some(defect) = self.defect {
            writeln!(f, "the facts are incomplete: {defect}")?;
        }
        if let Some(would) = self.would_have {
            writeln!(f, "with the policies in audit mode: {would}")?;
        }
        for (title, policies) in [
            ("determined by", &self.determining),
            ("could not be evaluated", &self.errors),
            ("in audit mode, applies", &self.audit),
            ("nearest permit", &self.nearest_permits),
        ] {
            for policy in policies {
                write!(f, "\n{title}: {policy}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for ExplainedPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} ({}) {}:{}",
            self.id, self.effect, self.file, self.line
        )?;
        for line in self.text.lines() {
            writeln!(f, "    {line}")?;
        }
        for condition in &self.conditions {
            let mark = match condition.outcome {
                ConditionOutcome::True => "true ",
                ConditionOutcome::False => "false",
                ConditionOutcome::Error => "error",
                ConditionOutcome::NotReached => "-    ",
            };
            writeln!(f, "  {mark}  {}", condition.text)?;
        }
        match self.obstacle() {
            Some(obstacle) => writeln!(f, "  does not apply: {obstacle}"),
            None => writeln!(f, "  applies"),
        }
    }
}
