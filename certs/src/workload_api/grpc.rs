//! gRPC over HTTP/2 as far as the Workload API uses it: one message there, a stream of
//! messages back, and a status in the trailers.

use std::fmt;

use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;

/// The service, which has no protobuf package before its name.
pub(super) const FETCH_X509_SVID: &str = "/SpiffeWorkloadAPI/FetchX509SVID";
pub(super) const FETCH_X509_SVID_URI: &str = "http://localhost/SpiffeWorkloadAPI/FetchX509SVID";
pub(super) const FETCH_X509_BUNDLES: &str = "/SpiffeWorkloadAPI/FetchX509Bundles";

/// The header that shows a caller was not tricked into calling (SPIFFE Workload Endpoint §3).
pub(super) const SECURITY_HEADER: &str = "workload.spiffe.io";

pub(super) const CONTENT_TYPE: &str = "application/grpc";
pub(super) const GRPC_STATUS: &str = "grpc-status";
pub(super) const GRPC_MESSAGE: &str = "grpc-message";

/// The largest message that is read.
pub(super) const MAX_MESSAGE: usize = 4 * 1024 * 1024;

/// Flag and length come before each message.
const PREFIX: usize = 5;

/// How a call ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// The status code.
    pub code: Code,
    /// What the server says about it, escaped for logs.
    pub message: String,
}

/// The gRPC status codes that the Workload API gives a meaning to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Code {
    /// 0: the stream ended well.
    Ok,
    /// 3: the request was not understood; asking again is useless.
    InvalidArgument,
    /// 7: no identity was issued to this workload.
    PermissionDenied,
    /// 12: the server has no such call.
    Unimplemented,
    /// 14: the server is not able to answer now.
    Unavailable,
    /// Any other code.
    Other(u32),
}

impl Code {
    fn from_number(number: u32) -> Self {
        match number {
            0 => Self::Ok,
            3 => Self::InvalidArgument,
            7 => Self::PermissionDenied,
            12 => Self::Unimplemented,
            14 => Self::Unavailable,
            other => Self::Other(other),
        }
    }

    pub(super) fn number(self) -> u32 {
        match self {
            Self::Ok => 0,
            Self::InvalidArgument => 3,
            Self::PermissionDenied => 7,
            Self::Unimplemented => 12,
            Self::Unavailable => 14,
            Self::Other(other) => other,
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ok => f.write_str("OK"),
            Self::InvalidArgument => f.write_str("INVALID_ARGUMENT"),
            Self::PermissionDenied => f.write_str("PERMISSION_DENIED"),
            Self::Unimplemented => f.write_str("UNIMPLEMENTED"),
            Self::Unavailable => f.write_str("UNAVAILABLE"),
            Self::Other(number) => write!(f, "status {number}"),
        }
    }
}

impl Status {
    /// The status in headers (when there was no message) or trailers.
    pub(super) fn from_headers(headers: &HeaderMap) -> Option<Self> {
        let code = headers.get(GRPC_STATUS)?.to_str().ok()?.parse().ok()?;
        let message = headers.get(GRPC_MESSAGE).map(|value| value.as_bytes());
        Some(Self {
            code: Code::from_number(code),
            message: message.unwrap_or_default().escape_ascii().to_string(),
        })
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.code)?;
        match self.message.as_str() {
            "" => Ok(()),
            message => write!(f, ": {message}"),
        }
    }
}

/// Puts flag and length before a message.
pub(super) fn frame(message: &[u8]) -> Bytes {
    let mut framed = BytesMut::with_capacity(PREFIX + message.len());
    framed.extend_from_slice(&[0]);
    framed.extend_from_slice(
        &u32::try_from(message.len())
            .unwrap_or(u32::MAX)
            .to_be_bytes(),
    );
    framed.extend_from_slice(message);
    framed.freeze()
}

/// Why a stream of messages cannot be read on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// A message is compressed, which was not offered.
    #[error("a message is compressed, which was not asked for")]
    Compressed,
    /// A message is too large.
    #[error("a message of {0} bytes is larger than 4 MiB")]
    TooLarge(usize),
}

/// Puts messages together from the pieces that arrive.
#[derive(Debug, Default)]
pub(super) struct Deframer {
    buffer: BytesMut,
}

impl Deframer {
    pub(super) fn push(&mut self, piece: &[u8]) {
        self.buffer.extend_from_slice(piece);
    }

    /// The next whole message, if it has arrived.
    pub(super) fn next(&mut self) -> Result<Option<Bytes>, FrameError> {
        let &[flag, a, b, c, d, ..] = self.buffer.as_ref() else {
            return Ok(None);
        };
        if flag != 0 {
            return Err(FrameError::Compressed);
        }
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        if length > MAX_MESSAGE {
            return Err(FrameError::TooLarge(length));
        }
        if self.buffer.len() < PREFIX + length {
            return Ok(None);
        }
        self.buffer.advance(PREFIX);
        Ok(Some(self.buffer.split_to(length).freeze()))
    }

    /// Whether the stream would end within a message.
    pub(super) fn is_within_message(&self) -> bool {
        !self.buffer.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn puts_messages_together_from_any_pieces() {
        let stream = [frame(b"first"), frame(b""), frame(b"third")].concat();
        for size in 1..stream.len() {
            let mut deframer = Deframer::default();
            let mut messages = Vec::new();
            for piece in stream.chunks(size) {
                deframer.push(piece);
                while let Some(message) = deframer.next().unwrap() {
                    messages.push(message);
                }
            }
            assert_eq!(messages, [&b"first"[..], b"", b"third"]);
            assert!(!deframer.is_within_message());
        }
    }

    #[test]
    fn refuses_compressed_and_oversized_messages_before_they_arrive() {
        let mut compressed = Deframer::default();
        compressed.push(&[1, 0, 0, 0, 1]);
        assert_eq!(compressed.next(), Err(FrameError::Compressed));
        let mut large = Deframer::default();
        large.push(&[0, 0xff, 0xff, 0xff, 0xff]);
        assert_eq!(large.next(), Err(FrameError::TooLarge(u32::MAX as usize)));
    }

    #[test]
    fn escapes_what_a_server_says() {
        let mut headers = HeaderMap::new();
        headers.insert(GRPC_STATUS, "7".parse().unwrap());
        headers.insert(GRPC_MESSAGE, "no \u{e9}\tidentity".parse().unwrap());
        let status = Status::from_headers(&headers).unwrap();
        assert_eq!(status.code, Code::PermissionDenied);
        assert_eq!(
            status.to_string(),
            r"PERMISSION_DENIED: no \xc3\xa9\tidentity"
        );
    }
}
