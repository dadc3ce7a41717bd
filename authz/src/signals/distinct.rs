//! How many different things there were within a minute, and which were there ever: sets of keyed
//! hashes of constant size, that many threads put into without a lock.
//!
//! A set of a minute is exact up to 64 members. Beyond, a sketch (linear counting, 2,048 places)
//! is made and estimates: within 10 % up to 3,000 members (its standard error there is 2.1 %),
//! and never more than [`MOST`]. Time is in whole seconds: a member counts for a minute, and for
//! the rest of the second in which the minute ends.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// What the sketch estimates at most: it is saturated.
pub(super) const MOST: u64 = 10_000;

/// How many members are told apart exactly.
const EXACT: usize = 64;

/// How many places the sketch has.
const PLACES: usize = 2_048;

/// For so many seconds after that in which it was seen, a member counts.
const SECONDS: u64 = 60;

/// So far a time may lie ahead, in seconds: another thread was faster.
const AHEAD: u64 = 16;

/// The part of a slot that tells when its member was seen last; the rest is the member's hash.
const SEEN_BITS: u32 = 24;
const SEEN: u64 = (1 << SEEN_BITS) - 1;

/// Different things within a minute.
#[derive(Debug)]
pub(super) struct Distinct {
    /// Nought where there was never a member.
    slots: [AtomicU64; EXACT],
    live: Tally,
    /// One more than the second in which a member found no slot.
    refused: AtomicU64,
    sketch: OnceLock<Box<Sketch>>,
}

enum Place {
    Known,
    New,
    /// There is none.
    None,
    /// It was lost to another member.
    Gone,
}

impl Distinct {
    pub(super) fn new() -> Self {
        Self {
            slots: std::array::from_fn(|_| AtomicU64::new(0)),
            live: Tally::default(),
            refused: AtomicU64::new(0),
            sketch: OnceLock::new(),
        }
    }

    /// How much memory a set takes beside its own, at most.
    pub(super) const fn most_bytes() -> usize {
        size_of::<Sketch>()
    }

    /// Puts a member in, and tells how many there are with it.
    pub(super) fn see(&self, key: u64, second: u64) -> u64 {
        let hash = key & !SEEN | 1 << SEEN_BITS;
        let place = self.place(hash, second);
        if matches!(place, Place::None) {
            self.refused.store(second + 1, Ordering::Release);
            let sketch = self.sketch.get_or_init(|| self.sketch_of_slots(second));
            sketch.see(hash, second);
        } else if let Some(sketch) = self.sketch.get() {
            sketch.see(hash, second);
        }
        self.tell(matches!(place, Place::New), second)
    }

    /// How many there are.
    pub(super) fn value(&self, second: u64) -> u64 {
        self.tell(false, second)
    }

    /// How long until there are at most `limit`, if those seen last stay and no others come.
    pub(super) fn until_within(&self, limit: u64, second: u64) -> Duration {
        if limit == 0 {
            return Duration::from_secs(SECONDS);
        }
        let mut of_age = [0_u64; SECONDS as usize + 1];
        let sketch = self.sketch_in_use(second);
        match sketch {
            Some(sketch) => sketch.ages(second, &mut of_age),
            None => self.ages(second, &mut of_age),
        }
        let mut within = 0;
        for (age, members) in of_age.iter().enumerate() {
            within += members;
            let told = sketch.map_or(within, |_| estimate(within));
            if told > limit {
                let left = (SECONDS + 1).saturating_sub(age as u64);
                return Duration::from_secs(left);
            }
        }
        Duration::ZERO
    }

