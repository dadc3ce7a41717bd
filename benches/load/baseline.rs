//! The committed figures, and what a new count says beside them. Pure: who counts is [`guard`].
//!
//! [`guard`]: crate::guard

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// A rise above this share of the base line fails.
pub(crate) const TOLERANCE: f64 = 0.05;
/// Allocations are whole; the share of a table that grows now and then is less than this.
const ALLOCATION: f64 = 0.5;

/// What one request or decision takes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Figure {
    pub(crate) instructions: f64,
    pub(crate) allocations: f64,
    /// Instructions of the yardstick, counted in the same run: what both share, such as the
    /// compiler, the C library and hyper, moves both.
    pub(crate) yardstick: f64,
}

/// What the figures hang on beside the code.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Machine {
    pub(crate) architecture: String,
    pub(crate) compiler: String,
    /// Whether the compiler had a profile of a training run (`benches/release.sh`).
    pub(crate) trained: bool,
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let trained = if self.trained { "trained" } else { "untrained" };
        write!(f, "{} on {}, {trained}", self.compiler, self.architecture)
    }
}

pub(crate) type Figures = BTreeMap<String, Figure>;

/// The figures that were accepted, and why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Baseline {
    /// `2026-11-24`.
    pub(crate) accepted: String,
    pub(crate) reason: String,
    pub(crate) machine: Machine,
    pub(crate) figures: Figures,
}

impl Baseline {
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| {
            format!(
                "no base line at {}; `load guard accept` makes one",
                path.display()
            )
        })?;
        serde_json::from_str(&text).with_context(|| path.display().to_string())
    }

    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)? + "\n";
        std::fs::write(path, text).with_context(|| path.display().to_string())
    }

    /// Every figure of either side with its verdict, by name.
    pub(crate) fn judge<'a>(&'a self, now: &'a Figures) -> Vec<Judged<'a>> {
        let mut names: Vec<&String> = self.figures.keys().chain(now.keys()).collect();
        names.sort();
        names.dedup();
        let judged = names.into_iter().map(|name| {
            let (before, after) = (self.figures.get(name), now.get(name));
            let verdict = match (before, after) {
                (Some(before), Some(after)) => Verdict::of(before, after),
                (None, _) => Verdict::New,
                (_, None) => Verdict::Gone,
            };
            Judged {
                name,
                before: before.copied(),
                after: after.copied(),
                verdict,
            }
        });
        judged.collect()
    }
}

/// A figure that nobody can explain is no base line.
pub(crate) fn reason(text: &str) -> Result<String, String> {
    let text = text.trim();
    if text.split_whitespace().count() < 3 {
        return Err("say in some words why the new figures are right".to_owned());
    }
    Ok(text.to_owned())
}

/// What is said of one figure. Shares are of the base line.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Verdict {
    Held,
    Rose(f64),
    Allocates(f64),
    /// It rose, and its yardstick with it: the compiler or what both are built of.
    RoseWithItsYardstick(f64),
    Fell(f64),
    New,
    Gone,
}

impl Verdict {
    fn of(before: &Figure, after: &Figure) -> Self {
        let rise = after.instructions / before.instructions - 1.0;
        let ratio = |figure: &Figure| figure.instructions / figure.yardstick;
        let beside = ratio(after) / ratio(before) - 1.0;
        let allocations = after.allocations - before.allocations;
        // A figure that is no number must not pass as one that held.
        if !(rise.is_finite() && beside.is_finite()) {
            return Self::Gone;
        }
        if rise.min(beside) > TOLERANCE {
            Self::Rose(rise.min(beside))
        } else if allocations > ALLOCATION {
            Self::Allocates(allocations)
        } else if rise > TOLERANCE {
            Self::RoseWithItsYardstick(rise)
        } else if rise.max(beside) < -TOLERANCE {
            Self::Fell(-rise.max(beside))
        } else {
            Self::Held
        }
    }

    pub(crate) fn fails(self) -> bool {
        matches!(
            self,
            Self::Rose(_) | Self::Allocates(_) | Self::New | Self::Gone
        )
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = |share: &f64| share * 100.0;
        match self {
            Self::Held => f.write_str("held"),
            Self::Rose(share) => write!(f, "ROSE by {:.1} %", percent(share)),
            Self::Allocates(more) => write!(f, "ALLOCATES {more:.1} times more"),
            Self::RoseWithItsYardstick(share) => {
                write!(f, "rose by {:.1} % as its yardstick did", percent(share))
            }
            Self::Fell(share) => write!(
                f,
                "fell by {:.1} %: accept it, so that a rise back is seen",
                percent(share)
            ),
            Self::New => f.write_str("NOT in the base line"),
            Self::Gone => f.write_str("in the base line, and NOT counted"),
        }
    }
}

