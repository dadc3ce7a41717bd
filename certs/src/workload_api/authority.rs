//! Lets clients in that name a socket's path as HTTP/2 `:authority`.
//!
//! gRPC for Python, C++, Java and Swift sends the path of a unix socket, percent-encoded or
//! plain, where HTTP/2 has a host; the h2 library refuses the request before any service sees
//! it (hyperium/h2#487). The authority means nothing on a unix socket, so it is replaced by
//! `localhost` in the bytes on their way in. Everything else passes as it is, and what is not
//! understood here is left for h2 to judge.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The client's first bytes (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const FRAME_HEADER: usize = 9;
/// The longest frame that a server takes which has not said otherwise (RFC 9113 §4.2).
const LONGEST_FRAME: usize = FRAME_HEADER + 16_384;
const HEADERS: u8 = 1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

/// `:authority` in the static table (RFC 7541, Appendix A).
const AUTHORITY: u64 = 1;

/// `localhost` as a string literal without Huffman coding.
const LOCALHOST: &[u8] = b"\x09localhost";

/// A stream whose requests are all for `localhost`.
#[derive(Debug)]
pub(super) struct LocalAuthority<IO> {
    inner: IO,
    /// Read, and not yet a whole frame.
    unread: BytesMut,
    /// Ready to be passed on.
    ready: BytesMut,
    preface_seen: bool,
    /// How many bytes of the current frame pass as they are.
    passing: usize,
    ended: bool,
}

impl<IO> LocalAuthority<IO> {
    pub(super) fn new(inner: IO) -> Self {
        Self {
            inner,
            unread: BytesMut::new(),
            ready: BytesMut::new(),
            preface_seen: false,
            passing: 0,
            ended: false,
        }
    }

