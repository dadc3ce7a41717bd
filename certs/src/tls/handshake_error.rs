//! Why a handshake did not make a peer, in words for the log and as a stable code.

use std::io;

use rustls::PeerIncompatible;

use super::fips::FipsError;
use crate::verify::VerifyError;

/// Why a connection was not accepted. The other side got a TLS alert, not these words.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// We have no SVID to show, or no longer a valid one.
    #[error("this workload has no usable SVID; the handshake was not begun")]
    NoIdentity,
    /// This build is for FIPS mode and does not run in it.
    #[error(transparent)]
    Fips(#[from] FipsError),
    /// The client showed no certificate.
    #[error("peer sent no client certificate; mutual TLS requires its X509-SVID")]
    NoClientCertificate,
    /// The client's chain broke a rule.
    #[error(transparent)]
    Rejected(#[from] VerifyError),
    /// The client offered only key exchanges that a quantum computer could break, where that
    /// is not enough.
    #[error(
        "peer offers no post-quantum key exchange, which this listener requires; it must offer {accepted}"
    )]
    NoPostQuantum {
        /// The groups that would do, by name.
        accepted: String,
    },
    /// The client offered no key exchange group of ours.
    #[error("peer and we have no key exchange group in common")]
    NoCommonGroup,
    /// The client offered nothing that we accept.
    #[error("peer and we have nothing in common: {detail}")]
    Incompatible {
        /// What is missing.
        detail: String,
    },
    /// The client ended the handshake with an alert.
    #[error("peer ended the handshake with the alert {alert}")]
    PeerAlert {
        /// The alert's name (RFC 8446 §6.2).
        alert: String,
    },
    /// What the client sent is not TLS, or breaks its rules.
    #[error("TLS failed: {0}")]
    Tls(#[source] rustls::Error),
    /// The connection broke.
    #[error("connection failed during the handshake: {0}")]
    Io(#[source] io::Error),
    /// The handshake ended well but no verified chain was recorded. Never happens; denied if it does.
    #[error("handshake ended without a verified peer")]
    Unverified,
}

impl HandshakeError {
    /// A stable name of the reason for logs and metrics.
    #[must_use]
    pub fn reason_code(&self) -> &'static str {
        match self {
            Self::NoIdentity => "no_identity",
            Self::Fips(_) => "not_in_fips_mode",
            Self::NoClientCertificate => "no_client_certificate",
            Self::Rejected(error) => error.reason_code(),
            Self::NoPostQuantum { .. } => "no_post_quantum",
            Self::NoCommonGroup | Self::Incompatible { .. } => "incompatible",
            Self::PeerAlert { .. } => "peer_alert",
            Self::Tls(_) => "tls_error",
            Self::Io(_) => "io_error",
            Self::Unverified => "unverified",
        }
    }

    /// Whether the other side was there and did not prove to be somebody that we accept.
    #[must_use]
    pub fn is_about_identity(&self) -> bool {
        let by_tls = |error: &rustls::Error| {
            matches!(
                error,
                rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented
            )
        };
        match self {
            Self::Rejected(_) | Self::Unverified => true,
            Self::Tls(error) => by_tls(error),
            _ => false,
        }
    }

    /// Sorts out what tokio-rustls reports.
    pub(crate) fn from_io(error: io::Error) -> Self {
        let tls = error
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<rustls::Error>())
            .cloned();
        match tls {
            None => Self::Io(error),
            Some(rustls::Error::NoCertificatesPresented) => Self::NoClientCertificate,
            Some(rustls::Error::PeerIncompatible(PeerIncompatible::NoKxGroupsInCommon)) => {
                Self::NoCommonGroup
            }
            Some(rustls::Error::PeerIncompatible(detail)) => Self::Incompatible {
                detail: format!("{detail:?}"),
            },
            Some(rustls::Error::NoApplicationProtocol) => Self::Incompatible {
                detail: "no application protocol (ALPN)".to_owned(),
            },
            Some(rustls::Error::AlertReceived(alert)) => Self::PeerAlert {
                alert: format!("{alert:?}"),
            },
            Some(other) => Self::Tls(other),
        }
    }
}
