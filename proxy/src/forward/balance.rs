//! Which of several endpoints a call goes to. One balancer a worker, so that nothing is shared.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::config::Balance;

/// One worker's choices among the endpoints of one upstream.
#[derive(Debug)]
pub(super) struct Balancer {
    policy: Balance,
    turn: AtomicUsize,
    random: AtomicU64,
}

impl Balancer {
    /// Balancers with different seeds make different choices, so that workers and sidecars that
    /// start together do not all go to the same endpoint.
    pub(super) fn new(policy: Balance, seed: u64) -> Self {
        Self {
            policy,
            turn: AtomicUsize::new(usize::try_from(seed & 0xffff).unwrap_or_default()),
            random: AtomicU64::new(seed),
        }
    }

    /// One of `all` that is `usable`; none where none is.
    pub(super) fn pick<'a, T>(
        &self,
        all: &'a [T],
        usable: impl Fn(&T) -> bool,
        load: impl Fn(&T) -> usize,
    ) -> Option<&'a T> {
        let count = all.iter().filter(|one| usable(one)).count();
        let nth = |index: usize| all.iter().filter(|one| usable(one)).nth(index);
        match (count, self.policy) {
            (0, _) => None,
            (1, _) => nth(0),
            (_, Balance::RoundRobin) => nth(self.turn.fetch_add(1, Ordering::Relaxed) % count),
            (_, Balance::LeastRequests) => {
                let first = self.below(count);
                // Another one than the first, each as likely.
                let second = (first + 1 + self.below(count - 1)) % count;
                let (first, second) = (nth(first)?, nth(second)?);
                Some(if load(second) < load(first) {
                    second
                } else {
                    first
                })
            }
        }
    }

    /// A number below `count`, which is not 0 (SplitMix64: fast, and nobody's secret).
    pub(super) fn below(&self, count: usize) -> usize {
        let state = self.random.load(Ordering::Relaxed);
        let state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.random.store(state, Ordering::Relaxed);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let mixed = mixed ^ (mixed >> 31);
        usize::try_from(mixed % (count.max(1) as u64)).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_in_turn_skips_what_is_not_usable() {
        let balancer = Balancer::new(Balance::RoundRobin, 0);
        let picked: Vec<_> = (0..6)
            .filter_map(|_| balancer.pick(&['a', 'b', 'c'], |one| *one != 'b', |_| 0))
            .collect();
        assert_eq!(picked, [&'a', &'c', &'a', &'c', &'a', &'c']);
        assert_eq!(balancer.pick(&['a'], |_| false, |_| 0), None);
    }

    #[test]
    fn of_two_the_less_loaded_one_is_always_taken() {
        let balancer = Balancer::new(Balance::LeastRequests, 7);
        for _ in 0..100 {
            let picked = balancer.pick(&[5_usize, 1], |_| true, |load| *load);
            assert_eq!(picked, Some(&1));
        }
    }

    #[test]
    fn the_most_loaded_one_of_many_is_never_taken_and_the_others_all_are() {
        let balancer = Balancer::new(Balance::LeastRequests, 1);
        let mut seen = [0; 5];
        for _ in 0..1_000 {
            let load = |index: &usize| usize::from(*index == 3);
            let picked = balancer.pick(&[0_usize, 1, 2, 3, 4], |_| true, load);
            seen[*picked.unwrap()] += 1;
        }
        assert_eq!(seen[3], 0, "{seen:?}");
        assert!(
            seen.iter().filter(|count| **count > 150).count() == 4,
            "{seen:?}"
        );
    }
}
