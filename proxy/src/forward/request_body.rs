//! A request's body on its way upstream, watched for progress.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::Request;
use hyper::body::{Body, Frame, Incoming, SizeHint};

/// How far a request's body got; nothing is watched of a request without one.
#[derive(Debug, Clone, Default)]
pub(super) struct Progress(Option<Arc<Upload>>);

#[derive(Debug, Default)]
struct Upload {
    bytes: AtomicU64,
    /// The upstream would take more, and the caller has not sent it.
    awaited: AtomicBool,
}

impl Progress {
    /// Of a body whose first byte is yet to come.
    pub(super) fn of_upload() -> Self {
        Self(Some(Arc::default()))
    }

    /// Bytes so far; 0 for a request without a body.
    pub(super) fn bytes(&self) -> u64 {
        let upload = self.0.as_ref();
        upload.map_or(0, |upload| upload.bytes.load(Ordering::Relaxed))
    }

    /// Whether there is a body.
    pub(super) fn is_watched(&self) -> bool {
        self.0.is_some()
    }

    /// Whether it is for the caller to send more.
    pub(super) fn awaits_caller(&self) -> bool {
        let upload = self.0.as_ref();
        upload.is_some_and(|upload| upload.awaited.load(Ordering::Relaxed))
    }

    pub(super) fn awaited(&self, awaited: bool) {
        if let Some(upload) = &self.0 {
            upload.awaited.store(awaited, Ordering::Relaxed);
        }
    }

    pub(super) fn moved(&self, bytes: usize) {
        if let Some(upload) = &self.0 {
            upload.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        }
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
        false => Progress::of_upload(),
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
        self.progress.awaited(frame.is_pending());
        if let Poll::Ready(Some(Ok(frame))) = &frame {
            self.progress.moved(frame.data_ref().map_or(0, Bytes::len));
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