    /// Finds a slot for a member and marks it as seen. What is found first is used by all, so two
    /// threads that put in the same member at once seldom take two.
    fn place(&self, hash: u64, second: u64) -> Place {
        let start = (hash >> SEEN_BITS) as usize % EXACT;
        let (before, after) = self.slots.split_at(start);
        'again: loop {
            let mut free = None;
            for slot in after.iter().chain(before) {
                let word = slot.load(Ordering::Acquire);
                if word & !SEEN == hash {
                    match renew(slot, word, second) {
                        Place::Gone => continue 'again,
                        place => return place,
                    }
                }
                if free.is_none() && !is_live(word, second) {
                    free = Some((slot, word));
                }
                if word == 0 {
                    break;
                }
            }
            let Some((slot, word)) = free else {
                return Place::None;
            };
            let (success, failure) = (Ordering::AcqRel, Ordering::Acquire);
            let new = hash | second & SEEN;
            if slot.compare_exchange(word, new, success, failure).is_ok() {
                return Place::New;
            }
        }
    }

    fn tell(&self, new: bool, second: u64) -> u64 {
        let exact = self.live.tell(new, second, || {
            let words = self.slots.iter().map(|slot| slot.load(Ordering::Acquire));
            words.filter(|word| is_live(*word, second)).count()
        });
        match self.sketch_in_use(second) {
            Some(sketch) => exact.max(sketch.value(second)),
            None => exact,
        }
    }

    /// The sketch, where a member that may still be live found no slot.
    fn sketch_in_use(&self, second: u64) -> Option<&Sketch> {
        let refused = self.refused.load(Ordering::Acquire);
        let in_use = refused > 0 && second.saturating_sub(refused - 1) <= SECONDS;
        in_use.then(|| self.sketch.get().map(|sketch| &**sketch))?
    }

    fn sketch_of_slots(&self, second: u64) -> Box<Sketch> {
        let sketch = Box::new(Sketch::new());
        for slot in &self.slots {
            let word = slot.load(Ordering::Acquire);
            if is_live(word, second) {
                let age = second.wrapping_sub(word) & SEEN;
                let seen = second.saturating_sub(if age > SECONDS { 0 } else { age });
                sketch.see(word & !SEEN, seen);
            }
        }
        sketch
    }

    fn ages(&self, second: u64, of_age: &mut [u64]) {
        for slot in &self.slots {
            let word = slot.load(Ordering::Acquire);
            if is_live(word, second) {
                let age = second.wrapping_sub(word) & SEEN;
                add_age(of_age, if age > SECONDS { 0 } else { age });
            }
        }
    }
}

/// Marks the member of a slot as seen in this second, unless it was seen in this one or later.
fn renew(slot: &AtomicU64, mut word: u64, second: u64) -> Place {
    let hash = word & !SEEN;
    loop {
        let was_live = is_live(word, second);
        let age = second.wrapping_sub(word) & SEEN;
        if was_live && (age == 0 || age > SECONDS) {
            return Place::Known;
        }
        let new = hash | second & SEEN;
        let (success, failure) = (Ordering::AcqRel, Ordering::Acquire);
        match slot.compare_exchange(word, new, success, failure) {
            Ok(_) if was_live => return Place::Known,
            Ok(_) => return Place::New,
            Err(other) if other & !SEEN == hash => word = other,
            // Another member has taken the slot, which was this one's and not live.
            Err(_) => return Place::Gone,
        }
    }
}

fn is_live(word: u64, second: u64) -> bool {
    let age = second.wrapping_sub(word) & SEEN;
    word != 0 && (age <= SECONDS || age > SEEN - AHEAD)
}

fn add_age(of_age: &mut [u64], age: u64) {
    if let Some(members) = of_age.get_mut(age as usize) {
        *members += 1;
    }
}

/// A count that is made anew in each second in which it is asked for, and added to in between:
/// never too low, as what was added while it was made has it made once more.
#[derive(Debug, Default)]
struct Tally(AtomicU64);

impl Tally {
    fn tell(&self, new: bool, second: u64, count: impl Fn() -> usize) -> u64 {
        let mut word = self.0.load(Ordering::Acquire);
        loop {
            let known = word & u64::from(u32::MAX);
            if word >> 32 >= second {
                return match new {
                    true => (self.0.fetch_add(1, Ordering::AcqRel) & u64::from(u32::MAX)) + 1,
                    false => known,
                };
            }
            let counted = count() as u64;
            let next = second << 32 | counted;
            let (success, failure) = (Ordering::AcqRel, Ordering::Acquire);
            match self.0.compare_exchange(word, next, success, failure) {
                Ok(_) => return counted,
                Err(other) => word = other,
            }
        }
    }
}

/// Linear counting: of how many places none of the members has taken, follows how many they are.
#[derive(Debug)]
struct Sketch {
    /// When the place was taken last, from 1 on and modulo [`CYCLE`]; 0 where it is free.
    seen: [AtomicU16; PLACES],
    taken: Tally,
}

