//! Policy unit tests: calls in YAML with the decision that is expected of them.
//!
//! ```yaml
//! defaults: { service: orders }
//! tests:
//!   - name: the cart reads its orders
//!     request: { principal: "spiffe://shop.example/ns/web/sa/cart", method: GET, path: /orders/7 }
//!     expect: allow
//!     by: [cart-reads-orders]
//!   - name: nobody else does
//!     request: { method: GET, path: /orders/7 }
//!     expect: deny
//!     reason: no_matching_policy
//! ```

mod case;
mod junit;
mod report;

use std::{collections::BTreeSet, sync::Arc};

use crate::{
    engine::Engine,
    load::PolicyFile,
    problem::{LoadErrors, Problem, Source, did_you_mean},
    yaml,
};

pub use case::{CallSpec, HeaderValues, TlsSpec};
pub use report::{CaseResult, Coverage, Report};

use case::{RawCase, RawFile};

const KEYS: &str = "a file has `defaults` and `tests`; a test has `name`, `request`, `expect`, \
     `by` and `reason`";

/// Runs all tests of all files against the engine's policies.
///
/// # Errors
///
/// What is wrong with the test files themselves: a test that fails is no error but a
/// [`CaseResult`].
pub fn run(engine: &Engine, files: &[PolicyFile]) -> Result<Report, LoadErrors> {
    let mut problems = Vec::new();
    let mut cases = Vec::new();
    let mut decided = BTreeSet::new();
    for file in files {
        let source = Source::new(&file.name, &file.text);
        match yaml::parse::<RawFile>(&source, KEYS) {
            Ok(raw) => {
                let run = Run {
                    engine,
                    source: &source,
                    defaults: &raw.defaults,
                };
                for case in &raw.tests {
                    match run.case(case, &mut decided) {
                        Ok(result) => cases.push(result),
                        Err(problem) => problems.push(problem),
                    }
                }
            }
            Err(problem) => problems.push(problem),
        }
    }
    LoadErrors::none_or(problems, ())?;
    let (covered, never) = engine
        .policies()
        .cloned()
        .partition(|id| decided.contains(id));
    Ok(Report {
        cases,
        coverage: Coverage { covered, never },
    })
}

/// One file being run.
struct Run<'a> {
    engine: &'a Engine,
    source: &'a Source,
    defaults: &'a CallSpec,
}

impl Run<'_> {
    fn case(
        &self,
        case: &RawCase,
        decided: &mut BTreeSet<Arc<str>>,
    ) -> Result<CaseResult, Problem> {
        let span = || yaml::span(self.source, &case.name.referenced);
        self.check_ids(case)?;
        let facts = case
            .request
            .over(self.defaults)
            .recorded()
            .map_err(|message| self.source.problem(span(), message))?;
        let decision = self.engine.decide(&facts.facts());
        decided.extend(decision.policies().cloned());
        decided.extend(decision.audit_policies().cloned());
        let mut failures = Vec::new();
        if decision.effect().as_str() != case.expect.as_str() {
            failures.push(format!(
                "expected {}, got {}",
                case.expect.as_str(),
                decision.effect()
            ));
        }
        let reason = decision.reason().as_str();
        if case
            .reason
            .as_ref()
            .is_some_and(|expected| expected != reason)
        {
            let expected = case.reason.as_deref().unwrap_or_default();
            failures.push(format!("expected the reason {expected}, got {reason}"));
        }
        if let Some(expected) = &case.by {
            let expected: BTreeSet<&str> = expected.iter().map(|id| id.value.as_str()).collect();
            let got: BTreeSet<&str> = decision.policies().map(|id| &**id).collect();
            if expected != got {
                failures.push(format!(
                    "expected by {}, got {}",
                    list(&expected),
                    list(&got)
                ));
            }
        }
        let explanation = (!failures.is_empty()).then(|| self.engine.explain(&facts.facts()));
        Ok(CaseResult {
            file: Arc::clone(self.source.name()),
            line: self.source.place(span().start).0,
            name: case.name.value.clone(),
            failures,
            explanation,
        })
    }

    /// A test that names a policy which does not exist would test nothing.
    fn check_ids(&self, case: &RawCase) -> Result<(), Problem> {
        for id in case.by.iter().flatten() {
            if self.engine.policies().any(|known| **known == *id.value) {
                continue;
            }
            let known = self.engine.policies().map(|known| &**known);
            let help = match did_you_mean(&id.value, known) {
                Some(meant) => format!("did you mean `{meant}`?"),
                None => "write the `@id` of a policy".to_owned(),
            };
            let span = yaml::span(self.source, &id.referenced);
            let message = format!("there is no policy `{}`", id.value);
            return Err(self.source.problem(span, message).with_help(help));
        }
        Ok(())
    }
}

fn list(ids: &BTreeSet<&str>) -> String {
    if ids.is_empty() {
        return "no policy".to_owned();
    }
    ids.iter().copied().collect::<Vec<_>>().join(", ")
}
