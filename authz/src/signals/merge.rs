//! How two statements about one subject become one, in whatever order they are heard.
//!
//! Every sidecar of a fleet, its journal and the store merge by these rules alone, so that all
//! come to know the same however often and in whatever order something reaches them:
//!
//! - What is said is as old as its `origin.at_ms` says. The clocks of a fleet may differ, so who
//!   says something while it knows of something else says it later than that, whatever its clock
//!   shows ([`Principals::say`](super::Principals::say)). Only of two statements that did not
//!   know of each other do the clocks tell which came first.
//! - A quarantine lasts as long as the longest says that was not lifted, and counts as said when
//!   it was said last.
//! - A lift ends what was said before it, also where that is heard of only afterwards. For this
//!   lifts are remembered for [`REMEMBERED`], which is longer than any quarantine.
//! - The latest rating of a principal is its rating.
//! - SECURITY: of a lift and what it would lift, said in the same millisecond, the lift loses;
//!   so does the lower of two ratings.

use super::standing::{Origin, Quarantine, Revocation, Risk};

/// For how long a lift is remembered: milliseconds. The longest quarantine, and a day.
pub(super) const REMEMBERED: u64 = 31 * 24 * 3_600_000;

/// What comes of a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Told {
    /// It was known, or is older than what is.
    Nothing,
    /// It is remembered, and nothing in force is otherwise than before.
    Remembered,
    /// Something in force is otherwise than before.
    Changed,
}

/// Whether a lift ends what was said at a time.
pub(super) fn lifts(lift: Option<&Origin>, at_ms: u64) -> bool {
    lift.is_some_and(|lift| lift.at_ms > at_ms)
}

/// Merges two quarantines of one principal and scope.
pub(super) fn quarantine(known: &mut Quarantine, new: &Quarantine) -> Told {
    let at_ms = known.origin.at_ms.max(new.origin.at_ms);
    let told = match () {
        () if new.until_ms > known.until_ms => {
            *known = new.clone();
            Told::Changed
        }
        () if new.origin.at_ms > known.origin.at_ms => Told::Remembered,
        () => Told::Nothing,
    };
    known.origin.at_ms = at_ms;
    told
}

/// Merges two revocations of one subject.
pub(super) fn revocation(known: &mut Revocation, new: &Revocation) -> Told {
    later(&mut known.origin, &new.origin)
}

/// Merges two lifts of one subject, or whatever else has no more than an origin.
pub(super) fn later(known: &mut Origin, new: &Origin) -> Told {
    if new.at_ms <= known.at_ms {
        return Told::Nothing;
    }
    *known = new.clone();
    Told::Remembered
}

/// Merges two ratings of one principal.
pub(super) fn risk(known: &mut Risk, new: &Risk) -> Told {
    if (new.origin.at_ms, new.level) <= (known.origin.at_ms, known.level) {
        return Told::Nothing;
    }
    let told = match known.level == new.level {
        true => Told::Remembered,
        false => Told::Changed,
    };
    *known = new.clone();
    told
}

#[cfg(test)]
mod tests {
    use super::super::ledger::Ledger;
    use super::super::signal::RiskLevel;
    use super::super::standing::{Change, Revoked, Scope};
    use super::*;
    use proptest::prelude::*;

    const CART: &str = "spiffe://shop.example/ns/web/sa/cart";

    fn origin(at_ms: u64) -> Origin {
        Origin {
            by: "operator".into(),
            reason: None,
            at_ms,
        }
    }

    fn quarantined(at_ms: u64, until_ms: u64) -> Change {
        Change::Quarantined(Quarantine {
            principal: CART.into(),
            scope: Scope::Everything,
            until_ms,
            status: None,
            origin: origin(at_ms),
        })
    }

    fn released(at_ms: u64) -> Change {
        Change::Released {
            principal: CART.into(),
            origin: origin(at_ms),
        }
    }

    fn revoked(at_ms: u64) -> Change {
        Change::Revoked(Revocation {
            subject: Revoked::Principal(CART.into()),
            origin: origin(at_ms),
        })
    }

    fn reinstated(at_ms: u64) -> Change {
        Change::Reinstated {
            subject: Revoked::Principal(CART.into()),
            origin: origin(at_ms),
        }
    }

    fn rated(at_ms: u64, level: RiskLevel) -> Change {
        Change::Rated(Risk {
            principal: CART.into(),
            level,
            origin: origin(at_ms),
        })
    }

