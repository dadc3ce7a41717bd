//! The serial numbers of SVIDs that are revoked, read without a lock by every call.

use std::collections::HashSet;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arc_swap::ArcSwap;

/// How many parts the set has: one of them is made anew at a change.
const PARTS: usize = 256;

type Part = HashSet<Box<str>>;

#[derive(Debug)]
pub(super) struct Serials {
    parts: Box<[ArcSwap<Part>]>,
    hasher: RandomState,
    /// Most often none, so that calls need not look.
    count: AtomicUsize,
}

impl Serials {
    pub(super) fn new() -> Self {
        Self {
            parts: (0..PARTS).map(|_| ArcSwap::default()).collect(),
            hasher: RandomState::new(),
            count: AtomicUsize::new(0),
        }
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }

    pub(super) fn contains(&self, serial: &str) -> bool {
        self.part(serial)
            .is_some_and(|part| part.load().contains(serial))
    }

    /// Adds or removes one. By one thread at a time.
    pub(super) fn set(&self, serial: &str, revoked: bool) {
        let Some(part) = self.part(serial) else {
            return;
        };
        let mut next = Part::clone(&part.load());
        let changed = match revoked {
            true => next.insert(serial.into()),
            false => next.remove(serial),
        };
        if !changed {
            return;
        }
        // Before it is counted, so that who sees that there is one finds it.
        part.store(Arc::new(next));
        match revoked {
            true => self.count.fetch_add(1, Ordering::Release),
            false => self.count.fetch_sub(1, Ordering::Release),
        };
    }

    fn part(&self, serial: &str) -> Option<&ArcSwap<Part>> {
        let hash = self.hasher.hash_one(serial) % PARTS as u64;
        self.parts.get(usize::try_from(hash).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_serial_is_in_from_its_revocation_to_its_end() {
        let serials = Serials::new();
        assert!(serials.is_empty());
        for number in 0..1_000 {
            serials.set(&format!("{number:x}"), true);
            serials.set(&format!("{number:x}"), true);
        }
        assert!(serials.contains("3e7") && !serials.contains("3e8"));
        for number in 0..1_000 {
            assert!(!serials.is_empty());
            serials.set(&format!("{number:x}"), false);
            serials.set(&format!("{number:x}"), false);
        }
        assert!(serials.is_empty() && !serials.contains("3e7"));
    }
}
