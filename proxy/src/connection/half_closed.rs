//! A caller that ends its side and waits for the answer: TLS lets it say so (`close_notify`, RFC
//! 8446 section 6.1) without closing its connection. hyper takes the end of the bytes for the
//! end of the caller and drops the call; here it is told of it only once nothing is owed, or
//! the caller's connection has ended as well, which is how a caller goes away.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::Connection;
use super::metered::Metered;

/// A connection whose end is told when the answer is.
pub(super) struct UntilAnswered {
    stream: Metered,
    connection: Arc<Connection>,
}

impl UntilAnswered {
    pub(super) fn new(stream: Metered, connection: Arc<Connection>) -> Self {
        Self { stream, connection }
    }

    /// Cuts a connection that was upgraded to something else, as
    /// [`reset`](crate::stream::Stream::reset) does it; one of HTTP/2 is a stream of a connection
    /// that goes on.
    pub(super) fn reset(upgraded: Upgraded) {
        if let Ok(parts) = upgraded.downcast::<TokioIo<Self>>() {
            parts.io.into_inner().stream.reset();
        }
    }

    fn stream(self: Pin<&mut Self>) -> Pin<&mut Metered> {
        Pin::new(&mut self.get_mut().stream)
    }
}

impl AsyncRead for UntilAnswered {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let (before, room) = (buffer.filled().len(), buffer.remaining());
        ready!(Pin::new(&mut this.stream).poll_read(cx, buffer))?;
        let ended = buffer.filled().len() == before && room > 0;
        if ended && this.connection.owes_an_answer() {
            ready!(this.stream.poll_gone(cx));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for UntilAnswered {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.stream().poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.stream().poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_shutdown(cx)
    }
}
