//! Verification of a peer's chain: the profile on the leaf, then path validation (RFC 5280, by
//! rustls-webpki) against the bundle of the leaf's own trust domain and no other.
//!
//! The trust domain is read from the leaf before the path is validated, and decides which
//! authorities are looked at; so an authority can only ever vouch for its own domain.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls_pki_types::{CertificateDer, UnixTime};
use wayleave_identity::{SpiffeId, TrustDomain};
use webpki::{EndEntityCert, KeyUsage, VerifiedPath};

use crate::profile::{self, Leaf, ProfileError};
use crate::svid::hex;
use crate::tls::crypto_provider;
use crate::{TrustBundle, TrustBundles};

/// The most certificates that a peer may send. Real chains have at most four.
const MAX_CHAIN: usize = 10;

/// What was verified about a peer's chain.
#[derive(Debug)]
pub struct Verified {
    pub(crate) leaf: Leaf,
    pub(crate) leaf_sha256: [u8; 32],
    pub(crate) not_after: SystemTime,
}

/// In which role the peer shows its chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It called us.
    Client,
    /// We called it.
    Server,
}

/// Why a peer's chain is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// The leaf breaks the X509-SVID profile.
    #[error("peer {0}")]
    Profile(#[from] ProfileError),
    /// There is no bundle for the leaf's trust domain.
    #[error("peer claims to be `{id}`, but there is no trust bundle for trust domain `{trust_domain}`", trust_domain = id.trust_domain())]
    UnknownTrustDomain {
        /// Whom the leaf names, unproved.
        id: SpiffeId,
    },
    /// The chain does not lead to an authority of the trust domain.
    #[error("peer claims to be `{id}`, but its certificate does not chain to an authority in the trust bundle of `{trust_domain}`", trust_domain = id.trust_domain())]
    UnknownAuthority {
        /// Whom the leaf names, unproved.
        id: SpiffeId,
    },
    /// A certificate of the chain, or the authority, is over.
    #[error("peer claims to be `{id}`, but a certificate of its chain expired {seconds} s ago")]
    Expired {
        /// Whom the leaf names, unproved.
        id: SpiffeId,
        /// How long ago.
        seconds: u64,
    },
    /// A certificate of the chain is not valid yet.
    #[error(
        "peer claims to be `{id}`, but a certificate of its chain is only valid in {seconds} s; check both clocks"
    )]
    NotYetValid {
        /// Whom the leaf names, unproved.
        id: SpiffeId,
        /// In how long it will be.
        seconds: u64,
    },
    /// An intermediate may not sign certificates.
    #[error(
        "peer claims to be `{id}`, but an intermediate certificate lacks keyCertSign in its KeyUsage (X509-SVID 4.3)"
    )]
    IntermediateCannotSign {
        /// Whom the leaf names, unproved.
        id: SpiffeId,
    },
    /// An intermediate is that of another trust domain.
    #[error(
        "peer claims to be `{id}`, but an intermediate certificate is that of trust domain `{found}`"
    )]
    IntermediateOfOtherTrustDomain {
        /// Whom the leaf names, unproved.
        id: SpiffeId,
        /// What the intermediate names.
        found: TrustDomain,
    },
    /// The peer sent too many certificates.
    #[error("peer sent {count} certificates; at most {MAX_CHAIN} are read")]
    ChainTooLong {
        /// How many it sent.
        count: usize,
    },
    /// The path is not valid for another reason.
    #[error("peer claims to be `{id}`, but its chain is not valid: {detail}")]
    InvalidPath {
        /// Whom the leaf names, unproved.
        id: SpiffeId,
        /// What path validation says.
        detail: String,
    },
}

impl VerifyError {
    /// A stable name of the reason for logs and metrics.
    #[must_use]
    pub fn reason_code(&self) -> &'static str {
        match self {
            Self::Profile(error) => error.reason_code(),
            Self::UnknownTrustDomain { .. } => "unknown_trust_domain",
            Self::UnknownAuthority { .. } => "unknown_authority",
            Self::Expired { .. } => "expired",
            Self::NotYetValid { .. } => "not_yet_valid",
            Self::IntermediateCannotSign { .. } => "intermediate_cannot_sign",
            Self::IntermediateOfOtherTrustDomain { .. } => "intermediate_of_other_trust_domain",
            Self::ChainTooLong { .. } => "chain_too_long",
            Self::InvalidPath { .. } => "invalid_path",
        }
    }
}

