//! Where a transmitter's keys come from: a file that is watched, or a URL that is fetched now and
//! then, and at once for a key that is not known yet.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use http::Request;
use http::header::ACCEPT;
use tokio::sync::Mutex;
use tokio::time::Instant;
use wayleave_certs::disk;

use super::fetch::{FetchError, Fetcher};
use super::health::{Health, Part};
use super::keys::{KeySet, MAX_BYTES};
use super::refusal::Refusal;
use super::set::Unverified;
use super::watched::Watched;
use crate::config::JwksSource;

/// How long a fetch may take.
const LIMIT: Duration = Duration::from_secs(10);
/// The least time between two fetches, whoever asks for keys that are not there.
const APART: Duration = Duration::from_secs(30);

/// The keys of a transmitter.
#[derive(Debug)]
pub(super) enum Keys {
    File(Arc<Watched<KeySet>>),
    Url(Box<Fetched>),
}

/// Keys from a URL; the last good ones stay when it cannot be reached.
#[derive(Debug)]
pub(super) struct Fetched {
    fetcher: Fetcher,
    refresh: Duration,
    current: ArcSwapOption<KeySet>,
    /// When it was asked last; held while it is asked.
    asked: Mutex<Option<Instant>>,
}

impl Keys {
    /// Reads a file; a URL is not asked yet.
    ///
    /// # Errors
    /// When the file cannot be used.
    pub(super) fn open(source: &JwksSource) -> Result<Self, String> {
        Ok(match source {
            JwksSource::File(path) => {
                let own = path.clone();
                Self::File(Watched::open(std::slice::from_ref(path), move || {
                    read(&own)
                })?)
            }
            JwksSource::Url {
                url,
                ca_file,
                refresh,
            } => Self::Url(Box::new(Fetched {
                fetcher: Fetcher::new(url.clone(), ca_file.clone()),
                refresh: *refresh,
                current: ArcSwapOption::empty(),
                asked: Mutex::default(),
            })),
        })
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.current().map_or(0, |keys| keys.len())
    }

    fn current(&self) -> Option<Arc<KeySet>> {
        match self {
            Self::File(watched) => Some(watched.current()),
            Self::Url(fetched) => fetched.current.load_full(),
        }
    }

    /// The keys to verify a token with, looked for again where none of them fits it.
    ///
    /// # Errors
    /// When there may be others soon.
    pub(super) async fn for_token(
        &self,
        token: &Unverified<'_>,
        health: &Health,
    ) -> Result<Arc<KeySet>, Refusal> {
        let fitting = |keys: &Arc<KeySet>| token.has_key_in(keys);
        if let Some(keys) = self.current().filter(fitting) {
            return Ok(keys);
        }
        match self {
            Self::File(watched) => {
                // What is wrong with the file is told by whoever watches it.
                let _ = watched.reload().await;
                Ok(watched.current())
            }
            Self::Url(fetched) => {
                let mut asked = fetched.asked.lock().await;
                // Somebody else may have fetched them meanwhile.
                if let Some(keys) = fetched.current.load_full().filter(fitting) {
                    return Ok(keys);
                }
                // SECURITY: whoever sends rubbish must not make us hammer the transmitter.
                if asked.is_some_and(|at| at.elapsed() < APART) {
                    return Err(Refusal::Unavailable("the key is not known yet"));
                }
                *asked = Some(Instant::now());
                fetched.fetch(health).await;
                let keys = fetched.current.load_full();
                keys.ok_or(Refusal::Unavailable("the keys cannot be fetched"))
            }
        }
    }

    /// Fetches keys now and then. Runs until dropped.
    pub(super) async fn keep(&self, health: &Health) {
        let Self::Url(fetched) = self else {
            return std::future::pending().await;
        };
        loop {
            let well = {
                let mut asked = fetched.asked.lock().await;
                *asked = Some(Instant::now());
                fetched.fetch(health).await
            };
            let wait = if well { fetched.refresh } else { APART };
            tokio::time::sleep(wait).await;
        }
    }
}

impl Fetched {
    async fn fetch(&self, health: &Health) -> bool {
        let request =
            Request::get("/").header(ACCEPT, "application/jwk-set+json, application/json");
        let answer = self
            .fetcher
            .send(request, Bytes::new(), MAX_BYTES, LIMIT)
            .await;
        let keys = answer.and_then(|answer| {
            KeySet::parse(answer.body()).map_err(|error| FetchError::Unusable(error.to_string()))
        });
        health.metrics.keys_fetched(keys.is_ok());
        match keys {
            Ok(keys) => {
                self.current.store(Some(Arc::new(keys)));
                health.is(Part::Keys, None);
                true
            }
            Err(error) => {
                let error = error.to_string();
                if health.is(Part::Keys, Some(error.clone())) {
                    tracing::error!(
                        error,
                        "a transmitter's keys cannot be fetched; the last ones stay"
                    );
                }
                false
            }
        }
    }
}

pub(super) fn read(path: &Path) -> Result<KeySet, String> {
    let told = |why: String| format!("the key set {}: {why}", path.display());
    let bytes = disk::read(path).map_err(|error| told(error.to_string()))?;
    KeySet::parse(&bytes).map_err(|error| told(error.to_string()))
}
