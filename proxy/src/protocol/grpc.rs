//! What gRPC adds to HTTP: how a call is recognised and how a refusal is told.

use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use crate::record::Failure;

/// What `grpc-message` escapes: everything outside printable ASCII, and `%`.
const MESSAGE: &AsciiSet = &CONTROLS.add(b'%');

const CONTENT: &str = "application/grpc";

/// Whether a content type is gRPC's (`application/grpc`, `application/grpc+proto`, ...).
/// gRPC-Web is another protocol and is treated as plain HTTP.
///
/// SECURITY: one of several is enough, in any case of letters: it is for some servers.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(CONTENT_TYPE).iter();
    values.any(|value| {
        value
            .as_bytes()
            .split(|byte| *byte == b',')
            .any(is_grpc_type)
    })
}

fn is_grpc_type(value: &[u8]) -> bool {
    let value = value.trim_ascii_start();
    let Some((name, rest)) = value.split_at_checked(CONTENT.len()) else {
        return false;
    };
    name.eq_ignore_ascii_case(CONTENT.as_bytes())
        && matches!(rest.first(), None | Some(b'+' | b';' | b' ' | b'\t'))
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

/// Whether trailers, or a head that stands for them, tell of a status other than OK.
pub(crate) fn is_error(trailers: &HeaderMap) -> bool {
    trailers
        .get("grpc-status")
        .is_some_and(|status| status != "0")
}

/// The trailers of a call that we end before its answer is whole.
pub(crate) fn ended(why: Failure) -> HeaderMap {
    let (status, message) = match why {
        Failure::TrustEnded => ("7", "the caller is no longer trusted"),
        Failure::LeaseEnded => ("7", "the policy of this service no longer allows this call"),
        Failure::Drained => ("14", "the sidecar is stopping"),
        _ => ("14", "the connection has ended"),
    };
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static(status));
    trailers.insert("grpc-message", HeaderValue::from_static(message));
    trailers
}

/// A message as `grpc-message` carries it: percent-encoded UTF-8.
pub(crate) fn encode_message(message: &str) -> String {
    utf8_percent_encode(message, MESSAGE).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recognised(values: &[&str]) -> bool {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(CONTENT_TYPE, value.parse().unwrap());
        }
        is_grpc(&headers)
    }

    #[test]
    fn recognises_grpc_and_not_its_neighbours() {
        for values in [
            &["application/grpc"] as &[_],
            &["application/grpc+json"],
            &["application/grpc; charset=utf-8"],
            &["Application/GRPC+proto"],
            &["application/json", "application/grpc"],
            &["application/json, application/grpc"],
        ] {
            assert!(recognised(values), "{values:?}");
        }
        for values in [
            &[] as &[_],
            &["application/grpc-web"],
            &["application/json"],
            &["application/json; x=application/grpc"],
            &["application/grp"],
        ] {
            assert!(!recognised(values), "{values:?}");
        }
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
