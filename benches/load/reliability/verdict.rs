//! What a run found, and whether it holds: a list of promises, each kept or broken, with figures.

use std::fmt::{self, Display};

use anyhow::{Result, bail};

/// What one run found.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    promises: Vec<Promise>,
}

#[derive(Debug)]
struct Promise {
    what: String,
    kept: bool,
    found: String,
}

impl Findings {
    /// A promise, whether it was kept, and what was seen of it.
    pub(crate) fn promise(&mut self, what: &str, kept: bool, found: impl Display) {
        let (what, found) = (what.to_owned(), found.to_string());
        let mark = if kept { "kept" } else { "BROKEN" };
        println!("{mark:>6}: {what}: {found}");
        self.promises.push(Promise { what, kept, found });
    }

    /// A part that cannot be run here, by name.
    pub(crate) fn skip(&self, what: &str) {
        println!("SKIPPED: {what}");
    }

    /// # Errors
    /// Where a promise was broken, or nothing was promised at all.
    pub(crate) fn verdict(&self, run: &str) -> Result<()> {
        let broken: Vec<_> = self
            .promises
            .iter()
            .filter(|promise| !promise.kept)
            .collect();
        if self.promises.is_empty() {
            bail!("{run}: nothing was looked at");
        }
        if let Some(first) = broken.first() {
            bail!(
                "{run}: {} of {} promises broken, first of all: {}: {}",
                broken.len(),
                self.promises.len(),
                first.what,
                first.found
            );
        }
        println!("{run}: all {} promises kept", self.promises.len());
        Ok(())
    }
}

/// Resident memory over a run, in KiB, in the order of time.
#[derive(Debug, Default)]
pub(crate) struct MemoryOverTime(Vec<u64>);

/// Memory may grow by this share, or by this many KiB where that is more: allocators keep some
/// of what was used at once.
const GROWTH: f64 = 0.10;
const SLACK_KIB: u64 = 4 * 1024;

impl MemoryOverTime {
    pub(crate) fn push(&mut self, resident_kib: u64) {
        self.0.push(resident_kib);
    }

    /// Medians of the second and of the last quarter: the first is the warm-up.
    fn quarters(&self) -> Option<(u64, u64)> {
        let quarter = self.0.len() / 4;
        let median = |from: usize, to: usize| {
            let mut part = self.0.get(from..to)?.to_vec();
            part.sort_unstable();
            part.get(part.len() / 2).copied()
        };
        Some((
            median(quarter, 2 * quarter)?,
            median(3 * quarter, self.0.len())?,
        ))
    }

    pub(crate) fn is_flat(&self) -> bool {
        self.quarters().is_some_and(|(before, after)| {
            let slack = SLACK_KIB.max((before as f64 * GROWTH) as u64);
            after <= before + slack
        })
    }
}

impl Display for MemoryOverTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |kib: u64| kib as f64 / 1024.0;
        match self.quarters() {
            None => f.write_str("too few samples"),
            Some((before, after)) => write!(
                f,
                "{:.1} MiB in the second quarter, {:.1} MiB in the last, {:.1} MiB at most",
                mib(before),
                mib(after),
                mib(self.0.iter().copied().max().unwrap_or_default())
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_broken_promise_is_the_verdict() {
        let mut findings = Findings::default();
        findings.promise("a", true, "1 of 1");
        assert!(findings.verdict("run").is_ok());
        findings.promise("b", false, "1 lost");
        let told = findings.verdict("run").unwrap_err().to_string();
        assert!(
            told.contains("1 of 2") && told.contains("b: 1 lost"),
            "{told}"
        );
    }

    #[test]
    fn a_run_that_looked_at_nothing_does_not_pass() {
        let findings = Findings::default();
        findings.skip("everything");
        assert!(findings.verdict("run").is_err());
    }

    fn memory(samples: impl IntoIterator<Item = u64>) -> MemoryOverTime {
        MemoryOverTime(samples.into_iter().collect())
    }

    #[test]
    fn memory_that_only_warms_up_is_flat() {
        let warm = (0..100).map(|at| 20_000 + 300 * at.min(20));
        assert!(memory(warm).is_flat());
    }

    #[test]
    fn memory_that_goes_on_growing_is_not_flat() {
        let leaks = (0..100).map(|at| 20_000 + 200 * at);
        assert!(!memory(leaks).is_flat());
        let large = (0..100).map(|at| 200_000 + 600 * at);
        assert!(!memory(large).is_flat());
    }

    #[test]
    fn memory_that_was_not_looked_at_is_not_flat() {
        assert!(!memory([]).is_flat());
        assert!(!memory([20_000]).is_flat());
    }
}