/// Verifies a chain at `now` against the bundle of the leaf's own trust domain.
///
/// # Errors
///
/// The first rule that the chain breaks.
pub fn verify(
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    bundles: &TrustBundles,
    role: Role,
    now: SystemTime,
) -> Result<Verified, VerifyError> {
    if intermediates.len() >= MAX_CHAIN {
        let count = intermediates.len() + 1;
        return Err(VerifyError::ChainTooLong { count });
    }
    let parsed = Leaf::from_der(leaf)?;
    // SECURITY: the bundle is chosen by the claimed trust domain alone. A chain that is valid
    // for another domain's bundle is worth nothing here.
    let Some(bundle) = bundles.of(parsed.id.trust_domain()) else {
        return Err(VerifyError::UnknownTrustDomain { id: parsed.id });
    };
    let not_after = validate_path(leaf, intermediates, bundle, role, now, &parsed)?;
    Ok(Verified {
        leaf_sha256: sha256(leaf),
        leaf: parsed,
        not_after,
    })
}

/// Validates the path and returns the earliest end of validity on it.
fn validate_path(
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    bundle: &Arc<TrustBundle>,
    role: Role,
    now: SystemTime,
    parsed: &Leaf,
) -> Result<SystemTime, VerifyError> {
    let explain = |error| explain(error, &parsed.id, now);
    let end_entity = EndEntityCert::try_from(leaf).map_err(explain)?;
    let usage = match role {
        Role::Client => KeyUsage::client_auth(),
        Role::Server => KeyUsage::server_auth(),
    };
    let anchor_is_valid = |path: &VerifiedPath<'_>| anchor_is_valid(path, bundle, now);
    let path = end_entity
        .verify_for_usage(
            crypto_provider().signature_verification_algorithms.all,
            bundle.anchors(),
            intermediates,
            UnixTime::since_unix_epoch(since_epoch(now)),
            usage,
            None,
            Some(&anchor_is_valid),
        )
        .map_err(explain)?;
    let mut not_after = parsed.not_after;
    if let Some(authority) = bundle.authority_of(path.anchor()) {
        not_after = not_after.min(authority.not_after());
    }
    for intermediate in path.intermediate_certificates() {
        not_after = not_after.min(check_intermediate(&intermediate.der(), &parsed.id)?);
    }
    Ok(not_after)
}

/// Webpki knows no validity of trust anchors; RFC 5280 chains still end with them.
fn anchor_is_valid(
    path: &VerifiedPath<'_>,
    bundle: &TrustBundle,
    now: SystemTime,
) -> Result<(), webpki::Error> {
    let authority = bundle
        .authority_of(path.anchor())
        .ok_or(webpki::Error::UnknownIssuer)?;
    if authority.is_valid_at(now) {
        return Ok(());
    }
    Err(webpki::Error::CertExpired {
        time: UnixTime::since_unix_epoch(since_epoch(now)),
        not_after: UnixTime::since_unix_epoch(since_epoch(authority.not_after())),
    })
}

/// Checks what webpki does not look at in a signing certificate; returns when it ends.
fn check_intermediate(der: &CertificateDer<'_>, id: &SpiffeId) -> Result<SystemTime, VerifyError> {
    let certificate = profile::parse(der)?;
    let can_sign = profile::key_usage(&certificate)?.is_some_and(|e| e.value.key_cert_sign());
    if !can_sign {
        return Err(VerifyError::IntermediateCannotSign { id: id.clone() });
    }
    match profile::uri_san(&certificate)? {
        Some(signer) if signer.trust_domain() != id.trust_domain() => {
            Err(VerifyError::IntermediateOfOtherTrustDomain {
                id: id.clone(),
                found: signer.trust_domain().clone(),
            })
        }
        _ => Ok(profile::system_time(certificate.validity().not_after)),
    }
}

fn explain(error: webpki::Error, id: &SpiffeId, now: SystemTime) -> VerifyError {
    let id = id.clone();
    let now = since_epoch(now).as_secs();
    match error {
        webpki::Error::UnknownIssuer | webpki::Error::InvalidSignatureForPublicKey => {
            VerifyError::UnknownAuthority { id }
        }
        webpki::Error::CertExpired { not_after, .. } => VerifyError::Expired {
            id,
            seconds: now.saturating_sub(not_after.as_secs()),
        },
        webpki::Error::CertNotValidYet { not_before, .. } => VerifyError::NotYetValid {
            id,
            seconds: not_before.as_secs().saturating_sub(now),
        },
        other => VerifyError::InvalidPath {
            id,
            detail: format!("{other:?}"),
        },
    }
}

fn since_epoch(time: SystemTime) -> Duration {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
}

pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    let mut out = [0; 32];
    out.copy_from_slice(digest.as_ref());
    out
}

impl Verified {
    /// Whom the chain names.
    #[must_use]
    pub fn id(&self) -> &SpiffeId {
        &self.leaf.id
    }

    /// The leaf's serial number in lower-case hexadecimal.
    #[must_use]
    pub fn serial_hex(&self) -> String {
        hex(&self.leaf.serial)
    }

    /// The earliest end of validity in the chain, the authority included.
    #[must_use]
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }
}
