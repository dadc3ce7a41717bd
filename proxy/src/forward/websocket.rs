//! A WebSocket's connection, which is carried and not looked into but for where its frames end
//! (RFC 6455 section 5.2): there, and only there, we may say goodbye in its own words.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use uuid::Uuid;

use crate::record::Failure;

/// How long a goodbye may take.
const GOODBYE: Duration = Duration::from_millis(300);
/// The head of a close frame that has a code and nothing else.
const CLOSE: [u8; 2] = [0x88, 2];
/// In the second byte of a frame: the payload is masked, as that of every client is.
const MASKED: u8 = 0x80;

/// A connection on which we write frames that we have not made.
#[derive(Debug)]
pub(super) struct Framed<S> {
    stream: S,
    written: Frames,
}

/// Where in a frame a stream of frames is.
#[derive(Debug, Default, PartialEq, Eq)]
struct Frames {
    /// The head so far; a head has 14 bytes at most.
    head: [u8; 14],
    length: usize,
    /// Payload that is still to come.
    payload: u64,
}

/// On which side of the WebSocket its other end is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum To {
    Client,
    Server,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Framed<S> {
    pub(super) fn new(stream: S) -> Self {
        Self {
            stream,
            written: Frames::default(),
        }
    }

    /// Says why the WebSocket ends, if no frame is under way, and closes.
    pub(super) async fn close(mut self, to: To, why: Failure) {
        if !self.written.is_between() {
            return;
        }
        let goodbye = async {
            self.stream.write_all(&close_frame(to, code(why))).await?;
            self.stream.shutdown().await
        };
        // Who does not read it has broken off.
        let _ = tokio::time::timeout(GOODBYE, goodbye).await;
    }
}

/// The status code of a close frame (RFC 6455 section 7.4.1).
fn code(why: Failure) -> u16 {
    match why {
        Failure::Drained => 1001,
        Failure::TrustEnded | Failure::LeaseEnded => 1008,
        _ => 1011,
    }
}

fn close_frame(to: To, code: u16) -> Vec<u8> {
    let ([opcode, length], [high, low]) = (CLOSE, code.to_be_bytes());
    match to {
        To::Client => vec![opcode, length, high, low],
        To::Server => {
            let [.., a, b, c, d] = Uuid::now_v7().into_bytes();
            vec![opcode, length | MASKED, a, b, c, d, high ^ a, low ^ b]
        }
    }
}

impl Frames {
    /// Whether a frame has ended and no other has begun.
    fn is_between(&self) -> bool {
        *self == Self::default()
    }

    /// Goes on by these bytes.
    fn pass(&mut self, mut bytes: &[u8]) {
        loop {
            let skipped = usize::try_from(self.payload).unwrap_or(usize::MAX);
            let skipped = skipped.min(bytes.len());
            self.payload -= skipped as u64;
            bytes = bytes.get(skipped..).unwrap_or_default();
            let Some((first, rest)) = bytes.split_first() else {
                return;
            };
            if let Some(next) = self.head.get_mut(self.length) {
                *next = *first;
            }
            self.length += 1;
            bytes = rest;
            if let Some(payload) = self.complete() {
                *self = Self {
                    payload,
                    ..Self::default()
                };
            }
        }
    }

    /// The length of the payload, once the head is complete.
    fn complete(&self) -> Option<u64> {
        let [_, second, extended @ ..] = self.head;
        let mask = if second & MASKED == 0 { 0 } else { 4 };
        let [a, b, c, d, e, f, g, h, ..] = extended;
        let (wide, payload) = match second & !MASKED {
            126 => (2, u64::from(u16::from_be_bytes([a, b]))),
            127 => (8, u64::from_be_bytes([a, b, c, d, e, f, g, h])),
            short => (0, u64::from(short)),
        };
        (self.length >= 2 && self.length == 2 + wide + mask).then_some(payload)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Framed<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Framed<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let count = ready!(Pin::new(&mut this.stream).poll_write(cx, bytes))?;
        this.written.pass(bytes.get(..count).unwrap_or_default());
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;

    /// Frames of every kind of length, masked and not, each by itself.
    fn frames() -> Vec<Vec<u8>> {
        let mut frames = vec![vec![0x89, 0]];
        for (length, head) in [
            (5_usize, vec![0x81, 5]),
            (126, vec![0x82, 126, 0, 126]),
            (70_000, vec![0x82, 127, 0, 0, 0, 0, 0, 1, 0x11, 0x70]),
        ] {
            for mask in [0, MASKED] {
                let mut frame = head.clone();
                frame[1] |= mask;
                frame.extend(vec![0x88; length + if mask == 0 { 0 } else { 4 }]);
                frames.push(frame);
            }
        }
        frames
    }

    #[test]
    fn a_frame_ends_where_it_ends_however_it_is_cut() {
        for piece in [1, 3, 1000, usize::MAX] {
            let mut position = Frames::default();
            for frame in frames() {
                let (last, most) = frame.split_last().unwrap();
                for bytes in most.chunks(piece) {
                    position.pass(bytes);
                    assert!(!position.is_between());
                }
                position.pass(&[*last]);
                assert!(position.is_between(), "{:?}", frame.get(..10));
            }
        }
        let mut position = Frames::default();
        position.pass(&frames().concat());
        assert!(position.is_between());
    }

    #[tokio::test]
    async fn a_goodbye_is_said_between_frames_only() {
        for (sent, expected) in [
            (
                &[0x81, 1, b'a'][..],
                &[0x81, 1, b'a', 0x88, 2, 0x03, 0xe9][..],
            ),
            (&[0x81, 2, b'a'], &[0x81, 2, b'a']),
        ] {
            let (near, mut far) = tokio::io::duplex(64);
            let mut framed = Framed::new(near);
            framed.write_all(sent).await.unwrap();
            framed.close(To::Client, Failure::Drained).await;
            let mut received = Vec::new();
            far.read_to_end(&mut received).await.unwrap();
            assert_eq!(received, expected);
        }
    }

    #[test]
    fn a_goodbye_to_a_server_is_masked() {
        let frame = close_frame(To::Server, 1008);
        let [0x88, 0x82, a, b, _, _, high, low] = frame[..] else {
            panic!("{frame:?}");
        };
        assert_eq!(u16::from_be_bytes([high ^ a, low ^ b]), 1008);
    }
}
