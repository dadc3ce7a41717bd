//! Why a security event token is not taken, in the words and codes that its transmitter is told
//! (RFC 8935 §2.4, RFC 8936 §2.6). Nothing of the token is repeated.

/// Why a token is not taken. Each has had no effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("the token is larger than 64 KiB")]
    TooLarge,
    #[error("the body is not a signed token in compact form (RFC 7515)")]
    NotCompact,
    #[error("the token's header is not a JSON object without repeated names")]
    Header,
    #[error("the token's `typ` is not `secevent+jwt` (RFC 8417)")]
    Type,
    #[error("the token's header has `crit`, and no extension is known here")]
    Critical,
    #[error("the token's `alg` is not one that is accepted here")]
    Algorithm,
    #[error("no key of the transmitter fits the token's `kid` and `alg`")]
    UnknownKey,
    #[error("the signature is not the transmitter's")]
    Signature,
    #[error("the token's claims are not a JSON object without repeated names")]
    Claims,
    #[error("the token's `iss` is not this transmitter")]
    Issuer,
    #[error("the token's `aud` does not name this receiver")]
    Audience,
    #[error("the claim `{0}` is missing or malformed")]
    Malformed(&'static str),
    #[error("the claim `{0}` is not allowed in a security event token")]
    NotAllowed(&'static str),
    #[error("the token's `iat` is in the future")]
    FromTheFuture,
    #[error("the token is older than is accepted here")]
    TooOld,
    #[error("the token's `events` must have exactly one member")]
    NotOneEvent,
    #[error("the member `{0}` of the event is missing or malformed")]
    Event(&'static str),
    #[error("the subject is malformed (RFC 9493)")]
    Subject,
    #[error("the subject is of a trust domain that this transmitter may not speak of")]
    TrustDomain,
    #[error("the bearer token is missing or not the expected one")]
    Bearer,
    #[error("expected the content type `application/secevent+jwt`")]
    ContentType,
    #[error("the request took too long")]
    Slow,
    /// Not the transmitter's fault: the same token may be taken later.
    #[error("{0}; send the token again later")]
    Unavailable(&'static str),
}

impl Refusal {
    /// The error code; none where the token is to be sent again.
    pub(crate) fn code(self) -> Option<&'static str> {
        Some(match self {
            Self::UnknownKey | Self::Algorithm => "invalid_key",
            Self::Signature | Self::Bearer => "authentication_failed",
            Self::Issuer => "invalid_issuer",
            Self::Audience => "invalid_audience",
            Self::TrustDomain => "access_denied",
            Self::Unavailable(_) => return None,
            _ => "invalid_request",
        })
    }

    /// The code, or what stands for it in metrics.
    pub(crate) fn label(self) -> &'static str {
        self.code().unwrap_or("unavailable")
    }
}
