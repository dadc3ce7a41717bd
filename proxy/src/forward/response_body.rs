//! The body that a caller gets, which holds the lease until its last byte.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use super::expectation::Over;
use super::pool::Held;
use crate::enforce::Lease;
use crate::record::Failure;

/// What a caller gets: the upstream's body as it streams, or an answer of our own.
#[derive(Debug)]
pub(crate) struct ResponseBody(Inner);

#[derive(Debug)]
enum Inner {
    Own(Option<Bytes>),
    Relay {
        body: Incoming,
        call: Option<(Lease, Held)>,
        /// What is to end with the answer.
        _over: Option<Over>,
    },
}

impl ResponseBody {
    /// An answer of our own; no bytes, no body.
    pub(crate) fn own(bytes: Bytes) -> Self {
        Self(Inner::Own(Some(bytes).filter(|bytes| !bytes.is_empty())))
    }

    /// The upstream's body. The lease ends, and the connection is free, after its last byte.
    pub(super) fn relay(body: Incoming, lease: Lease, held: Held, over: Option<Over>) -> Self {
        let mut relay = Self(Inner::Relay {
            body,
            call: Some((lease, held)),
            _over: over,
        });
        relay.settle();
        relay
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

fn complete(call: &mut Option<(Lease, Held)>) {
    if let Some((mut lease, held)) = call.take() {
        lease.completed();
        held.give_back();
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let (body, call) = match &mut self.0 {
            Inner::Own(bytes) => return Poll::Ready(bytes.take().map(|b| Ok(Frame::data(b)))),
            Inner::Relay { body, call, .. } => (body, call),
        };
        let frame = std::task::ready!(Pin::new(body).poll_frame(cx));
        match &frame {
            Some(Ok(_)) => self.settle(),
            None => complete(call),
            Some(Err(_)) => {
                if let Some((mut lease, _broken)) = call.take() {
                    lease.failed(Failure::UpstreamBroke);
                }
            }
        }
        Poll::Ready(frame)
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
