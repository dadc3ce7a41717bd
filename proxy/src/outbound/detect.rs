//! Tells by the first bytes of a connection that was going anywhere whether it is HTTP. It is not
//! known to be for a server of ours: other protocols that begin with words are told apart by the
//! version that ends a request line, and are decided as connections.

use crate::connection::detect::{PREFACE, is_token};

/// The longest method that is taken for one; the registered ones are shorter.
const METHOD: usize = 20;
/// How far a request line is looked into for its version. A longer one is no target of ours.
const LINE: usize = 8 * 1024;

/// What the first bytes of a connection say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Looks {
    /// An HTTP/1 request line.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// Neither of the two.
    Other,
    /// More bytes are needed to tell.
    Unsure,
}

/// Whether bytes begin an HTTP connection. Pure, and stable: what was told apart stays so,
/// whatever follows.
pub(crate) fn looks_like_http(bytes: &[u8]) -> Looks {
    if bytes.len() >= PREFACE.len() && bytes.starts_with(PREFACE) {
        return Looks::Http2;
    }
    if PREFACE.starts_with(bytes) {
        return Looks::Unsure;
    }
    let line_end = bytes.iter().position(|byte| *byte == b'\n');
    let line = bytes
        .get(..line_end.unwrap_or(bytes.len()))
        .unwrap_or(bytes);
    let method = line.iter().position(|byte| !is_token(*byte));
    match method {
        None if line_end.is_none() && line.len() <= METHOD => Looks::Unsure,
        Some(length) if (1..=METHOD).contains(&length) && line.get(length) == Some(&b' ') => {
            request_line(line, line_end.is_some())
        }
        _ => Looks::Other,
    }
}

/// What a line that begins with a method and a space is.
fn request_line(line: &[u8], complete: bool) -> Looks {
    if line.len() >= LINE || !line.iter().all(|byte| is_target(*byte)) {
        return Looks::Other;
    }
    match complete {
        false => Looks::Unsure,
        true if has_version(line) => Looks::Http1,
        true => Looks::Other,
    }
}

/// Whether a request line ends as one does (RFC 9112 section 3).
fn has_version(line: &[u8]) -> bool {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    line.ends_with(b" HTTP/1.1") || line.ends_with(b" HTTP/1.0")
}

/// A byte that a request line may have before its end. What is refused later is HTTP all the same.
fn is_target(byte: u8) -> bool {
    byte >= b' ' || byte == b'\r'
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_http_from_what_is_not() {
        let table: &[(&[u8], Looks)] = &[
            (b"", Looks::Unsure),
            (b"G", Looks::Unsure),
            (b"PRI * HTTP/2.0\r\n", Looks::Unsure),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0", Looks::Http2),
            (b"GET / HTTP/1.1\r\n", Looks::Http1),
            (b"GET / HTTP/1.0\n", Looks::Http1),
            (b"PROPFIND /a?b HTTP/1.1\r\nHost: a\r\n", Looks::Http1),
            (b"GET /half of a line", Looks::Unsure),
            (b"CONNECT a:1 HTTP/1.1\r\n", Looks::Http1),
            (b"GET / HTTP/9.9\r\n", Looks::Other),
            (b"GET\r\n", Looks::Other),
            (b"EHLO there\r\n", Looks::Other),
            (b"\x16\x03\x01\x02\x00\x01", Looks::Other),
            (b"SSH-2.0-OpenSSH_9.2\r\n", Looks::Other),
            (b"*1\r\n$4\r\nPING\r\n", Looks::Other),
            (b"\0\0\0\x08\x04\xd2\x16\x2f", Looks::Other),
            (b" GET / HTTP/1.1\r\n", Looks::Other),
            (b"GET \0", Looks::Other),
            (b"AVERYLONGWORDTHATISNOMETHOD", Looks::Other),
        ];
        for (bytes, expected) in table {
            let shown = String::from_utf8_lossy(bytes);
            assert_eq!(looks_like_http(bytes), *expected, "{shown:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn what_was_told_apart_stays_so(bytes: Vec<u8>, more: Vec<u8>) {
            let looks = looks_like_http(&bytes);
            let longer = [bytes, more].concat();
            if looks != Looks::Unsure {
                proptest::prop_assert_eq!(looks_like_http(&longer), looks);
            }
        }
    }
}
