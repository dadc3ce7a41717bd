//! Trust bundles: the authorities of one trust domain, and the set of bundles by trust domain.
//!
//! Bundles are never pooled: a lookup names a trust domain and yields that domain's
//! authorities alone.

mod jwk;
pub mod jwks;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use rustls_pki_types::{CertificateDer, TrustAnchor};
use wayleave_identity::{SpiffeId, TrustDomain};

pub use jwks::{BundleDocument, JwksError};

use crate::distinguished_name;
use crate::pem::{self, PemError};
use crate::profile::{self, ProfileError};
use crate::revocation::{IssuedBy, RevocationList, RevocationListError};

/// One certificate authority of a trust domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authority {
    certificate: CertificateDer<'static>,
    not_before: SystemTime,
    not_after: SystemTime,
}

/// The authorities that speak for one trust domain.
///
/// An empty bundle is legal and trusts nobody.
#[derive(Debug, Clone)]
pub struct TrustBundle {
    trust_domain: TrustDomain,
    authorities: Vec<Authority>,
    // INVARIANT: the anchors of `authorities`, in the same order.
    anchors: Vec<TrustAnchor<'static>>,
    revocation_lists: Vec<Arc<RevocationList>>,
    sequence: Option<u64>,
}

/// Why a text is not a trust bundle.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BundleError {
    /// The PEM could not be read.
    #[error(transparent)]
    Pem(#[from] PemError),
    /// The JSON could not be read.
    #[error(transparent)]
    Jwks(#[from] JwksError),
    /// A certificate could not be read.
    #[error("authority {position}: {source}")]
    Malformed {
        /// Its place in the bundle, from 1.
        position: usize,
        /// What is wrong.
        source: ProfileError,
    },
    /// A certificate is not a CA, so it can vouch for nobody.
    #[error(
        "authority {position} ({subject}) is not a CA certificate (cA is not true); \
         a bundle holds only the certificates that sign SVIDs"
    )]
    NotCa {
        /// Its place in the bundle, from 1.
        position: usize,
        /// Its subject.
        subject: String,
    },
    /// A certificate may not sign others.
    #[error(
        "authority {position} ({subject}) lacks keyCertSign in its KeyUsage, so it cannot sign SVIDs"
    )]
    CannotSign {
        /// Its place in the bundle, from 1.
        position: usize,
        /// Its subject.
        subject: String,
    },
    /// A certificate says that it is of another trust domain.
    #[error(
        "authority {position} says that it belongs to `{found}`, not to trust domain `{expected}`; bundles of several trust domains are not pooled"
    )]
    OtherTrustDomain {
        /// Its place in the bundle, from 1.
        position: usize,
        /// The trust domain of the bundle.
        expected: TrustDomain,
        /// Whom the certificate names.
        found: SpiffeId,
    },
}

impl Authority {
    /// The CA certificate in DER.
    #[must_use]
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// The last moment at which the authority is valid.
    #[must_use]
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// Whether the authority is valid at `now`.
    #[must_use]
    pub fn is_valid_at(&self, now: SystemTime) -> bool {
        self.not_before <= now && now <= self.not_after
    }

    /// `position` counts from 1 and is only for messages.
    fn from_der(
        trust_domain: &TrustDomain,
        certificate: CertificateDer<'static>,
        position: usize,
    ) -> Result<Self, BundleError> {
        let malformed = |source| BundleError::Malformed { position, source };
        let parsed = profile::parse(&certificate).map_err(malformed)?;
        let subject = distinguished_name::to_text(parsed.subject());
        if !profile::is_ca(&parsed).map_err(malformed)? {
            return Err(BundleError::NotCa { position, subject });
        }
        let usage = profile::key_usage(&parsed).map_err(malformed)?;
        if usage.is_some_and(|usage| !usage.value.key_cert_sign()) {
            return Err(BundleError::CannotSign { position, subject });
        }
        if let Some(found) = profile::uri_san(&parsed).map_err(malformed)?
            && found.trust_domain() != trust_domain
        {
            let expected = trust_domain.clone();
            return Err(BundleError::OtherTrustDomain {
                position,
                expected,
                found,
            });
        }
        let not_before = profile::system_time(parsed.validity().not_before);
        let not_after = profile::system_time(parsed.validity().not_after);
        Ok(Self {
            certificate,
            not_before,
            not_after,
        })
    }
}

fn anchor(authority: &Authority, position: usize) -> Result<TrustAnchor<'static>, BundleError> {
    webpki::anchor_from_trusted_cert(&authority.certificate)
        .map(|anchor| anchor.to_owned())
        .map_err(|error| BundleError::Malformed {
            position,
            source: ProfileError::Malformed {
                detail: error.to_string(),
            },
        })
}

impl TrustBundle {
    /// Reads the CA certificates of one trust domain from PEM.
    ///
    /// # Errors
    ///
    /// When there is no certificate, or one is not a CA of this trust domain.
    pub fn from_pem(trust_domain: TrustDomain, text: &[u8]) -> Result<Self, BundleError> {
        Self::from_der(trust_domain, pem::certificates(text)?)
    }

