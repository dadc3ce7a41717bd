//! The bodies that callers and upstream send.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};

/// A piece of a long body.
const CHUNK: &[u8; 64 * 1024] = &[b'w'; 64 * 1024];

#[derive(Debug)]
pub(crate) enum Body {
    Empty,
    Whole(Bytes),
    /// So many bytes, made as they are read.
    Long(u64),
    /// One piece, and then nothing for as long as the connection lasts.
    Endless(Option<Bytes>),
    /// What is sent into it, until its sender is dropped.
    Piped(UnboundedReceiver<Bytes>),
}

impl Body {
    pub(crate) fn endless() -> Self {
        Self::Endless(Some(Bytes::from_static(b"data: open\n\n")))
    }

    pub(crate) fn piped() -> (UnboundedSender<Bytes>, Self) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (sender, Self::Piped(receiver))
    }
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = match &mut *self {
            Self::Empty | Self::Long(0) => None,
            Self::Whole(bytes) => {
                let bytes = std::mem::take(bytes);
                *self = Self::Empty;
                Some(bytes)
            }
            Self::Long(left) => {
                let length = usize::try_from(*left).map_or(CHUNK.len(), |l| l.min(CHUNK.len()));
                *left -= length as u64;
                Some(Bytes::from_static(CHUNK).slice(..length))
            }
            Self::Endless(first) => match first.take() {
                Some(first) => Some(first),
                None => return Poll::Pending,
            },
            Self::Piped(pieces) => match pieces.poll_recv(cx) {
                Poll::Ready(piece) => piece,
                Poll::Pending => return Poll::Pending,
            },
        };
        Poll::Ready(piece.map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Whole(bytes) => bytes.is_empty(),
            Self::Long(left) => *left == 0,
            Self::Endless(_) | Self::Piped(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Long(left) => SizeHint::with_exact(*left),
            Self::Endless(_) | Self::Piped(_) => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn a_long_body_has_the_length_that_it_tells() {
        for length in [0, 1, 65_536, 65_537, 1_000_000] {
            let body = Body::Long(length);
            assert_eq!(hyper::body::Body::size_hint(&body).exact(), Some(length));
            let read = body.collect().await.unwrap().to_bytes();
            assert_eq!(read.len() as u64, length);
        }
    }
}
