//! Reads what the Workload API says into an SVID and trust bundles, all of it or nothing.

use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use wayleave_identity::{SpiffeId, SpiffeIdError, TrustDomain};
use x509_parser::asn1_rs::{Any, FromDer};

use crate::bundle::BundleError;
use crate::revocation::{RevocationList, RevocationListError};
use crate::workload_api::{X509Context, X509Svid};
use crate::{Svid, SvidError, TrustBundle, TrustBundles};

/// Why a message of the Workload API was discarded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ContextError {
    /// The SPIFFE ID beside an SVID is not one, or not that of its certificate.
    #[error("the SVID for `{said}` is that of `{found}`")]
    OtherId {
        /// What the message says.
        said: String,
        /// What the certificate says.
        found: SpiffeId,
    },
    /// A trust domain is not named by its SPIFFE ID.
    #[error("`{id}` does not name a trust domain: {}", source.as_ref().map_or_else(|| "it has a path".to_owned(), ToString::to_string))]
    TrustDomain {
        /// What the message says.
        id: String,
        /// Why it does not; none when it has a path.
        source: Option<SpiffeIdError>,
    },
    /// Concatenated certificates are cut off.
    #[error("the certificates of `{of}` are not concatenated DER")]
    Der {
        /// Whose they are.
        of: String,
    },
    /// The SVID is not usable.
    #[error("the SVID of `{id}` cannot be used: {source}")]
    Svid {
        /// Whom it names.
        id: String,
        /// What is wrong.
        source: SvidError,
    },
    /// A bundle is not usable.
    #[error("the trust bundle of `{trust_domain}` cannot be used: {source}")]
    Bundle {
        /// Whose it is.
        trust_domain: TrustDomain,
        /// What is wrong.
        source: BundleError,
    },
    /// A revocation list is not usable.
    #[error(transparent)]
    RevocationList(#[from] RevocationListError),
}

/// The chosen SVID, and everybody's bundles.
pub(super) fn read(
    context: &X509Context,
    chosen: &X509Svid,
) -> Result<(Svid, TrustBundles), ContextError> {
    let svid = read_svid(chosen)?;
    let own = svid.id().trust_domain().clone();
    // The own bundle is first: revocation lists of unknown issuers go to it.
    let mut bundles = vec![read_bundle(own, &chosen.bundle)?];
    for other in &context.svids {
        add(
            &mut bundles,
            trust_domain_of(&other.spiffe_id)?,
            &other.bundle,
        )?;
    }
    for (id, bundle) in &context.federated_bundles {
        add(&mut bundles, trust_domain(id)?, bundle)?;
    }
    let lists = context
        .crls
        .iter()
        .map(|der| RevocationList::from_der(der.clone().into()))
        .collect::<Result<_, _>>()?;
    TrustBundle::assign(lists, &mut bundles)?;
    Ok((svid, bundles.into_iter().collect()))
}

/// A bundle that is already there is not replaced: the chosen SVID's own comes first.
fn add(
    bundles: &mut Vec<TrustBundle>,
    trust_domain: TrustDomain,
    der: &[u8],
) -> Result<(), ContextError> {
    if bundles
        .iter()
        .all(|bundle| *bundle.trust_domain() != trust_domain)
    {
        bundles.push(read_bundle(trust_domain, der)?);
    }
    Ok(())
}

fn read_svid(message: &X509Svid) -> Result<Svid, ContextError> {
    let chain = certificates(&message.x509_svid, &message.spiffe_id)?;
    let key = PrivatePkcs8KeyDer::from(message.x509_svid_key.clone());
    let svid = Svid::from_der(chain, key.into()).map_err(|source| ContextError::Svid {
        id: message.spiffe_id.clone(),
        source,
    })?;
    match message.spiffe_id.parse::<SpiffeId>() {
        Ok(said) if said == *svid.id() => Ok(svid),
        _ => Err(ContextError::OtherId {
            said: message.spiffe_id.clone(),
            found: svid.id().clone(),
        }),
    }
}

fn read_bundle(trust_domain: TrustDomain, der: &[u8]) -> Result<TrustBundle, ContextError> {
    let authorities = certificates(der, trust_domain.as_str())?;
    TrustBundle::from_der(trust_domain.clone(), authorities).map_err(|source| {
        ContextError::Bundle {
            trust_domain,
            source,
        }
    })
}

/// The trust domain that an ID without path names.
fn trust_domain(id: &str) -> Result<TrustDomain, ContextError> {
    let parsed: Result<SpiffeId, _> = id.parse();
    let source = match parsed {
        Ok(root) if root.is_root() => return Ok(root.trust_domain().clone()),
        Ok(_) => None,
        Err(source) => Some(source),
    };
    let id = id.to_owned();
    Err(ContextError::TrustDomain { id, source })
}

/// The trust domain that a workload's ID is in.
fn trust_domain_of(id: &str) -> Result<TrustDomain, ContextError> {
    match id.parse::<SpiffeId>() {
        Ok(id) => Ok(id.trust_domain().clone()),
        Err(source) => Err(ContextError::TrustDomain {
            id: id.to_owned(),
            source: Some(source),
        }),
    }
}

/// Takes concatenated DER apart.
fn certificates(mut der: &[u8], of: &str) -> Result<Vec<CertificateDer<'static>>, ContextError> {
    let broken = || ContextError::Der { of: of.to_owned() };
    let mut found = Vec::new();
    while !der.is_empty() {
        let (rest, _) = Any::from_der(der).map_err(|_| broken())?;
        let certificate = der.get(..der.len() - rest.len()).ok_or_else(broken)?;
        found.push(CertificateDer::from(certificate.to_vec()));
        der = rest;
    }
    Ok(found)
}
