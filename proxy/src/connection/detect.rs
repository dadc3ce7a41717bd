//! Finds out what a connection speaks by its first bytes, within a bounded number of them and a
//! bounded time, and puts them back.
//!
//! SECURITY: where HTTP is possible, HTTP it is: what looks like the beginning of a request to
//! any server is read and decided as one, or refused as a malformed one, and silence tells
//! nothing. So no caller gets a port whose requests are decided to carry bytes that are not.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncReadExt;
use wayleave_certs::Alpn;

use crate::stream::Stream;

/// What an HTTP/2 client with prior knowledge begins with (RFC 9113 section 3.4).
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Bytes that are looked at. No method that anybody uses is as long.
const MOST: usize = 64;

/// What the first bytes tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Speaks {
    Http(Alpn),
    /// What no HTTP server would take for a request.
    Other,
    /// Nothing was said.
    Nothing,
}

/// Looks whether a connection speaks HTTP, and which.
pub(super) async fn protocol(stream: &mut Stream, limit: Duration) -> Speaks {
    let seen = peek(stream, limit, |seen| recognise(seen).is_some()).await;
    match recognise(&seen) {
        _ if seen.is_empty() => Speaks::Nothing,
        Some(speaks) => speaks,
        None => Speaks::Http(Alpn::Http1),
    }
}

/// Looks which version of HTTP a connection speaks; none where nothing was said.
pub(super) async fn http_version(stream: &mut Stream, limit: Duration) -> Option<Alpn> {
    let seen = peek(stream, limit, |seen| version(seen).is_some()).await;
    (!seen.is_empty()).then(|| version(&seen).unwrap_or(Alpn::Http1))
}

/// Reads until it is `enough`, and puts back what was read.
async fn peek(stream: &mut Stream, limit: Duration, enough: impl Fn(&[u8]) -> bool) -> Bytes {
    let mut seen = BytesMut::with_capacity(MOST);
    let reading = async {
        while seen.len() < MOST && !enough(&seen) {
            let left = MOST - seen.len();
            match (&mut *stream).take(left as u64).read_buf(&mut seen).await {
                Ok(count) if count > 0 => {}
                // What goes on with the connection meets the same end again.
                Ok(_) | Err(_) => return,
            }
        }
    };
    let _ = tokio::time::timeout(limit, reading).await;
    let seen = seen.freeze();
    stream.unread(seen.clone());
    seen
}

/// The version, once the bytes tell.
fn version(seen: &[u8]) -> Option<Alpn> {
    if seen.starts_with(PREFACE) {
        Some(Alpn::Http2)
    } else if PREFACE.starts_with(seen) {
        None
    } else {
        Some(Alpn::Http1)
    }
}

/// What is spoken, once the bytes tell.
fn recognise(seen: &[u8]) -> Option<Speaks> {
    let version = version(seen)?;
    if version == Alpn::Http2 || is_request(seen)? {
        Some(Speaks::Http(version))
    } else {
        Some(Speaks::Other)
    }
}

/// Whether this may begin a request line to some server: a method of any name, and white space
/// behind it. Empty lines and white space before it are passed over, as some servers do.
fn is_request(seen: &[u8]) -> Option<bool> {
    let begins = seen.iter().position(|byte| !is_space(*byte))?;
    let line = seen.get(begins..)?;
    let ends = line.iter().position(|byte| !is_token(*byte));
    match ends.and_then(|ends| line.get(ends..)).unwrap_or_default() {
        // A method alone on its line asks for nothing.
        _ if ends == Some(0) => Some(false),
        [b'\n', ..] | [b'\r', b'\n', ..] => Some(false),
        [b'\r'] | [] => None,
        [after, ..] => Some(is_space(*after)),
    }
}

/// What separates words to one server or another (RFC 9112 section 3; Python also splits at
/// what Unicode calls a space).
fn is_space(byte: u8) -> bool {
    matches!(byte, b'\t'..=b'\r' | 0x1c..=0x20 | 0x85 | 0xa0)
}

/// What a method may consist of (RFC 9110 section 5.6.2).
pub(crate) fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokio::io::AsyncWriteExt;
    use tokio::net::UnixStream;

    const HTTP1: Option<Speaks> = Some(Speaks::Http(Alpn::Http1));
    const OTHER: Option<Speaks> = Some(Speaks::Other);

    #[test]
    fn whatever_could_be_a_request_is_http() {
        for request in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"get / http/1.1\r\n",
            b"\r\nGET /",
            b"\n\n \tGET /",
            b"X-y!z /",
            b"GET\t/",
            b"GET\x0b/",
            b"GET\x0c/",
            b"GET\r/ HTTP/1.1",
            b"GET\xa0/secret\xa0HTTP/1.1",
            b"\x1cGET\x1d/",
            b"PRI * HTTP/1.1\r\n",
            b"PRI * HTTP/2.0\r\n\r\nXX",
            b"SET key value\r\n",
        ] {
            assert_eq!(recognise(request), HTTP1, "{}", request.escape_ascii());
        }
        assert_eq!(recognise(PREFACE), Some(Speaks::Http(Alpn::Http2)));
    }

    #[test]
    fn clearly_other_bytes_are_tcp() {
        for other in [
            &b"\0\0\0\x08\x04\xd2\x16\x2f"[..],
            b"*1\r\n$4\r\nPING\r\n",
            b"PING\r\n",
            b"\x16\x03\x01",
            b"{\"jsonrpc\"",
            b"<?xml ",
            b"\x10\x0c\0\x04MQTT",
            b"/path",
        ] {
            assert_eq!(recognise(other), OTHER, "{}", other.escape_ascii());
        }
    }

    #[test]
    fn what_is_not_told_yet_waits() {
        for open in [
            &b""[..],
            b"G",
            b"GET",
            b"\r\n",
            b"PRI * HT",
            b"*1",
            b"PING\r",
        ] {
            assert_eq!(recognise(open), None, "{}", open.escape_ascii());
        }
    }

    proptest! {
        /// However a request is cut, it is never taken for anything else.
        #[test]
        fn a_request_is_http_wherever_it_is_cut(
            space in "[ \t\r\n]{0,4}", method in "[A-Za-z]{1,12}", cut in 0_usize..20,
        ) {
            let request = format!("{space}{method} /a HTTP/1.1\r\n");
            let seen = request.as_bytes().get(..cut).unwrap_or(request.as_bytes());
            prop_assert!(matches!(recognise(seen), None | Some(Speaks::Http(Alpn::Http1))));
        }
    }

    async fn told(bytes: &[u8]) -> (Speaks, Vec<u8>) {
        let (near, mut far) = UnixStream::pair().unwrap();
        far.write_all(bytes).await.unwrap();
        drop(far);
        let mut stream = Stream::from(near);
        let speaks = protocol(&mut stream, Duration::from_secs(30)).await;
        let mut left = Vec::new();
        stream.read_to_end(&mut left).await.unwrap();
        (speaks, left)
    }

    #[tokio::test]
    async fn what_was_looked_at_is_still_there() {
        for bytes in [&b"\0\x01binary"[..], b"GET / HTTP/1.1\r\n", &[b'x'; 200]] {
            assert_eq!(told(bytes).await.1, bytes);
        }
    }

    #[tokio::test]
    async fn a_beginning_that_never_ends_is_http_and_silence_is_nothing() {
        assert_eq!(told(&[b'x'; 200]).await.0, Speaks::Http(Alpn::Http1));
        assert_eq!(told(b"GE").await.0, Speaks::Http(Alpn::Http1));
        assert_eq!(told(b"").await.0, Speaks::Nothing);
    }
}
