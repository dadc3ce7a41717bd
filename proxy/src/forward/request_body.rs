//! A request's body on its way upstream: watched for progress, and kept to be sent again where
//! retries ask for that and it is small.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http::HeaderMap;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use super::expectation::{Hold, Verdict};
use super::headers;
use super::holding::Shared;
use crate::enforce::{Lease, Meter};

/// How far a request's body got; nothing is watched of a request without one.
#[derive(Debug, Clone, Default)]
pub(super) struct Progress(Option<Arc<Upload>>);

#[derive(Debug, Default)]
struct Upload {
    bytes: AtomicU64,
    /// The upstream would take more, and the caller has not sent it.
    awaited: AtomicBool,
    /// Where they count, if they do.
    meter: Option<Meter>,
    /// The call's lease, if its answer has begun before all was sent.
    shared: OnceLock<Box<Mutex<Shared>>>,
    /// Of a body that waits for its caller.
    waits: AtomicWaker,
}

impl Progress {
    /// Of a body whose first byte is yet to come.
    pub(super) fn of_upload(meter: Option<&Meter>) -> Self {
        Self(Some(Arc::new(Upload {
            meter: meter.cloned(),
            ..Upload::default()
        })))
    }

    /// Bytes so far; 0 for a request without a body.
    pub(super) fn bytes(&self) -> u64 {
        let upload = self.0.as_ref();
        upload.map_or(0, |upload| upload.bytes.load(Ordering::Relaxed))
    }

    /// Keeps the lease of a call whose answer begins, where the body is still being sent;
    /// otherwise gives it back.
    pub(super) fn share(&self, lease: Lease) -> Option<Lease> {
        let Some(upload) = self
            .0
            .as_ref()
            .filter(|upload| Arc::strong_count(upload) > 1)
        else {
            return Some(lease);
        };
        if upload.shared.set(Box::new(Shared::new(lease))).is_err() {
            tracing::error!("the answer of one call began twice");
        }
        self.wake();
        None
    }

    /// The lease, where it is shared.
    pub(super) fn shared(&self) -> Option<MutexGuard<'_, Shared>> {
        let shared = self.0.as_ref()?.shared.get()?;
        Some(Shared::lock(shared))
    }

    /// Has the body look again whether it may go on.
    pub(super) fn wake(&self) {
        if let Some(upload) = &self.0 {
            upload.waits.wake();
        }
    }

    /// Whether nothing more may be sent.
    fn is_over(&self) -> bool {
        self.shared().is_some_and(|mut shared| shared.ends_upload())
    }

    /// Ready once nothing more may be sent.
    fn poll_over(&self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(upload) = &self.0 {
            upload.waits.register(cx.waker());
        }
        match self.shared() {
            Some(mut shared) => shared.poll_upload_ended(cx),
            None => Poll::Pending,
        }
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
            if let Some(meter) = &upload.meter {
                meter.sent(bytes);
            }
        }
    }
}

/// A request's body on its way upstream. Empty bodies cost no allocation; others are boxed, since
/// a request is moved some twenty times until it is written.
#[derive(Debug)]
pub(crate) struct RequestBody(Option<Box<Flowing>>);

/// A body with something in it.
#[derive(Debug)]
struct Flowing {
    source: Source,
    progress: Progress,
    /// What is waited for before the first byte.
    hold: Option<Hold>,
}

#[derive(Debug)]
enum Source {
    Empty,
    Straight(Incoming),
    Kept(Reader),
}

