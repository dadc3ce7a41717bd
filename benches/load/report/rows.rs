//! Measurements by what was measured and of whom, as often as there were rounds.

use std::fmt::Display;

use serde::Serialize;
use serde_json::{Value, json};

use crate::target::Kind;

/// One measurement of each kind in each case, as often as there were rounds.
pub(crate) struct Rows<C, M>(Vec<Row<C, M>>);

struct Row<C, M> {
    case: C,
    kind: Kind,
    found: M,
}

impl<C: Copy + PartialEq + Display, M: Serialize> Rows<C, M> {
    pub(crate) fn add(&mut self, case: C, kind: Kind, found: M) {
        self.0.push(Row { case, kind, found });
    }

    /// The cases in the order in which they were first measured.
    pub(crate) fn cases(&self) -> Vec<C> {
        let mut cases = Vec::new();
        for row in &self.0 {
            if !cases.contains(&row.case) {
                cases.push(row.case);
            }
        }
        cases
    }

    /// The kinds that were measured in a case, in order.
    pub(crate) fn kinds(&self, case: C) -> Vec<Kind> {
        let mut kinds = Vec::new();
        for row in self.0.iter().filter(|row| row.case == case) {
            if !kinds.contains(&row.kind) {
                kinds.push(row.kind);
            }
        }
        kinds
    }

    /// A figure of every round, the least first.
    pub(crate) fn figures(&self, case: C, kind: Kind, figure: impl Fn(&M) -> f64) -> Figures {
        let of = |row: &&Row<C, M>| row.case == case && row.kind == kind;
        let mut figures: Vec<f64> = self
            .0
            .iter()
            .filter(of)
            .map(|row| figure(&row.found))
            .collect();
        figures.sort_by(f64::total_cmp);
        Figures(figures)
    }

    pub(super) fn json(&self, more: impl Fn(&M) -> Value) -> Value {
        let rows = self.0.iter().map(|row| {
            json!({
                "case": row.case.to_string(),
                "target": row.kind.to_string(),
                "measured": row.found,
                "derived": more(&row.found),
            })
        });
        rows.collect()
    }
}

impl<C, M> Default for Rows<C, M> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

/// One figure of every round, the least first.
pub(crate) struct Figures(Vec<f64>);

impl Figures {
    pub(crate) fn least(&self) -> f64 {
        self.0.first().copied().unwrap_or(f64::NAN)
    }

    pub(crate) fn median(&self) -> f64 {
        self.0.get(self.0.len() / 2).copied().unwrap_or(f64::NAN)
    }

    pub(crate) fn most(&self) -> f64 {
        self.0.last().copied().unwrap_or(f64::NAN)
    }

    /// How many are above zero, and how many there are.
    pub(crate) fn positive(&self) -> (usize, usize) {
        let above = self.0.iter().filter(|figure| **figure > 0.0);
        (above.count(), self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_of_their_case_and_kind_and_sorted() {
        let mut rows = Rows::default();
        for (case, kind, found) in [
            ("a", Kind::Bare, 3.0),
            ("a", Kind::Bare, 1.0),
            ("a", Kind::Sidecar, 9.0),
            ("b", Kind::Bare, 5.0),
            ("a", Kind::Bare, 2.0),
        ] {
            rows.add(case, kind, found);
        }
        let figures = rows.figures("a", Kind::Bare, |found: &f64| *found);
        assert_eq!(
            (figures.least(), figures.median(), figures.most()),
            (1.0, 2.0, 3.0)
        );
        assert_eq!(rows.cases(), ["a", "b"]);
        assert_eq!(rows.kinds("a"), [Kind::Bare, Kind::Sidecar]);
    }
}
