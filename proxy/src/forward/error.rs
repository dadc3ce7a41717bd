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
    #[error("the TLS handshake with the upstream failed")]
    Tls(#[source] Box<HandshakeError>),
    #[error("the upstream's address is refused: {0}")]
    AddressRefused(#[from] Refused),
    #[error("the upstream does not speak the configured protocol")]
    Handshake(#[source] hyper::Error),
    #[error("no response head within {0:?}")]
    ResponseTimeout(Duration),
    #[error("the upstream broke off")]
    Broke(#[source] hyper::Error),
    #[error("the upstream switched protocols without being asked to")]
    UnexpectedUpgrade,
}

impl ForwardError {
    /// What records and the caller are told.
    pub(super) fn failure(&self) -> Failure {
        match self {
            Self::Resolve(_) | Self::NoAddress | Self::Connect(_) | Self::ServerName(_) => {
                Failure::UpstreamUnreachable
            }
            Self::Tls(error) if error.is_about_identity() => Failure::UpstreamIdentity,
            Self::Tls(error) if matches!(**error, HandshakeError::NoIdentity) => {
                Failure::NoIdentity
            }
            Self::Tls(_) => Failure::UpstreamUnreachable,
            Self::AddressRefused(_) => Failure::AddressRefused,
            Self::ConnectTimeout(_) | Self::ResponseTimeout(_) => Failure::UpstreamTimeout,
            Self::Handshake(_) | Self::Broke(_) | Self::UnexpectedUpgrade => Failure::UpstreamBroke,
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
