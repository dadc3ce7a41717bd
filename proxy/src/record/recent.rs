//! The latest decisions, kept in memory for the admin listener.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use serde::Serialize;

use super::DecisionRecord;

/// How many decisions are kept.
const CAPACITY: usize = 256;

/// The latest decisions, oldest first. They are put into words when somebody asks.
#[derive(Debug)]
pub(crate) struct Recent<T = Box<DecisionRecord>> {
    records: Mutex<VecDeque<T>>,
}

impl<T> Default for Recent<T> {
    fn default() -> Self {
        Self {
            records: Mutex::default(),
        }
    }
}

/// The document that the admin listener answers with.
#[derive(Serialize)]
struct Document<'a, T> {
    decisions: Vec<&'a T>,
}

impl<T: Serialize> Recent<T> {
    /// Keeps the last of `batch`, and empties it.
    pub(super) fn keep(&self, batch: &mut Vec<T>) {
        let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        records.extend(batch.drain(..));
        let surplus = records.len().saturating_sub(CAPACITY);
        records.drain(..surplus);
    }

    /// At most `limit` decisions as a JSON document, newest first.
    pub(crate) fn to_json(&self, limit: usize) -> String {
        let records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        let decisions = records.iter().rev().take(limit).collect();
        let mut text = serde_json::to_string(&Document { decisions }).unwrap_or_default();
        text.push('\n');
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_newest_and_answers_newest_first() {
        let recent = Recent::<usize>::default();
        for first in [0, 100, 200] {
            let mut batch: Vec<_> = (first..first + 100).collect();
            recent.keep(&mut batch);
            assert!(batch.is_empty());
        }
        assert_eq!(recent.to_json(2), "{\"decisions\":[299,298]}\n");
        let all: serde_json::Value = serde_json::from_str(&recent.to_json(usize::MAX)).unwrap();
        assert_eq!(all["decisions"].as_array().unwrap().len(), CAPACITY);
    }
}
