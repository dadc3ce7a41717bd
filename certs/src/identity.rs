//! The identity of this workload as one immutable snapshot, and the hand-over from the source
//! that makes it to those who use it.
//!
//! A reader takes one snapshot for each handshake and keeps it; it never sees half of a change.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use tokio::sync::watch;
use wayleave_identity::TrustDomain;

use crate::verify::{self, VerifyError};
use crate::{Peer, Svid, TrustBundle, TrustBundles};

/// Our own SVID and whom we trust, at one moment.
#[derive(Debug)]
pub struct Identity {
    generation: u64,
    trust_generation: u64,
    since: SystemTime,
    svid: Arc<Svid>,
    bundles: TrustBundles,
    bundles_since: BTreeMap<TrustDomain, SystemTime>,
}

impl Identity {
    /// Counts the snapshots of one source, from 1; a larger number is a later snapshot.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// The generation in which the trust bundles last changed.
    ///
    /// Who was verified in the same trust generation is trusted until the chain expires.
    #[must_use]
    pub fn trust_generation(&self) -> u64 {
        self.trust_generation
    }

    /// When it was published.
    #[must_use]
    pub fn since(&self) -> SystemTime {
        self.since
    }

    /// Our own SVID.
    #[must_use]
    pub fn svid(&self) -> &Arc<Svid> {
        &self.svid
    }

    /// Whom we trust, by trust domain.
    #[must_use]
    pub fn bundles(&self) -> &TrustBundles {
        &self.bundles
    }

    /// Since when the bundle of a trust domain has been as it is; none without a bundle.
    #[must_use]
    pub fn bundle_since(&self, trust_domain: &TrustDomain) -> Option<SystemTime> {
        self.bundles_since.get(trust_domain).copied()
    }

    /// Whether a peer that was verified earlier would be accepted at `now` as well.
    ///
    /// To be asked for each live connection when the identity changes, and at the peer's
    /// [`not_after`](Peer::not_after). Cheap while the trust bundles are the same; otherwise
    /// the peer's chain is verified again.
    ///
    /// # Errors
    ///
    /// Why the peer is no longer trusted: its chain expired, its trust domain or its authority
    /// left the bundles, or a certificate of its chain was revoked.
    pub fn still_trusts(&self, peer: &Peer, now: SystemTime) -> Result<(), VerifyError> {
        let verified = peer.verified();
        if verified.is_fresh(self.trust_generation, now) {
            return Ok(());
        }
        verify::verify(verified.chain(), &self.bundles, verified.role(), now)?;
        verified.renew(self.trust_generation);
        Ok(())
    }
}

/// What both ends of the hand-over share.
#[derive(Debug, Default)]
struct Shared {
    current: ArcSwapOption<Identity>,
    updates: AtomicU64,
    failures: AtomicU64,
    last_failure: ArcSwapOption<Failure>,
    /// In seconds since 1970; 0 when it is not known.
    next_rotation: AtomicU64,
    /// The source whose identity this one passes on.
    beneath: ArcSwapOption<IdentityReader>,
}

/// Something that a source could not do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// When.
    pub at: SystemTime,
    /// In words.
    pub message: String,
}

/// How a source has been doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceStatus {
    /// How many snapshots it has published.
    pub updates: u64,
    /// How often it has failed.
    pub failures: u64,
    /// The latest failure; none after a success.
    pub last_failure: Option<Arc<Failure>>,
    /// When the source means to renew the SVID, in whole seconds; none when that is for
    /// somebody else to decide.
    pub next_rotation: Option<SystemTime>,
}

/// The end of the hand-over that a source holds.
#[derive(Debug)]
pub struct IdentityPublisher {
    shared: Arc<Shared>,
    generation: watch::Sender<u64>,
}

/// The end of the hand-over that everybody else holds. Cheap to clone.
#[derive(Debug, Clone)]
pub struct IdentityReader {
    shared: Arc<Shared>,
    generation: watch::Receiver<u64>,
}

impl IdentityPublisher {
    /// A hand-over in which nothing has been published yet.
    #[must_use]
    pub fn new() -> (Self, IdentityReader) {
        let publisher = Self::with(Shared::default());
        let reader = publisher.reader();
        (publisher, reader)
    }

    /// A hand-over that passes on what another source publishes; its status includes that
    /// source's.
    pub(crate) fn over(beneath: IdentityReader) -> Self {
        let mut publisher = Self::with(Shared::default());
        publisher.follow(beneath);
        publisher
    }

