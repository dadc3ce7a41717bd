//! The body that a caller gets, which holds the lease until its last byte.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::Version;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};

use super::expectation::Over;
use super::holding::Holding;
use super::pool::Held;
use super::request_body::Progress;
use crate::enforce::Lease;
use crate::protocol::{Shape, grpc};
use crate::record::{Carried, Failure};
use crate::waiting::Waiting;

/// What a caller gets: the upstream's body as it streams, or an answer of our own.
#[derive(Debug)]
pub(crate) struct ResponseBody(Inner);

#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "nearly every answer is relayed, and a box would cost each an allocation"
)]
enum Inner {
    Own(Option<Bytes>),
    Relay {
        body: Incoming,
        call: Option<OpenCall>,
        /// When the call is to be over, where that is limited.
        deadline: Option<Pin<Box<Sleep>>>,
        /// What is to end with the answer.
        _over: Option<Over>,
    },
}

/// A call whose answer is under way.
#[derive(Debug)]
struct OpenCall {
    holding: Holding,
    /// INVARIANT: `Some` until the call completes.
    held: Option<Held>,
    words: Words,
    /// Its place among those that wait to be told to end.
    place: Option<usize>,
    /// What the caller has sent.
    upload: Progress,
    /// Bytes of the answer so far.
    answered: u64,
}

/// How a caller is told that its answer ends before it is whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Words {
    /// By the end of the connection: HTTP/1.1 has nothing else.
    Connection,
    /// By a reset of the stream.
    Reset,
    /// By trailers with a status.
    Grpc,
}

/// Why an answer is cut before its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Cut {
    /// The upstream broke off.
    #[error(transparent)]
    Upstream(#[from] hyper::Error),
    /// The call took longer than a call may.
    #[error("the call took longer than a call may")]
    OutOfTime,
    /// It is no longer allowed, or its connection ends. What it is from tells HTTP/2 how to reset
    /// the stream.
    #[error("the call was ended")]
    Ended(#[source] h2::Error),
}

/// How an answer is relayed.
pub(super) struct Relayed {
    /// How it is told that it ends early.
    pub(super) words: Words,
    /// What the caller has sent.
    pub(super) upload: Progress,
    /// When the call is to be over, where that is limited.
    pub(super) deadline: Option<Instant>,
    /// What is to end with the answer.
    pub(super) over: Option<Over>,
}

impl ResponseBody {
    /// An answer of our own; no bytes, no body.
    pub(crate) fn own(bytes: Bytes) -> Self {
        Self(Inner::Own(Some(bytes).filter(|bytes| !bytes.is_empty())))
    }

    /// The upstream's body. The lease ends, and the connection is free, after its last byte.
    pub(super) fn relay(body: Incoming, lease: Lease, held: Held, how: Relayed) -> Self {
        let mut relay = Self(Inner::Relay {
            body,
            call: Some(OpenCall {
                holding: Holding::new(lease, &how.upload),
                held: Some(held),
                words: how.words,
                place: None,
                upload: how.upload,
                answered: 0,
            }),
            deadline: how.deadline.map(|at| Box::pin(sleep_until(at))),
            _over: how.over,
        });
        relay.settle();
        relay
    }

    /// Ends the answer before it is whole, with its last words.
    fn cut(&mut self, words: Words, why: Failure) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        if let Inner::Relay { call, .. } = &mut self.0 {
            fail(call, why);
        }
        self.0 = Inner::Own(None);
        Poll::Ready(Some(words.last(why)))
    }

    /// Completes the call once the body has ended.
    fn settle(&mut self) {
        if let Inner::Relay { body, call, .. } = &mut self.0
            && body.is_end_stream()
        {
            complete(call);
        }
    }
}

fn complete(call: &mut Option<OpenCall>) {
    if let Some(mut open) = call.take() {
        open.holding.with(Lease::completed);
        if let Some(held) = open.held.take() {
            held.give_back();
        }
    }
}

