//! A byte stream of any kind that the sidecar speaks on, as one type, so that what is built on
//! top of it is compiled once.

use std::any::Any;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsStream;

/// A connection, with what was read of it to find out what it is.
#[derive(Debug)]
pub(crate) struct Stream {
    /// Read already, and to be read again.
    peeked: Bytes,
    kind: Kind,
    /// Lives as long as the stream does.
    companion: Option<Box<dyn Any + Send + Sync>>,
}

#[derive(Debug)]
enum Kind {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    fn new(kind: Kind) -> Self {
        Self {
            peeked: Bytes::new(),
            kind,
            companion: None,
        }
    }

    /// Has `companion` dropped with the stream, wherever that goes.
    pub(crate) fn accompany(&mut self, companion: impl Any + Send + Sync) {
        let others = self.companion.take();
        self.companion = Some(Box::new((others, companion)));
    }

    /// Cuts the connection so that the other side cannot take what it got for the whole: a TCP
    /// connection is reset. A unix socket knows no reset and is closed.
    pub(crate) fn reset(self) {
        let socket = match &self.kind {
            Kind::Tcp(socket) => socket,
            Kind::Tls(stream) => stream.get_ref().0,
            Kind::Unix(_) => return,
        };
        // With nothing to linger for, closing discards what is unsent and resets.
        let _ = socket2::SockRef::from(socket).set_linger(Some(Duration::ZERO));
    }

    /// Completes once the other side, which has ended its bytes, has closed its connection too.
    /// Without TLS the one cannot be told from the other.
    pub(crate) fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<()> {
        let Kind::Tls(stream) = &self.kind else {
            return Poll::Ready(());
        };
        let mut byte = [0];
        let mut buffer = ReadBuf::new(&mut byte);
        stream.get_ref().0.poll_peek(cx, &mut buffer).map(|_| ())
    }

    /// Puts `bytes` in front of what is read next.
    pub(crate) fn unread(&mut self, bytes: Bytes) {
        debug_assert!(self.peeked.is_empty(), "what was peeked would be lost");
        self.peeked = bytes;
    }
}

impl From<TcpStream> for Stream {
    fn from(stream: TcpStream) -> Self {
        Self::new(Kind::Tcp(stream))
    }
}

impl From<UnixStream> for Stream {
    fn from(stream: UnixStream) -> Self {
        Self::new(Kind::Unix(stream))
    }
}

impl From<tokio_rustls::server::TlsStream<TcpStream>> for Stream {
    fn from(stream: tokio_rustls::server::TlsStream<TcpStream>) -> Self {
        Self::new(Kind::Tls(Box::new(stream.into())))
    }
}

impl From<tokio_rustls::client::TlsStream<TcpStream>> for Stream {
    fn from(stream: tokio_rustls::client::TlsStream<TcpStream>) -> Self {
        Self::new(Kind::Tls(Box::new(stream.into())))
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.peeked.has_remaining() {
            let count = this.peeked.remaining().min(buffer.remaining());
            buffer.put_slice(&this.peeked.split_to(count));
            return Poll::Ready(Ok(()));
        }
        match &mut this.kind {
            Kind::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
            Kind::Unix(stream) => Pin::new(stream).poll_read(cx, buffer),
            Kind::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().kind {
            Kind::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Kind::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
            Kind::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().kind {
            Kind::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, parts),
            Kind::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, parts),
            Kind::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, parts),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.kind {
            Kind::Tcp(stream) => stream.is_write_vectored(),
            Kind::Unix(stream) => stream.is_write_vectored(),
            Kind::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().kind {
            Kind::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Kind::Unix(stream) => Pin::new(stream).poll_flush(cx),
            Kind::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().kind {
            Kind::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Kind::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Kind::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn what_was_peeked_is_read_first() {
        let (near, mut far) = UnixStream::pair().unwrap();
        let mut stream = Stream::from(near);
        stream.unread(Bytes::from_static(b"GET "));
        far.write_all(b"/ HTTP/1.1").await.unwrap();
        drop(far);
        let mut read = String::new();
        stream.read_to_string(&mut read).await.unwrap();
        assert_eq!(read, "GET / HTTP/1.1");
    }
}
