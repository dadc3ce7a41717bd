//! One federation relationship: where another trust domain's bundle is, the latest one that
//! was fetched, and when to fetch it again.

use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;
use wayleave_identity::{SpiffeId, TrustDomain};

use super::endpoint::EndpointUrl;
use super::fetch::{FetchBundleError, Server, fetch};
use crate::bundle::{BundleDocument, BundleError, JwksError};
use crate::tls::{WebRoots, WebRootsError};
use crate::{TrustBundle, TrustBundles, disk};

/// The shortest and longest time between two fetches, whatever the publisher wants.
const SHORTEST_REFRESH: Duration = Duration::from_secs(5);
const LONGEST_REFRESH: Duration = Duration::from_secs(24 * 60 * 60);

/// When to try again while there is no bundle at all.
const FIRST_RETRY: Duration = Duration::from_secs(10);

/// What has to be known of another trust domain's bundle endpoint (SPIFFE Federation §5.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FederationConfig {
    /// Whose bundle it is. Never taken from the URL.
    pub trust_domain: TrustDomain,
    /// Where the bundle is.
    pub url: EndpointUrl,
    /// How the endpoint proves who it is.
    pub profile: Profile,
    /// Where the latest bundle is kept, so that a restart does not begin with the bootstrap
    /// bundle or none.
    pub store: Option<PathBuf>,
    /// How long a fetch may take in all, redirects included.
    pub time_limit: Duration,
}

impl FederationConfig {
    /// A relationship whose bundle is not stored, with 30 s for a fetch.
    #[must_use]
    pub fn new(trust_domain: TrustDomain, url: EndpointUrl, profile: Profile) -> Self {
        Self {
            trust_domain,
            url,
            profile,
            store: None,
            time_limit: Duration::from_secs(30),
        }
    }
}

/// How a bundle endpoint proves who it is (SPIFFE Federation §5.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Profile {
    /// As a host of the web.
    HttpsWeb {
        /// PEM file of the authorities; the system's where there is none.
        roots: Option<PathBuf>,
    },
    /// As a workload.
    HttpsSpiffe {
        /// The endpoint's SPIFFE ID.
        endpoint_id: SpiffeId,
        /// A first bundle (PEM or SPIFFE bundle format) of the trust domain of `endpoint_id`.
        /// Needed unless that trust domain's bundle is known otherwise.
        bootstrap: Option<PathBuf>,
    },
}

/// Why a relationship cannot be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FederationError {
    /// A file cannot be read.
    #[error("{}: cannot be read: {source}", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A stored or bootstrap bundle is not usable.
    #[error("{}: the bundle of `{trust_domain}` cannot be used: {source}", path.display())]
    Bundle {
        /// Which file.
        path: PathBuf,
        /// Whose bundle.
        trust_domain: TrustDomain,
        /// What is wrong.
        source: BundleError,
    },
    /// The authorities of the web cannot be read.
    #[error(
        "the web's certificate authorities cannot be read: {0}; install the package ca-certificates, or name a PEM file"
    )]
    Roots(#[source] WebRootsError),
}

/// How a relationship is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelationshipStatus {
    /// Whose bundle is fetched.
    pub trust_domain: TrustDomain,
    /// Where from.
    pub url: String,
    /// The sequence number of the latest bundle.
    pub sequence: Option<u64>,
    /// How many authorities the latest bundle has; none before the first.
    pub authorities: Option<usize>,
    /// When a bundle was fetched last.
    pub fetched_at: Option<SystemTime>,
    /// Why the latest fetch failed; none when it did not.
    pub failure: Option<String>,
}

#[derive(Debug)]
pub(super) struct Relationship {
    config: FederationConfig,
    server: ServerProof,
    bundle: Option<Arc<TrustBundle>>,
    /// None while a fetch is under way.
    due: Option<Instant>,
    fetched_at: Option<SystemTime>,
    failure: Option<String>,
}

#[derive(Debug)]
enum ServerProof {
    Web(WebRoots),
    Spiffe {
        endpoint_id: SpiffeId,
        bootstrap: Option<Arc<TrustBundle>>,
    },
}

impl Relationship {
    pub(super) fn open(config: FederationConfig) -> Result<Self, FederationError> {
        let server = match &config.profile {
            Profile::HttpsWeb { roots } => ServerProof::Web(read_roots(roots.as_deref())?),
            Profile::HttpsSpiffe {
                endpoint_id,
                bootstrap,
            } => ServerProof::Spiffe {
                endpoint_id: endpoint_id.clone(),
                bootstrap: bootstrap
                    .as_ref()
                    .map(|path| read_bundle(path, endpoint_id.trust_domain()))
                    .transpose()?,
            },
        };
        let stored = match config.store.as_ref().filter(|path| path.exists()) {
            Some(path) => Some(read_bundle(path, &config.trust_domain)?),
            None => None,
        };
        let bundle = stored.or_else(|| server.bundle_of(&config.trust_domain));
        Ok(Self {
            config,
            server,
            bundle,
            due: Some(Instant::now()),
            fetched_at: None,
            failure: None,
        })
    }

    pub(super) fn trust_domain(&self) -> &TrustDomain {
        &self.config.trust_domain
    }

