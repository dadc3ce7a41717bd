//! On whom the call waits that this thread polls: on the caller, who does not read its answer, or
//! on the upstream. The answer's body says so whenever it is polled; whoever polls the stream that
//! the body is in asks afterwards. HTTP/2's implementation stands in between and does not tell.

use std::cell::Cell;

/// Who is to do the next thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Waiting {
    /// Not said: the body was not polled, so it is as it was.
    AsBefore,
    /// The upstream, for more of the answer; or nobody.
    Upstream,
    /// The caller, to take what it was handed.
    Caller,
    /// Nobody any more: the caller took too long, and its call is being dropped.
    GivenUp,
}

thread_local! {
    static POLLED: Cell<Waiting> = const { Cell::new(Waiting::AsBefore) };
}

impl Waiting {
    /// Says it of the call that is being polled, or dropped.
    pub(crate) fn say(self) {
        POLLED.set(self);
    }

    /// What was said last.
    pub(crate) fn said() -> Self {
        POLLED.get()
    }
}
