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
    #[error("the upstream switched protocols without being asked to")]
    UnexpectedUpgrade,
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
            Self::Resolve(_)
            | Self::NoAddress
            | Self::Connect(_)
            | Self::ServerName(_)
            | Self::Tls(_) => Failure::UpstreamUnreachable,
            Self::ConnectTimeout(_) | Self::ResponseTimeout(_) => Failure::UpstreamTimeout,
            Self::BodyTimeout(_) => Failure::BodyTimeout,
            Self::RequestTimeout { .. } => Failure::RequestTimeout,
            Self::Handshake(_) | Self::Broke(_) | Self::UnexpectedUpgrade => Failure::UpstreamBroke,
        }
    }
}
