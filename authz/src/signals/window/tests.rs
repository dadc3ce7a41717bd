//! The window against a log of all events, under a clock of its own; and by many threads.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use proptest::prelude::*;

use super::{RING, Span, Window};

const SPANS: [Span; 3] = [Span::Second, Span::Minute, Span::Hour];

/// Every event: when it was told to be, and when the window takes it to be at the latest.
struct Log {
    span: Span,
    events: Vec<(u64, u64, u64)>,
    latest: u64,
}

impl Log {
    fn count(&mut self, events: u64, now: u64) {
        self.latest = self.latest.max(now);
        self.events.push((now, self.latest, events));
    }

    /// What the window must tell at least and at most.
    fn bounds(&self, now: u64) -> (u64, u64) {
        let length = self.span.length().as_millis() as u64;
        let sum = |within: &dyn Fn(&(u64, u64, u64)) -> bool| {
            let events = self.events.iter().filter(|event| within(event));
            events.map(|(_, _, events)| events).sum::<u64>()
        };
        let exact = sum(&|(told, _, _)| *told + length > now);
        let loose = sum(&|(_, taken, _)| *taken + length + self.span.width() > now);
        (exact, loose)
    }
}

#[derive(Clone, Debug)]
enum Step {
    /// The clock goes on by so many milliseconds.
    Wait(u64),
    Count(u64),
    /// As a thread does that has read the clock so long ago.
    CountLate(u64),
    Read,
    ReadLate(u64),
    Until(u64),
}

fn steps(span: Span) -> impl Strategy<Value = Vec<Step>> {
    let width = span.width();
    let length = span.length().as_millis() as u64;
    let ring = width * RING as u64;
    // The slack of the ring, and less than the half of what a mark tells apart.
    let late = ring - length - 2 * width;
    let longest = width << (span.bucket_bits() - 2);
    let step = prop_oneof![
        3 => (0..=2 * width).prop_map(Step::Wait),
        2 => (0..=2 * length).prop_map(Step::Wait),
        1 => (0..=3 * ring).prop_map(Step::Wait),
        1 => (0..=longest).prop_map(Step::Wait),
        8 => (1..5_u64).prop_map(Step::Count),
        1 => (1_000_000..1_000_000_000_u64).prop_map(Step::Count),
        2 => (0..=late).prop_map(Step::CountLate),
        2 => Just(Step::Read),
        2 => (0..=late).prop_map(Step::ReadLate),
        2 => (0..20_u64).prop_map(Step::Until),
    ];
    proptest::collection::vec(step, 1..120)
}

/// Starts of time: the first, one somewhere, and one just before the numbers of buckets in marks
/// begin again.
fn start(span: Span, which: u64) -> u64 {
    match which {
        0 => 0,
        1 => 123_456_789,
        _ => (span.width() << span.bucket_bits()) - which * span.width(),
    }
}

fn agrees(span: Span, start: u64, steps: &[Step]) -> Result<(), TestCaseError> {
    let window = Window::new(span, start);
    let (events, mut now) = (Vec::new(), start);
    let latest = start;
    let mut log = Log {
        span,
        events,
        latest,
    };
    for step in steps {
        match *step {
            Step::Wait(time) => {
                // Not so long without an event that marks are ambiguous.
                let longest = 3 * (span.width() << (span.bucket_bits() - 2));
                now = (now + time).min(log.latest + longest);
            }
            Step::Count(events) => {
                log.count(events, now);
                is_within(window.count(events, now), log.bounds(now))?;
            }
            Step::CountLate(late) => {
                let then = now.saturating_sub(late).max(start);
                log.count(1, then);
                is_within(window.count(1, then), log.bounds(then))?;
            }
            Step::Read => is_within(window.value(now), log.bounds(now))?,
            Step::ReadLate(late) => {
                let then = now.saturating_sub(late).max(start);
                is_within(window.value(then), log.bounds(then))?;
            }
            Step::Until(limit) => waiting_is_right(&window, limit, now)?,
        }
    }
    Ok(())
}

fn is_within(value: u64, (exact, loose): (u64, u64)) -> Result<(), TestCaseError> {
    prop_assert!(
        exact <= value && value <= loose,
        "{exact} <= {value} <= {loose}"
    );
    Ok(())
}

