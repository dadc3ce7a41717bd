//! What is said against a principal while its calls begin on many threads: once it is said, no call
//! is allowed any more, and none that was allowed is left without being told.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test says what went wrong by panicking"
)]

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::thread;

use wayleave_authz::signals::{Behaviour, Change, Origin, Principals, Revocation, Revoked};

const CART: &str = "spiffe://shop.example/ns/web/sa/cart";
const READERS: usize = 4;
const ROUNDS: u64 = 50;
/// Calls of each thread that stay open: the latest, which the revocation raced with.
const OPEN: usize = 64;

fn origin() -> Origin {
    Origin {
        by: "operator".into(),
        reason: None,
        at_ms: 1,
    }
}

fn revocation(subject: Revoked) -> Change {
    Change::Revoked(Revocation {
        subject,
        origin: origin(),
    })
}

fn reinstatement(subject: Revoked) -> Change {
    Change::Reinstated {
        subject,
        origin: origin(),
    }
}

/// A call that was allowed, as a lease remembers it.
struct Allowed {
    behaviour: Arc<Behaviour>,
    changes: u64,
}

/// Decides as the enforcement point does: the count of changes first, then what stands.
fn begin(behaviour: &Arc<Behaviour>) -> Option<Allowed> {
    let changes = behaviour.changes();
    (!behaviour.against().revoked).then(|| Allowed {
        behaviour: Arc::clone(behaviour),
        changes,
    })
}

impl Allowed {
    /// Whether a look at the lease ends it: only where something has changed is it decided again.
    fn is_ended(&self) -> bool {
        self.behaviour.changes() != self.changes && self.behaviour.against().revoked
    }
}

/// What a round begins and ends with; calls begin on every thread all the while.
#[derive(Default)]
struct Round {
    said: AtomicBool,
    late: AtomicU64,
    open: Mutex<Vec<Allowed>>,
}

/// Begins calls until one was refused after the revocation was said; each time the principal is
/// found anew, as a new connection does it, or known already.
fn caller(principals: &Principals, round: &Round, start: &Barrier, connected: &Arc<Behaviour>) {
    start.wait();
    let mut open = VecDeque::new();
    for turn in 0..u64::MAX {
        let said = round.said.load(Ordering::SeqCst);
        let behaviour = match turn % 2 {
            0 => principals.of(CART),
            _ => Arc::clone(connected),
        };
        match begin(&behaviour) {
            Some(_) if said => {
                round.late.fetch_add(1, Ordering::SeqCst);
            }
            Some(allowed) => open.push_back(allowed),
            None if said => break,
            None => {}
        }
        if open.len() > OPEN {
            open.pop_front();
        }
        assert!(turn < 50_000_000, "the revocation is never seen");
        thread::yield_now();
    }
    round.open.lock().unwrap().extend(open);
}

#[test]
fn once_a_revocation_is_said_no_call_begins_and_none_that_began_is_left_alone() {
    let principals = Principals::new(64);
    let subject = || Revoked::Principal(CART.into());
    let mut began = 0;
    for number in 0..ROUNDS {
        let (round, start) = (Round::default(), Barrier::new(READERS + 1));
        let connected = principals.of(CART);
        thread::scope(|scope| {
            for _ in 0..READERS {
                scope.spawn(|| caller(&principals, &round, &start, &connected));
            }
            start.wait();
            // At another moment of the race each time.
            (0..number % 64).for_each(|_| thread::yield_now());
            principals.say(revocation(subject())).unwrap();
            round.said.store(true, Ordering::SeqCst);
        });
        assert_eq!(round.late.load(Ordering::SeqCst), 0, "round {number}");
        let open = round.open.into_inner().unwrap();
        let left = open.iter().filter(|call| !call.is_ended()).count();
        assert_eq!(left, 0, "of {} calls in round {number}", open.len());
        began += open.len();
        principals.say(reinstatement(subject())).unwrap();
        assert!(begin(&connected).is_some(), "round {number}");
    }
    assert!(began > 0, "nothing began before it was revoked");
}

#[test]
fn a_principal_that_is_forgotten_and_found_again_meanwhile_is_revoked_all_the_same() {
    // One place for each shard: every stranger pushes somebody out.
    let principals = Principals::new(1);
    for number in 0..ROUNDS {
        let revoked = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                for stranger in 0..200 {
                    let _ = principals.of(&format!("spiffe://shop.example/{number}/{stranger}"));
                }
            });
            scope.spawn(|| {
                let mut seen = Vec::new();
                while !revoked.load(Ordering::SeqCst) {
                    seen.extend(begin(&principals.of(CART)));
                    seen.truncate(OPEN);
                    thread::yield_now();
                }
                assert!(principals.of(CART).against().revoked, "round {number}");
                let left = seen.iter().filter(|call| !call.is_ended()).count();
                assert_eq!(left, 0, "of {} calls in round {number}", seen.len());
            });
            thread::yield_now();
            let subject = Revoked::Principal(CART.into());
            principals.say(revocation(subject)).unwrap();
            revoked.store(true, Ordering::SeqCst);
        });
        let subject = Revoked::Principal(CART.into());
        principals.say(reinstatement(subject)).unwrap();
    }
}