/// The connection to the upstream is closed with it.
fn fail(call: &mut Option<OpenCall>, failure: Failure) {
    if let Some(mut open) = call.take() {
        open.holding.with(|lease| lease.failed(failure));
    }
}

impl Words {
    /// Those of a call of this kind and version.
    pub(super) fn of(shape: Shape, version: Version) -> Self {
        match shape {
            _ if version < Version::HTTP_2 => Self::Connection,
            Shape::Grpc => Self::Grpc,
            _ => Self::Reset,
        }
    }

    /// The last frame of an answer that ends.
    fn last(self, why: Failure) -> Result<Frame<Bytes>, Cut> {
        match self {
            Self::Grpc => Ok(Frame::trailers(grpc::ended(why))),
            Self::Connection | Self::Reset => Err(Cut::Ended(h2::Reason::CANCEL.into())),
        }
    }
}

impl OpenCall {
    /// Notes what is passed on.
    fn passes(&mut self, frame: &Frame<Bytes>) {
        if let Some(data) = frame.data_ref() {
            self.answered += data.len() as u64;
            self.holding.with(|lease| {
                if let Some(meter) = lease.answer_meter() {
                    meter.sent(data.len());
                }
            });
        } else if let Some(trailers) = frame.trailers_ref()
            && self.words == Words::Grpc
            && grpc::is_error(trailers)
        {
            self.holding.with(Lease::grpc_failed);
        }
    }

    /// Why the call is to end although its answer is not whole; otherwise it is woken when it is.
    fn ends(&mut self, cx: &mut Context<'_>) -> Option<Failure> {
        if self.holding.poll_ended(cx) {
            return Some(Failure::LeaseEnded);
        }
        let (told, place) = (self.words != Words::Connection, &mut self.place);
        let why = self.holding.with(|lease| {
            let calls = lease.calls();
            let ends = told && calls.ending().has_begun(place, cx);
            ends.then(|| calls.why_cut())
        });
        why.flatten()
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        if self.held.is_some() {
            let carried = Carried {
                bytes_in: self.upload.bytes(),
                bytes_out: self.answered,
            };
            self.holding.with(|lease| lease.carried(carried));
            self.holding.cut();
        }
        if let Some(place) = self.place {
            self.holding
                .with(|lease| lease.calls().ending().leave(place));
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        let (body, call, deadline) = match &mut self.0 {
            Inner::Own(bytes) => {
                Waiting::Caller.say();
                return Poll::Ready(bytes.take().map(|b| Ok(Frame::data(b))));
            }
            Inner::Relay {
                body,
                call,
                deadline,
                ..
            } => (body, call, deadline),
        };
        if let Some(deadline) = deadline
            && deadline.as_mut().poll(cx).is_ready()
        {
            fail(call, Failure::RequestTimeout);
            return Poll::Ready(Some(Err(Cut::OutOfTime)));
        }
        if let Some(open) = call
            && open.holding.has_ended()
        {
            let words = open.words;
            return self.cut(words, Failure::LeaseEnded);
        }
        let Poll::Ready(frame) = Pin::new(body).poll_frame(cx) else {
            let ends = call
                .as_mut()
                .and_then(|open| Some((open.words, open.ends(cx)?)));
            let Some((words, why)) = ends else {
                Waiting::Upstream.say();
                return Poll::Pending;
            };
            return self.cut(words, why);
        };
        Waiting::Caller.say();
        if let (Some(Ok(frame)), Some(open)) = (&frame, call.as_mut()) {
            open.passes(frame);
        }
        match &frame {
            Some(Ok(_)) => self.settle(),
            None => complete(call),
            Some(Err(_)) => fail(call, Failure::UpstreamBroke),
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Cut::Upstream)))
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Inner::Own(bytes) => bytes.is_none(),
            Inner::Relay { body, .. } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Inner::Own(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            Inner::Relay { body, .. } => body.size_hint(),
        }
    }
}
