//! How the store is doing, for `/status`, readiness, metrics and the log.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};

use super::link::StoreError;
use super::metrics::StoreMetrics;
use crate::config::SignalStoreConfig;
use crate::moment::moment;

/// The state of the store as this sidecar sees it.
#[derive(Debug)]
pub(crate) struct StoreHealth {
    url: String,
    server: String,
    fleet_wide: Vec<&'static str>,
    /// How long the first reading may keep us from being ready.
    patience: Duration,
    started: Instant,
    state: Mutex<State>,
    pub(super) metrics: StoreMetrics,
}

#[derive(Debug)]
struct State {
    connected: bool,
    ever: bool,
    since: SystemTime,
    error: Option<String>,
    read: Option<SystemTime>,
}

/// The part of the status document.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct StoreStatus {
    /// Without user and password.
    pub(crate) url: String,
    pub(crate) connected: bool,
    /// Since when it is connected, or is not.
    pub(crate) since: String,
    /// When everything was read last.
    pub(crate) read: Option<String>,
    /// Why it is not connected; none where it is.
    pub(crate) error: Option<String>,
    /// The counters that count at all sidecars.
    pub(crate) fleet_wide: Vec<String>,
}

impl StoreHealth {
    pub(super) fn new(config: &SignalStoreConfig, metrics: StoreMetrics) -> Self {
        let server = config.url.address.to_string();
        metrics.connected(&server, false);
        let state = State {
            connected: false,
            ever: false,
            since: SystemTime::now(),
            error: None,
            read: None,
        };
        Self {
            url: config.url.to_string(),
            server,
            fleet_wide: config
                .fleet_wide
                .iter()
                .map(|signal| signal.name())
                .collect(),
            patience: config.timeout.saturating_mul(2),
            started: Instant::now(),
            state: Mutex::new(state),
            metrics,
        }
    }

    /// Whether what the fleet shares is up to date.
    pub(crate) fn is_connected(&self) -> bool {
        self.lock().connected
    }

    /// Whether nothing has been read yet, and may be in a moment.
    pub(crate) fn is_awaited(&self) -> bool {
        !self.lock().ever && self.started.elapsed() < self.patience
    }

    pub(crate) fn status(&self) -> StoreStatus {
        let state = self.lock();
        StoreStatus {
            url: self.url.clone(),
            connected: state.connected,
            since: moment(state.since),
            read: state.read.map(moment),
            error: state.error.clone(),
            fleet_wide: self.fleet_wide.iter().map(ToString::to_string).collect(),
        }
    }

    /// Everything was read, and what others did not know was written.
    pub(super) fn up_to_date(&self) {
        let mut state = self.lock();
        let now = SystemTime::now();
        state.read = Some(now);
        if !state.connected {
            state.connected = true;
            state.since = now;
            state.error = None;
            self.metrics.connected(&self.server, true);
            if state.ever {
                self.metrics.reconnected();
            }
            state.ever = true;
            tracing::info!(store = self.url, "signal store is connected");
        }
    }

    /// The connection was lost, or there is none. Told where that is news.
    pub(super) fn lost(&self, error: &StoreError) {
        self.metrics.error(error.kind());
        let mut state = self.lock();
        // The server's words, in part.
        let told = error.to_string().escape_debug().to_string();
        let news = state.connected || state.error.as_ref() != Some(&told);
        if state.connected {
            state.connected = false;
            state.since = SystemTime::now();
            self.metrics.connected(&self.server, false);
        }
        if news {
            tracing::warn!(
                store = self.url,
                error = told,
                "signal store is unreachable; calls are decided by what is known here"
            );
        }
        state.error = Some(told);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
