//! What gRPC adds to HTTP/2: how a call is recognised and how a refusal is told.

use http::HeaderMap;
use http::header::CONTENT_TYPE;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

/// What `grpc-message` escapes: everything outside printable ASCII, and `%`.
const MESSAGE: &AsciiSet = &CONTROLS.add(b'%');

/// Whether the content type is gRPC's (`application/grpc`, `application/grpc+proto`, ...).
/// gRPC-Web is another protocol and is treated as plain HTTP.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(CONTENT_TYPE) else {
        return false;
    };
    match value.as_bytes().strip_prefix(b"application/grpc") {
        Some(rest) => matches!(rest.first(), None | Some(b'+' | b';' | b' ')),
        None => false,
    }
}

/// The gRPC status code that goes with an answer of ours.
pub(crate) fn status_code(status: http::StatusCode) -> u8 {
    match status.as_u16() {
        400 => 3,
        403 => 7,
        421 => 9,
        429 | 431 => 8,
        408 | 504 => 4,
        502 | 503 => 14,
        _ => 2,
    }
}

/// A message as `grpc-message` carries it: percent-encoded UTF-8.
pub(crate) fn encode_message(message: &str) -> String {
    utf8_percent_encode(message, MESSAGE).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recognised(value: &str) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, value.parse().unwrap());
        is_grpc(&headers)
    }

    #[test]
    fn recognises_grpc_and_not_its_neighbours() {
        assert!(recognised("application/grpc"));
        assert!(recognised("application/grpc+json"));
        assert!(recognised("application/grpc; charset=utf-8"));
        assert!(!recognised("application/grpc-web"));
        assert!(!recognised("application/json"));
    }

    #[test]
    fn escapes_a_message_that_is_not_printable_ascii() {
        assert_eq!(encode_message("no: 100%"), "no: 100%25");
        assert_eq!(encode_message("\u{e9}\n"), "%C3%A9%0A");
    }
}
