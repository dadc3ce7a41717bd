//! A connection's stream, which tells the connection's [`Flow`](crate::flow::Flow) what moves and
//! breaks off when the peer floods.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::frames::FrameMeter;
use crate::record::Calls;
use crate::stream::Stream;

/// A stream that is counted.
#[derive(Debug)]
pub(super) struct Metered {
    stream: Stream,
    calls: Arc<Calls>,
    /// Where the peer speaks HTTP/2.
    frames: Option<FrameMeter>,
}

impl Metered {
    /// Counts bytes.
    pub(super) fn bytes(stream: Stream, calls: Arc<Calls>) -> Self {
        Self {
            stream,
            calls,
            frames: None,
        }
    }

    /// Counts bytes and HTTP/2 frames.
    pub(super) fn frames(stream: Stream, calls: Arc<Calls>) -> Self {
        calls.flow().is_framed();
        Self {
            stream,
            calls,
            frames: Some(FrameMeter::new(Instant::now())),
        }
    }

    /// As [`Stream::poll_gone`].
    pub(super) fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.stream.poll_gone(cx)
    }

    /// As [`Stream::reset`].
    pub(super) fn reset(self) {
        self.stream.reset();
    }

    fn wrote(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match &written {
            Poll::Ready(Ok(bytes)) => self.calls.flow().has_written(*bytes),
            Poll::Ready(Err(_)) => {}
            Poll::Pending => self.calls.flow().is_blocked(true),
        }
        written
    }
}

impl AsyncRead for Metered {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buffer))?;
        let bytes = buffer.filled().get(before..).unwrap_or_default();
        let flow = this.calls.flow();
        flow.has_read(bytes.len());
        if let Some(frames) = &mut this.frames
            && let Err(flood) = frames.read(bytes, flow)
        {
            flow.floods(flood);
            return Poll::Ready(Err(io::Error::other(flood.reason_code())));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Metered {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write(cx, bytes);
        this.wrote(written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write_vectored(cx, parts);
        this.wrote(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // TLS takes what it cannot send yet: only a flush tells whether the peer reads.
        let flushed = Pin::new(&mut this.stream).poll_flush(cx);
        this.calls.flow().is_blocked(flushed.is_pending());
        flushed
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
