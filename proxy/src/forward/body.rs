//! The bodies that pass through: a request's, watched for progress, and a response's,
//! which holds the lease until its last byte.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::Request;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use super::pool::Held;
use crate::enforce::Lease;
use crate::record::Failure;

/// How many bytes of a request's body went upstream so far.
#[derive(Debug, Clone, Default)]
pub(super) struct Progress(Option<Arc<AtomicU64>>);

impl Progress {
    /// Bytes so far; 0 for a request without a body.
    pub(super) fn bytes(&self) -> u64 {
        self.0
            .as_ref()
            .map_or(0, |bytes| bytes.load(Ordering::Relaxed))
    }
}

/// A request's body on its way upstream. Empty bodies cost no allocation.
#[derive(Debug)]
pub(crate) struct RequestBody {
    inner: Option<Incoming>,
    progress: Progress,
}

impl RequestBody {
    /// A body without a byte, for a request that is sent a second time.
    pub(super) fn empty() -> Self {
        Self {
            inner: None,
            progress: Progress::default(),
        }
    }
}

/// Wraps a request's body so that its progress can be watched.
pub(super) fn watched(request: Request<Incoming>) -> (Request<RequestBody>, Progress) {
    let progress = match request.body().is_end_stream() {
        true => Progress::default(),
        false => Progress(Some(Arc::default())),
    };
    let watch = progress.clone();
    let request = request.map(|inner| RequestBody {
        inner: Some(inner),
        progress,
    });
    (request, watch)
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Some(inner) = self.inner.as_mut() else {
            return Poll::Ready(None);
        };
        let frame = Pin::new(inner).poll_frame(cx);
        if let (Poll::Ready(Some(Ok(frame))), Some(bytes)) = (&frame, &self.progress.0) {
            let count = frame.data_ref().map_or(0, Bytes::len) as u64;
            bytes.fetch_add(count, Ordering::Relaxed);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner
            .as_ref()
            .map_or(SizeHint::with_exact(0), Body::size_hint)
    }
}

/// What a caller gets: the upstream's body as it streams, or an answer of our own.
#[derive(Debug)]
pub(crate) struct ResponseBody(Inner);

#[derive(Debug)]
enum Inner {
    Own(Option<Bytes>),
    Relay {
        body: Incoming,
        call: Option<(Lease, Held)>,
    },
}

impl ResponseBody {
    /// A body without a byte.
    pub(crate) fn empty() -> Self {
        Self(Inner::Own(None))
    }

    /// A body that is there already.
    pub(crate) fn full(bytes: Bytes) -> Self {
        Self(Inner::Own(Some(bytes)))
    }

    /// The upstream's body. The lease ends, and the connection is free, after its last byte.
    pub(super) fn relay(body: Incoming, lease: Lease, held: Held) -> Self {
        let mut relay = Self(Inner::Relay {
            body,
            call: Some((lease, held)),
        });
        relay.settle();
        relay
    }

    /// Completes the call once the body has ended.
    fn settle(&mut self) {
        if let Inner::Relay { body, call } = &mut self.0
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
            Inner::Relay { body, call } => (body, call),
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