    /// Moves what is understood from `unread` to `ready`.
    fn process(&mut self) {
        if !self.preface_seen {
            if self.unread.len() < PREFACE.len() {
                return;
            }
            self.preface_seen = true;
            self.passing = PREFACE.len();
        }
        loop {
            let passed = self.unread.split_to(self.passing.min(self.unread.len()));
            self.passing -= passed.len();
            self.ready.unsplit(passed);
            let &[a, b, c, kind, flags, ..] = self.unread.as_ref() else {
                return;
            };
            let length = FRAME_HEADER + u32::from_be_bytes([0, a, b, c]) as usize;
            let is_whole = kind == HEADERS && flags & END_HEADERS != 0;
            if !is_whole || length > LONGEST_FRAME {
                self.passing = length;
                continue;
            }
            if self.unread.len() < length {
                return;
            }
            let frame = self.unread.split_to(length);
            match with_local_authority(&frame) {
                Some(replaced) => self.ready.extend_from_slice(&replaced),
                None => self.ready.unsplit(frame),
            }
        }
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for LocalAuthority<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        while this.ready.is_empty() && !this.ended {
            let mut piece = [0; 4096];
            let mut piece = ReadBuf::new(&mut piece);
            ready!(Pin::new(&mut this.inner).poll_read(cx, &mut piece))?;
            this.ended = piece.filled().is_empty();
            this.unread.extend_from_slice(piece.filled());
            this.process();
            if this.ended {
                let rest = this.unread.split();
                this.ready.unsplit(rest);
            }
        }
        let length = this.ready.len().min(buffer.remaining());
        if let Some(bytes) = this.ready.get(..length) {
            buffer.put_slice(bytes);
        }
        this.ready.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for LocalAuthority<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// A HEADERS frame (RFC 9113 §6.2) with another authority; none when it is not understood.
fn with_local_authority(frame: &[u8]) -> Option<Vec<u8>> {
    let (head, payload) = frame.split_at_checked(FRAME_HEADER)?;
    let &[_, _, _, kind, flags, ref stream @ ..] = head else {
        return None;
    };
    let padding = match flags & PADDED {
        0 => 0,
        _ => usize::from(*payload.first()?),
    };
    let before = usize::from(flags & PADDED != 0) + if flags & PRIORITY == 0 { 0 } else { 5 };
    let end = payload.len().checked_sub(padding)?;
    let (front, block) = payload.get(..end)?.split_at_checked(before)?;
    let block = replace_authority(block)?;
    let length = front.len() + block.len() + padding;
    let [0, length @ ..] = u32::try_from(length).ok()?.to_be_bytes() else {
        return None;
    };
    Some(
        [
            &length[..],
            &[kind, flags],
            stream,
            front,
            &block,
            payload.get(end..)?,
        ]
        .concat(),
    )
}

/// Walks over a header block (RFC 7541 §6) and replaces the value of `:authority`.
///
/// The peer's dynamic table then holds a longer value than ours. That matters only once
/// the table is full, which the few headers of these calls do not do.
fn replace_authority(block: &[u8]) -> Option<Vec<u8>> {
    let mut rest = block;
    let mut replaced = Vec::with_capacity(block.len());
    while let Some(&first) = rest.first() {
        let start = rest;
        let prefix = match first {
            0x80.. => 7,
            0x40.. => 6,
            0x20.. => 5,
            _ => 4,
        };
        let name = integer(&mut rest, prefix)?;
        let is_literal = first & 0x80 == 0 && first & 0xe0 != 0x20;
        let mut is_authority = is_literal && name == AUTHORITY;
        if is_literal && name == 0 {
            is_authority = string(&mut rest)? == b":authority";
        }
        let value_start = start.len() - rest.len();
        if is_literal {
            string(&mut rest)?;
        }
        if is_authority {
            replaced.extend_from_slice(start.get(..value_start)?);
            replaced.extend_from_slice(LOCALHOST);
        } else {
            replaced.extend_from_slice(start.get(..start.len() - rest.len())?);
        }
    }
    Some(replaced)
}

/// Passes over a string literal (RFC 7541 §5.2) and returns it as it is coded.
fn string<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(integer(rest, 7)?).ok()?;
    let (string, behind) = rest.split_at_checked(length)?;
    *rest = behind;
    Some(string)
}

/// Reads an integer that begins in the low bits of a byte (RFC 7541 §5.1).
fn integer(rest: &mut &[u8], prefix: u32) -> Option<u64> {
    let (&first, mut bytes) = rest.split_first()?;
    let full = (1_u64 << prefix) - 1;
    let mut value = u64::from(first) & full;
    let mut shift = 0;
    while value >= full {
        let (&byte, more) = bytes.split_first()?;
        bytes = more;
        // Lengths and indexes beyond 2^28 do not occur in a frame.
        value = value.checked_add(u64::from(byte & 0x7f) << shift)?;
        shift += 7;
        if byte & 0x80 == 0 || shift > 28 {
            break;
        }
    }
    *rest = bytes;
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokio::io::AsyncReadExt;

    fn headers(flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = (payload.len() as u32).to_be_bytes();
        [&length[1..], &[HEADERS, flags, 0, 0, 0, 1], payload].concat()
    }

    /// What comes out when `stream` goes in in pieces of `size` bytes.
    async fn through(stream: &[u8], size: usize) -> Vec<u8> {
        let (mut near, far) = tokio::io::duplex(size);
        let stream = stream.to_vec();
        let feed = async move { tokio::io::AsyncWriteExt::write_all(&mut near, &stream).await };
        let mut out = Vec::new();
        let mut local = LocalAuthority::new(far);
        let (fed, read) = tokio::join!(feed, local.read_to_end(&mut out));
        fed.unwrap();
        read.unwrap();
        out
    }

    #[tokio::test]
    async fn replaces_the_authority_in_every_form_of_literal() {
        let spelled = b"\x40\x0a:authority";
        for literal in [&[0x41][..], &[0x01], &[0x11], spelled] {
            let sent = [&[0x83], literal, b"\x05/sock", &[0x86]].concat();
            let expected = [&[0x83], literal, LOCALHOST, &[0x86]].concat();
            let data = [0, 0, 3, 0, 1, 0, 0, 0, 1, 7, 8, 9];
            let stream = [PREFACE, &headers(END_HEADERS, &sent), &data].concat();
            let expected = [PREFACE, &headers(END_HEADERS, &expected), &data].concat();
            for size in [1, 2, 7, 64, 4096] {
                assert_eq!(through(&stream, size).await, expected);
            }
        }
    }

    #[tokio::test]
    async fn keeps_padding_priority_and_other_headers() {
        let other = [0x40, 0x01, b'a', 0x02, b'b', b'c', 0x3f, 0xe1, 0x1f];
        let front = [2, 0, 0, 0, 0, 16];
        let flags = END_HEADERS | PADDED | PRIORITY;
        let sent = [&front[..], &other, &[0x41, 0x01, b'/'], &[0, 0]].concat();
        let expected = [&front[..], &other, &[0x41], LOCALHOST, &[0, 0]].concat();
        let stream = [PREFACE, &headers(flags, &sent)].concat();
        let expected = [PREFACE, &headers(flags, &expected)].concat();
        assert_eq!(through(&stream, 64).await, expected);
    }

    #[tokio::test]
    async fn leaves_alone_what_it_does_not_understand() {
        let cut = headers(END_HEADERS, &[0x41, 0x09, b'/']);
        let unfinished = headers(0, &[0x41, 0x01, b'/']);
        let too_long = [0, 0x40, 1, HEADERS, END_HEADERS, 0, 0, 0, 1, 0x41, 1, b'/'].to_vec();
        for frame in [cut, unfinished, too_long] {
            let stream = [PREFACE, &frame].concat();
            assert_eq!(through(&stream, 64).await, stream);
        }
        assert_eq!(
            through(b"GET / HTTP/1.1\r\n", 64).await,
            b"GET / HTTP/1.1\r\n"
        );
    }

    proptest! {
        #[test]
        fn never_panics(frame in prop::collection::vec(any::<u8>(), 0..120)) {
            let _ = with_local_authority(&frame);
        }
    }
}
