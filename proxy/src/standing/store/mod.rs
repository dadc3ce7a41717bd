//! What a fleet shares: a Redis or Valkey server, in which each sidecar writes what is said at it
//! against principals, and from which it hears what is said at others.
//!
//! The server keeps what it is told merged by the rules by which sidecars merge it themselves,
//! and publishes what was news to it. Each sidecar hears that, and reads everything when it
//! connects and from time to time, for messages may be lost; then it writes what was not there.
//! So nothing is queued while the server is away: what is known here is all that there is to be
//! told, however long that takes.
//!
//! It runs on the control runtime. No call waits for it, whatever becomes of the server: each is
//! decided by what is known here, and policies can read that it may be out of date.

mod counts;
mod entry;
mod health;
mod link;
pub(crate) mod metrics;
mod sync;

use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, broadcast};
use tokio::time::{MissedTickBehavior, interval, sleep};
use wayleave_authz::signals::Change;

use super::{Standing, now_ms};
use crate::config::SignalStoreConfig;
use counts::Counts;
use entry::{Entry, Unfit};
pub(crate) use health::{StoreHealth, StoreStatus};
pub(crate) use link::SetupError;
use link::{Asker, Dialer, Ear, Link, StoreError};
use metrics::StoreMetrics;

/// How often the server is asked whether it is there.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// How often everything is read although no message is known to be lost.
const REREAD: Duration = Duration::from_secs(180);
/// The first and the longest wait before connecting again.
const SOONEST: Duration = Duration::from_millis(100);
const LATEST: Duration = Duration::from_secs(10);
/// How many messages are taken before others have their turn.
const AT_ONCE: usize = 64;
/// How much is told of why, in characters.
const TOLD: usize = 200;
/// How often it is told that something in the store is no change.
const TELL_UNFIT: Duration = Duration::from_secs(60);

/// The store, as one sidecar uses it.
#[derive(Debug)]
pub(crate) struct Store {
    dialer: Dialer,
    names: Names,
    config: SignalStoreConfig,
    standing: Arc<Standing>,
    health: Arc<StoreHealth>,
    reread: Notify,
    unfit: Unfits,
}

/// The names in the server that are ours.
#[derive(Debug)]
struct Names {
    /// The hash of what is known against principals.
    standing: String,
    /// The channel of what becomes known.
    changes: String,
    /// What the names of the hashes of counts begin with.
    counts: String,
}

/// When it was told last that something is no change.
#[derive(Debug, Default)]
struct Unfits(std::sync::Mutex<Option<Instant>>);

impl Store {
    /// Reads what is needed to connect, and connects to nobody yet.
    ///
    /// # Errors
    /// When the authorities that vouch for the server cannot be had.
    pub(crate) fn new(
        config: SignalStoreConfig,
        standing: &Arc<Standing>,
        metrics: StoreMetrics,
    ) -> Result<Self, SetupError> {
        let prefix = &config.prefix;
        // Until everything was read.
        standing.principals().set_stale(true);
        Ok(Self {
            dialer: Dialer::new(&config)?,
            names: Names {
                standing: format!("{prefix}standing"),
                changes: format!("{prefix}changes"),
                counts: format!("{prefix}count:"),
            },
            standing: Arc::clone(standing),
            health: Arc::new(StoreHealth::new(&config, metrics)),
            reread: Notify::new(),
            unfit: Unfits::default(),
            config,
        })
    }

    /// How it is doing.
    pub(crate) fn health(&self) -> Arc<StoreHealth> {
        Arc::clone(&self.health)
    }

    /// Shares until dropped, and connects anew whenever that ends.
    pub(crate) async fn run(self) {
        let mut counts = Counts::new(&self.config, &self.names.counts);
        let mut wait = SOONEST;
        loop {
            let began = Instant::now();
            let error = self.share(&mut counts).await;
            // One that is refused something would otherwise come back at once for ever.
            if began.elapsed() > LATEST {
                wait = SOONEST;
            }
            self.standing.principals().set_stale(true);
            self.health.lost(&error);
            sleep(jittered(wait)).await;
            wait = (wait * 2).min(LATEST);
        }
    }

    /// Connects and shares. Answers with why it does so no longer.
    async fn share(&self, counts: &mut Counts) -> StoreError {
        let Link {
            asker,
            mut ear,
            driver,
        } = match self.dialer.open(&self.names.changes).await {
            Ok(link) => link,
            Err(error) => return error,
        };
        // From before everything is read, so that nothing is missed between the two.
        let made = self.standing.subscribe();
        tokio::select! {
            error = self.hear(&mut ear) => error,
            error = self.read(asker.clone()) => error,
            error = self.tell(asker.clone(), made) => error,
            error = beat(asker.clone()) => error,
            error = self.reconcile(asker, counts) => error,
            _ = driver => StoreError::Closed,
        }
    }

