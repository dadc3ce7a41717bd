//! The development CA behind `wayleave dev`: a directory that holds a CA, the sidecar's own
//! SVID and one for each sample caller, all renewed while the sidecar runs.
//!
//! For one developer on one machine. The directory is private to its user (mode 0700, files
//! 0600), what is in it is reused while it is valid, and a file that was not written here is
//! never overwritten.

mod directory;
mod error;
mod manifest;
mod papers;
mod workload_api;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use wayleave_identity::{SpiffeId, TrustDomain};

use directory::Directory;
pub use error::DevError;
use papers::Papers;
pub use workload_api::DevWorkloadApi;
use workload_api::Views;

use crate::ca::SvidRequest;
use crate::{IdentityPublisher, IdentityReader};

/// How long an SVID is valid.
pub const SVID_LIFETIME: Duration = Duration::from_secs(60 * 60);

/// How long the CA is valid.
pub const CA_LIFETIME: Duration = Duration::from_secs(90 * 24 * 60 * 60);

/// The longest time between two looks at the clock, so that a suspended laptop or a clock that
/// was set is noticed.
const LONGEST_WAIT: Duration = Duration::from_secs(15);

/// How soon to try again when renewal failed.
const RETRY: Duration = Duration::from_secs(30);

/// Whom the development CA issues SVIDs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DevOptions {
    /// The trust domain that the CA speaks for.
    pub trust_domain: TrustDomain,
    /// The sidecar itself. Its SVID also has `localhost`, 127.0.0.1 and ::1.
    pub sidecar: DevWorkload,
    /// Who may try to call it.
    pub callers: Vec<DevWorkload>,
}

/// One workload of the development trust domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DevWorkload {
    /// The name of its folder below `svids/`.
    pub name: String,
    /// Its SPIFFE ID.
    pub id: SpiffeId,
}

impl DevWorkload {
    /// A workload with its folder's name and its SPIFFE ID.
    #[must_use]
    pub fn new(name: impl Into<String>, id: SpiffeId) -> Self {
        Self {
            name: name.into(),
            id,
        }
    }
}

/// The development CA's directory, opened.
#[derive(Debug)]
pub struct DevDirectory {
    options: DevOptions,
    papers: Papers,
    publisher: IdentityPublisher,
    views: Views,
}

impl DevDirectory {
    /// Opens the directory, makes what is missing and renews what is due.
    ///
    /// # Errors
    ///
    /// When the directory is not safe to keep keys in, holds a file that was not written here
    /// where one is to be written, or cannot be written.
    pub fn open(dir: &Path, options: DevOptions, now: SystemTime) -> Result<Self, DevError> {
        let directory = Directory::open(dir)?;
        let papers = Papers::open(directory, &options.trust_domain, now)?;
        let (publisher, _) = IdentityPublisher::new();
        let mut dev = Self {
            options,
            papers,
            publisher,
            views: Views::default(),
        };
        dev.renew(now)?;
        Ok(dev)
    }

    /// What is published: the sidecar's own SVID and the development bundle.
    #[must_use]
    pub fn reader(&self) -> IdentityReader {
        self.publisher.reader()
    }

    /// The bundle that callers verify the sidecar with.
    #[must_use]
    pub fn bundle_path(&self) -> PathBuf {
        self.papers.bundle_path()
    }

    /// The folder with a workload's `svid.pem`, `key.pem` and `bundle.pem`.
    #[must_use]
    pub fn svid_directory(&self, name: &str) -> PathBuf {
        self.papers.svid_directory(name)
    }

    /// Opens the sockets of the Workload API: `workload.sock` with the SVIDs of all callers,
    /// and one in each caller's folder with its own SVID alone.
    ///
    /// To be called within a tokio runtime.
    ///
    /// # Errors
    ///
    /// When a socket cannot be opened, or another sidecar serves in this directory.
    pub fn workload_api(&self) -> Result<DevWorkloadApi, DevError> {
        let names = self
            .options
            .callers
            .iter()
            .map(|caller| caller.name.as_str());
        DevWorkloadApi::open(self.papers.directory(), &self.views, names)
    }

    /// Whom SVIDs are issued to.
    #[must_use]
    pub fn options(&self) -> &DevOptions {
        &self.options
    }

    /// Renews what is past two thirds of its life and returns when to call again.
    ///
    /// Publishes a new identity when the sidecar's own SVID or the bundle is another.
    ///
    /// # Errors
    ///
    /// When something cannot be written, or stands where we did not put it.
    pub fn renew(&mut self, now: SystemTime) -> Result<SystemTime, DevError> {
        let mut next = self.papers.renew_ca(now)?;
        for caller in &self.options.callers {
            let request = SvidRequest::new(caller.id.clone(), SVID_LIFETIME);
            next = next.min(self.papers.renew_svid(&caller.name, &request, now)?);
        }
        let request = sidecar_request(&self.options.sidecar.id);
        let name = &self.options.sidecar.name;
        let own = self.papers.renew_svid(name, &request, now)?;
        self.publisher.rotates_at(own);
        next = next.min(own);
        self.papers.sync()?;
        self.publish()?;
        Ok(next)
    }

    fn publish(&mut self) -> Result<(), DevError> {
        let callers = self.options.callers.iter();
        let messages = callers.filter_map(|caller| self.papers.message(&caller.name));
        self.views.update(messages.collect());
        let Some(svid) = self.papers.svid(&self.options.sidecar.name).cloned() else {
            return Ok(());
        };
        let bundle = self.papers.bundle()?;
        let same = self.reader().current().is_some_and(|current| {
            // A new bundle is a new CA, and that always issues a new SVID.
            current.svid().chain() == svid.chain()
        });
        if !same {
            self.publisher.publish(svid, [bundle].into_iter().collect());
        }
        Ok(())
    }

    /// Renews for as long as it is polled; a failure is logged and tried again.
    pub async fn run(mut self) {
        let mut next = SystemTime::now();
        loop {
            let now = SystemTime::now();
            if next <= now {
                next = self.renew(now).unwrap_or_else(|error| {
                    tracing::error!(%error, "renewal of the development SVIDs failed; will try again");
                    now + RETRY
                });
            }
            let wait = next.duration_since(now).unwrap_or_default();
            tokio::time::sleep(wait.min(LONGEST_WAIT)).await;
        }
    }
}

/// Stock clients reach the sidecar by these names and verify them.
fn sidecar_request(id: &SpiffeId) -> SvidRequest {
    SvidRequest {
        dns_names: vec!["localhost".to_owned()],
        ip_addresses: vec![
            IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(Ipv6Addr::LOCALHOST),
        ],
        ..SvidRequest::new(id.clone(), SVID_LIFETIME)
    }
}