    /// Reads a bundle in any form that it is stored in: PEM, the SPIFFE bundle format, or the
    /// map form of it, of which the other trust domains come along.
    ///
    /// # Errors
    ///
    /// When there is no bundle for `trust_domain`, or one is not usable.
    pub fn from_any(trust_domain: TrustDomain, text: &[u8]) -> Result<Vec<Self>, BundleError> {
        if !jwks::is_json(text) {
            return Ok(vec![Self::from_pem(trust_domain, text)?]);
        }
        if !jwks::is_map(text) {
            return Ok(vec![BundleDocument::from_jwks(trust_domain, text)?.bundle]);
        }
        let documents = BundleDocument::from_jwks_map(text)?;
        let bundles: Vec<_> = documents.into_iter().map(|d| d.bundle).collect();
        if bundles
            .iter()
            .any(|bundle| bundle.trust_domain == trust_domain)
        {
            return Ok(bundles);
        }
        Err(JwksError::NoTrustDomain(trust_domain).into())
    }

    /// Takes the CA certificates of one trust domain in DER; none is legal and trusts nobody.
    ///
    /// # Errors
    ///
    /// When a certificate is not a CA of this trust domain.
    pub fn from_der(
        trust_domain: TrustDomain,
        certificates: Vec<CertificateDer<'static>>,
    ) -> Result<Self, BundleError> {
        let authorities = (1..)
            .zip(certificates)
            .map(|(position, der)| Authority::from_der(&trust_domain, der, position))
            .collect::<Result<Vec<_>, _>>()?;
        let anchors = (1..)
            .zip(&authorities)
            .map(|(position, authority)| anchor(authority, position))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            trust_domain,
            authorities,
            anchors,
            revocation_lists: Vec::new(),
            sequence: None,
        })
    }

    /// The trust domain that these authorities speak for.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The authorities, in the order of the bundle.
    #[must_use]
    pub fn authorities(&self) -> &[Authority] {
        &self.authorities
    }

    /// The same bundle with the sequence number that its publisher gave it.
    #[must_use]
    pub fn with_sequence(mut self, sequence: Option<u64>) -> Self {
        self.sequence = sequence;
        self
    }

    /// Adds a revocation list if one of these authorities has issued it.
    fn adopt(&mut self, list: &Arc<RevocationList>) -> IssuedBy {
        let relations = || self.anchors.iter().map(|anchor| list.is_issued_by(anchor));
        if relations().any(|relation| relation == IssuedBy::Signed) {
            self.revocation_lists.push(Arc::clone(list));
            return IssuedBy::Signed;
        }
        relations()
            .find(|relation| *relation == IssuedBy::NameAlone)
            .unwrap_or(IssuedBy::Other)
    }

    /// Gives each list to the bundle whose authority has signed it. A list of an issuer that
    /// no bundle knows by name is that of an intermediate: it goes to the first bundle, and
    /// its signature is checked when a path meets it.
    pub(crate) fn assign(
        lists: Vec<RevocationList>,
        bundles: &mut [Self],
    ) -> Result<(), RevocationListError> {
        for list in lists.into_iter().map(Arc::new) {
            let relations: Vec<_> = bundles.iter_mut().map(|b| b.adopt(&list)).collect();
            if relations.contains(&IssuedBy::Signed) {
                continue;
            }
            if relations.contains(&IssuedBy::NameAlone) {
                return Err(RevocationListError::Forged);
            }
            if let Some(first) = bundles.first_mut() {
                first.revocation_lists.push(list);
            }
        }
        Ok(())
    }

    /// The publisher's sequence number (`spiffe_sequence`), if it gave one.
    #[must_use]
    pub fn sequence(&self) -> Option<u64> {
        self.sequence
    }

    /// The revocation lists of this trust domain.
    pub fn revocation_lists(&self) -> impl Iterator<Item = &RevocationList> {
        self.revocation_lists.iter().map(Arc::as_ref)
    }

    /// Until when no revocation list is out of date; none without lists.
    pub(crate) fn revocation_fresh_until(&self) -> Option<SystemTime> {
        self.revocation_lists()
            .map(RevocationList::next_update)
            .min()
    }

    /// The authorities as path validation takes them.
    pub(crate) fn anchors(&self) -> &[TrustAnchor<'static>] {
        &self.anchors
    }

    /// The authority that an anchor of this bundle was made from.
    pub(crate) fn authority_of(&self, anchor: &TrustAnchor<'_>) -> Option<&Authority> {
        let place = self.anchors.iter().position(|mine| mine == anchor)?;
        self.authorities.get(place)
    }
}

/// The same trust: the sequence number is no part of it.
impl PartialEq for TrustBundle {
    fn eq(&self, other: &Self) -> bool {
        self.trust_domain == other.trust_domain
            && self.authorities == other.authorities
            && self.revocation_lists == other.revocation_lists
    }
}

/// Trust bundles by trust domain.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TrustBundles {
    by_trust_domain: BTreeMap<TrustDomain, Arc<TrustBundle>>,
}

impl TrustBundles {
    /// The bundle of this trust domain, if there is one.
    #[must_use]
    pub fn of(&self, trust_domain: &TrustDomain) -> Option<&Arc<TrustBundle>> {
        self.by_trust_domain.get(trust_domain)
    }

    /// Puts in a bundle, in place of the one of the same trust domain.
    pub fn insert(&mut self, bundle: Arc<TrustBundle>) {
        self.by_trust_domain
            .insert(bundle.trust_domain.clone(), bundle);
    }

    /// All bundles, ordered by trust domain.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<TrustBundle>> {
        self.by_trust_domain.values()
    }

    /// How many trust domains there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_trust_domain.len()
    }

    /// Whether nobody is trusted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_trust_domain.is_empty()
    }
}

impl FromIterator<TrustBundle> for TrustBundles {
    fn from_iter<I: IntoIterator<Item = TrustBundle>>(bundles: I) -> Self {
        let mut all = Self::default();
        for bundle in bundles {
            all.insert(Arc::new(bundle));
        }
        all
    }
}
