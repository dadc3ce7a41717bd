//! One principal: what its calls count into, and what stands against it.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

use crate::decision::Decision;
use crate::facts::Resource;

use super::distinct::{Distinct, Ever};
use super::endpoints::{Endpoints, Rates};
use super::limits::SignalLimits;
use super::others::Others;
use super::signal::{RATES, Rate, Signal, SignalSet, SignalValues};
use super::standing::Against;

/// The signals for which the endpoint of a call must be known.
const OF_ENDPOINT: SignalSet = SignalSet::range(RATES as u32, 2 * RATES as u32)
    .with(Signal::EndpointsPerMinute)
    .with(Signal::FirstContact);

const fn measure(first: Signal) -> SignalSet {
    let (first, endpoint) = (first as u32, first as u32 + RATES as u32);
    SignalSet::range(first, first + 3).union(SignalSet::range(endpoint, endpoint + 3))
}

const DENIALS: SignalSet = measure(Signal::DenialsPerSecond);
const ERRORS: SignalSet = measure(Signal::ErrorsPerSecond);
const BYTES_OUT: SignalSet = measure(Signal::BytesOutPerSecond);

/// What all principals of a process share.
#[derive(Debug)]
pub(super) struct Shared {
    start: Instant,
    hasher: RandomState,
    pub(super) stale: AtomicBool,
}

impl Shared {
    pub(super) fn new() -> Self {
        Self {
            start: Instant::now(),
            hasher: RandomState::new(),
            stale: AtomicBool::new(false),
        }
    }

    /// Milliseconds since the start.
    pub(super) fn millis(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.start);
        since.as_secs() * 1_000 + u64::from(since.subsec_millis())
    }

    fn service(&self, resource: &Resource<'_>) -> u64 {
        self.hasher.hash_one(resource.service)
    }

    /// A keyed hash of what counts as one endpoint, never nought: the service, the method and the
    /// route where it is known, otherwise the path. What has no path (a TCP connection, a tunnel)
    /// is told apart by host and port.
    fn endpoint(&self, resource: &Resource<'_>, method: Option<&str>) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        let mut part = |kind: u8, text: &str| {
            hasher.write(text.as_bytes());
            // No UTF-8 has such a byte, so no two lists of parts are alike.
            hasher.write(&[0xf8 | kind]);
        };
        part(0, resource.service);
        part(1, method.unwrap_or_default());
        match resource.template {
            Some(template) => part(2, template),
            None if !resource.path.is_empty() => part(3, resource.path),
            None => {
                part(4, resource.host);
                hasher.write_u16(resource.port);
            }
        }
        hasher.finish().max(1)
    }
}

/// One call that was counted: by what, so that what comes after is counted alike, whatever
/// policies read by then.
#[derive(Clone, Copy, Debug, Default)]
#[must_use = "the call is in flight until it has ended"]
pub struct Counted {
    by: SignalSet,
    first_contact: bool,
    place: u8,
    endpoint: u64,
}

/// What is known of one principal. Shared by all its connections, and read without a lock.
#[derive(Debug)]
pub struct Behaviour {
    principal: Box<str>,
    shared: Arc<Shared>,
    against: ArcSwap<Against>,
    changes: AtomicU64,
    /// When a call began last.
    seen: AtomicU64,
    in_flight: AtomicU64,
    /// What [`Behaviour::bands`] told last.
    bands: AtomicU64,
    contacts: OnceLock<Box<Ever>>,
    counts: Counts,
}

/// What a principal that rests need not keep.
#[derive(Debug)]
struct Counts {
    rates: Rates,
    endpoints: OnceLock<Box<Endpoints>>,
    distinct_endpoints: OnceLock<Box<Distinct>>,
    distinct_services: OnceLock<Box<Distinct>>,
    others: OnceLock<Box<Others>>,
}

impl Counts {
    fn new() -> Self {
        Self {
            rates: Rates::new(),
            endpoints: OnceLock::new(),
            distinct_endpoints: OnceLock::new(),
            distinct_services: OnceLock::new(),
            others: OnceLock::new(),
        }
    }
}

impl Behaviour {
    pub(super) fn new(principal: &str, shared: Arc<Shared>) -> Self {
        Self {
            principal: principal.into(),
            shared,
            against: ArcSwap::default(),
            changes: AtomicU64::new(0),
            seen: AtomicU64::new(0),
            in_flight: AtomicU64::new(0),
            bands: AtomicU64::new(0),
            contacts: OnceLock::new(),
            counts: Counts::new(),
        }
    }

