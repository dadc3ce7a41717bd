//! Verification of a peer's chain: the profile on the leaf, then path validation (RFC 5280, by
//! rustls-webpki) against the bundle of the leaf's own trust domain and no other.
//!
//! The trust domain is read from the leaf before the path is validated, and decides which
//! authorities are looked at; so an authority can only ever vouch for its own domain.

use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use rustls_pki_types::{CertificateDer, UnixTime};
use wayleave_identity::{SpiffeId, SpiffeIdPattern, TrustDomain};
use webpki::{
    CertRevocationList, EndEntityCert, ExpirationPolicy, KeyUsage, RevocationCheckDepth,
    RevocationOptions, RevocationOptionsBuilder, UnknownStatusPolicy, VerifiedPath,
};

use crate::profile::{self, Leaf, ProfileError};
use crate::svid::hex;
use crate::tls::crypto_provider;
use crate::{TrustBundle, TrustBundles};

/// The most certificates that a peer may send. Real chains have at most four.
const MAX_CHAIN: usize = 10;

/// What was verified about a peer's chain, and in which trust generation.
#[derive(Debug)]
pub struct Verified {
    pub(crate) leaf: Leaf,
    pub(crate) leaf_sha256: [u8; 32],
    pub(crate) not_after: SystemTime,
    chain: Vec<CertificateDer<'static>>,
    role: Role,
    /// From when until when the answer would be the same with the same bundles.
    fresh: RangeInclusive<SystemTime>,
    trust_generation: AtomicU64,
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
    /// The peer is proved to be somebody, but not whom we called.
    #[error("peer is `{found}`, not `{expected}`")]
    UnexpectedIdentity {
        /// Who it is, proved by its chain.
        found: SpiffeId,
        /// Whom we called.
        expected: Box<SpiffeIdPattern>,
    },
    /// The peer is proved, but of a trust domain that is not let in here.
    #[error(
        "peer is `{id}`, and trust domain `{trust_domain}` is not among those that are let in here",
        trust_domain = id.trust_domain()
    )]
    TrustDomainNotAllowed {
        /// Who it is, proved by its chain.
        id: SpiffeId,
    },
    /// A certificate of the chain was revoked.
    #[error(
        "peer claims to be `{id}`, but a certificate of its chain was revoked (leaf serial {serial})"
    )]
    Revoked {
        /// Whom the leaf names, unproved.
        id: SpiffeId,
        /// The leaf's serial number in hexadecimal.
        serial: String,
    },
    /// The revocation list that speaks for the chain is out of date.
    #[error(
        "peer claims to be `{id}`, but the revocation list of its issuer is {seconds} s past its next update; renew the list"
    )]
    RevocationListExpired {
        /// Whom the leaf names, unproved.
        id: SpiffeId,
        /// How long ago the next list was due.
        seconds: u64,
    },
    /// The peer sent no certificate.
    #[error("peer sent no certificate")]
    NoCertificate,
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
            Self::UnexpectedIdentity { .. } => "unexpected_identity",
            Self::TrustDomainNotAllowed { .. } => "trust_domain_not_allowed",
            Self::Revoked { .. } => "revoked",
            Self::RevocationListExpired { .. } => "revocation_list_expired",
            Self::NoCertificate => "no_certificate",
            Self::ChainTooLong { .. } => "chain_too_long",
            Self::InvalidPath { .. } => "invalid_path",
        }
    }
}

/// Verifies a chain, leaf first, at `now` against the bundle of the leaf's own trust domain.
///
/// # Errors
///
/// The first rule that the chain breaks.
pub fn verify(
    chain: &[CertificateDer<'_>],
    bundles: &TrustBundles,
    role: Role,
    now: SystemTime,
) -> Result<Verified, VerifyError> {
    let Some((leaf, intermediates)) = chain.split_first() else {
        return Err(VerifyError::NoCertificate);
    };
    if chain.len() > MAX_CHAIN {
        let count = chain.len();
        return Err(VerifyError::ChainTooLong { count });
    }
    let parsed = Leaf::from_der(leaf)?;
    // SECURITY: the bundle is chosen by the claimed trust domain alone. A chain that is valid
    // for another domain's bundle is worth nothing here.
    let Some(bundle) = bundles.of(parsed.id.trust_domain()) else {
        return Err(VerifyError::UnknownTrustDomain { id: parsed.id });
    };
    let not_after = Path {
        leaf,
        parsed: &parsed,
        intermediates,
        bundle,
        now,
    }
    .validate(role)?;
    let fresh_until = not_after.min(bundle.revocation_fresh_until().unwrap_or(not_after));
    Ok(Verified {
        leaf_sha256: sha256(leaf),
        leaf: parsed,
        not_after,
        chain: chain.iter().map(|der| der.clone().into_owned()).collect(),
        role,
        fresh: now..=fresh_until,
        trust_generation: AtomicU64::new(0),
    })
}

/// A path to be validated.
struct Path<'a> {
    leaf: &'a CertificateDer<'a>,
    parsed: &'a Leaf,
    intermediates: &'a [CertificateDer<'a>],
    bundle: &'a TrustBundle,
    now: SystemTime,
}

