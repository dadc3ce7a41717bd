//! SVID, key and bundles from files, as cert-manager's csi-driver-spiffe, spiffe-helper or an
//! operator lays them out.
//!
//! All files are read and checked together; a change that does not add up (a new certificate
//! beside the old key) is never published, and the last good identity stays.

mod error;
mod load;
mod watch;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::SystemTime;

use wayleave_identity::TrustDomain;

pub use error::{FileError, FileProblem};
use load::Loaded;
pub use watch::WatchTiming;

use crate::{IdentityPublisher, IdentityReader};

/// Which files hold the identity; PEM unless said otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilesConfig {
    /// The certificate chain, leaf first.
    pub svid: PathBuf,
    /// The leaf's private key, unencrypted.
    pub key: PathBuf,
    /// The authorities of the SVID's own trust domain: PEM, or the SPIFFE bundle format. In
    /// the map form of the latter, the other trust domains are trusted as well.
    pub bundle: PathBuf,
    /// The authorities of other trust domains, each in a file of its own, in the same forms.
    pub federated: BTreeMap<TrustDomain, PathBuf>,
    /// Certificate revocation lists (PEM or DER) of any of these trust domains.
    pub revocation_lists: Vec<PathBuf>,
}

impl FilesConfig {
    /// An identity that trusts its own trust domain alone.
    #[must_use]
    pub fn new(svid: PathBuf, key: PathBuf, bundle: PathBuf) -> Self {
        Self {
            svid,
            key,
            bundle,
            federated: BTreeMap::new(),
            revocation_lists: Vec::new(),
        }
    }

    /// Every file that is read.
    fn paths(&self) -> impl Iterator<Item = &PathBuf> {
        [&self.svid, &self.key, &self.bundle]
            .into_iter()
            .chain(self.federated.values())
            .chain(&self.revocation_lists)
    }
}

/// Publishes the identity that the files hold.
#[derive(Debug)]
pub struct FilesSource {
    config: FilesConfig,
    publisher: IdentityPublisher,
    loaded: Loaded,
}

impl FilesSource {
    /// Reads the files now and publishes what they hold.
    ///
    /// # Errors
    ///
    /// Which file is wrong, in what, and what to do about it.
    pub fn load(config: FilesConfig, now: SystemTime) -> Result<Self, FileError> {
        let loaded = Loaded::read(&config, now)?;
        let (mut publisher, _) = IdentityPublisher::new();
        publisher.publish(loaded.svid.clone(), loaded.bundles.clone());
        Ok(Self {
            config,
            publisher,
            loaded,
        })
    }

    /// What is published.
    #[must_use]
    pub fn reader(&self) -> IdentityReader {
        self.publisher.reader()
    }

    /// Reads the files again; publishes when they hold something else than before.
    ///
    /// # Errors
    ///
    /// Which file is wrong; what was published before then stays.
    pub fn reload(&mut self, now: SystemTime) -> Result<bool, FileError> {
        let loaded = Loaded::read(&self.config, now)?;
        if loaded.digest == self.loaded.digest {
            self.publisher.succeeded();
            return Ok(false);
        }
        self.publisher
            .publish(loaded.svid.clone(), loaded.bundles.clone());
        self.loaded = loaded;
        Ok(true)
    }

    /// Watches the files for as long as it is polled, and publishes what changes.
    ///
    /// A failure is logged and shows in the reader's status; the last good identity stays.
    pub async fn watch(self) {
        self.watch_with(WatchTiming::default()).await;
    }

    /// [`FilesSource::watch`] with other waits.
    pub async fn watch_with(self, timing: WatchTiming) {
        watch::Watch::new(self, timing).run().await;
    }
}
