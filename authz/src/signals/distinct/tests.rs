//! The sets against sets of the standard library, and by many threads.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher as _, RandomState};

use proptest::prelude::*;

use super::*;

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    #[test]
    fn up_to_64_are_exact(
        start in 0..1_000_000_u64,
        steps in proptest::collection::vec((0..64_u8, prop_oneof![4 => 0..2_u64, 2 => 0..30_u64, 1 => 50..70_u64, 1 => 0..100_000_u64]), 1..300),
    ) {
        let hasher = RandomState::new();
        let set = Distinct::new();
        let mut seen = HashMap::new();
        let mut second = start;
        for (member, wait) in steps {
            second += wait;
            let before = set.value(second);
            seen.insert(member, second);
            let told = set.see(hasher.hash_one(member), second);
            let expected = seen.values().filter(|seen| **seen + SECONDS >= second).count() as u64;
            prop_assert_eq!(told, expected);
            prop_assert_eq!(set.value(second), expected);
            prop_assert!(before == expected || before + 1 == expected);
            for limit in [1, 3, 20, 64] {
                let wait = set.until_within(limit, second).as_secs();
                prop_assert!(wait == 0 || set_like(&seen, second + wait - 1) > limit);
                prop_assert!(set_like(&seen, second + wait) <= limit);
            }
        }
        prop_assert!(set.sketch.get().is_none());
    }
}

fn set_like(seen: &HashMap<u8, u64>, second: u64) -> u64 {
    seen.values()
        .filter(|seen| **seen + SECONDS >= second)
        .count() as u64
}

#[test]
fn a_sketch_is_within_a_tenth_up_to_3000_and_ends_at_its_most() {
    for _ in 0..5 {
        let hasher = RandomState::new();
        let set = Distinct::new();
        for number in 1..=40_000_u64 {
            // Within a minute.
            let second = 1_000 + number / 1_000;
            let told = set.see(hasher.hash_one(number), second);
            let error = told.abs_diff(number);
            match number {
                ..=64 => assert_eq!(told, number),
                65..=3_000 => assert!(error * 10 <= number, "{told} of {number}"),
                _ => assert!(told > 2_700 && told <= MOST, "{told} of {number}"),
            }
        }
        assert_eq!(set.value(1_040), MOST);
    }
}

#[test]
fn after_many_members_few_are_exact_again_and_a_sketch_forgets() {
    let hasher = RandomState::new();
    let set = Distinct::new();
    for number in 0..2_000_u64 {
        set.see(hasher.hash_one(number), 100);
    }
    for number in 0..500_u64 {
        set.see(hasher.hash_one(number), 130);
    }
    let told = set.value(161);
    assert!((450..=550).contains(&told), "{told}");
    assert!(set.until_within(60, 161) >= Duration::from_secs(30));
    assert_eq!(set.value(191), 0);
    assert_eq!(set.see(hasher.hash_one(7_u64), 191), 1);
    assert_eq!(set.see(hasher.hash_one(8_u64), 191), 2);
}

#[test]
fn many_threads_never_count_too_little() {
    for round in 0..50_u64 {
        let hasher = RandomState::new();
        let set = Distinct::new();
        std::thread::scope(|scope| {
            for thread in 0..8_u64 {
                let (set, hasher) = (&set, &hasher);
                scope.spawn(move || {
                    for number in 0..8_u64 {
                        let own = hasher.hash_one(thread * 8 + number);
                        let told = set.see(own, round * 100 + number / 4);
                        assert!(told > number, "{told}");
                    }
                });
            }
        });
        let told = set.value(round * 100 + 2);
        assert!((64..=64 + 8).contains(&told), "{told}");
        assert_eq!(set.value(round * 100 + 3), 64);
    }
}

#[test]
fn what_was_there_once_is_known_up_to_128_members_and_none_beyond() {
    let hasher = RandomState::new();
    let ever = Ever::new();
    for number in 0..1_000_u64 {
        let key = hasher.hash_one(number);
        assert!(!ever.contains(key));
        ever.keep(key);
        ever.keep(key);
        assert_eq!(ever.contains(key), number < KEPT as u64, "{number}");
    }
    for number in 0..KEPT as u64 {
        assert!(ever.contains(hasher.hash_one(number)));
    }
}

#[test]
fn many_threads_keep_each_member_once() {
    let hasher = RandomState::new();
    let ever = Ever::new();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| (0..KEPT as u64).for_each(|number| ever.keep(hasher.hash_one(number))));
        }
    });
    let slots = ever.slots.iter().map(|slot| slot.load(Ordering::Relaxed));
    let kept: Vec<u64> = slots.filter(|word| *word != 0).collect();
    assert_eq!(kept.len(), KEPT);
    assert_eq!(kept.iter().collect::<HashSet<_>>().len(), KEPT);
}