/// Why a body ended before its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    /// The caller broke off.
    #[error("the caller broke off")]
    Caller(#[source] hyper::Error),
    /// The body is being sent elsewhere by now.
    #[error("the request is being sent again")]
    Superseded,
    /// The call has ended before all was sent. The source tells HTTP/2 by which code.
    #[error("the call was ended")]
    Ended(#[source] h2::Error),
}

/// One reading of a body that is kept, from its beginning.
#[derive(Debug)]
struct Reader {
    kept: Arc<Mutex<Kept>>,
    /// Which reading this is: only the latest may go on.
    reading: u32,
    /// How many of the kept pieces were read.
    read: usize,
    hint: SizeHint,
}

/// A body and what was read of it so far, as long as that is little.
#[derive(Debug)]
struct Kept {
    rest: Incoming,
    pieces: Vec<Bytes>,
    trailers: Option<HeaderMap>,
    ended: bool,
    /// Bytes that may still be kept; none once there were more.
    room: Option<usize>,
    reading: u32,
}

/// A body that can be sent once more.
#[derive(Debug)]
pub(super) struct Replay(Arc<Mutex<Kept>>, SizeHint);

impl RequestBody {
    /// A body without a byte, for a request that is sent a second time.
    pub(super) fn empty() -> Self {
        Self(None)
    }

    fn flowing(source: Source, progress: Progress) -> Self {
        Self(Some(Box::new(Flowing {
            source,
            progress,
            hold: None,
        })))
    }

    /// Holds the body back until it may be sent.
    pub(super) fn hold(&mut self, hold: Hold) {
        if let Some(flowing) = &mut self.0 {
            flowing.hold = Some(hold);
        }
    }

    /// Keeps what is read of the body from now on, up to `limit` bytes; none where it is empty
    /// or sure to be longer.
    pub(super) fn keep(&mut self, limit: usize) -> Option<Replay> {
        let hint = self.size_hint();
        if limit == 0 || hint.lower() > limit as u64 {
            return None;
        }
        self.0.as_mut()?.keep(limit, hint)
    }
}

impl Flowing {
    /// Ends the body before its end.
    fn end(&mut self) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.source = Source::Empty;
        Poll::Ready(Some(Err(BodyError::Ended(h2::Reason::CANCEL.into()))))
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if self.hold.is_some() {
            ready!(self.poll_held(cx));
        }
        if self.progress.is_over() {
            return self.end();
        }
        let mut frame = match &mut self.source {
            Source::Empty => return Poll::Ready(None),
            Source::Straight(inner) => Pin::new(inner).poll_frame(cx).map_err(BodyError::Caller),
            Source::Kept(reader) => reader.poll(cx),
        };
        self.progress.awaited(frame.is_pending());
        if frame.is_pending() && self.progress.poll_over(cx).is_ready() {
            return self.end();
        }
        if let Poll::Ready(Some(Ok(frame))) = &mut frame {
            if let Some(trailers) = frame.trailers_mut() {
                headers::clean_trailers(trailers);
            }
            self.progress.moved(frame.data_ref().map_or(0, Bytes::len));
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        if self.hold.is_some() {
            return false;
        }
        match &self.source {
            Source::Empty => true,
            Source::Straight(inner) => inner.is_end_stream(),
            Source::Kept(reader) => reader.is_end_stream(),
        }
    }

    /// Ready once the body may be sent. One that is not wanted frees its caller at once.
    fn poll_held(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while let Some(hold) = &mut self.hold {
            match ready!(hold.poll(cx)) {
                Verdict::Send => self.hold = None,
                Verdict::Refused => self.source = Source::Empty,
                Verdict::Over => {
                    self.hold = None;
                    self.source = Source::Empty;
                }
            }
        }
        Poll::Ready(())
    }

    fn keep(&mut self, limit: usize, hint: SizeHint) -> Option<Replay> {
        match std::mem::replace(&mut self.source, Source::Empty) {
            Source::Straight(rest) => {
                let kept = Arc::new(Mutex::new(Kept {
                    rest,
                    pieces: Vec::new(),
                    trailers: None,
                    ended: false,
                    room: Some(limit),
                    reading: 0,
                }));
                let replay = Replay(Arc::clone(&kept), hint);
                self.source = Source::Kept(Reader {
                    kept,
                    reading: 0,
                    read: 0,
                    hint,
                });
                Some(replay)
            }
            other => {
                self.source = other;
                None
            }
        }
    }
}

impl Replay {
    /// The body from its beginning, unless more was read than is kept. Readings before this one
    /// end with an error.
    pub(super) fn again(&self, progress: &Progress) -> Option<RequestBody> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.room?;
        kept.reading += 1;
        let reader = Reader {
            kept: Arc::clone(&self.0),
            reading: kept.reading,
            read: 0,
            hint: self.1,
        };
        let source = Source::Kept(reader);
        Some(RequestBody::flowing(source, progress.clone()))
    }

    /// Whether it can be sent once more.
    pub(super) fn is_whole(&self) -> bool {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.room.is_some()
    }
}

impl Reader {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.reading != self.reading {
            return Poll::Ready(Some(Err(BodyError::Superseded)));
        }
        if let Some(piece) = kept.pieces.get(self.read).cloned() {
            self.read += 1;
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        if kept.ended {
            // Trailers come once a reading; what follows them is the end.
            let end = kept.pieces.len() + 1;
            let first = std::mem::replace(&mut self.read, end) != end;
            let trailers = kept.trailers.clone().filter(|_| first);
            return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
        }
        let frame = std::task::ready!(Pin::new(&mut kept.rest).poll_frame(cx));
        match frame {
            None => {
                kept.ended = true;
                Poll::Ready(None)
            }
            Some(Err(error)) => Poll::Ready(Some(Err(BodyError::Caller(error)))),
            Some(Ok(frame)) => {
                self.read += usize::from(kept.remember(&frame));
                Poll::Ready(Some(Ok(frame)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let all_read = self.read >= kept.pieces.len();
        let no_trailers = kept.trailers.is_none() || self.read > kept.pieces.len();
        all_read && no_trailers && (kept.ended || kept.rest.is_end_stream())
    }
}

impl Kept {
    /// Keeps a frame; whether it is a piece that is kept.
    fn remember(&mut self, frame: &Frame<Bytes>) -> bool {
        if let Some(trailers) = frame.trailers_ref() {
            self.trailers = Some(trailers.clone());
            self.ended = true;
            // This reading has had them: `read` moves past the pieces.
            return true;
        }
        let (Some(data), Some(room)) = (frame.data_ref(), self.room) else {
            return false;
        };
        self.room = room.checked_sub(data.len());
        match self.room {
            Some(_) => self.pieces.push(data.clone()),
            None => self.pieces = Vec::new(),
        }
        self.room.is_some()
    }
}

/// Wraps a request's body so that its progress can be watched, and its bytes counted.
pub(super) fn watched(body: Incoming, meter: Option<&Meter>) -> (RequestBody, Progress) {
    if body.is_end_stream() {
        return (RequestBody::empty(), Progress::default());
    }
    let progress = Progress::of_upload(meter);
    let watch = progress.clone();
    (
        RequestBody::flowing(Source::Straight(body), progress),
        watch,
    )
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut self.0 {
            Some(flowing) => flowing.poll(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        let mut flowing = self.0.iter();
        flowing.all(|flowing| flowing.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        match self.0.as_ref().map(|flowing| &flowing.source) {
            None | Some(Source::Empty) => SizeHint::with_exact(0),
            Some(Source::Straight(inner)) => inner.size_hint(),
            Some(Source::Kept(reader)) => reader.hint,
        }
    }
}
