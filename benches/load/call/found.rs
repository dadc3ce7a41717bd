//! What became of the exchanges of one side, those who are to be served or those who are to be
//! refused: how long each took, what the answers were, and which were not to be expected.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use hdrhistogram::Histogram;

use crate::job::{Answer, Job};
use crate::rate::{histogram, nanos};

/// Whether a caller is to be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Side {
    Allowed,
    Denied,
}

impl Side {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Denied => "denied",
        }
    }

    /// What is told of an exchange, and whether it is what was to be expected.
    pub(super) fn judge(self, job: Job, answer: &Result<Answer>) -> (String, bool) {
        match (self, answer) {
            (Self::Allowed, Ok(Answer::Ok)) => ("ok".to_owned(), true),
            (Self::Denied, Ok(refused @ (Answer::Http(403 | 401) | Answer::Grpc(7 | 16)))) => {
                (refused.to_string(), true)
            }
            // Bytes cannot be told anything.
            (Self::Denied, Err(_)) if job == Job::Tcp => ("closed".to_owned(), true),
            (_, Ok(answer)) => (answer.to_string(), false),
            (_, Err(_)) => ("broke".to_owned(), false),
        }
    }
}

/// What one side found. Latencies are in nanoseconds.
pub(super) struct Found {
    pub(super) latency: Histogram<u64>,
    pub(super) answers: BTreeMap<String, u64>,
    pub(super) unexpected: u64,
    /// The first thing that was not to be expected.
    pub(super) example: Option<String>,
    /// When the last answer came, from the moment at which counting began.
    pub(super) last: Duration,
}

impl Found {
    pub(super) fn new() -> Result<Self> {
        Ok(Self {
            latency: histogram()?,
            answers: BTreeMap::new(),
            unexpected: 0,
            example: None,
            last: Duration::ZERO,
        })
    }

    /// Adds one exchange that took so long, and ended `at` after counting began.
    pub(super) fn add(
        &mut self,
        took: Duration,
        at: Duration,
        (told, expected): (String, bool),
        answer: &Result<Answer>,
    ) {
        self.latency.saturating_record(nanos(took));
        self.last = self.last.max(at);
        if !expected {
            self.unexpected += 1;
            let why = || {
                answer
                    .as_ref()
                    .map_or_else(|e| format!("{e:#}"), ToString::to_string)
            };
            self.example.get_or_insert_with(why);
        }
        *self.answers.entry(told).or_default() += 1;
    }

    /// A percentile in microseconds.
    pub(super) fn us(&self, share: f64) -> f64 {
        self.latency.value_at_quantile(share) as f64 / 1e3
    }

    /// Exchanges a second, until the last was answered: those that were due within `length` and
    /// were answered long after it were not answered at the rate that was asked for.
    pub(super) fn per_second(&self, length: Duration) -> f64 {
        self.latency.len() as f64 / self.last.max(length).as_secs_f64()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_expected_depends_on_the_caller() {
        let expected = |side: Side, job, answer: &Result<Answer>| side.judge(job, answer).1;
        let broke = || Err(anyhow::anyhow!("reset"));
        assert!(expected(Side::Allowed, Job::Http1, &Ok(Answer::Ok)));
        assert!(!expected(Side::Allowed, Job::Http1, &Ok(Answer::Http(403))));
        assert!(!expected(Side::Allowed, Job::Tcp, &broke()));
        assert!(expected(Side::Denied, Job::Http1, &Ok(Answer::Http(403))));
        assert!(expected(Side::Denied, Job::GrpcUnary, &Ok(Answer::Grpc(7))));
        assert!(expected(Side::Denied, Job::Tcp, &broke()));
        assert!(!expected(Side::Denied, Job::Http1, &Ok(Answer::Ok)));
        assert!(!expected(Side::Denied, Job::Http1, &Ok(Answer::Http(502))));
        assert!(!expected(Side::Denied, Job::Http1, &broke()));
    }
}