    /// Adopts what others say.
    async fn hear(&self, ear: &mut Ear) -> StoreError {
        loop {
            for _ in 0..AT_ONCE {
                let Some(message) = ear.hear().await else {
                    return StoreError::Closed;
                };
                match Entry::heard(&message, now_ms()) {
                    Ok(entry) => self.adopt(&entry),
                    Err(error) => self.tell_unfit(&error, "message"),
                }
            }
            tokio::task::yield_now().await;
        }
    }

    fn adopt(&self, entry: &Entry) {
        if entry.is_over(now_ms()) {
            return;
        }
        // What there is no room for is told there.
        if self.standing.adopt(&entry.change).is_ok_and(|news| news) {
            self.health.metrics.received();
        }
    }

    /// Reads everything and writes what is missing: at first, from time to time, and when asked.
    async fn read(&self, mut asker: Asker) -> StoreError {
        loop {
            if let Err(error) = self.synchronise(&mut asker).await {
                return error;
            }
            self.health.up_to_date();
            self.standing.principals().set_stale(false);
            tokio::select! {
                () = sleep(jittered(REREAD)) => {}
                () = self.reread.notified() => {}
            }
        }
    }

    /// Writes what is said here.
    async fn tell(&self, mut asker: Asker, mut made: broadcast::Receiver<Change>) -> StoreError {
        loop {
            match made.recv().await {
                Ok(change) => {
                    let entries = with_waiting(change, &mut made);
                    if let Err(error) = self.write(&mut asker, &entries).await {
                        return error;
                    }
                }
                Err(broadcast::error::RecvError::Lagged(_)) => self.reread.notify_one(),
                // Nobody can say anything any more.
                Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
            }
        }
    }

    /// Tells others what is counted here, and hears what they count.
    async fn reconcile(&self, mut asker: Asker, counts: &mut Counts) -> StoreError {
        if self.config.fleet_wide.is_empty() {
            return std::future::pending().await;
        }
        // Twice in that time: what one has just written, another reads half of it later at most.
        let mut rounds = interval(self.config.reconcile_every / 2);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            rounds.tick().await;
            let began = Instant::now();
            match counts.round(&mut asker, self.standing.principals()).await {
                Ok(principals) => self.health.metrics.reconciled(principals, began.elapsed()),
                Err(error) => return error,
            }
        }
    }

    fn tell_unfit(&self, error: &Unfit, what: &str) {
        self.health.metrics.unfit();
        let mut last = self
            .unfit
            .0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if last.is_none_or(|last| last.elapsed() >= TELL_UNFIT) {
            *last = Some(Instant::now());
            // Written by a stranger, in part.
            let error: String = error.to_string().chars().take(TOLD).collect();
            let error = error.escape_debug().to_string();
            tracing::warn!(
                error,
                what,
                "something in the signal store is no change; it is ignored"
            );
        }
    }
}

/// Looks at all that is needed to connect, and connects to nobody.
///
/// # Errors
/// When a file cannot be used.
pub(crate) fn verify(config: &SignalStoreConfig) -> Result<(), SetupError> {
    Dialer::new(config).map(drop)
}

/// A change and those that wait behind it, the newest state of each subject.
fn with_waiting(first: Change, made: &mut broadcast::Receiver<Change>) -> Vec<Entry> {
    let mut entries = vec![Entry::of(first)];
    while entries.len() < sync::BATCH
        && let Ok(change) = made.try_recv()
    {
        let entry = Entry::of(change);
        let superseded =
            |known: &Entry| known.field == entry.field && known.numbers.are_in(entry.numbers);
        match entries.iter_mut().find(|known| superseded(known)) {
            Some(known) => *known = entry,
            None => entries.push(entry),
        }
    }
    entries
}

/// Asks whether the server is there until it is not.
async fn beat(mut asker: Asker) -> StoreError {
    let ping = redis::cmd("PING");
    loop {
        sleep(HEARTBEAT).await;
        if let Err(error) = asker.ask::<redis::Value>(&ping).await {
            return error;
        }
    }
}

/// Between half and the whole of a wait, so that not all sidecars come at once.
fn jittered(wait: Duration) -> Duration {
    let random = RandomState::new().hash_one(wait) % 256;
    wait / 2 + wait / 2 * u32::try_from(random).unwrap_or_default() / 255
}
