//! Checks the `signals`: how the behaviour of principals is followed, and what outlives a restart.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::defaults as default;
use super::raw::RawSignals;
use super::scalar;
use super::signal_store::SignalStoreConfig;
use super::validate::Validator;

const PRINCIPALS: RangeInclusive<u64> = 16..=10_000_000;
const PERIOD: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(86_400);

/// How the behaviour of principals is followed, and what is kept of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignalsConfig {
    /// The folder where quarantines, revocations and ratings are kept; none by default, so that a
    /// restart forgets them.
    pub state_dir: Option<PathBuf>,
    /// Principals that are followed though they are not connected; 16 to 10,000,000, 100,000 by
    /// default.
    pub max_principals: usize,
    /// How often what is open is decided again without a reason; 1 s to 1 d, never by default.
    pub reauthorize_every: Option<Duration>,
    /// The server that a fleet shares; none where each sidecar is for itself.
    pub store: Option<SignalStoreConfig>,
}

impl Default for SignalsConfig {
    fn default() -> Self {
        Self {
            state_dir: None,
            max_principals: default::MAX_PRINCIPALS,
            reauthorize_every: None,
            store: None,
        }
    }
}

impl Validator<'_> {
    pub(super) fn signals(&mut self, raw: Option<&RawSignals>) -> Option<SignalsConfig> {
        let absent = RawSignals::default();
        let raw = raw.unwrap_or(&absent);
        let base = self.base;
        let state_dir = self.maybe(raw.state_dir, |node| scalar::path(node, base));
        let max_principals = self.optional(raw.max_principals, default::MAX_PRINCIPALS, |node| {
            let count = scalar::integer(node, &PRINCIPALS)?;
            Ok(usize::try_from(count).unwrap_or(default::MAX_PRINCIPALS))
        });
        let reauthorize_every = self.maybe(raw.reauthorize_every, |node| {
            scalar::duration(node, &PERIOD)
        });
        let store = self.signal_store(raw.store.as_ref());
        Some(SignalsConfig {
            state_dir: state_dir?,
            max_principals: max_principals?,
            reauthorize_every: reauthorize_every?,
            store: store?,
        })
    }
}
