//! Why an allowed call got no answer from the upstream.

use std::io;
use std::time::Duration;

use wayleave_certs::tls::HandshakeError;

use crate::record::Failure;

#[derive(Debug, thiserror::Error)]
pub(super) enum ForwardError {
    #[error("cannot resolve the upstream's host name")]
    Resolve(#[source] io::Error),
    #[error("the upstream's host name has no address")]
    NoAddress,
    #[error("cannot connect to the upstream")]
    Connect(#[source] io::Error),
    #[error("no upstream connection within {0:?}")]
    ConnectTimeout(Duration),
    #[error("`{0}` cannot be sent as a server name")]
    ServerName(String),
    #[error("the upstream is not the workload that is meant")]
    Tls(#[source] Box<HandshakeError>),
    #[error("the upstream does not speak the configured protocol")]
    Handshake(#[source] hyper::Error),
    #[error("no response head within {0:?}")]
    ResponseTimeout(Duration),
    #[error("the upstream broke off")]
    Broke(#[source] hyper::Error),
    #[error("the upstream switched protocols without being asked to, or otherwise than asked")]
    UnexpectedUpgrade,
    #[error("the upstream does not take WebSockets over HTTP/2 (RFC 8441)")]
    NoExtendedConnect,
}

impl ForwardError {
    /// What records and the caller are told.
    pub(super) fn failure(&self) -> Failure {
        match self {
            Self::Resolve(_)
            | Self::NoAddress
            | Self::Connect(_)
            | Self::ServerName(_)
            | Self::Tls(_) => Failure::UpstreamUnreachable,
            Self::ConnectTimeout(_) | Self::ResponseTimeout(_) => Failure::UpstreamTimeout,
            Self::Handshake(_)
            | Self::Broke(_)
            | Self::UnexpectedUpgrade
            | Self::NoExtendedConnect => Failure::UpstreamBroke,
        }
    }
}
