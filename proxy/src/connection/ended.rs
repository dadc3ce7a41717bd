//! Tells why a connection ended before its peer wanted it to: what HTTP's implementation refused by
//! itself never became a call, and leaves its record here.

use std::error::Error;

use ::http::StatusCode;

use super::Connection;
use crate::flow::Overdue;
use crate::record::Failure;

/// Tells of a connection that ended in an error.
pub(super) fn tell(connection: &Connection, error: &hyper::Error) {
    if let Some(flood) = connection.origin.calls.flow().flood() {
        return cut(connection, flood.reason_code(), Failure::Flooded, error);
    }
    if error.is_parse() {
        let (reason_code, status) = parse_refusal(error);
        return refused(connection, reason_code, Some(status), error);
    }
    match protocol_error(error) {
        Some(h2::Reason::ENHANCE_YOUR_CALM) => {
            cut(connection, "http2_abuse", Failure::Flooded, error);
        }
        Some(_) => refused(connection, "malformed_http2", None, error),
        None => {
            let (source, peer) = (connection.origin.source, connection.origin.caller.name());
            tracing::debug!(%source, peer, %error, "connection ended");
        }
    }
}

/// Tells of a connection that is cut because its peer owes it something for too long.
pub(super) fn out_of_time(connection: &Connection, overdue: Overdue) {
    let (reason_code, what) = match overdue {
        Overdue::Unread => ("body_timeout", "the peer does not read"),
        Overdue::Head => ("header_timeout", "a head did not end in time"),
        Overdue::Idle | Overdue::Aged => return,
    };
    cut(connection, reason_code, Failure::BodyTimeout, &what);
}

/// What HTTP/1.1's implementation has told the peer.
fn parse_refusal(error: &hyper::Error) -> (&'static str, StatusCode) {
    if error.is_parse_too_large() {
        (
            "headers_too_large",
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        )
    } else {
        ("malformed_http", StatusCode::BAD_REQUEST)
    }
}

/// Why we let go of an HTTP/2 connection; nothing where the peer or the network did.
fn protocol_error(error: &hyper::Error) -> Option<h2::Reason> {
    let error = error.source()?.downcast_ref::<h2::Error>()?;
    error
        .reason()
        .filter(|reason| error.is_library() && *reason != h2::Reason::NO_ERROR)
}

/// The calls that were open are cut with their connection.
fn cut(
    connection: &Connection,
    reason_code: &'static str,
    failure: Failure,
    why: &dyn std::fmt::Display,
) {
    connection.origin.calls.cut(failure);
    refused(connection, reason_code, None, why);
}

fn refused(
    connection: &Connection,
    reason_code: &'static str,
    status: Option<StatusCode>,
    why: &dyn std::fmt::Display,
) {
    connection.gate.metrics.connection_cut(reason_code);
    connection.record_refusal(reason_code, status);
    let (source, peer) = (connection.origin.source, connection.origin.caller.name());
    tracing::warn!(%source, peer, reason_code, error = %why, "connection refused");
}