    /// How much memory the signals of one principal take at most, in bytes, where policies read
    /// every one of them.
    #[must_use]
    pub const fn most_bytes() -> usize {
        size_of::<Self>()
            + Rates::most_bytes()
            + size_of::<Endpoints>()
            + Endpoints::most_bytes()
            + 2 * (size_of::<Distinct>() + Distinct::most_bytes())
            + size_of::<Ever>()
            + size_of::<Others>()
    }

    /// Counts a call that begins, into what is in `reads` and nothing else, and tells the values
    /// of `reads` with it.
    pub fn begin(
        &self,
        reads: SignalSet,
        resource: &Resource<'_>,
        method: Option<&str>,
        now: Instant,
    ) -> (Counted, SignalValues) {
        let mut counted = Counted::default();
        if reads.is_empty() {
            return (counted, SignalValues::NONE);
        }
        let at = self.shared.millis(now);
        self.seen(at);
        counted.by = reads;
        if !reads.both(OF_ENDPOINT).is_empty() {
            counted.endpoint = self.shared.endpoint(resource, method);
            self.find(&mut counted, at);
        }
        let mut values = SignalValues::NONE;
        for signal in reads.iter() {
            let value = match (signal, signal.rate()) {
                (_, Some(rate)) if rate.calls => self.count(&counted, signal, rate, 1, at),
                (Signal::EndpointsPerMinute, _) => {
                    let endpoints = distinct(&self.counts.distinct_endpoints);
                    endpoints.see(counted.endpoint, at / 1_000)
                }
                (Signal::ServicesPerMinute, _) => {
                    let services = distinct(&self.counts.distinct_services);
                    services.see(self.shared.service(resource), at / 1_000)
                }
                (Signal::InFlight, _) => self.in_flight.fetch_add(1, Ordering::AcqRel) + 1,
                _ => self.value(&counted, signal, at),
            };
            values.set(signal, long(value));
        }
        (counted, values)
    }

    /// The values of `reads` at this moment, without counting: for a call that is decided again.
    /// What tells of a call's [beginning](SignalSet::OF_BEGINNING) stays what it was in `begun`.
    #[must_use]
    pub fn read(
        &self,
        counted: &Counted,
        begun: &SignalValues,
        reads: SignalSet,
        now: Instant,
    ) -> SignalValues {
        let mut values = SignalValues::NONE;
        if reads.is_empty() {
            return values;
        }
        let at = self.shared.millis(now);
        let kept = SignalSet::OF_BEGINNING.both(begun.known());
        for signal in reads.iter() {
            let value = match kept.contains(signal) {
                true => begun.value(signal),
                false => long(self.value(counted, signal, at)),
            };
            values.set(signal, value);
        }
        values
    }

    /// The call was allowed: its endpoint is none that it has never been in contact with.
    ///
    /// SECURITY: one that was denied stays a first contact, so that nobody gets past a policy by
    /// asking twice.
    pub fn allowed(&self, counted: &Counted) {
        if counted.first_contact {
            let contacts = self.contacts.get_or_init(|| Box::new(Ever::new()));
            contacts.keep(counted.endpoint);
        }
    }

    /// The call was denied.
    pub fn denied(&self, counted: &Counted, now: Instant) {
        self.count_all(counted, DENIALS, 1, now);
    }

    /// The call was answered with an error, or not at all.
    pub fn failed(&self, counted: &Counted, now: Instant) {
        self.count_all(counted, ERRORS, 1, now);
    }

    /// So many bytes of a body of the call have left.
    pub fn sent(&self, counted: &Counted, bytes: u64, now: Instant) {
        if bytes > 0 {
            self.count_all(counted, BYTES_OUT, bytes, now);
        }
    }

    /// The call has ended. To be told once.
    pub fn ended(&self, counted: &Counted) {
        if counted.by.contains(Signal::InFlight) {
            self.in_flight.fetch_sub(1, Ordering::AcqRel);
        }
    }

