//! SVID, key and bundles from files, as cert-manager's csi-driver-spiffe, spiffe-helper or an
//! operator lays them out.
//!
//! All files are read and checked together; a change that does not add up (a new certificate
//! beside the old key) is never published, and the last good identity stays.

mod error;
mod load;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::SystemTime;

use wayleave_identity::TrustDomain;

pub use error::{FileError, FileProblem};
use load::Loaded;

use crate::{IdentityPublisher, IdentityReader};

/// Which files hold the identity. All PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilesConfig {
    /// The certificate chain, leaf first.
    pub svid: PathBuf,
    /// The leaf's private key, unencrypted.
    pub key: PathBuf,
    /// The authorities of the SVID's own trust domain.
    pub bundle: PathBuf,
    /// The authorities of other trust domains, each in a file of its own.
    pub federated: BTreeMap<TrustDomain, PathBuf>,
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
        }
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
            return Ok(false);
        }
        self.publisher
            .publish(loaded.svid.clone(), loaded.bundles.clone());
        self.loaded = loaded;
        Ok(true)
    }
}

/// Checks the files without using them.
///
/// # Errors
///
/// Which file is wrong, in what, and what to do about it.
pub fn check(config: &FilesConfig, now: SystemTime) -> Result<(), FileError> {
    Loaded::read(config, now).map(|_| ())
}
