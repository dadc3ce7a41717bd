//! What moves on one connection: written by whoever moves it, read by the sweep that looks for
//! connections on which nothing does. Counters alone; there is no clock in here.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};

use tokio::sync::Notify;

/// The movements of one connection.
///
/// A connection is served by one thread at a time, so that a load and a store do where others
/// would need an atomic addition.
#[derive(Debug, Default)]
pub(crate) struct Flow {
    read: AtomicU64,
    written: AtomicU64,
    /// The peer does not take what was to be written.
    blocked: AtomicBool,
    /// What had been read when the last call ended: more than that is a head that has begun.
    at_rest: AtomicU64,
    /// Heads are told by frames; otherwise every byte between two calls is of a head.
    framed: AtomicBool,
    /// An HTTP/2 head has begun and not ended, as its frames tell.
    head_open: AtomicBool,
    /// HTTP/2 heads that have begun.
    heads: AtomicU32,
    flood: AtomicU8,
    overdue: AtomicU8,
    told: Notify,
}

/// A kind of traffic that costs us much more than the peer, and that no client needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flood {
    /// HTTP/2 frames that carry nothing: SETTINGS, PING, PRIORITY, WINDOW_UPDATE, empty DATA.
    Frames,
    /// HTTP/2 streams that are opened and reset.
    Resets,
}

/// What a connection is out of time for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Overdue {
    /// No call for the idle time.
    Idle,
    /// It is as old as a connection may get.
    Aged,
    /// A request's head began and does not end.
    Head,
    /// The peer does not read what is sent to it.
    Unread,
}

/// The counters at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Movement {
    pub(crate) read: u64,
    pub(crate) written: u64,
    pub(crate) blocked: bool,
    pub(crate) at_rest: u64,
    pub(crate) framed: bool,
    pub(crate) head_open: bool,
    pub(crate) heads: u32,
}

impl Flood {
    /// The stable code for records and metrics.
    pub(crate) fn reason_code(self) -> &'static str {
        match self {
            Self::Frames => "http2_flood",
            Self::Resets => "rapid_reset",
        }
    }
}

impl Overdue {
    /// Whether the connection is cut at once, and not asked to finish.
    pub(crate) fn cuts(self) -> bool {
        matches!(self, Self::Head | Self::Unread)
    }

    fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Idle),
            2 => Some(Self::Aged),
            3 => Some(Self::Head),
            4 => Some(Self::Unread),
            _ => None,
        }
    }

    fn code(self) -> u8 {
        match self {
            Self::Idle => 1,
            Self::Aged => 2,
            Self::Head => 3,
            Self::Unread => 4,
        }
    }
}

/// Adds to a counter that only one thread writes.
fn add(counter: &AtomicU64, count: usize) {
    let sum = counter.load(Ordering::Relaxed).wrapping_add(count as u64);
    counter.store(sum, Ordering::Relaxed);
}

impl Flow {
    pub(crate) fn has_read(&self, bytes: usize) {
        add(&self.read, bytes);
    }

    pub(crate) fn has_written(&self, bytes: usize) {
        add(&self.written, bytes);
    }

    pub(crate) fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Whether the peer does not take what is to be written.
    pub(crate) fn is_blocked(&self, blocked: bool) {
        self.blocked.store(blocked, Ordering::Relaxed);
    }

    /// The last open call has ended: what is read from here on belongs to the next one.
    pub(crate) fn comes_to_rest(&self) {
        let read = self.read.load(Ordering::Relaxed);
        self.at_rest.store(read, Ordering::Relaxed);
    }

    /// The peer speaks HTTP/2. Until its preface has come, it owes us a head.
    pub(crate) fn is_framed(&self) {
        self.framed.store(true, Ordering::Relaxed);
        self.head_open.store(true, Ordering::Relaxed);
    }

    /// How many HTTP/2 heads have begun, and whether the last of them is under way.
    pub(crate) fn heads(&self, begun: u32, open: bool) {
        self.heads.store(begun, Ordering::Relaxed);
        self.head_open.store(open, Ordering::Relaxed);
    }

    pub(crate) fn movement(&self) -> Movement {
        Movement {
            read: self.read.load(Ordering::Relaxed),
            written: self.written.load(Ordering::Relaxed),
            blocked: self.blocked.load(Ordering::Relaxed),
            at_rest: self.at_rest.load(Ordering::Relaxed),
            framed: self.framed.load(Ordering::Relaxed),
            head_open: self.head_open.load(Ordering::Relaxed),
            heads: self.heads.load(Ordering::Relaxed),
        }
    }

    /// Notes why the stream was broken off.
    pub(crate) fn floods(&self, flood: Flood) {
        let code = match flood {
            Flood::Frames => 1,
            Flood::Resets => 2,
        };
        self.flood.store(code, Ordering::Relaxed);
    }

    /// The flood that the stream was broken off for.
    pub(crate) fn flood(&self) -> Option<Flood> {
        match self.flood.load(Ordering::Relaxed) {
            1 => Some(Flood::Frames),
            2 => Some(Flood::Resets),
            _ => None,
        }
    }

    /// Tells whoever serves the connection that it is out of time.
    pub(crate) fn tell(&self, overdue: Overdue) {
        self.overdue.store(overdue.code(), Ordering::Relaxed);
        self.told.notify_one();
    }

    /// Completes when the connection is out of time, each time anew.
    pub(crate) async fn overdue(&self) -> Overdue {
        loop {
            if let Some(overdue) = Overdue::from_code(self.overdue.swap(0, Ordering::Relaxed)) {
                return overdue;
            }
            self.told.notified().await;
        }
    }
}
