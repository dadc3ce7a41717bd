//! The identity of this workload as one immutable snapshot, and the hand-over from the source
//! that makes it to those who use it.
//!
//! A reader takes one snapshot for each handshake and keeps it; it never sees half of a change.

use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwapOption;
use tokio::sync::watch;

use crate::{Svid, TrustBundles};

/// Our own SVID and whom we trust, at one moment.
#[derive(Debug)]
pub struct Identity {
    generation: u64,
    svid: Arc<Svid>,
    bundles: TrustBundles,
}

impl Identity {
    /// Counts the snapshots of one source, from 1; a larger number is a later snapshot.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
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
}

/// The end of the hand-over that a source holds.
#[derive(Debug)]
pub struct IdentityPublisher {
    current: Arc<ArcSwapOption<Identity>>,
    generation: watch::Sender<u64>,
}

/// The end of the hand-over that everybody else holds. Cheap to clone.
#[derive(Debug, Clone)]
pub struct IdentityReader {
    current: Arc<ArcSwapOption<Identity>>,
    generation: watch::Receiver<u64>,
}

impl IdentityPublisher {
    /// A hand-over in which nothing has been published yet.
    #[must_use]
    pub fn new() -> (Self, IdentityReader) {
        let current = Arc::new(ArcSwapOption::empty());
        let (sender, receiver) = watch::channel(0);
        let reader = IdentityReader {
            current: Arc::clone(&current),
            generation: receiver,
        };
        let publisher = Self {
            current,
            generation: sender,
        };
        (publisher, reader)
    }

    /// Makes a new snapshot current and wakes those who wait; returns its generation.
    pub fn publish(&mut self, svid: Arc<Svid>, bundles: TrustBundles) -> u64 {
        let generation = *self.generation.borrow() + 1;
        self.current.store(Some(Arc::new(Identity {
            generation,
            svid,
            bundles,
        })));
        self.generation.send_replace(generation);
        generation
    }

    /// Takes the identity away: from now on there is none.
    ///
    /// For a source that was told to stop using its SVID.
    pub fn withdraw(&mut self) {
        self.current.store(None);
        self.generation.send_modify(|generation| *generation += 1);
    }

    /// Another reader of what is published here.
    #[must_use]
    pub fn reader(&self) -> IdentityReader {
        IdentityReader {
            current: Arc::clone(&self.current),
            generation: self.generation.subscribe(),
        }
    }
}

impl IdentityReader {
    /// The current snapshot; none before the first SVID and after it was withdrawn.
    #[must_use]
    pub fn current(&self) -> Option<Arc<Identity>> {
        self.current.load_full()
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
        self.current
            .load()
            .as_ref()
            .is_some_and(|identity| identity.svid.is_valid_at(now))
    }
}