const CYCLE: u64 = u16::MAX as u64;

impl Sketch {
    fn new() -> Self {
        Self {
            seen: std::array::from_fn(|_| AtomicU16::new(0)),
            taken: Tally::default(),
        }
    }

    fn see(&self, hash: u64, second: u64) {
        let place = (hash >> (SEEN_BITS + 1)) as usize % PLACES;
        let Some(place) = self.seen.get(place) else {
            return;
        };
        let stamp = place.load(Ordering::Acquire);
        if place_age(stamp, second) == Some(0) {
            return;
        }
        let new = (second % CYCLE + 1) as u16;
        if place_age(place.swap(new, Ordering::AcqRel), second).is_none() {
            self.taken(true, second);
        }
    }

    fn taken(&self, new: bool, second: u64) -> u64 {
        self.taken.tell(new, second, || self.sweep(second))
    }

    /// Frees the places that are not taken any more, and counts the others.
    fn sweep(&self, second: u64) -> usize {
        let mut taken = 0;
        for place in &self.seen {
            let stamp = place.load(Ordering::Acquire);
            if place_age(stamp, second).is_some() {
                taken += 1;
            } else if stamp != 0 {
                let (success, failure) = (Ordering::AcqRel, Ordering::Acquire);
                // A failure is somebody who has taken it: they count it.
                let _ = place.compare_exchange(stamp, 0, success, failure);
            }
        }
        taken
    }

    fn value(&self, second: u64) -> u64 {
        estimate(self.taken(false, second))
    }

    fn ages(&self, second: u64, of_age: &mut [u64]) {
        for place in &self.seen {
            if let Some(age) = place_age(place.load(Ordering::Acquire), second) {
                add_age(of_age, age);
            }
        }
    }
}

/// How long ago a place was taken, in seconds; none where it is free.
fn place_age(stamp: u16, second: u64) -> Option<u64> {
    let seen = u64::from(stamp).checked_sub(1)?;
    let age = (second % CYCLE + CYCLE - seen) % CYCLE;
    match age {
        _ if age <= SECONDS => Some(age),
        _ if age >= CYCLE - AHEAD => Some(0),
        _ => None,
    }
}

/// How many members have taken so many places, most likely.
fn estimate(taken: u64) -> u64 {
    let free = (PLACES as u64).saturating_sub(taken).max(1);
    let places = PLACES as f64;
    let members = places * (places / free as f64).ln();
    (members.round() as u64).min(MOST)
}

/// How many members an [`Ever`] keeps.
pub(super) const KEPT: usize = 128;

/// What was there ever, up to [`KEPT`] members: what is not in it counts as new, for ever.
#[derive(Debug)]
pub(super) struct Ever {
    /// Twice as many as members, so that a search ends soon.
    slots: [AtomicU64; 2 * KEPT],
    kept: AtomicUsize,
}

impl Ever {
    pub(super) fn new() -> Self {
        Self {
            slots: std::array::from_fn(|_| AtomicU64::new(0)),
            kept: AtomicUsize::new(0),
        }
    }

    pub(super) fn contains(&self, key: u64) -> bool {
        self.search(key).is_ok()
    }

    /// Keeps a member, where there is room.
    pub(super) fn keep(&self, key: u64) {
        while let Err(Some(free)) = self.search(key) {
            if self.kept.fetch_add(1, Ordering::AcqRel) >= KEPT {
                self.kept.fetch_sub(1, Ordering::AcqRel);
                return;
            }
            let (success, failure) = (Ordering::AcqRel, Ordering::Acquire);
            if free
                .compare_exchange(0, key.max(1), success, failure)
                .is_ok()
            {
                return;
            }
            self.kept.fetch_sub(1, Ordering::AcqRel);
        }
    }

    /// Whether it is in, or otherwise the slot for it.
    fn search(&self, key: u64) -> Result<(), Option<&AtomicU64>> {
        let key = key.max(1);
        let (before, after) = self.slots.split_at(key as usize % self.slots.len());
        for slot in after.iter().chain(before) {
            match slot.load(Ordering::Acquire) {
                0 => return Err(Some(slot)),
                word if word == key => return Ok(()),
                _ => {}
            }
        }
        Err(None)
    }
}

#[cfg(test)]
mod tests;
