//! Who holds the lease of a call whose answer is under way: the answer, and the request's body with
//! it for as long as that is still being sent.
//!
//! SECURITY: both ask before they pass anything on. An answer is not asked for while its caller does
//! not read it, and may be whole before the request is: the caller must not go on sending for that.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use super::request_body::Progress;
use crate::enforce::Lease;
use crate::review::Seat;

/// The answer's hold on a lease.
#[derive(Debug)]
pub(super) enum Holding {
    /// Nothing more is to be sent.
    Alone(Lease),
    /// The request's body holds it too, by its progress.
    Shared(Progress),
}

/// A lease that two hold.
#[derive(Debug)]
pub(super) struct Shared {
    lease: Lease,
    /// Where the request's body waits; the answer has the lease's own.
    seat: Seat,
    /// The lease has ended.
    ended: bool,
    /// The answer was cut, whatever for.
    cut: bool,
}

impl Holding {
    /// The answer's hold on a lease, which it shares with a body that is still being sent.
    pub(super) fn new(lease: Lease, upload: &Progress) -> Self {
        match upload.share(lease) {
            Some(lease) => Self::Alone(lease),
            None => Self::Shared(upload.clone()),
        }
    }

    /// Does something with the lease. Nothing where it is gone, which it never is.
    pub(super) fn with<T>(&mut self, act: impl FnOnce(&mut Lease) -> T) -> Option<T> {
        match self {
            Self::Alone(lease) => Some(act(lease)),
            Self::Shared(upload) => upload.shared().map(|mut shared| act(&mut shared.lease)),
        }
    }

    /// As [`Lease::review`].
    pub(super) fn has_ended(&mut self) -> bool {
        match self {
            Self::Alone(lease) => lease.review().is_some(),
            Self::Shared(upload) => upload.shared().is_none_or(|mut shared| shared.has_ended()),
        }
    }

    /// As [`Lease::poll_ended`].
    pub(super) fn poll_ended(&mut self, cx: &mut Context<'_>) -> bool {
        match self {
            Self::Alone(lease) => lease.poll_ended(cx).is_ready(),
            Self::Shared(upload) => upload.shared().is_none_or(|mut shared| {
                shared.ended |= shared.lease.poll_ended(cx).is_ready();
                shared.ended
            }),
        }
    }

    /// Lets nothing more be sent: the answer is cut.
    pub(super) fn cut(&mut self) {
        if let Self::Shared(upload) = self {
            if let Some(mut shared) = upload.shared() {
                shared.cut = true;
            }
            upload.wake();
        }
    }
}

impl Shared {
    pub(super) fn new(lease: Lease) -> Mutex<Self> {
        Mutex::new(Self {
            seat: lease.another_seat(),
            lease,
            ended: false,
            cut: false,
        })
    }

    pub(super) fn lock(shared: &Mutex<Self>) -> MutexGuard<'_, Self> {
        shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has_ended(&mut self) -> bool {
        self.ended |= self.lease.review().is_some();
        self.ended
    }

    /// Whether the request's body has to end here.
    pub(super) fn ends_upload(&mut self) -> bool {
        self.cut || self.has_ended()
    }

    /// Ready once the request's body has to end.
    pub(super) fn poll_upload_ended(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Self { lease, seat, .. } = self;
        self.ended |= lease.poll_ended_at(seat, cx).is_ready();
        match self.cut || self.ended {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }
}
