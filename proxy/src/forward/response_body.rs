//! The body that a caller gets, which holds the lease until its last byte.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};

use super::pool::Held;
use crate::enforce::Lease;
use crate::protocol::{Shape, grpc};
use crate::record::Failure;
use crate::waiting::Waiting;

/// What a caller gets: the upstream's body as it streams, or an answer of our own.
#[derive(Debug)]
pub(crate) struct ResponseBody(Inner);

#[derive(Debug)]
enum Inner {
    Own(Option<Bytes>),
    Relay {
        body: Incoming,
        call: Option<(Lease, Held)>,
        /// When the call is to be over, where that is limited.
        deadline: Option<Pin<Box<Sleep>>>,
    },
}

/// Why an answer is cut before its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Cut {
    /// The upstream broke off.
    #[error(transparent)]
    Upstream(#[from] hyper::Error),
    /// The call was decided again, and denied.
    #[error("the call is no longer allowed")]
    LeaseEnded,
    /// The call took longer than a call may.
    #[error("the call took longer than a call may")]
    OutOfTime,
}

impl ResponseBody {
    /// An answer of our own; no bytes, no body.
    pub(crate) fn own(bytes: Bytes) -> Self {
        Self(Inner::Own(Some(bytes).filter(|bytes| !bytes.is_empty())))
    }

    /// The upstream's body. The lease ends, and the connection is free, after its last byte.
    pub(super) fn relay(
        body: Incoming,
        lease: Lease,
        held: Held,
        deadline: Option<Instant>,
    ) -> Self {
        let mut relay = Self(Inner::Relay {
            body,
            call: Some((lease, held)),
            deadline: deadline.map(|at| Box::pin(sleep_until(at))),
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

/// The connection to the upstream is closed with it.
fn fail(call: &mut Option<(Lease, Held)>, failure: Failure) {
    if let Some((mut lease, _broken)) = call.take() {
        lease.failed(failure);
    }
}

/// What is told of a call that is no longer allowed, in its own protocol's words: a gRPC caller
/// gets a status (7, PERMISSION_DENIED), any other an answer that does not look complete.
fn ended(call: &mut Option<(Lease, Held)>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
    let shape = call.as_ref().and_then(|(lease, _)| lease.call());
    let is_grpc = shape.is_some_and(|call| call.shape() == Shape::Grpc);
    // The connection to the upstream is closed, or its stream reset, with it.
    drop(call.take());
    Poll::Ready(Some(match is_grpc {
        true => Ok(Frame::trailers(grpc::no_longer_allowed())),
        false => Err(Cut::LeaseEnded),
    }))
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
            // An answer that a lease's end has cut is over.
            Inner::Relay {
                call: None, body, ..
            } if !body.is_end_stream() => {
                return Poll::Ready(None);
            }
            Inner::Relay {
                body,
                call,
                deadline,
            } => (body, call, deadline),
        };
        if let Some(deadline) = deadline
            && deadline.as_mut().poll(cx).is_ready()
        {
            fail(call, Failure::RequestTimeout);
            return Poll::Ready(Some(Err(Cut::OutOfTime)));
        }
        if let Some((lease, _)) = call
            && lease.review().is_some()
        {
            return ended(call);
        }
        let Poll::Ready(frame) = Pin::new(body).poll_frame(cx) else {
            if let Some((lease, _)) = call
                && lease.poll_ended(cx).is_ready()
            {
                return ended(call);
            }
            Waiting::Upstream.say();
            return Poll::Pending;
        };
        Waiting::Caller.say();
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
