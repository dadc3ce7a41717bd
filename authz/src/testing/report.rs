//! What came of the tests, for people and for machines.

use std::{fmt, sync::Arc};

use serde::Serialize;

use crate::explain::Explanation;

/// The results of a run.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Every test, in the order of the files.
    pub cases: Vec<CaseResult>,
    /// Which policies decided a test.
    pub coverage: Coverage,
}

/// One test.
#[derive(Clone, Debug, Serialize)]
pub struct CaseResult {
    /// The file it is in.
    pub file: Arc<str>,
    /// The line of its name, counted from 1.
    pub line: usize,
    /// Its name.
    pub name: String,
    /// What was expected and did not come; none if it passed.
    pub failures: Vec<String>,
    /// Of a failed test, why the decision is what it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub explanation: Option<Explanation>,
}

impl CaseResult {
    /// Whether it passed.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.failures.is_empty()
    }
}

/// Which policies were among those that determined a decision.
#[derive(Clone, Debug, Serialize)]
pub struct Coverage {
    /// Those that were, in the order in which they were loaded.
    pub covered: Vec<Arc<str>>,
    /// Those that no test was ever decided by.
    pub never: Vec<Arc<str>>,
}

impl Report {
    /// Whether all tests passed.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.cases.iter().all(CaseResult::passed)
    }

    /// The tests that failed.
    pub fn failed(&self) -> impl Iterator<Item = &CaseResult> {
        self.cases.iter().filter(|case| !case.passed())
    }
}

/// The failures with their explanations, then a summary.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for case in self.failed() {
            writeln!(f, "FAILED {}:{}: {}", case.file, case.line, case.name)?;
            for failure in &case.failures {
                writeln!(f, "    {failure}")?;
            }
            if let Some(explanation) = &case.explanation {
                for line in explanation.to_string().lines() {
                    writeln!(f, "    | {line}")?;
                }
            }
            writeln!(f)?;
        }
        let failed = self.failed().count();
        let passed = self.cases.len() - failed;
        writeln!(f, "{passed} passed, {failed} failed")?;
        let covered = self.coverage.covered.len();
        let policies = covered + self.coverage.never.len();
        writeln!(f, "{covered} of {policies} policies decided a test")?;
        for id in &self.coverage.never {
            writeln!(f, "    never: {id}")?;
        }
        Ok(())
    }
}
