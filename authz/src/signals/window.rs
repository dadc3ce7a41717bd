//! How many events there were within the last second, minute or hour: a sliding window that many
//! threads count into without a lock.
//!
//! Every event takes a position of its own from one running total, so of a burst that arrives on
//! many threads at once exactly the first N see a value of at most N. Time is cut into buckets
//! (100 ms of a second, 1 s of a minute, 1 min of an hour), and for each bucket that saw an event
//! a mark tells the total at its start. The value is the total less the mark of the oldest bucket
//! that overlaps the window.
//!
//! It never counts too little: every event of the exact window is in, so that it cannot be gamed
//! at the edges of buckets. It counts what is older by at most one bucket, and an event that a
//! thread counts late, with a time before that of others, as if it were theirs. A thread that is
//! late by more than the slack of the ring (3 buckets, 53 of a second) reads the window of the
//! others.
//!
//! Limits: 32 GiB within a second, 256 GiB within a minute, 16 TiB within an hour; and the times
//! of events that follow each other lie less than 600 days apart.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How long a window is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Span {
    Second,
    Minute,
    Hour,
}

impl Span {
    pub(super) const fn length(self) -> Duration {
        Duration::from_millis(self.width() * self.buckets() as u64)
    }

    /// Of a bucket, in milliseconds.
    const fn width(self) -> u64 {
        match self {
            Self::Second => 100,
            Self::Minute => 1_000,
            Self::Hour => 60_000,
        }
    }

    const fn buckets(self) -> i64 {
        match self {
            Self::Second => 10,
            Self::Minute | Self::Hour => 60,
        }
    }

    /// How many bits of a mark tell its bucket; the others tell the total. For 600 days at least.
    const fn bucket_bits(self) -> u32 {
        match self {
            Self::Second => 29,
            Self::Minute => 26,
            Self::Hour => 20,
        }
    }
}

/// How many marks are kept. A power of two, and more than the buckets that overlap a window.
const RING: usize = 64;

/// How many buckets a thread that is late may find the latest mark ahead of its own time.
const AHEAD: i64 = 4_096;

/// After so many steps of a search its outcome is worth keeping.
const LONG_SEARCH: i64 = 4;

/// What a bucket began with. Buckets are numbered from the start of time.
#[derive(Clone, Copy)]
struct Mark {
    bucket: i64,
    /// The low bits of the total.
    start: u64,
}

/// The window.
#[derive(Debug)]
pub(super) struct Window {
    span: Span,
    total: AtomicU64,
    /// The mark of the latest bucket.
    ///
    /// INVARIANT: it is put into the ring before it is replaced, and whoever counts has seen that
    /// it is not before the bucket of its event. So marks ascend, and no event of a bucket has a
    /// position before the start that its mark tells.
    head: AtomicU64,
    /// The low halves of two bucket numbers: from the first to before the second there is none
    /// with a mark. Once true it stays true, so it may be read and written carelessly.
    gap: AtomicU64,
    /// The marks before the latest, each at its number modulo [`RING`].
    ring: [AtomicU64; RING],
}

impl Window {
    /// Nothing was counted. `now` is in milliseconds since some start, as everywhere here.
    pub(super) fn new(span: Span, now: u64) -> Self {
        let bucket = (now / span.width()) as i64;
        let (head, long_ago) = (
            pack(span, bucket, 0),
            pack(span, bucket - 2 * RING as i64, 0),
        );
        Self {
            span,
            total: AtomicU64::new(0),
            head: AtomicU64::new(head),
            gap: AtomicU64::new(pack_gap(1, 0)),
            ring: std::array::from_fn(|_| AtomicU64::new(long_ago)),
        }
    }

    /// Counts `events`, and tells the value with them: of several at once each is told another.
    pub(super) fn count(&self, events: u64, now: u64) -> u64 {
        let bucket = self.bucket(now);
        self.reach(bucket);
        // The start first: it is then not after the position.
        let start = self.start(bucket);
        let position = self.total.fetch_add(events, Ordering::AcqRel);
        match start {
            Some(start) => self.since(start, position.wrapping_add(events)),
            None => events,
        }
    }

    /// The value.
    pub(super) fn value(&self, now: u64) -> u64 {
        let start = self.start(self.bucket(now));
        start.map_or(0, |start| {
            self.since(start, self.total.load(Ordering::Acquire))
        })
    }

    /// How long until the value and `more` are at most `limit`, if nothing else comes; the length
    /// of the window where that is never.
    pub(super) fn until_within(&self, limit: u64, more: u64, now: u64) -> Duration {
        let Some(allowed) = limit.checked_sub(more) else {
            return self.span.length();
        };
        let bucket = self.bucket(now);
        let head = self.head(bucket);
        let total = self.total.load(Ordering::Acquire);
        let too_many = |mark: &Mark| self.since(mark.start, total) > allowed;
        let older = (self.oldest(bucket, head)..head.bucket).rev();
        let older =
            older.filter_map(|bucket| self.mark(bucket).filter(|mark| mark.bucket == bucket));
        // The latest that must have left the window.
        let last = std::iter::once(head)
            .filter(|head| head.bucket >= bucket - self.span.buckets())
            .chain(older)
            .find(too_many);
        last.map_or(Duration::ZERO, |last| {
            let free = last.bucket.saturating_add(1 + self.span.buckets());
            let free = u64::try_from(free).unwrap_or_default();
            let free = free.saturating_mul(self.span.width());
            Duration::from_millis(free.saturating_sub(now))
        })
    }