    /// Says whose identity is passed on from now on: the status includes that source's.
    pub fn follow(&mut self, beneath: IdentityReader) {
        self.shared.beneath.store(Some(Arc::new(beneath)));
    }

    fn with(shared: Shared) -> Self {
        Self {
            shared: Arc::new(shared),
            generation: watch::Sender::new(0),
        }
    }

    /// Makes a new snapshot current and wakes those who wait; returns its generation.
    pub fn publish(&mut self, svid: Arc<Svid>, bundles: TrustBundles) -> u64 {
        let generation = *self.generation.borrow() + 1;
        let before = self.shared.current.load();
        let trust_generation = match before.as_ref() {
            Some(before) if before.bundles == bundles => before.trust_generation,
            _ => generation,
        };
        let now = SystemTime::now();
        let bundles_since = bundles_since(before.as_deref(), &bundles, now);
        self.shared.current.store(Some(Arc::new(Identity {
            generation,
            trust_generation,
            since: now,
            svid,
            bundles,
            bundles_since,
        })));
        self.shared.updates.fetch_add(1, Ordering::Relaxed);
        self.succeeded();
        self.generation.send_replace(generation);
        generation
    }

    /// Takes the identity away: from now on there is none.
    ///
    /// For a source that was told to stop using its SVID.
    pub fn withdraw(&mut self) {
        self.shared.current.store(None);
        self.generation.send_modify(|generation| *generation += 1);
    }

    /// Remembers a failure for the status; what was published stays.
    pub fn failed(&mut self, message: &dyn fmt::Display) {
        self.shared.failures.fetch_add(1, Ordering::Relaxed);
        self.shared.last_failure.store(Some(Arc::new(Failure {
            at: SystemTime::now(),
            message: message.to_string(),
        })));
    }

    /// Remembers for the status when the SVID is to be renewed.
    pub fn rotates_at(&mut self, at: SystemTime) {
        let since = at.duration_since(SystemTime::UNIX_EPOCH);
        let seconds = since.map_or(0, |since| since.as_secs());
        self.shared.next_rotation.store(seconds, Ordering::Relaxed);
    }

    /// Remembers that the source is well, also when nothing changed.
    pub fn succeeded(&mut self) {
        self.shared.last_failure.store(None);
    }

    /// Another reader of what is published here.
    #[must_use]
    pub fn reader(&self) -> IdentityReader {
        IdentityReader {
            shared: Arc::clone(&self.shared),
            generation: self.generation.subscribe(),
        }
    }
}

/// A bundle that is the same as before has been so since then.
fn bundles_since(
    before: Option<&Identity>,
    bundles: &TrustBundles,
    now: SystemTime,
) -> BTreeMap<TrustDomain, SystemTime> {
    let since = |bundle: &Arc<TrustBundle>| {
        let name = bundle.trust_domain();
        let same = before.filter(|before| before.bundles.of(name) == Some(bundle));
        let since = same.and_then(|before| before.bundle_since(name));
        (name.clone(), since.unwrap_or(now))
    };
    bundles.iter().map(since).collect()
}

impl IdentityReader {
    /// The current snapshot; none before the first SVID and after it was withdrawn.
    #[must_use]
    pub fn current(&self) -> Option<Arc<Identity>> {
        self.shared.current.load_full()
    }

    /// Waits until the snapshot is another than when this reader last looked here.
    ///
    /// Never returns once the source is gone: the last snapshot then stays until it expires.
    pub async fn changed(&mut self) {
        if self.generation.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Whether there is an SVID that is valid at `now`.
    #[must_use]
    pub fn is_usable(&self, now: SystemTime) -> bool {
        let current = self.shared.current.load();
        current
            .as_ref()
            .is_some_and(|identity| identity.svid.is_valid_at(now))
    }

    /// How the source has been doing.
    #[must_use]
    pub fn status(&self) -> SourceStatus {
        let beneath = self.shared.beneath.load();
        let beneath = beneath.as_deref().map(IdentityReader::status);
        let own = self.shared.last_failure.load_full();
        SourceStatus {
            updates: self.shared.updates.load(Ordering::Relaxed),
            failures: self.shared.failures.load(Ordering::Relaxed)
                + beneath.as_ref().map_or(0, |status| status.failures),
            next_rotation: beneath
                .as_ref()
                .and_then(|status| status.next_rotation)
                .or(self.next_rotation()),
            last_failure: beneath.and_then(|status| status.last_failure).or(own),
        }
    }

    fn next_rotation(&self) -> Option<SystemTime> {
        let seconds = self.shared.next_rotation.load(Ordering::Relaxed);
        (seconds != 0).then(|| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
    }
}
