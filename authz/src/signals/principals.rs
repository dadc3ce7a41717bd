//! The principals of this process by name: as many as a limit says, and those that are connected;
//! with what is known against them, which is never forgotten.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::behaviour::{Behaviour, Shared};
use super::ledger::{Concerned, Ledger, Merged, StandingError};
use super::serials::Serials;
use super::standing::{Change, Known};

/// How many parts the table has, each with a lock of its own.
const SHARDS: usize = 16;

/// Among how many the one is chosen that is forgotten.
const SAMPLE: usize = 64;

/// After so long a principal that is not connected rests.
const RESTS_AFTER: Duration = Duration::from_secs(61 * 60);

type Shard = HashMap<Box<str>, Arc<Behaviour>>;

/// All principals. Looking one up takes a lock, once a connection; what was found is kept as long
/// as the connection lasts, and needs none.
#[derive(Debug)]
pub struct Principals {
    shards: [Mutex<Shard>; SHARDS],
    hasher: RandomState,
    max_per_shard: usize,
    shared: Arc<Shared>,
    ledger: Mutex<Ledger>,
    serials: Serials,
}

impl Principals {
    /// Nobody. Above `max_principals` those are forgotten that are not connected.
    #[must_use]
    pub fn new(max_principals: usize) -> Self {
        Self {
            shards: Default::default(),
            hasher: RandomState::new(),
            max_per_shard: max_principals.div_ceil(SHARDS),
            shared: Arc::new(Shared::new()),
            ledger: Mutex::default(),
            serials: Serials::new(),
        }
    }

    /// The principal with this name: a SPIFFE ID, or `anonymous`.
    #[must_use]
    pub fn of(&self, principal: &str) -> Arc<Behaviour> {
        let mut shard = self.shard(principal);
        if let Some(known) = shard.get(principal) {
            return Arc::clone(known);
        }
        if shard.len() >= self.max_per_shard {
            let hash = self.hasher.hash_one(principal);
            forget_one(&mut shard, hash >> 8);
        }
        let new = Arc::new(Behaviour::new(principal, Arc::clone(&self.shared)));
        shard.insert(principal.into(), Arc::clone(&new));
        drop(shard);
        // INVARIANT: in the table first. What is said of it from here on reaches it there, and
        // what was said before is found here.
        new.stand(lock(&self.ledger).against(principal));
        new
    }

    /// The principal with this name, if it is in the table.
    #[must_use]
    pub fn find(&self, principal: &str) -> Option<Arc<Behaviour>> {
        self.shard(principal).get(principal).cloned()
    }

    /// Calls `each` with every principal in the table.
    pub fn for_each(&self, mut each: impl FnMut(&Arc<Behaviour>)) {
        for shard in &self.shards {
            let all: Vec<_> = lock(shard).values().cloned().collect();
            all.iter().for_each(&mut each);
        }
    }

    /// How many are in the table.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).len()).sum()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Says whether what the fleet shares may be out of date: the signal `stale` of all.
    pub fn set_stale(&self, stale: bool) {
        self.shared.stale.store(stale, Ordering::Release);
    }

    /// Has those rest that are not connected and have not called for longer than any window: they
    /// forget all counts, which are nought by now, and keep which endpoints they have been in
    /// contact with. Tells how many there were. Takes the lock of each part of the table in turn.
    pub fn rest(&self, now: Instant) -> usize {
        let now = self.shared.millis(now);
        let long = RESTS_AFTER.as_millis() as u64;
        let mut resting = 0;
        for shard in &self.shards {
            for behaviour in lock(shard).values_mut() {
                let idle = now.saturating_sub(behaviour.last_seen()) > long;
                // Only the table holds it, so nobody counts.
                if idle && let Some(behaviour) = Arc::get_mut(behaviour) {
                    behaviour.rest();
                    resting += 1;
                }
            }
        }
        resting
    }

    /// Makes a change to what is known, and has it in force when it returns.
    ///
    /// # Errors
    /// When as much is known as can be.
    pub fn apply(&self, change: &Change) -> Result<Merged, StandingError> {
        self.apply_in(&mut lock(&self.ledger), change)
    }

    /// Makes a change that is said at this moment, and so later than all that is known of its
    /// subject, also where the clock is behind. Tells the change as it was made.
    ///
    /// # Errors
    /// When as much is known as can be.
    pub fn say(&self, mut change: Change) -> Result<(Change, Merged), StandingError> {
        let mut ledger = lock(&self.ledger);
        let not_before = ledger.not_before(&change);
        let at_ms = &mut change.origin_mut().at_ms;
        *at_ms = not_before.max(*at_ms);
        let merged = self.apply_in(&mut ledger, &change)?;
        Ok((change, merged))
    }

