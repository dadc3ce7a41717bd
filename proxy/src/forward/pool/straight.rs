//! The short way of a call, which most calls go: a connection waits for one, and the request is on
//! it before anything has to be waited for. Nothing of the request is kept for that way, so that a
//! call which waits for its answer is small.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;

use super::http1::{Idle, Kept};
use super::slot::{Held, Load, Slot};
use super::{Answer, Pool, Tried, Unanswered, copy};
use crate::config::UpstreamProtocol;
use crate::forward::error::ForwardError;
use crate::forward::request_body::{Progress, RequestBody};
use crate::forward::times::Patience;

/// A connection for one call.
pub(in crate::forward) struct AtHand {
    slot: Arc<Slot>,
    load: Option<Load>,
    idle: Idle,
}

pin_project_lite::pin_project! {
    /// A request that is on its connection, and whose answer is waited for.
    pub(in crate::forward) struct Straight<S> {
        #[pin]
        sending: S,
        slot: Arc<Slot>,
        load: Option<Load>,
        // INVARIANT: `Some` until there is an answer or none will come.
        kept: Option<Kept>,
        // Sent where the connection turns out to be gone.
        spare: Option<Box<Request<RequestBody>>>,
    }
}

impl Pool {
    /// An HTTP/1.1 connection that waits for a call. Where there is none, `tried` knows which
    /// endpoint the call should go to.
    pub(in crate::forward) fn at_hand(&self, tried: &mut Tried, now: Instant) -> Option<AtHand> {
        if self.config().protocol != UpstreamProtocol::Http1 {
            return None;
        }
        let slot = match &self.only {
            Some(slot) => Arc::clone(slot),
            None => {
                let slot = self.upstream.generation().gt(&0).then(|| self.pick(tried));
                let slot = slot.flatten()?;
                tried.current = Some(Arc::clone(&slot.endpoint));
                slot
            }
        };
        match slot.take(now) {
            Some(idle) => Some(AtHand {
                load: slot.enter(),
                slot,
                idle,
            }),
            None => {
                tried.chosen = Some(slot);
                None
            }
        }
    }
}

impl AtHand {
    /// Sends a request.
    pub(in crate::forward) fn send(
        self,
        request: Request<RequestBody>,
        now: Instant,
    ) -> Straight<impl Future<Output = Sent> + Send + use<>> {
        let stale = self.idle.is_stale(now) || self.slot.is_wary();
        let spare = stale && request.method().is_idempotent();
        let spare = spare.then(|| copy(&request)).flatten().map(Box::new);
        let mut kept = self.idle.kept;
        Straight {
            sending: kept.sender.try_send_request(request),
            slot: self.slot,
            load: self.load,
            kept: Some(kept),
            spare,
        }
    }
}

/// What hyper says of a request.
pub(in crate::forward) type Sent = Result<Response<Incoming>, TrySendError<Request<RequestBody>>>;

impl<S: Future<Output = Sent>> Straight<S> {
    /// The answer, or a request that was not sent and may be sent elsewhere.
    pub(in crate::forward) fn poll_answer(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Answer, Unanswered>> {
        let this = self.project();
        if this.kept.is_none() {
            return Poll::Pending;
        }
        let sent = ready!(this.sending.poll(cx));
        let Some(kept) = this.kept.take() else {
            return Poll::Pending;
        };
        Poll::Ready(match sent {
            Ok(response) => {
                this.slot.answered(response.status());
                let mut held = Held::http1(this.slot, kept);
                held.load = this.load.take();
                Ok(Answer { response, held })
            }
            Err(error) => Err(this.slot.lost(error, this.spare.take())),
        })
    }

    /// Ready once the answer has not come in time.
    pub(in crate::forward) fn poll_late(
        self: Pin<&mut Self>,
        patience: &mut Patience,
        progress: &Progress,
        cx: &mut Context<'_>,
    ) -> Poll<ForwardError> {
        match self.project().kept {
            Some(kept) => patience.poll(progress, &mut kept.alarm, cx),
            None => Poll::Pending,
        }
    }
}

impl Slot {
    /// A request got no answer. It may be sent again where not a byte of it was sent, and where
    /// it is safe to.
    fn lost(
        &self,
        mut error: TrySendError<Request<RequestBody>>,
        spare: Option<Box<Request<RequestBody>>>,
    ) -> Unanswered {
        self.found_dead();
        let unsent = error.take_message();
        let unanswered = Unanswered {
            error: ForwardError::Broke(error.into_error()),
            unsent: unsent.or(spare.map(|spare| *spare)),
        };
        if unanswered.unsent.is_none() {
            self.failed_with(&unanswered.error);
        }
        unanswered
    }
}
