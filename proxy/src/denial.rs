//! Every answer that the sidecar gives in the upstream's place, and the one table from a
//! cause to a status and a reason code. HTTP callers get an RFC 9457 problem document,
//! gRPC callers trailers only. Policy text never leaves; the decision id finds it.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONNECTION, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};
use serde::Serialize;

use crate::protocol::{Ambiguity, Shape, grpc};
use crate::record::{Entry, Failure};

/// An answer of the sidecar's own, with the record of its call.
#[derive(Debug)]
pub(crate) struct Denial {
    entry: Entry,
    status: StatusCode,
    reason_code: &'static str,
    detail: Box<str>,
    /// Seconds after which a new attempt makes sense.
    retry_after: Option<u32>,
}

/// Whether the connection serves another request after this answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Afterwards {
    /// It does, or the protocol has other means to say so.
    Open,
    /// It does not, and the answer says `Connection: close`.
    Closes,
}

/// The problem document (RFC 9457 section 3).
#[derive(Serialize)]
struct Problem<'a> {
    r#type: &'static str,
    title: &'static str,
    status: u16,
    detail: &'a str,
    instance: String,
    reason_code: &'static str,
}

impl Denial {
    fn new(entry: Entry, status: StatusCode, reason_code: &'static str, detail: &str) -> Self {
        Self {
            entry,
            status,
            reason_code,
            detail: detail.into(),
            retry_after: None,
        }
    }

    /// The request's head has more than one reading.
    pub(crate) fn ambiguous(entry: Entry, why: Ambiguity) -> Self {
        Self::new(
            entry,
            StatusCode::BAD_REQUEST,
            why.reason_code(),
            &why.to_string(),
        )
    }

    /// No listener here serves the host that was asked for.
    pub(crate) fn host_not_served(entry: Entry) -> Self {
        let detail = "this host is not served here";
        Self::new(
            entry,
            StatusCode::MISDIRECTED_REQUEST,
            "host_not_served",
            detail,
        )
    }

    /// No destination is called by the host and port that were asked for.
    pub(crate) fn destination_unknown(entry: Entry) -> Self {
        let detail = "no destination here has this host and port";
        Self::new(entry, StatusCode::FORBIDDEN, "destination_unknown", detail)
    }

    /// There is no policy yet, or no identity; the entry says which.
    pub(crate) fn not_ready(entry: Entry) -> Self {
        let detail = "the sidecar is not ready to decide";
        let reason_code = entry.reason_code();
        let mut denial = Self::new(entry, StatusCode::SERVICE_UNAVAILABLE, reason_code, detail);
        denial.retry_after = Some(1);
        denial
    }

    /// More calls are in flight than the listener takes, or memory is short.
    pub(crate) fn overloaded(entry: Entry) -> Self {
        let detail = "the sidecar has as many calls in flight as it takes";
        let mut denial = Self::new(entry, StatusCode::SERVICE_UNAVAILABLE, "overloaded", detail);
        denial.retry_after = Some(1);
        denial
    }

    /// The caller has as many calls in flight as one caller may.
    pub(crate) fn peer_limit(entry: Entry) -> Self {
        let detail = "this caller has as many calls in flight as one caller may";
        let mut denial = Self::new(entry, StatusCode::TOO_MANY_REQUESTS, "peer_limit", detail);
        denial.retry_after = Some(1);
        denial
    }

    /// Policy said no. `show_reason` lets the deciding policy's `@reason` out; `retry_after` is when
    /// it would not say so any more, where that is known.
    pub(crate) fn by_policy(
        entry: Entry,
        show_reason: bool,
        retry_after: Option<Duration>,
    ) -> Self {
        let obligations = entry.obligations();
        let status = obligations
            .status
            .and_then(|code| StatusCode::from_u16(code).ok());
        let status = status.unwrap_or(StatusCode::FORBIDDEN);
        let reason = obligations.reason.as_deref().filter(|_| show_reason);
        let detail = reason.unwrap_or("the policy of this service does not allow this call");
        let reason_code = entry.reason_code();
        let mut denial = Self::new(entry, status, reason_code, detail);
        denial.retry_after = is_for_now(status).then(|| retry_after.map_or(1, whole_seconds));
        denial
    }

    /// The caller, or its SVID, is revoked.
    pub(crate) fn revoked(entry: Entry) -> Self {
        let detail = "this caller is revoked";
        Self::new(entry, StatusCode::FORBIDDEN, "revoked", detail)
    }

    /// The caller is in quarantine for so long. `status` is that of the policy which put it there.
    pub(crate) fn quarantined(entry: Entry, status: Option<u16>, left: Duration) -> Self {
        let status = status.and_then(|code| StatusCode::from_u16(code).ok());
        let status = status.unwrap_or(StatusCode::FORBIDDEN);
        let detail = "this caller is in quarantine";
        let mut denial = Self::new(entry, status, "quarantined", detail);
        denial.retry_after = is_for_now(status).then(|| whole_seconds(left));
        denial
    }

