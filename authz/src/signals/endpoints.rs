//! The rates of one principal at each endpoint that it calls: 64 endpoints at once, and one more
//! place that all others share.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use super::signal::{RATES, Rate};
use super::window::Window;

/// How many endpoints have rates of their own.
pub(super) const ENDPOINTS: usize = 64;

/// The windows of one principal, or of one endpoint of it; each made when it is first counted
/// into.
#[derive(Debug)]
pub(super) struct Rates([OnceLock<Box<Window>>; RATES]);

impl Rates {
    pub(super) fn new() -> Self {
        Self(std::array::from_fn(|_| OnceLock::new()))
    }

    pub(super) fn count(&self, rate: Rate, events: u64, now: u64) -> u64 {
        let Some(window) = self.0.get(rate.place) else {
            return 0;
        };
        let window = window.get_or_init(|| Box::new(Window::new(rate.span, now)));
        window.count(events, now)
    }

    pub(super) fn value(&self, rate: Rate, now: u64) -> u64 {
        self.window(rate).map_or(0, |window| window.value(now))
    }

    pub(super) fn window(&self, rate: Rate) -> Option<&Window> {
        Some(self.0.get(rate.place)?.get()?)
    }

    /// How much memory the windows take at most.
    pub(super) const fn most_bytes() -> usize {
        RATES * size_of::<Window>()
    }
}

/// The endpoints.
#[derive(Debug)]
pub(super) struct Endpoints {
    /// Keyed hashes; nought where there was never an endpoint.
    keys: [AtomicU64; ENDPOINTS],
    /// When each was called last.
    seen: [AtomicU64; ENDPOINTS],
    /// The last one is for all that find no place.
    rates: [OnceLock<Box<Rates>>; ENDPOINTS + 1],
}

impl Endpoints {
    pub(super) fn new() -> Self {
        Self {
            keys: std::array::from_fn(|_| AtomicU64::new(0)),
            seen: std::array::from_fn(|_| AtomicU64::new(0)),
            rates: std::array::from_fn(|_| OnceLock::new()),
        }
    }

    /// How much memory all takes at most, beside its own.
    pub(super) const fn most_bytes() -> usize {
        (ENDPOINTS + 1) * (size_of::<Rates>() + Rates::most_bytes())
    }

    /// The place of an endpoint that is called: its own, one that no endpoint has used for
    /// `idle` milliseconds, or the one for all others.
    pub(super) fn place(&self, key: u64, idle: u64, now: u64) -> usize {
        'again: loop {
            let mut free = None;
            for (place, word, seen) in self.probe(key) {
                if word == key {
                    if seen < now {
                        self.see(place, now);
                    }
                    // It is used now; but another may have taken it before that was known.
                    if self.place_of(key, place) == place {
                        return place;
                    }
                    continue 'again;
                }
                if free.is_none() && (word == 0 || now.saturating_sub(seen) > idle) {
                    free = Some((place, word));
                }
                if word == 0 {
                    break;
                }
            }
            let Some((place, word)) = free else {
                return ENDPOINTS;
            };
            if self.take(place, word, key, now) {
                return place;
            }
        }
    }

    /// Where this endpoint is counted: at its place, unless another has got it since.
    pub(super) fn place_of(&self, key: u64, place: usize) -> usize {
        let word = self
            .keys
            .get(place)
            .map(|word| word.load(Ordering::Acquire));
        match word {
            Some(word) if word == key => place,
            _ => ENDPOINTS,
        }
    }

    /// The rates at a place, made where they are missing.
    pub(super) fn at(&self, place: usize) -> Option<&Rates> {
        let rates = self.rates.get(place)?;
        Some(rates.get_or_init(|| Box::new(Rates::new())))
    }

    /// The rates at each place in use.
    pub(super) fn in_use(&self) -> impl Iterator<Item = (usize, &Rates)> {
        let rates = self.rates.iter().enumerate();
        rates.filter_map(|(place, rates)| Some((place, &**rates.get()?)))
    }

    /// Place, key and last use of each, from where the endpoint is put first.
    fn probe(&self, key: u64) -> impl Iterator<Item = (usize, u64, u64)> {
        let first = key as usize % ENDPOINTS;
        let places = (first..ENDPOINTS).chain(0..first);
        places.filter_map(|place| {
            let word = self.keys.get(place)?.load(Ordering::Acquire);
            Some((place, word, self.seen(place)))
        })
    }

    fn take(&self, place: usize, word: u64, key: u64, now: u64) -> bool {
        // First, so that nobody takes it for one that is not in use.
        self.see(place, now);
        let (success, failure) = (Ordering::AcqRel, Ordering::Acquire);
        self.keys
            .get(place)
            .is_some_and(|slot| slot.compare_exchange(word, key, success, failure).is_ok())
    }

    fn seen(&self, place: usize) -> u64 {
        self.seen
            .get(place)
            .map_or(0, |seen| seen.load(Ordering::Acquire))
    }

    fn see(&self, place: usize, now: u64) {
        if let Some(seen) = self.seen.get(place) {
            seen.store(now, Ordering::Release);
        }
    }
}