    fn apply_in(&self, ledger: &mut Ledger, change: &Change) -> Result<Merged, StandingError> {
        let merged = ledger.apply(change)?;
        match &merged.concerned {
            Concerned::Nobody => {}
            Concerned::Principal(principal) => self.tell(ledger, principal),
            Concerned::Serial(serial) => {
                self.serials.set(serial, ledger.is_serial_revoked(serial));
            }
        }
        Ok(merged)
    }

    /// Ends the quarantines whose time is over, and says whose they were.
    pub fn expire(&self, now_ms: u64) -> Vec<Box<str>> {
        let mut ledger = lock(&self.ledger);
        let whose = ledger.expire(now_ms);
        for principal in &whose {
            self.tell(&ledger, principal);
        }
        whose
    }

    /// When the next quarantine is over: milliseconds since the epoch.
    #[must_use]
    pub fn next_end(&self) -> Option<u64> {
        lock(&self.ledger).next_end()
    }

    /// Whether an SVID with the serial number that `serial` tells is revoked. Takes no lock, and
    /// does not ask for the number where none is.
    #[must_use]
    pub fn is_serial_revoked<'a>(&self, serial: impl FnOnce() -> &'a str) -> bool {
        !self.serials.is_empty() && self.serials.contains(serial())
    }

    /// Everything that is known.
    #[must_use]
    pub fn known(&self) -> Known {
        lock(&self.ledger).known()
    }

    /// The changes that make this known where nothing was. Unlike in [`Principals::known`], what
    /// was lifted is among them, so that nobody brings it up again.
    #[must_use]
    pub fn changes(&self) -> Vec<Change> {
        lock(&self.ledger).changes()
    }

    /// INVARIANT: under the lock of the ledger, so that the latest of two changes is told last.
    fn tell(&self, ledger: &Ledger, principal: &str) {
        if let Some(behaviour) = self.find(principal) {
            behaviour.stand(ledger.against(principal));
        }
    }

    fn shard(&self, principal: &str) -> MutexGuard<'_, Shard> {
        let hash = self.hasher.hash_one(principal);
        let [first, ..] = &self.shards;
        let place = usize::try_from(hash % SHARDS as u64).unwrap_or_default();
        lock(self.shards.get(place).unwrap_or(first))
    }
}

fn lock<T>(shard: &Mutex<T>) -> MutexGuard<'_, T> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes room for one more, if among some there is one that no connection holds: the one that has
/// not called for the longest time.
fn forget_one(shard: &mut Shard, from: u64) {
    let from = usize::try_from(from % shard.len().max(1) as u64).unwrap_or_default();
    let sample = shard.values().skip(from).chain(shard.values()).take(SAMPLE);
    let idle = sample.filter(|known| Arc::strong_count(known) == 1);
    let one = idle.min_by_key(|known| known.last_seen());
    if let Some(name) = one.map(|known| Box::<str>::from(known.principal())) {
        shard.remove(&name);
    }
}

#[cfg(test)]
mod tests {
    use super::super::standing::{Origin, Revocation, Revoked};
    use super::*;

    const CART: &str = "spiffe://shop.example/ns/web/sa/cart";

    fn revoked(subject: Revoked) -> Change {
        let origin = Origin {
            by: "operator".into(),
            reason: None,
            at_ms: 1,
        };
        Change::Revoked(Revocation { subject, origin })
    }

    #[test]
    fn what_is_said_before_and_after_a_principal_connects_reaches_it() {
        let principals = Principals::new(10);
        let (before, after) = ("spiffe://a.example/x", CART);
        principals
            .apply(&revoked(Revoked::Principal(before.into())))
            .unwrap();
        let (connected, other) = (principals.of(after), principals.of(before));
        assert!(other.against().revoked && !connected.against().revoked);
        let seen = connected.changes();
        principals
            .apply(&revoked(Revoked::Principal(after.into())))
            .unwrap();
        assert!(connected.against().revoked);
        assert!(connected.changes() > seen);
    }

    #[test]
    fn who_is_connected_is_not_forgotten_and_nothing_against_anybody_is() {
        let principals = Principals::new(16);
        principals
            .apply(&revoked(Revoked::Principal(CART.into())))
            .unwrap();
        let kept = principals.of(CART);
        for number in 0..1_000 {
            let _ = principals.of(&format!("spiffe://shop.example/{number}"));
        }
        assert!(principals.len() <= 32, "{}", principals.len());
        assert!(Arc::ptr_eq(&kept, &principals.of(CART)));
        drop(kept);
        for number in 0..1_000 {
            let _ = principals.of(&format!("spiffe://shop.example/{number}"));
        }
        assert!(principals.of(CART).against().revoked);
    }

    #[test]
    fn a_serial_is_looked_at_only_where_one_is_revoked() {
        let principals = Principals::new(16);
        assert!(!principals.is_serial_revoked(|| unreachable!()));
        principals
            .apply(&revoked(Revoked::Serial("1f".into())))
            .unwrap();
        assert!(principals.is_serial_revoked(|| "1f"));
        assert!(!principals.is_serial_revoked(|| "2f"));
    }
}