    /// The call was allowed, and denied again before there was an answer.
    pub(crate) fn lease_ended(entry: Entry) -> Self {
        let detail = "the policy of this service no longer allows this call";
        Self::new(entry, StatusCode::FORBIDDEN, "lease_ended", detail)
    }

    /// The call was allowed and the upstream did not answer it.
    pub(crate) fn upstream_failed(mut entry: Entry, failure: Failure) -> Self {
        entry.failed(failure);
        let mut retry_after = None;
        let (status, detail) = match failure {
            Failure::UpstreamTimeout => (
                StatusCode::GATEWAY_TIMEOUT,
                "the service did not answer in time",
            ),
            Failure::UpstreamUnreachable => {
                (StatusCode::BAD_GATEWAY, "the service could not be reached")
            }
            Failure::UpstreamOverloaded => {
                retry_after = Some(1);
                (
                    StatusCode::SERVICE_UNAVAILABLE,
                    "too many calls to the service are under way",
                )
            }
            Failure::UpstreamProtocol => (
                StatusCode::BAD_GATEWAY,
                "the service does not speak the protocol that is configured for it",
            ),
            Failure::RequestTimeout => (
                StatusCode::GATEWAY_TIMEOUT,
                "the call took longer than a call may",
            ),
            Failure::UpstreamIdentity => (
                StatusCode::BAD_GATEWAY,
                "the service did not prove to be the one that is meant",
            ),
            Failure::AddressRefused => (
                StatusCode::FORBIDDEN,
                "the address of this host may not be called",
            ),
            Failure::NoIdentity => {
                retry_after = Some(1);
                (
                    StatusCode::SERVICE_UNAVAILABLE,
                    "the sidecar has no identity to call the service with",
                )
            }
            Failure::UpstreamBroke
            | Failure::CallerGone
            | Failure::TrustEnded
            | Failure::LeaseEnded
            | Failure::IdleTimeout
            | Failure::Drained
            | Failure::BodyTimeout
            | Failure::ConnectionAge
            | Failure::Flooded => (
                StatusCode::BAD_GATEWAY,
                "the service broke off before it answered",
            ),
        };
        let mut denial = Self::new(entry, status, failure.as_str(), detail);
        denial.retry_after = retry_after;
        denial
    }

    /// No answer at all, where the caller's protocol is not known: the call ends with it.
    pub(crate) fn unanswered(mut self) {
        self.entry.completed();
    }

    /// The call was allowed, and its request did not come in the time that it has.
    pub(crate) fn request_too_slow(mut entry: Entry, failure: Failure) -> Self {
        entry.failed(failure);
        let detail = "the request did not come in time";
        Self::new(entry, StatusCode::REQUEST_TIMEOUT, failure.as_str(), detail)
    }

    /// The answer to the caller; the call ends with it.
    pub(crate) fn into_response(mut self, shape: Shape, afterwards: Afterwards) -> Response<Bytes> {
        self.entry.answered(self.status);
        self.entry.completed();
        let mut response = match shape {
            Shape::Grpc => self.trailers_only(),
            Shape::Http | Shape::WebSocket | Shape::Tcp => self.problem(),
        };
        let headers = response.headers_mut();
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if afterwards == Afterwards::Closes {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        if let Some(seconds) = self.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }

    fn problem(&self) -> Response<Bytes> {
        let problem = Problem {
            r#type: "about:blank",
            title: self.status.canonical_reason().unwrap_or("Refused"),
            status: self.status.as_u16(),
            detail: &self.detail,
            instance: format!("urn:uuid:{}", self.entry.id()),
            reason_code: self.reason_code,
        };
        let mut body = serde_json::to_vec(&problem).unwrap_or_default();
        body.push(b'\n');
        let mut response = Response::new(Bytes::from(body));
        *response.status_mut() = self.status;
        let problem_json = HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(CONTENT_TYPE, problem_json);
        response
    }

    /// gRPC's refusal without a message: one HEADERS frame that ends the stream.
    fn trailers_only(&self) -> Response<Bytes> {
        let mut response = Response::new(Bytes::new());
        let message = format!("{} (decision {})", self.detail, self.entry.id());
        let message = HeaderValue::try_from(grpc::encode_message(&message));
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(
            "grpc-status",
            HeaderValue::from(u16::from(grpc::status_code(self.status))),
        );
        if let Ok(message) = message {
            headers.insert("grpc-message", message);
        }
        response
    }
}

/// Whether a status says that a later attempt may fare otherwise.
fn is_for_now(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE
    )
}

/// Rounded up: who waits so long has waited long enough.
fn whole_seconds(time: Duration) -> u32 {
    let seconds = time.as_secs() + u64::from(time.subsec_nanos() > 0);
    u32::try_from(seconds).unwrap_or(u32::MAX).max(1)
}
