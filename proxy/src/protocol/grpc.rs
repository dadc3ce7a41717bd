//! What gRPC adds to HTTP: how a call is recognised and how a refusal is told.

use http::HeaderMap;
use http::header::CONTENT_TYPE;
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

/// What `grpc-message` escapes: everything outside printable ASCII, and `%`.
const MESSAGE: &AsciiSet = &CONTROLS.add(b'%');

const GRPC: &[u8] = b"application/grpc";

/// Whether a content type is gRPC's (`application/grpc`, `application/grpc+proto`, ...), in any
/// case and in any value: what a server might take for one is one.
/// gRPC-Web is another protocol and is treated as plain HTTP.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(CONTENT_TYPE).iter();
    values.any(|value| {
        let value = value.as_bytes().trim_ascii_start();
        match value.split_at_checked(GRPC.len()) {
            Some((name, rest)) => {
                name.eq_ignore_ascii_case(GRPC)
                    && matches!(rest.first(), None | Some(b'+' | b';' | b' ' | b'\t' | b','))
            }
            None => false,
        }
    })
}

/// The gRPC status code that goes with an answer of ours.
pub(crate) fn status_code(status: http::StatusCode) -> u8 {
    match status.as_u16() {
        400 => 3,
        403 => 7,
        421 => 9,
        429 | 431 => 8,
        504 => 4,
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
        assert!(recognised("Application/gRPC+proto"));
        assert!(!recognised("application/grpc-web"));
        assert!(!recognised("application/json"));
    }

    #[test]
    fn no_value_of_a_repeated_content_type_hides_another() {
        let mut headers = HeaderMap::new();
        headers.append(CONTENT_TYPE, "application/json".parse().unwrap());
        headers.append(CONTENT_TYPE, "application/grpc".parse().unwrap());
        assert!(is_grpc(&headers));
    }

    #[test]
    fn escapes_a_message_that_is_not_printable_ascii() {
        assert_eq!(encode_message("no: 100%"), "no: 100%25");
        assert_eq!(encode_message("\u{e9}\n"), "%C3%A9%0A");
    }
}