    /// How long until a call like this one would read at most `limit`, if no other comes; none
    /// for a signal that has no window.
    #[must_use]
    pub fn until_within(
        &self,
        counted: &Counted,
        signal: Signal,
        limit: i64,
        now: Instant,
    ) -> Option<Duration> {
        let window = signal.window()?;
        let Ok(limit) = u64::try_from(limit) else {
            return Some(window);
        };
        let at = self.shared.millis(now);
        let Some(rate) = signal.rate() else {
            let distinct = match signal {
                Signal::EndpointsPerMinute => &self.counts.distinct_endpoints,
                _ => &self.counts.distinct_services,
            };
            let until = |distinct: &Distinct| distinct.until_within(limit, at / 1_000);
            return Some(distinct.get().map_or(Duration::ZERO, |all| until(all)));
        };
        let others = self.others(rate, at);
        let more = u64::from(rate.calls);
        match limit.checked_sub(others) {
            Some(limit) if limit >= more => {
                let window = self
                    .rates(counted, rate)
                    .and_then(|rates| rates.window(rate));
                Some(window.map_or(Duration::ZERO, |window| {
                    window.until_within(limit, more, at)
                }))
            }
            _ => Some(window),
        }
    }

    /// How long the caller of a call that was denied has to wait until the signals that denied it
    /// would not any more, if it asks for nothing until then. None where waiting is of no use:
    /// where one of the forbids that decided reads no signal that has a window.
    #[must_use]
    pub fn retry_after(
        &self,
        counted: &Counted,
        decision: &Decision,
        now: Instant,
    ) -> Option<Duration> {
        let mut longest = None;
        for limits in decision.signal_limits() {
            let waits = limits.iter().filter_map(|(signal, limit)| match limit {
                Some(limit) => self.until_within(counted, *signal, *limit, now),
                None => signal.window(),
            });
            longest = longest.max(Some(waits.max()?));
        }
        longest
    }

    /// What other sidecars of the fleet counted of this principal within the window of a signal
    /// of the principal. It is added to what is counted here, until it is one window old.
    pub fn set_others(&self, signal: Signal, count: u64, now: Instant) {
        if let Some(rate) = signal.rate().filter(|rate| !rate.endpoint) {
            let others = self.counts.others.get_or_init(|| Box::new(Others::new()));
            let until = self.shared.millis(now) + rate.span.length().as_millis() as u64;
            others.set(rate.place, count, until);
        }
    }

    /// What is counted here alone, of a signal of the principal that is a rate; nought of another.
    #[must_use]
    pub fn local(&self, signal: Signal, now: Instant) -> u64 {
        let rate = signal.rate().filter(|rate| !rate.endpoint);
        rate.map_or(0, |rate| {
            self.counts.rates.value(rate, self.shared.millis(now))
        })
    }

    /// A number that changes when a signal passes what policies compare it with, up or down: what
    /// is open is then to be decided again. Signals of a call's beginning change nothing for it. Nought where none has passed anything.
    #[must_use]
    pub fn bands(&self, limits: &SignalLimits, now: Instant) -> u64 {
        let at = self.shared.millis(now);
        let mut sum: u64 = 0;
        let mut add = |signal: Signal, place: usize, value: u64| {
            if let Some(limits) = limits.of(signal) {
                let band = limits.band(long(value));
                if band != limits.band(0) {
                    let what = (signal as u64) << 32 | place as u64;
                    sum = sum.wrapping_add(mix(mix(what).wrapping_add(band)));
                }
            }
        };
        let of_principal = Counted::default();
        for signal in limits.read().without(SignalSet::OF_BEGINNING).iter() {
            match signal.rate() {
                Some(rate) if rate.endpoint => {
                    let endpoints = self.counts.endpoints.get();
                    for (place, rates) in endpoints.iter().flat_map(|all| all.in_use()) {
                        add(signal, place, rates.value(rate, at));
                    }
                }
                _ => add(signal, 0, self.value(&of_principal, signal, at)),
            }
        }
        sum
    }

    /// Whether [`Behaviour::bands`] has changed since this was asked last.
    pub fn bands_changed(&self, limits: &SignalLimits, now: Instant) -> bool {
        let bands = self.bands(limits, now);
        self.bands.load(Ordering::Relaxed) != bands
            && self.bands.swap(bands, Ordering::AcqRel) != bands
    }

    /// Milliseconds since the start at which a call began last.
    pub(super) fn last_seen(&self) -> u64 {
        self.seen.load(Ordering::Relaxed)
    }

    /// Forgets all counts; what was in contact stays known.
    pub(super) fn rest(&mut self) {
        self.counts = Counts::new();
    }

