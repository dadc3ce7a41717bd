//! How many retries there may be: a share of the requests of the last seconds, so that retries
//! never multiply the load on an upstream that is down. Time is passed in.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::config::RetryConfig;

/// How many seconds count.
const WINDOW: u64 = 10;

/// The retry budget of one upstream, shared by all workers.
#[derive(Debug)]
pub(super) struct Budget {
    epoch: Instant,
    percent: u64,
    reserve: u64,
    window: Mutex<Window>,
}

#[derive(Debug, Default)]
struct Window {
    current: Second,
    /// The seconds before it that something happened in, oldest first.
    past: VecDeque<Second>,
}

/// What happened in one second.
#[derive(Debug, Clone, Copy, Default)]
struct Second {
    number: u64,
    requests: u64,
    retries: u64,
}

impl Budget {
    pub(super) fn new(config: &RetryConfig, now: Instant) -> Self {
        Self {
            epoch: now,
            percent: config.budget_percent.into(),
            reserve: u64::from(config.min_per_second) * WINDOW,
            window: Mutex::default(),
        }
    }

    /// Notes a request, which pays for a part of a retry.
    pub(super) fn request(&self, now: Instant) {
        self.window_at(now).current.requests += 1;
    }

    /// Whether there may be a retry now; it is paid for if so.
    pub(super) fn retry(&self, now: Instant) -> bool {
        let mut window = self.window_at(now);
        let (requests, retries) = window.totals();
        let there_may = retries < requests * self.percent / 100 + self.reserve;
        window.current.retries += u64::from(there_may);
        there_may
    }

    fn window_at(&self, now: Instant) -> MutexGuard<'_, Window> {
        let number = now.saturating_duration_since(self.epoch).as_secs();
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        window.advance(number);
        window
    }
}

impl Window {
    /// Begins a new second. Another worker may be ahead; then its second goes on.
    fn advance(&mut self, number: u64) {
        if number <= self.current.number {
            return;
        }
        let next = Second {
            number,
            ..Second::default()
        };
        self.past
            .push_back(std::mem::replace(&mut self.current, next));
        while self
            .past
            .front()
            .is_some_and(|second| second.number + WINDOW <= number)
        {
            self.past.pop_front();
        }
    }

    fn totals(&self) -> (u64, u64) {
        let all = self.past.iter().chain([&self.current]);
        all.fold((0, 0), |(requests, retries), second| {
            (requests + second.requests, retries + second.retries)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn budget(percent: u32, min: u32, now: Instant) -> Budget {
        let config = RetryConfig {
            attempts: 2,
            on: Vec::new(),
            per_try_timeout: None,
            budget_percent: percent,
            min_per_second: min,
            buffer: 0,
        };
        Budget::new(&config, now)
    }

    fn retries(budget: &Budget, now: Instant) -> usize {
        (0..1_000).take_while(|_| budget.retry(now)).count()
    }

    #[test]
    fn retries_are_a_share_of_the_requests() {
        let now = Instant::now();
        let budget = budget(20, 0, now);
        assert_eq!(retries(&budget, now), 0);
        for second in 0..5 {
            for _ in 0..20 {
                budget.request(now + Duration::from_secs(second));
            }
        }
        assert_eq!(retries(&budget, now + Duration::from_secs(5)), 20);
        assert!(!budget.retry(now + Duration::from_secs(6)));
    }

    #[test]
    fn what_was_long_ago_pays_for_nothing() {
        let now = Instant::now();
        let budget = budget(100, 0, now);
        for _ in 0..50 {
            budget.request(now);
        }
        assert_eq!(retries(&budget, now + Duration::from_secs(10)), 0);
    }

    #[test]
    fn a_few_retries_are_there_without_any_request() {
        let now = Instant::now();
        let budget = budget(0, 2, now);
        assert_eq!(retries(&budget, now), 20);
        assert_eq!(retries(&budget, now + Duration::from_secs(9)), 0);
        assert_eq!(retries(&budget, now + Duration::from_secs(10)), 20);
    }
}
