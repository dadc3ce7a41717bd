//! The latest decisions, kept in memory for the admin listener.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

/// How many decisions are kept.
pub(super) const CAPACITY: usize = 256;

/// The latest decisions as JSON texts, oldest first inside, newest first when read.
#[derive(Debug, Default)]
pub(crate) struct Recent {
    lines: Mutex<VecDeque<Arc<str>>>,
}

impl Recent {
    pub(super) fn push(&self, line: Arc<str>) {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() >= CAPACITY {
            lines.pop_front();
        }
        lines.push_back(line);
    }

    /// At most `limit` decisions as a JSON document, newest first.
    pub(crate) fn to_json(&self, limit: usize) -> String {
        let lines: Vec<Arc<str>> = {
            let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
            lines.iter().rev().take(limit).cloned().collect()
        };
        format!("{{\"decisions\":[{}]}}\n", lines.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_newest_and_answers_newest_first() {
        let recent = Recent::default();
        for n in 0..CAPACITY + 2 {
            recent.push(n.to_string().into());
        }
        assert_eq!(recent.to_json(2), "{\"decisions\":[257,256]}\n");
        let all: serde_json::Value = serde_json::from_str(&recent.to_json(usize::MAX)).unwrap();
        assert_eq!(all["decisions"].as_array().unwrap().len(), CAPACITY);
    }
}