    fn heard<'a>(changes: impl IntoIterator<Item = &'a Change>) -> Ledger {
        let mut ledger = Ledger::default();
        for change in changes {
            ledger.apply(change).unwrap();
        }
        ledger
    }

    /// Until when it is in quarantine; nought where it is not.
    fn until(ledger: &Ledger) -> u64 {
        let against = ledger.against(CART);
        against.quarantine("orders", 0).map_or(0, |q| q.until_ms)
    }

    #[test]
    fn a_lift_wins_over_what_was_said_before_it_in_whatever_order_they_are_heard() {
        let (before, lift, after) = (quarantined(10, 9_000), released(20), quarantined(30, 500));
        for order in [[&before, &lift], [&lift, &before]] {
            assert_eq!(until(&heard(order)), 0);
        }
        for order in [
            [&before, &lift, &after],
            [&lift, &before, &after],
            [&lift, &after, &before],
        ] {
            assert_eq!(until(&heard(order)), 500);
        }
        let (before, lift, after) = (revoked(10), reinstated(20), revoked(30));
        for order in [[&before, &lift], [&lift, &before]] {
            assert!(!heard(order).against(CART).revoked);
        }
        for order in [[&before, &lift, &after], [&after, &lift, &before]] {
            assert!(heard(order).against(CART).revoked);
        }
    }

    #[test]
    fn a_lift_does_not_end_what_was_said_after_it_though_a_longer_one_hid_that() {
        let ledger = heard(&[quarantined(10, 9_000), quarantined(30, 500), released(20)]);
        assert!(until(&ledger) >= 500);
    }

    #[test]
    fn said_in_the_same_millisecond_what_denies_wins() {
        for order in [
            [quarantined(10, 500), released(10)],
            [released(10), quarantined(10, 500)],
        ] {
            assert_eq!(until(&heard(&order)), 500);
        }
        for order in [[revoked(10), reinstated(10)], [reinstated(10), revoked(10)]] {
            assert!(heard(&order).against(CART).revoked);
        }
        let (low, high) = (rated(10, RiskLevel::Low), rated(10, RiskLevel::High));
        for order in [[&low, &high], [&high, &low]] {
            assert_eq!(heard(order).against(CART).risk, RiskLevel::High);
        }
    }

    #[test]
    fn who_knows_of_something_answers_it_though_its_clock_is_behind() {
        let principals = super::super::Principals::new(16);
        let ahead = |change: Change| principals.apply(&change).unwrap();
        let say = |change: Change| principals.say(change).unwrap().1.concerned;
        let cart = super::super::Concerned::Principal(CART.into());
        ahead(quarantined(5_000, 90_000));
        assert_eq!(say(released(3_000)), cart);
        assert_eq!(say(quarantined(3_001, 90_000)), cart);
        ahead(revoked(5_000));
        assert_eq!(say(reinstated(3_000)), cart);
        assert_eq!(say(revoked(3_001)), cart);
        ahead(rated(5_000, RiskLevel::High));
        assert_eq!(say(rated(3_000, RiskLevel::Low)), cart);
        let against = principals.of(CART).against().clone();
        assert!(against.revoked && against.quarantines.len() == 1);
        assert_eq!(against.risk, RiskLevel::Low);
    }

    #[test]
    fn a_lift_is_remembered_for_longer_than_any_quarantine_and_no_longer() {
        let mut ledger = heard(&[released(20), reinstated(20)]);
        ledger.expire(REMEMBERED + 19);
        assert_eq!(ledger.changes().len(), 2);
        ledger.expire(REMEMBERED + 20);
        assert!(ledger.changes().is_empty());
    }

    fn change() -> impl Strategy<Value = Change> {
        let times = (1..6_u64, 1..6_u64, 0..5_u8);
        let levels = [
            RiskLevel::None,
            RiskLevel::Low,
            RiskLevel::Medium,
            RiskLevel::High,
        ];
        times.prop_map(move |(at, until, kind)| match kind {
            0 => quarantined(at, until * 100),
            1 => released(at),
            2 => revoked(at),
            3 => reinstated(at),
            _ => rated(at, levels[until as usize % 4]),
        })
    }

    proptest! {
        #[test]
        fn whoever_tell_each_other_what_they_know_know_the_same(
            said in prop::collection::vec((change(), any::<bool>(), any::<bool>()), 0..12),
            seed in any::<u64>(),
        ) {
            let mut one = heard(said.iter().filter(|s| s.1).map(|s| &s.0));
            let mut mixed: Vec<_> = said.iter().filter(|s| s.2 || !s.1).collect();
            let turn = seed as usize % mixed.len().max(1);
            mixed.rotate_left(turn);
            let mut two = heard(mixed.iter().map(|s| &s.0));
            for _ in 0..2 {
                let (of_one, of_two) = (one.changes(), two.changes());
                of_two.iter().for_each(|change| drop(one.apply(change).unwrap()));
                of_one.iter().for_each(|change| drop(two.apply(change).unwrap()));
            }
            prop_assert_eq!(one.changes(), two.changes());
            for change in two.changes() {
                prop_assert!(!one.apply(&change).unwrap().news);
            }
            // And it denies whatever was said and not lifted.
            let lifted = said.iter().filter_map(|s| match &s.0 {
                Change::Released { origin, .. } => Some(origin.at_ms),
                _ => None,
            });
            let lifted = lifted.max().unwrap_or_default();
            let longest = said.iter().filter_map(|s| match &s.0 {
                Change::Quarantined(q) if q.origin.at_ms >= lifted => Some(q.until_ms),
                _ => None,
            });
            prop_assert!(until(&one) >= longest.max().unwrap_or_default());
            let any = said.iter().any(|s| matches!(&s.0, Change::Quarantined(q)
                if q.origin.at_ms >= lifted));
            prop_assert!(any || until(&one) == 0);
        }
    }
}