/// After the time one more is within the limit, and a millisecond earlier it is not.
fn waiting_is_right(window: &Window, limit: u64, now: u64) -> Result<(), TestCaseError> {
    let wait = window.until_within(limit, 1, now);
    if limit == 0 {
        prop_assert_eq!(wait, window.span.length());
        return Ok(());
    }
    let wait = wait.as_millis() as u64;
    prop_assert!(window.value(now + wait) < limit);
    prop_assert!(wait == 0 || window.value(now + wait - 1) >= limit);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    #[test]
    fn a_second_is_as_the_log_says(which in 0..9_u64, steps in steps(Span::Second)) {
        agrees(Span::Second, start(Span::Second, which), &steps)?;
    }

    #[test]
    fn a_minute_is_as_the_log_says(which in 0..90_u64, steps in steps(Span::Minute)) {
        agrees(Span::Minute, start(Span::Minute, which), &steps)?;
    }

    #[test]
    fn an_hour_is_as_the_log_says(which in 0..90_u64, steps in steps(Span::Hour)) {
        agrees(Span::Hour, start(Span::Hour, which), &steps)?;
    }
}

#[test]
fn after_an_idle_span_of_any_length_nothing_is_left() {
    for span in SPANS {
        for buckets in [RING as u64, 10_000, 1 << (span.bucket_bits() - 2)] {
            let window = Window::new(span, 5);
            window.count(7, 5);
            let later = 5 + buckets * span.width();
            assert_eq!(window.value(later), 0);
            assert_eq!(window.count(1, later), 1);
        }
    }
}

#[test]
fn a_place_that_was_not_used_since_the_numbers_of_buckets_began_again_is_used() {
    for span in SPANS {
        // The places of a new ring have marks of 128 buckets before.
        let cycle = 1 << span.bucket_bits();
        for ahead in 1..4 * RING as u64 {
            let window = Window::new(span, 0);
            let far = (cycle - 2 * RING as u64 - ahead) * span.width();
            // Half of the way, so that no two events are too far apart.
            window.count(1, far / 2);
            let told = [far, far + span.width()].map(|now| window.count(1, now));
            assert_eq!(
                (told, window.value(far + span.width())),
                ([1, 2], 2),
                "{ahead}"
            );
        }
    }
}

const THREADS: u64 = 8;
const EVENTS: u64 = 10_000;

/// Counts from many threads at the time that the clock tells for the number of the event, and
/// tells the time and value of each.
fn burst(window: &Window, clock: impl Fn(u64) -> u64 + Sync) -> Vec<(u64, u64)> {
    let next = AtomicU64::new(0);
    let one = || {
        let mut told = Vec::new();
        for _ in 0..EVENTS / THREADS {
            let now = clock(next.fetch_add(1, Ordering::Relaxed));
            told.push((now, window.count(1, now)));
        }
        told
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(one)).collect();
        let told = threads.into_iter().map(|thread| thread.join().unwrap());
        told.flatten().collect()
    })
}

#[test]
fn of_ten_thousand_at_once_exactly_as_many_as_the_limit_are_within_it() {
    for (round, limit) in (0..20).flat_map(|round| [(round, 1), (round, 50), (round, 9_999)]) {
        let span = SPANS[round % 3];
        let window = Window::new(span, 0);
        let now = 1_000 * span.width();
        window.count(3, now - 2 * span.length().as_millis() as u64);
        let told = burst(&window, |_| now);
        let within = told.iter().filter(|(_, value)| *value <= limit).count();
        assert_eq!(within as u64, limit, "{span:?}");
    }
}

#[test]
fn at_the_edges_of_buckets_no_window_has_more_than_the_limit() {
    for (round, limit) in (0..20_u64).flat_map(|round| [(round, 5), (round, 100)]) {
        let window = Window::new(Span::Second, 0);
        // Less time in all than what a thread can be late.
        let start = 1_000_003 * (round + 1);
        let told = burst(&window, |event| start + event / 4);
        let mut within: Vec<u64> = told
            .into_iter()
            .filter_map(|(now, value)| (value <= limit).then_some(now))
            .collect();
        within.sort_unstable();
        assert!(within.len() as u64 >= limit);
        let length = Duration::from_secs(1).as_millis() as u64;
        for one_too_many in within.windows(limit as usize + 1) {
            let (first, last) = (one_too_many[0], one_too_many[limit as usize]);
            assert!(last - first >= length, "{first} and {last} of {limit}");
        }
    }
}