    fn bucket(&self, now: u64) -> i64 {
        (now / self.span.width()) as i64
    }

    /// Makes the latest mark one that is not before this bucket.
    fn reach(&self, bucket: i64) {
        let mut word = self.head.load(Ordering::Acquire);
        loop {
            let head = self.unpack(word, bucket);
            if head.bucket >= bucket {
                return;
            }
            self.keep(word, head.bucket);
            let total = self.total.load(Ordering::Acquire);
            let next = pack(self.span, bucket, total);
            let (success, failure) = (Ordering::AcqRel, Ordering::Acquire);
            match self.head.compare_exchange(word, next, success, failure) {
                Ok(_) => return,
                Err(other) => word = other,
            }
        }
    }

    /// Puts a mark into the ring, unless it or a later one is there.
    fn keep(&self, word: u64, bucket: i64) {
        let slot = self.slot(bucket);
        let mut there = slot.load(Ordering::Acquire);
        while self.is_before(self.unpack(there, bucket).bucket, bucket) {
            let (success, failure) = (Ordering::AcqRel, Ordering::Acquire);
            match slot.compare_exchange(there, word, success, failure) {
                Ok(_) => return,
                Err(other) => there = other,
            }
        }
    }

    /// What the oldest bucket that overlaps the window began with, or where it saw nothing, the
    /// next that did.
    fn start(&self, bucket: i64) -> Option<u64> {
        let mut before = None;
        loop {
            let head = self.head(bucket);
            if before.replace(head.bucket) == Some(head.bucket) {
                // Nobody has overtaken this thread: more than 600 days lie between the two.
                return Some(head.start);
            }
            let from = self.oldest(bucket, head);
            if head.bucket <= from {
                return (head.bucket == from).then_some(head.start);
            }
            // None where this thread was overtaken by more than the slack of the ring.
            if let Some(mark) = self.search(from, head) {
                return Some(mark.start);
            }
        }
    }

    /// The oldest bucket that overlaps the window, but not before what the ring still has.
    fn oldest(&self, bucket: i64, head: Mark) -> i64 {
        (bucket - self.span.buckets()).max(head.bucket - (RING as i64 - 1))
    }

    /// The first mark from `from` on.
    fn search(&self, from: i64, head: Mark) -> Option<Mark> {
        if let Some(found) = self.beyond_gap(from, head) {
            return Some(found);
        }
        for bucket in from..head.bucket {
            let mark = self.mark(bucket)?;
            if mark.bucket == bucket {
                self.remember(from, bucket);
                return Some(mark);
            }
        }
        self.remember(from, head.bucket);
        Some(head)
    }

    fn beyond_gap(&self, from: i64, head: Mark) -> Option<Mark> {
        let gap = self.gap.load(Ordering::Relaxed);
        let near = |half: u32| from.wrapping_add(i64::from(half.wrapping_sub(from as u32) as i32));
        let (first, end) = (near((gap >> 32) as u32), near(gap as u32));
        if first > from || from > end || end > head.bucket {
            return None;
        }
        if end == head.bucket {
            return Some(head);
        }
        self.mark(end).filter(|mark| mark.bucket == end)
    }

    fn remember(&self, from: i64, found: i64) {
        if found - from > LONG_SEARCH {
            self.gap.store(pack_gap(from, found), Ordering::Relaxed);
        }
    }

    /// The mark at the place of a bucket: its own or an earlier one; none where a later one is.
    fn mark(&self, bucket: i64) -> Option<Mark> {
        let mark = self.unpack(self.slot(bucket).load(Ordering::Acquire), bucket);
        (mark.bucket == bucket || self.is_before(mark.bucket, bucket)).then_some(mark)
    }

    /// Whether a mark of the ring, read before, is of an earlier bucket. One that seems to be later
    /// than the latest is so old that the numbers of buckets have begun again since.
    fn is_before(&self, mark: i64, bucket: i64) -> bool {
        mark < bucket || mark > self.head(bucket).bucket
    }

    fn head(&self, near: i64) -> Mark {
        self.unpack(self.head.load(Ordering::Acquire), near)
    }

    fn slot(&self, bucket: i64) -> &AtomicU64 {
        let [first, ..] = &self.ring;
        let place = (bucket & (RING as i64 - 1)) as usize;
        self.ring.get(place).unwrap_or(first)
    }

    /// A mark of which all is known but the high bits of its bucket: it is a little ahead of
    /// this one at most.
    fn unpack(&self, word: u64, near: i64) -> Mark {
        let bits = self.span.bucket_bits();
        let shift = 64 - bits;
        let cycle = 1 << bits;
        let ahead = ((word >> shift) as i64).wrapping_sub(near) & (cycle - 1);
        let away = if ahead < AHEAD { ahead } else { ahead - cycle };
        Mark {
            bucket: near.wrapping_add(away),
            start: word & ((1 << shift) - 1),
        }
    }

    fn since(&self, start: u64, total: u64) -> u64 {
        let shift = 64 - self.span.bucket_bits();
        total.wrapping_sub(start) & ((1 << shift) - 1)
    }
}

fn pack(span: Span, bucket: i64, total: u64) -> u64 {
    let shift = 64 - span.bucket_bits();
    (bucket as u64) << shift | total & ((1 << shift) - 1)
}

fn pack_gap(first: i64, end: i64) -> u64 {
    u64::from(first as u32) << 32 | u64::from(end as u32)
}

#[cfg(test)]
mod tests;