impl Path<'_> {
    /// Validates the path and returns the earliest end of validity on it.
    fn validate(&self, role: Role) -> Result<SystemTime, VerifyError> {
        let lists: Vec<_> = self
            .bundle
            .revocation_lists()
            .map(|l| l.for_webpki())
            .collect();
        let revocation = match lists.is_empty() {
            true => None,
            false => Some(revocation_options(&lists).map_err(|e| self.explain(e))?),
        };
        let end_entity = EndEntityCert::try_from(self.leaf).map_err(|e| self.explain(e))?;
        let usage = match role {
            Role::Client => KeyUsage::client_auth(),
            Role::Server => KeyUsage::server_auth(),
        };
        let path = end_entity
            .verify_for_usage(
                crypto_provider().signature_verification_algorithms.all,
                self.bundle.anchors(),
                self.intermediates,
                unix_time(self.now),
                usage,
                revocation,
                Some(&|path: &VerifiedPath<'_>| anchor_is_valid(path, self.bundle, self.now)),
            )
            .map_err(|error| self.explain(error))?;
        self.end_of(&path)
    }

    fn end_of(&self, path: &VerifiedPath<'_>) -> Result<SystemTime, VerifyError> {
        let mut not_after = self.parsed.not_after;
        if let Some(authority) = self.bundle.authority_of(path.anchor()) {
            not_after = not_after.min(authority.not_after());
        }
        for intermediate in path.intermediate_certificates() {
            not_after = not_after.min(check_intermediate(&intermediate.der(), &self.parsed.id)?);
        }
        Ok(not_after)
    }

    fn explain(&self, error: webpki::Error) -> VerifyError {
        explain(error, self.parsed, self.now)
    }
}

/// Every certificate of the chain is looked up. One that no list speaks for is not revoked; a
/// list that is out of date speaks for nobody, and so nobody of its issuer is accepted.
fn revocation_options<'a>(
    lists: &'a [&'a CertRevocationList<'a>],
) -> Result<RevocationOptions<'a>, webpki::Error> {
    let builder =
        RevocationOptionsBuilder::new(lists).map_err(|_| webpki::Error::UnknownRevocationStatus)?;
    Ok(builder
        .with_depth(RevocationCheckDepth::Chain)
        .with_status_policy(UnknownStatusPolicy::Allow)
        .with_expiration_policy(ExpirationPolicy::Enforce)
        .build())
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
        time: unix_time(now),
        not_after: unix_time(authority.not_after()),
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

fn explain(error: webpki::Error, leaf: &Leaf, now: SystemTime) -> VerifyError {
    let id = leaf.id.clone();
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
        webpki::Error::CertRevoked => VerifyError::Revoked {
            id,
            serial: hex(&leaf.serial),
        },
        webpki::Error::CrlExpired { next_update, .. } => VerifyError::RevocationListExpired {
            id,
            seconds: now.saturating_sub(next_update.as_secs()),
        },
        other => VerifyError::InvalidPath {
            id,
            detail: format!("{other:?}"),
        },
    }
}

fn unix_time(time: SystemTime) -> UnixTime {
    UnixTime::since_unix_epoch(since_epoch(time))
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

    /// The chain in DER, leaf first.
    #[must_use]
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// In which role the peer has shown the chain.
    pub(crate) fn role(&self) -> Role {
        self.role
    }

    /// Whether verifying again at `now`, with the bundles of this generation, is sure to end
    /// the same.
    pub(crate) fn is_fresh(&self, trust_generation: u64, now: SystemTime) -> bool {
        self.trust_generation.load(Ordering::Relaxed) == trust_generation
            && self.fresh.contains(&now)
    }

    /// Remembers that it was verified with the bundles of this generation.
    pub(crate) fn renew(&self, trust_generation: u64) {
        self.trust_generation
            .store(trust_generation, Ordering::Relaxed);
    }
}
