//! What policies compare signals with: where a value must pass for a decision to change.

use super::signal::{Signal, SignalSet};

/// What one signal is compared with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    at: Vec<i64>,
    otherwise: bool,
}

impl Limits {
    /// The limits in ascending order: a decision can change between each and the next number.
    /// So `> 10` and `<= 10` have the limit 10, `>= 10` and `< 10` have 9, `== 10` has both.
    #[must_use]
    pub fn at(&self) -> &[i64] {
        &self.at
    }

    /// Whether it is read otherwise than by comparison with constants, so that any change counts.
    #[must_use]
    pub fn otherwise(&self) -> bool {
        self.otherwise
    }

    /// Between which limits a value lies: two values that decide alike have the same number.
    #[must_use]
    pub fn band(&self, value: i64) -> u64 {
        match self.otherwise {
            true => value as u64,
            false => self.at.partition_point(|at| *at < value) as u64,
        }
    }
}

/// What each signal is compared with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SignalLimits {
    read: SignalSet,
    /// By the number of the signal, as many as there are.
    of: Vec<Limits>,
}

impl SignalLimits {
    /// The signals that are read.
    #[must_use]
    pub fn read(&self) -> SignalSet {
        self.read
    }

    /// What one is compared with; none where it is not read.
    #[must_use]
    pub fn of(&self, signal: Signal) -> Option<&Limits> {
        let limits = self.of.get(signal as usize)?;
        self.read.contains(signal).then_some(limits)
    }

    /// Adds a limit, or that the signal is read otherwise.
    pub(crate) fn add(&mut self, signal: Signal, limit: Option<i64>) {
        self.read = self.read.with(signal);
        self.of.resize_with(super::signal::COUNT, Limits::default);
        let Some(limits) = self.of.get_mut(signal as usize) else {
            return;
        };
        match limit {
            None => limits.otherwise = true,
            Some(limit) => {
                if let Err(place) = limits.at.binary_search(&limit) {
                    limits.at.insert(place, limit);
                }
            }
        }
    }
}
