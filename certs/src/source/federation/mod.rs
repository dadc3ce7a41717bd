//! The bundles of other trust domains, fetched from their bundle endpoints (SPIFFE
//! Federation) and laid beside those of another source.
//!
//! URL, profile and trust domain of each endpoint are configured, never guessed from one
//! another. A fetch that fails, or answers with something older or broken, changes nothing.

mod endpoint;
mod fetch;
mod relationship;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

pub use endpoint::{EndpointUrl, EndpointUrlError};
pub use fetch::FetchBundleError;
use relationship::Relationship;
pub use relationship::{FederationConfig, FederationError, Profile, RelationshipStatus};

use crate::bundle::BundleDocument;
use crate::{IdentityPublisher, IdentityReader, TrustBundles};

/// The longest time between two looks at what is due: a laptop may have slept.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Publishes another source's identity with the federated bundles beside its own.
#[derive(Debug)]
pub struct FederationSource {
    inner: IdentityReader,
    publisher: IdentityPublisher,
    relationships: Vec<Relationship>,
    status: watch::Sender<Vec<RelationshipStatus>>,
}

/// What a fetch has brought, and for which relationship.
type Fetched = (usize, Result<BundleDocument, FetchBundleError>);

impl FederationSource {
    /// Lays federated bundles beside what `inner` publishes; nothing is fetched yet.
    ///
    /// # Errors
    ///
    /// When a stored or bootstrap bundle, or the web's roots, cannot be read.
    pub fn new(
        inner: IdentityReader,
        configs: Vec<FederationConfig>,
    ) -> Result<Self, FederationError> {
        let relationships = configs
            .into_iter()
            .map(Relationship::open)
            .collect::<Result<Vec<_>, _>>()?;
        let publisher = IdentityPublisher::over(inner.clone());
        let mut source = Self {
            inner,
            publisher,
            relationships,
            status: watch::Sender::default(),
        };
        source.publish();
        Ok(source)
    }

    /// What is published.
    #[must_use]
    pub fn reader(&self) -> IdentityReader {
        self.publisher.reader()
    }

    /// How each relationship is doing, in the order of the configuration.
    #[must_use]
    pub fn status(&self) -> watch::Receiver<Vec<RelationshipStatus>> {
        self.status.subscribe()
    }

    /// Fetches bundles when they are due and follows the other source, for as long as it is
    /// polled.
    pub async fn run(mut self) {
        let mut fetches: JoinSet<Fetched> = JoinSet::new();
        loop {
            self.begin_due(&mut fetches);
            let due = self.relationships.iter().map(Relationship::due);
            let latest = Instant::now() + LONGEST_WAIT;
            let next = due.flatten().min().map_or(latest, |due| due.min(latest));
            tokio::select! {
                () = self.inner.changed() => self.publish(),
                Some(fetched) = fetches.join_next() => self.take(fetched.ok()),
                () = sleep_until(next) => {}
            }
        }
    }

    fn begin_due(&mut self, fetches: &mut JoinSet<Fetched>) {
        let known = self.bundles().unwrap_or_default();
        for (place, relationship) in self.relationships.iter_mut().enumerate() {
            if relationship.due().is_some_and(|due| due <= Instant::now()) {
                let fetch = relationship.begin(&known);
                fetches.spawn(async move { (place, fetch.await) });
            }
        }
    }

    fn take(&mut self, fetched: Option<Fetched>) {
        let Some((place, result)) = fetched else {
            return;
        };
        let Some(relationship) = self.relationships.get_mut(place) else {
            return;
        };
        if let Err(error) = relationship.take(result) {
            let trust_domain = relationship.trust_domain();
            tracing::error!(%trust_domain, %error, "federated bundle not fetched; the last good one stays");
            self.publisher
                .failed(&format!("bundle of `{trust_domain}`: {error}"));
        }
        self.publish();
    }

    /// The other source's bundles, and ours; a trust domain's own bundle is not replaced.
    fn bundles(&self) -> Option<TrustBundles> {
        let identity = self.inner.current()?;
        let own = identity.svid().id().trust_domain();
        let mut bundles = identity.bundles().clone();
        for relationship in &self.relationships {
            match relationship.bundle() {
                Some(bundle) if bundle.trust_domain() != own => bundles.insert(Arc::clone(bundle)),
                _ => {}
            }
        }
        Some(bundles)
    }

    fn publish(&mut self) {
        let statuses = self.relationships.iter().map(Relationship::status);
        self.status.send_replace(statuses.collect());
        let (Some(identity), Some(bundles)) = (self.inner.current(), self.bundles()) else {
            return self.publisher.withdraw();
        };
        let same = self.publisher.reader().current().is_some_and(|current| {
            Arc::ptr_eq(current.svid(), identity.svid()) && *current.bundles() == bundles
        });
        if !same {
            self.publisher.publish(Arc::clone(identity.svid()), bundles);
        }
    }
}
