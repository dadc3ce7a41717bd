//! The sidecar's own identity, from what the configuration names: a source, and the bundles of
//! federated trust domains laid beside it.
//!
//! Opening reads files and asks nobody; [`OpenIdentity::keep`] then watches, follows and
//! fetches for as long as it is polled.

use std::time::{Duration, SystemTime};

use wayleave_certs::IdentityReader;
use wayleave_certs::source::federation::{FederationError, FederationSource};
use wayleave_certs::source::files::{FileError, FilesSource};
use wayleave_certs::source::workload_api::{self, WorkloadApiSource};
use wayleave_certs::workload_api::{Endpoint, EndpointError, FetchError};

use crate::config::{IdentityConfig, IdentitySource, WorkloadApiConfig};

/// Why an identity cannot be opened. Each is the user's to mend: exit status 2.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    /// A file of the SVID, key, bundles or revocation lists.
    #[error(transparent)]
    Files(#[from] FileError),
    /// No endpoint is configured, and the environment names none.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// A bundle or the web's roots.
    #[error(transparent)]
    Federation(#[from] FederationError),
}

/// Why a sidecar with a Workload API cannot go on: exit status 1.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Lost {
    /// The first SVID did not come in time.
    #[error(
        "no SVID from the Workload API at {endpoint} within {limit:?}: {why}; check that the agent runs and has an entry for this workload, or raise identity.workload_api.first_svid_timeout"
    )]
    NoSvid {
        /// Where we asked.
        endpoint: Endpoint,
        /// How long we waited.
        limit: Duration,
        /// The latest failure.
        why: String,
    },
    /// The Workload API will never answer.
    #[error("the Workload API at {endpoint} will not serve this sidecar")]
    Refused {
        /// Where we asked.
        endpoint: Endpoint,
        /// What it said.
        #[source]
        source: FetchError,
    },
}

/// An identity that has been opened, and is not kept up to date yet.
#[derive(Debug)]
pub(crate) struct OpenIdentity {
    source: Source,
    federation: Option<FederationSource>,
}

#[derive(Debug)]
enum Source {
    Files(FilesSource),
    WorkloadApi {
        source: WorkloadApiSource,
        endpoint: Endpoint,
        limit: Duration,
    },
}

/// The address of a Workload API: that of the configuration, or the environment's.
pub(crate) fn endpoint(config: &WorkloadApiConfig) -> Result<Endpoint, EndpointError> {
    match &config.endpoint {
        Some(endpoint) => Ok(endpoint.clone()),
        None => Endpoint::from_environment(),
    }
}

impl OpenIdentity {
    /// Reads the files that are named; a Workload API is not asked yet.
    ///
    /// # Errors
    ///
    /// When a file cannot be used, or there is no address to ask.
    pub(crate) fn open(config: IdentityConfig, now: SystemTime) -> Result<Self, OpenError> {
        let source = Source::open(config.source, now)?;
        let federation = match config.federation.is_empty() {
            true => None,
            false => Some(FederationSource::new(source.reader(), config.federation)?),
        };
        Ok(Self { source, federation })
    }

    /// What is published.
    pub(crate) fn reader(&self) -> IdentityReader {
        match &self.federation {
            Some(federation) => federation.reader(),
            None => self.source.reader(),
        }
    }

    /// Keeps the identity up to date for as long as it is polled, and says why it cannot any
    /// more.
    pub(crate) async fn keep(self) -> Lost {
        let federation = async {
            match self.federation {
                Some(federation) => federation.run().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            lost = self.source.keep() => lost,
            () = federation => std::future::pending().await,
        }
    }
}

impl Source {
    fn open(config: IdentitySource, now: SystemTime) -> Result<Self, OpenError> {
        Ok(match config {
            IdentitySource::Files(files) => Self::Files(FilesSource::load(files, now)?),
            IdentitySource::WorkloadApi(config) => {
                let endpoint = endpoint(&config)?;
                let source = WorkloadApiSource::new(workload_api::WorkloadApiConfig {
                    endpoint: endpoint.clone(),
                    choice: config.choice,
                });
                Self::WorkloadApi {
                    source,
                    endpoint,
                    limit: config.first_svid_timeout,
                }
            }
        })
    }

    fn reader(&self) -> IdentityReader {
        match self {
            Self::Files(source) => source.reader(),
            Self::WorkloadApi { source, .. } => source.reader(),
        }
    }

    async fn keep(self) -> Lost {
        match self {
            Self::Files(source) => {
                source.watch().await;
                std::future::pending().await
            }
            Self::WorkloadApi {
                source,
                endpoint,
                limit,
            } => follow(source, endpoint, limit).await,
        }
    }
}

/// Follows a Workload API; gives up when it refuses, or when the first SVID does not come.
async fn follow(source: WorkloadApiSource, endpoint: Endpoint, limit: Duration) -> Lost {
    let reader = source.reader();
    let mut run = std::pin::pin!(source.run());
    let refused = |source| Lost::Refused {
        endpoint: endpoint.clone(),
        source,
    };
    let first = async { tokio::time::timeout(limit, until_svid(reader.clone())).await };
    tokio::select! {
        Err(error) = &mut run => return refused(error),
        first = first => if first.is_err() {
            let failure = reader.status().last_failure;
            return Lost::NoSvid {
                endpoint,
                limit,
                why: failure.map_or_else(|| "no answer".to_owned(), |last| last.message.clone()),
            };
        },
    }
    match run.await {
        Err(error) => refused(error),
        Ok(never) => match never {},
    }
}

/// Waits for the first identity.
pub(crate) async fn until_svid(mut reader: IdentityReader) {
    while reader.current().is_none() {
        reader.changed().await;
    }
}
