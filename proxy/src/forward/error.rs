//! Why an allowed call got no answer from the upstream.

use std::io;
use std::time::Duration;

use uuid::Uuid;
use wayleave_certs::tls::HandshakeError;

use crate::config::UpstreamConfig;
use crate::outbound::guard::Refused;
use crate::record::Failure;

#[derive(Debug, thiserror::Error)]
pub(super) enum ForwardError {
    #[error("the upstream's host name has no address")]
    NoAddress,
    #[error("cannot connect to the upstream")]
    Connect(#[source] io::Error),
    #[error("no upstream connection within {0:?}")]
    ConnectTimeout(Duration),
    #[error("`{0}` cannot be sent as a server name")]
    ServerName(String),
    #[error("the TLS handshake with the upstream failed")]
    Tls(#[source] Box<HandshakeError>),
    #[error("the upstream speaks `{found}` where `protocol` says `{expected}`")]
    Protocol {
        expected: &'static str,
        found: &'static str,
    },
    #[error("the upstream does not speak what `protocol` says, by its own word (ALPN)")]
    NoCommonProtocol,
    #[error("the upstream's address is refused: {0}")]
    AddressRefused(#[from] Refused),
    #[error("the upstream does not speak the configured protocol")]
    Handshake(#[source] hyper::Error),
    #[error("the upstream closed before it spoke HTTP/2")]
    NoPreface,
    #[error("the upstream allows for no HTTP/2 stream")]
    NoStreams,
    #[error("no response head within {0:?}")]
    ResponseTimeout(Duration),
    #[error("no more of the request's body within {0:?}")]
    BodyTimeout(Duration),
    #[error("the call was not over within {whole:?}")]
    RequestTimeout {
        /// How long a call may take.
        whole: Duration,
        /// Whether its body was still to come.
        by_caller: bool,
    },
    #[error("the upstream broke off")]
    Broke(#[source] hyper::Error),
    #[error("the upstream switched protocols without being asked to, or otherwise than asked")]
    UnexpectedUpgrade,
    #[error("the call was decided again, and denied")]
    LeaseEnded,
    #[error("the upstream's `{0}` is reached")]
    Overloaded(&'static str),
    #[error("the upstream does not take WebSockets over HTTP/2 (RFC 8441)")]
    NoExtendedConnect,
}

impl ForwardError {
    /// Whether it was for the caller to do the next thing.
    pub(super) fn is_the_callers(&self) -> bool {
        match self {
            Self::BodyTimeout(_) => true,
            Self::RequestTimeout { by_caller, .. } => *by_caller,
            _ => false,
        }
    }

    /// What records and the caller are told.
    pub(super) fn failure(&self) -> Failure {
        match self {
            Self::NoAddress | Self::Connect(_) | Self::ServerName(_) => {
                Failure::UpstreamUnreachable
            }
            Self::Tls(error) if error.is_about_identity() => Failure::UpstreamIdentity,
            Self::Tls(error) if matches!(**error, HandshakeError::NoIdentity) => {
                Failure::NoIdentity
            }
            Self::Tls(_) => Failure::UpstreamUnreachable,
            Self::AddressRefused(_) => Failure::AddressRefused,
            Self::ConnectTimeout(_) | Self::ResponseTimeout(_) => Failure::UpstreamTimeout,
            Self::BodyTimeout(_) => Failure::BodyTimeout,
            Self::RequestTimeout { .. } => Failure::RequestTimeout,
            Self::Protocol { .. } | Self::NoCommonProtocol => Failure::UpstreamProtocol,
            Self::Handshake(_)
            | Self::NoPreface
            | Self::NoStreams
            | Self::Broke(_)
            | Self::UnexpectedUpgrade
            | Self::NoExtendedConnect => Failure::UpstreamBroke,
            Self::LeaseEnded => Failure::LeaseEnded,
            Self::Overloaded(_) => Failure::UpstreamOverloaded,
        }
    }

    /// Whether it came before there was a connection, so that another endpoint may do better.
    pub(super) fn is_connect(&self) -> bool {
        match self {
            Self::NoAddress
            | Self::Connect(_)
            | Self::ConnectTimeout(_)
            | Self::ServerName(_)
            | Self::Tls(_)
            | Self::AddressRefused(_)
            | Self::Protocol { .. }
            | Self::NoCommonProtocol
            | Self::Handshake(_)
            | Self::NoPreface
            | Self::NoStreams => true,
            Self::ResponseTimeout(_)
            | Self::BodyTimeout(_)
            | Self::RequestTimeout { .. }
            | Self::Broke(_)
            | Self::UnexpectedUpgrade
            | Self::NoExtendedConnect
            | Self::LeaseEnded
            | Self::Overloaded(_) => false,
        }
    }

    /// The stable name of a failed connection for metrics.
    pub(super) fn connect_reason(&self) -> &'static str {
        match self {
            Self::Connect(error) if error.kind() == io::ErrorKind::ConnectionRefused => "refused",
            Self::ConnectTimeout(_) => "timeout",
            Self::Tls(error) => error.reason_code(),
            Self::NoAddress => "no_address",
            Self::AddressRefused(_) => "address_refused",
            Self::Protocol { .. }
            | Self::NoCommonProtocol
            | Self::Handshake(_)
            | Self::NoPreface
            | Self::NoStreams => "protocol",
            _ => "io_error",
        }
    }

    /// Logs what the caller is not told. Somebody in the upstream's place is worth a warning.
    pub(super) fn tell(&self, decision_id: Uuid, upstream: &UpstreamConfig) {
        let reason_code = self.failure().as_str();
        match self {
            Self::Tls(error) if error.is_about_identity() => {
                tracing::warn!(%decision_id, %upstream, reason_code, %error, "upstream refused");
            }
            Self::AddressRefused(error) => {
                tracing::warn!(%decision_id, %upstream, reason_code, %error, "upstream refused");
            }
            _ => {
                let error: &dyn std::error::Error = self;
                tracing::debug!(%decision_id, %upstream, reason_code, error, "upstream failed");
            }
        }
    }
}

/// Whether the upstream promises that it did not look at the request: it refused the stream, or
/// went away before it (RFC 9113 sections 6.8 and 8.7).
pub(super) fn is_unprocessed(error: &hyper::Error) -> bool {
    of_http2(error).is_some_and(|error| {
        error.is_remote() && (error.is_go_away() || (error.is_reset() && is_refusal(error)))
    })
}

/// Whether one stream ended, and nothing is said of the connection. A stream that was refused
/// says that the connection takes no more.
pub(super) fn is_of_one_stream(error: &hyper::Error) -> bool {
    of_http2(error).is_some_and(|error| error.is_reset() && !is_refusal(error))
}

fn is_refusal(error: &h2::Error) -> bool {
    error.reason() == Some(h2::Reason::REFUSED_STREAM)
}

fn of_http2(error: &hyper::Error) -> Option<&h2::Error> {
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref::<h2::Error>() {
            return Some(error);
        }
        source = error.source();
    }
    None
}