    fn seen(&self, at: u64) {
        // Not at every call: the line is read by all.
        if at.saturating_sub(self.last_seen()) >= 1_000 {
            self.seen.store(at, Ordering::Relaxed);
        }
    }

    /// Finds the place of the endpoint of a call, and whether it is new.
    fn find(&self, counted: &mut Counted, at: u64) {
        let mut longest = None;
        for signal in counted.by.iter() {
            longest = longest.max(signal.rate().filter(|r| r.endpoint).map(|r| r.span));
        }
        if let Some(longest) = longest {
            let endpoints = &self.counts.endpoints;
            let endpoints = endpoints.get_or_init(|| Box::new(Endpoints::new()));
            // The window, and the width of its buckets.
            let idle = longest.length().as_millis() as u64 * 11 / 10;
            counted.place = endpoints.place(counted.endpoint, idle, at) as u8;
        }
        if counted.by.contains(Signal::FirstContact) {
            let contacts = self.contacts.get();
            let known = contacts.is_some_and(|contacts| contacts.contains(counted.endpoint));
            counted.first_contact = !known;
        }
    }

    fn count_all(&self, counted: &Counted, among: SignalSet, events: u64, now: Instant) {
        let signals = counted.by.both(among);
        if signals.is_empty() {
            return;
        }
        let at = self.shared.millis(now);
        for signal in signals.iter() {
            if let Some(rate) = signal.rate() {
                self.count(counted, signal, rate, events, at);
            }
        }
    }

    fn count(&self, counted: &Counted, signal: Signal, rate: Rate, events: u64, at: u64) -> u64 {
        debug_assert_eq!(signal.rate(), Some(rate));
        match self.rates(counted, rate) {
            Some(rates) => rates.count(rate, events, at) + self.others(rate, at),
            None => 0,
        }
    }

    fn value(&self, counted: &Counted, signal: Signal, at: u64) -> u64 {
        if let Some(rate) = signal.rate() {
            let rates = self.rates(counted, rate);
            return rates.map_or(0, |rates| rates.value(rate, at)) + self.others(rate, at);
        }
        let members = |distinct: &OnceLock<Box<Distinct>>| {
            distinct.get().map_or(0, |all| all.value(at / 1_000))
        };
        match signal {
            Signal::EndpointsPerMinute => members(&self.counts.distinct_endpoints),
            Signal::ServicesPerMinute => members(&self.counts.distinct_services),
            Signal::FirstContact => counted.first_contact.into(),
            Signal::InFlight => self.in_flight.load(Ordering::Acquire),
            Signal::Risk => self.against.load().risk as u64,
            Signal::Stale => self.shared.stale.load(Ordering::Acquire).into(),
            _ => 0,
        }
    }

    /// Where a call counts: of an endpoint at its place, or where all are that have none.
    fn rates(&self, counted: &Counted, rate: Rate) -> Option<&Rates> {
        if !rate.endpoint {
            return Some(&self.counts.rates);
        }
        let endpoints = self.counts.endpoints.get()?;
        endpoints.at(endpoints.place_of(counted.endpoint, counted.place.into()))
    }

    fn others(&self, rate: Rate, at: u64) -> u64 {
        match self.counts.others.get() {
            Some(others) if !rate.endpoint => others.count(rate.place, at),
            _ => 0,
        }
    }

    /// The SPIFFE ID, or `anonymous`.
    #[must_use]
    pub fn principal(&self) -> &str {
        &self.principal
    }

    /// What stands against it.
    pub fn against(&self) -> arc_swap::Guard<Arc<Against>> {
        self.against.load()
    }

    /// How often something has changed that decisions about this principal depend on. To be read
    /// before what a decision is made from, so that a change between the two is noticed afterwards.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// Counts a change: what is open of this principal is to be decided again.
    pub fn changed(&self) {
        self.changes.fetch_add(1, Ordering::Release);
    }

    /// INVARIANT: what stands against it is in place before the change is counted, so that who
    /// sees the count sees what it is for.
    pub(super) fn stand(&self, against: Against) {
        self.against.store(Arc::new(against));
        self.changed();
    }
}

fn distinct(set: &OnceLock<Box<Distinct>>) -> &Distinct {
    set.get_or_init(|| Box::new(Distinct::new()))
}

fn long(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Spreads a number over all bits (the last steps of splitmix64).
fn mix(word: u64) -> u64 {
    let word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ word >> 31
}