/// One figure on both sides.
#[derive(Clone, Debug)]
pub(crate) struct Judged<'a> {
    pub(crate) name: &'a str,
    pub(crate) before: Option<Figure>,
    pub(crate) after: Option<Figure>,
    pub(crate) verdict: Verdict,
}

impl fmt::Display for Judged<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "| {} |", self.name)?;
        for figure in [self.before, self.after] {
            match figure {
                None => write!(f, " – |")?,
                Some(figure) => write!(
                    f,
                    " {:.0} ({:.3}×), {:.1} |",
                    figure.instructions,
                    figure.instructions / figure.yardstick,
                    figure.allocations
                )?,
            }
        }
        write!(f, " {} |", self.verdict)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(instructions: f64, allocations: f64, yardstick: f64) -> Figure {
        Figure {
            instructions,
            allocations,
            yardstick,
        }
    }

    fn baseline() -> Baseline {
        Baseline {
            accepted: "2026-01-01".to_owned(),
            reason: "the first figures of all".to_owned(),
            machine: Machine {
                architecture: "x86_64".to_owned(),
                compiler: "1.95.0".to_owned(),
                trained: true,
            },
            figures: Figures::from([("request".to_owned(), figure(40_000.0, 10.0, 30_000.0))]),
        }
    }

    fn verdict(now: Figure) -> Verdict {
        let figures = Figures::from([("request".to_owned(), now)]);
        baseline().judge(&figures).first().unwrap().verdict
    }

    #[test]
    fn a_rise_above_the_tolerance_fails_and_one_below_holds() {
        assert_eq!(verdict(figure(41_900.0, 10.0, 30_000.0)), Verdict::Held);
        let rose = verdict(figure(42_100.0, 10.0, 30_000.0));
        assert!(matches!(rose, Verdict::Rose(_)) && rose.fails(), "{rose:?}");
    }

    #[test]
    fn what_moves_the_yardstick_as_well_is_told_and_does_not_fail() {
        let told = verdict(figure(48_000.0, 10.0, 36_000.0));
        assert!(matches!(told, Verdict::RoseWithItsYardstick(_)), "{told:?}");
        assert!(!told.fails());
    }

    #[test]
    fn a_cheaper_yardstick_is_no_regression() {
        let held = verdict(figure(40_000.0, 10.0, 25_000.0));
        assert_eq!(held, Verdict::Held);
    }

    #[test]
    fn a_rise_that_its_yardstick_does_not_explain_fails() {
        let rose = verdict(figure(48_000.0, 10.0, 31_000.0));
        assert!(rose.fails(), "{rose:?}");
    }

    #[test]
    fn one_more_allocation_fails() {
        assert_eq!(verdict(figure(40_000.0, 10.3, 30_000.0)), Verdict::Held);
        assert!(verdict(figure(40_000.0, 11.0, 30_000.0)).fails());
    }

    #[test]
    fn a_fall_is_told_and_does_not_fail() {
        let fell = verdict(figure(30_000.0, 10.0, 30_000.0));
        assert!(matches!(fell, Verdict::Fell(share) if (share - 0.25).abs() < 1e-9));
        assert!(!fell.fails() && fell.to_string().contains("25.0 %"));
    }

    #[test]
    fn a_figure_that_is_new_or_gone_or_no_number_fails() {
        let baseline = baseline();
        let none = Figures::new();
        assert_eq!(
            baseline.judge(&none).first().unwrap().verdict,
            Verdict::Gone
        );
        let other = Figures::from([("other".to_owned(), figure(1.0, 0.0, 1.0))]);
        let judged = baseline.judge(&other);
        let verdicts: Vec<_> = judged.iter().map(|judged| judged.verdict).collect();
        assert_eq!(verdicts, [Verdict::New, Verdict::Gone]);
        assert!(verdicts.iter().all(|verdict| verdict.fails()));
        assert!(verdict(figure(f64::NAN, 10.0, 30_000.0)).fails());
        assert!(verdict(figure(40_000.0, 10.0, 0.0)).fails());
    }

    #[test]
    fn a_base_line_needs_a_reason() {
        for missing in ["", "   ", "because", "a b"] {
            assert!(reason(missing).is_err(), "{missing:?}");
        }
        let given = reason(" hyper 2 copies less ").unwrap();
        assert_eq!(given, "hyper 2 copies less");
    }

    #[test]
    fn a_base_line_is_read_back_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("baseline.json");
        assert!(Baseline::read(&path).is_err());
        baseline().write(&path).unwrap();
        assert_eq!(Baseline::read(&path).unwrap(), baseline());
    }
}
