//! A request's body on its way upstream, watched for progress.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::Request;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use super::expectation::{Hold, Verdict};

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
    /// What is waited for before the first byte.
    hold: Option<Hold>,
}

impl RequestBody {
    /// A body without a byte, for a request that is sent a second time.
    pub(super) fn empty() -> Self {
        Self {
            inner: None,
            progress: Progress::default(),
            hold: None,
        }
    }

    /// Holds the body back until it may be sent.
    pub(super) fn hold(&mut self, hold: Hold) {
        self.hold = Some(hold);
    }

    /// Ready once the body may be sent. One that is not wanted frees its caller at once.
    fn poll_held(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while let Some(hold) = &mut self.hold {
            match ready!(hold.poll(cx)) {
                Verdict::Send => self.hold = None,
                Verdict::Refused => self.inner = None,
                Verdict::Over => {
                    self.hold = None;
                    self.inner = None;
                }
            }
        }
        Poll::Ready(())
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
        hold: None,
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
        if self.hold.is_some() {
            ready!(self.poll_held(cx));
        }
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
        self.hold.is_none() && self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner
            .as_ref()
            .map_or(SizeHint::with_exact(0), Body::size_hint)
    }
}
