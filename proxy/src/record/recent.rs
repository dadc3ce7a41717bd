//! The latest decisions, kept in memory for the admin listener.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use super::{DecisionRecord, json};

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

impl<T> Recent<T> {
    /// Keeps the last of `batch`, and leaves in it those that are no longer kept.
    pub(super) fn keep(&self, batch: &mut Vec<T>) {
        let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        records.extend(batch.drain(..));
        let surplus = records.len().saturating_sub(CAPACITY);
        batch.extend(records.drain(..surplus));
    }

    /// At most `limit` records as a list, newest first.
    fn list(&self, limit: usize, mut write: impl FnMut(&T, &mut Vec<u8>)) -> String {
        let records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text = b"{\"decisions\":[".to_vec();
        for (place, record) in records.iter().rev().take(limit).enumerate() {
            if place > 0 {
                text.push(b',');
            }
            write(record, &mut text);
        }
        text.extend_from_slice(b"]}\n");
        String::from_utf8(text).unwrap_or_default()
    }
}

impl Recent {
    /// At most `limit` decisions as a JSON document, newest first.
    pub(crate) fn to_json(&self, limit: usize) -> String {
        let mut writer = json::Writer::default();
        self.list(limit, |record, to| writer.write(record, to))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_newest_and_answers_newest_first() {
        let recent = Recent::<usize>::default();
        let mut left = 0;
        for first in [0, 100, 200] {
            let mut batch: Vec<_> = (first..first + 100).collect();
            recent.keep(&mut batch);
            left += batch.len();
        }
        assert_eq!(left, 300 - CAPACITY);
        let list = |limit| {
            recent.list(limit, |number, to| {
                to.extend_from_slice(number.to_string().as_bytes());
            })
        };
        assert_eq!(list(2), "{\"decisions\":[299,298]}\n");
        let all: serde_json::Value = serde_json::from_str(&list(usize::MAX)).unwrap();
        assert_eq!(all["decisions"].as_array().unwrap().len(), CAPACITY);
    }
}
