//! The identity from a SPIFFE Workload API: SPIRE's agent and its compatibles.
//!
//! Each message is the full state. While the agent is away the last good identity is served
//! until it expires; when the agent says that we have none, it is withdrawn at once.

mod context;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;
use wayleave_identity::SpiffeId;

pub use context::ContextError;

use crate::workload_api::{Client, Code, Endpoint, FetchError, Status, X509Context, X509Svid};
use crate::{IdentityPublisher, IdentityReader, Svid, TrustBundles};

/// The first wait after a failure; it doubles with each further one.
const FIRST_WAIT: Duration = Duration::from_millis(500);

/// The longest wait between two attempts.
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// Where the Workload API is and which of its SVIDs is ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkloadApiConfig {
    /// The address.
    pub endpoint: Endpoint,
    /// Which SVID, when there are several.
    pub choice: SvidChoice,
}

/// Which of several SVIDs is ours.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum SvidChoice {
    /// The first, which is the default (SPIFFE Workload API §5.3).
    #[default]
    First,
    /// The one with this hint.
    Hint(String),
    /// The one with this SPIFFE ID.
    Id(SpiffeId),
}

/// Publishes the identity that a Workload API sends.
#[derive(Debug)]
pub struct WorkloadApiSource {
    config: WorkloadApiConfig,
    publisher: IdentityPublisher,
}

impl WorkloadApiSource {
    /// A source that has published nothing yet; [`run`](Self::run) makes it.
    #[must_use]
    pub fn new(config: WorkloadApiConfig) -> Self {
        let (publisher, _) = IdentityPublisher::new();
        Self { config, publisher }
    }

    /// What is published.
    #[must_use]
    pub fn reader(&self) -> IdentityReader {
        self.publisher.reader()
    }

    /// Follows the Workload API for as long as it is polled.
    ///
    /// # Errors
    ///
    /// When the Workload API does not know the call or the request; asking again is useless.
    pub async fn run(mut self) -> Result<std::convert::Infallible, FetchError> {
        let mut wait = FIRST_WAIT;
        loop {
            let mut received = false;
            let error = self.follow(&mut received).await;
            if is_final(&error) {
                return Err(error);
            }
            if is_withdrawal(&error) && self.reader().current().is_some() {
                tracing::error!(%error, "the identity was withdrawn");
                self.publisher.withdraw();
            }
            self.publisher.failed(&error);
            if received {
                wait = FIRST_WAIT;
            }
            tracing::warn!(%error, endpoint = %self.config.endpoint, retry = ?wait, "no connection to the Workload API; the last good identity stays until it expires");
            sleep(jittered(wait)).await;
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }

    /// Follows one stream to its end.
    async fn follow(&mut self, received: &mut bool) -> FetchError {
        let client = Client::new(self.config.endpoint.clone());
        let mut updates = match client.fetch_x509().await {
            Ok(updates) => updates,
            Err(error) => return error,
        };
        loop {
            match updates.next().await {
                Ok(context) => {
                    *received = true;
                    self.take(&context);
                }
                // The specification has a client report a bad message and discard it.
                Err(FetchError::Message(error)) => self.discard(&error),
                Err(error) => return error,
            }
        }
    }

    /// Publishes what a message says, all of it or nothing.
    fn take(&mut self, context: &X509Context) {
        let Some(chosen) = self.config.choice.among(&context.svids) else {
            tracing::error!(choice = ?self.config.choice, "the Workload API sends no such SVID; the identity was withdrawn");
            self.publisher
                .failed(&"the Workload API sends no SVID of our choice");
            self.publisher.withdraw();
            return;
        };
        match context::read(context, chosen) {
            Ok((svid, bundles)) => self.publish(svid, bundles),
            Err(error) => self.discard(&error),
        }
    }

    fn publish(&mut self, svid: Svid, bundles: TrustBundles) {
        let same = self.reader().current().is_some_and(|current| {
            current.svid().chain() == svid.chain() && *current.bundles() == bundles
        });
        if same {
            return self.publisher.succeeded();
        }
        tracing::info!(?svid, "identity received from the Workload API");
        self.publisher.publish(Arc::new(svid), bundles);
    }

    fn discard(&mut self, error: &dyn fmt::Display) {
        tracing::error!(%error, "message of the Workload API discarded; the last good identity stays");
        self.publisher.failed(error);
    }
}

impl SvidChoice {
    fn among<'a>(&self, svids: &'a [X509Svid]) -> Option<&'a X509Svid> {
        svids.iter().find(|svid| match self {
            Self::First => true,
            Self::Hint(hint) => svid.hint == *hint,
            Self::Id(id) => svid.spiffe_id == id.as_str(),
        })
    }
}

/// Asking again would end the same (SPIFFE Workload Endpoint §6).
fn is_final(error: &FetchError) -> bool {
    let codes = [Code::InvalidArgument, Code::Unimplemented];
    matches!(error, FetchError::Status(status) if codes.contains(&status.code))
}

/// We are entitled to no SVID, also not to those that we have.
fn is_withdrawal(error: &FetchError) -> bool {
    let denied = Code::PermissionDenied;
    matches!(error, FetchError::Status(Status { code, .. }) if *code == denied)
}

/// Between half and the whole of a wait, so that not all workloads of a node come at once.
fn jittered(wait: Duration) -> Duration {
    let mut random = [0_u8; 1];
    // Without random bytes the wait is merely not spread.
    let _ = aws_lc_rs::rand::fill(&mut random);
    let [random] = random;
    wait / 2 + wait / 2 * u32::from(random) / 255
}