    /// The latest bundle.
    pub(super) fn bundle(&self) -> Option<&Arc<TrustBundle>> {
        self.bundle.as_ref()
    }

    /// When to fetch next; none while a fetch is under way.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// A fetch with what is known now; the endpoint is proved by the latest bundles.
    pub(super) fn begin(
        &mut self,
        known: &TrustBundles,
    ) -> impl Future<Output = Result<BundleDocument, FetchBundleError>> + Send + 'static {
        self.due = None;
        let server = match &self.server {
            ServerProof::Web(roots) => Server::Web(roots.clone()),
            ServerProof::Spiffe {
                endpoint_id,
                bootstrap,
            } => {
                let endpoint = endpoint_id.trust_domain();
                let own = self
                    .bundle
                    .as_ref()
                    .filter(|b| b.trust_domain() == endpoint);
                let latest = own.or_else(|| known.of(endpoint)).or(bootstrap.as_ref());
                let mut bundles = TrustBundles::default();
                if let Some(bundle) = latest {
                    bundles.insert(Arc::clone(bundle));
                }
                Server::Spiffe(endpoint_id.clone(), bundles)
            }
        };
        fetch(&self.config, server)
    }

    /// Takes what a fetch has brought and says when the next is due.
    pub(super) fn take(
        &mut self,
        fetched: Result<BundleDocument, FetchBundleError>,
    ) -> Result<(), FetchBundleError> {
        let result = fetched.and_then(|document| self.check_sequence(document));
        let wait = match (&result, &self.bundle) {
            (Ok(document), _) => document.refresh_after(),
            // The specification has a client wait for the next regular time.
            (Err(_), Some(_)) => crate::bundle::jwks::DEFAULT_REFRESH,
            (Err(_), None) => FIRST_RETRY,
        };
        self.due = Some(Instant::now() + wait.clamp(SHORTEST_REFRESH, LONGEST_REFRESH));
        self.failure = result.as_ref().err().map(ToString::to_string);
        let document = result?;
        self.store(&document);
        self.fetched_at = Some(SystemTime::now());
        self.bundle = Some(Arc::new(document.bundle));
        Ok(())
    }

    /// An attacker who can replay an old bundle must not bring back a revoked authority.
    fn check_sequence(&self, document: BundleDocument) -> Result<BundleDocument, FetchBundleError> {
        let known = self.bundle.as_ref().and_then(|b| Some((b, b.sequence()?)));
        let (Some((bundle, known)), Some(found)) = (known, document.bundle.sequence()) else {
            return Ok(document);
        };
        if found < known {
            return Err(FetchBundleError::OlderSequence { found, known });
        }
        if found == known && **bundle != document.bundle {
            return Err(FetchBundleError::SameSequence(known));
        }
        Ok(document)
    }

    /// A bundle that cannot be stored is still the latest one.
    fn store(&self, document: &BundleDocument) {
        if let Some(path) = &self.config.store
            && let Err(error) = disk::write_atomic(path, document.to_jwks().as_bytes(), 0o644)
        {
            tracing::warn!(path = %path.display(), %error, "federated bundle not stored");
        }
    }

    pub(super) fn status(&self) -> RelationshipStatus {
        RelationshipStatus {
            trust_domain: self.config.trust_domain.clone(),
            url: self.config.url.to_string(),
            sequence: self.bundle.as_ref().and_then(|b| b.sequence()),
            authorities: self.bundle.as_ref().map(|b| b.authorities().len()),
            fetched_at: self.fetched_at,
            failure: self.failure.clone(),
        }
    }
}

impl ServerProof {
    /// A self-serving endpoint's bootstrap bundle is the first bundle of its trust domain.
    fn bundle_of(&self, trust_domain: &TrustDomain) -> Option<Arc<TrustBundle>> {
        match self {
            Self::Spiffe {
                bootstrap: Some(bundle),
                ..
            } if bundle.trust_domain() == trust_domain => Some(Arc::clone(bundle)),
            _ => None,
        }
    }
}

fn read_bundle(
    path: &Path,
    trust_domain: &TrustDomain,
) -> Result<Arc<TrustBundle>, FederationError> {
    let text = read(path)?;
    let bundle_error = |source| FederationError::Bundle {
        path: path.to_owned(),
        trust_domain: trust_domain.clone(),
        source,
    };
    let bundles = TrustBundle::from_any(trust_domain.clone(), &text).map_err(bundle_error)?;
    bundles
        .into_iter()
        .find(|bundle| bundle.trust_domain() == trust_domain)
        .map(Arc::new)
        .ok_or_else(|| bundle_error(JwksError::NoTrustDomain(trust_domain.clone()).into()))
}

fn read(path: &Path) -> Result<Vec<u8>, FederationError> {
    disk::read(path).map_err(|source| FederationError::Io {
        path: path.to_owned(),
        source,
    })
}

fn read_roots(path: Option<&Path>) -> Result<WebRoots, FederationError> {
    let roots = match path {
        Some(path) => WebRoots::file(path),
        None => WebRoots::system(),
    };
    match roots {
        Err(WebRootsError::Io { path, source }) => Err(FederationError::Io { path, source }),
        other => other.map_err(FederationError::Roots),
    }
}
