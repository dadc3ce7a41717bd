//! One place where an upstream listens, how well calls to it have been going, and when it is
//! left out for that. Workers share endpoints; time is passed in.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::config::OutlierConfig;

/// Each further ejection lasts longer than the one before, up to this many times the first.
const LONGEST: u32 = 10;

/// Where to connect to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Target {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// One endpoint of an upstream.
#[derive(Debug)]
pub(super) struct Endpoint {
    pub(super) target: Target,
    /// The host as it was configured: what TLS sends along and health checks ask for.
    pub(super) host: Arc<str>,
    epoch: Instant,
    /// Failed calls in a row.
    failures: AtomicU32,
    /// Ejections since the last good call.
    ejections: AtomicU32,
    /// Milliseconds since `epoch`; 0 when it was never ejected.
    ejected_until: AtomicU64,
    /// Health checks say that it is not well.
    unhealthy: AtomicBool,
}

/// How an endpoint is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Condition {
    Healthy,
    /// Left out for so long because calls to it failed.
    Ejected(Duration),
    /// Left out because health checks fail.
    Unhealthy,
}

impl Endpoint {
    pub(super) fn new(target: Target, host: Arc<str>) -> Self {
        Self {
            target,
            host,
            epoch: Instant::now(),
            failures: AtomicU32::new(0),
            ejections: AtomicU32::new(0),
            ejected_until: AtomicU64::new(0),
            unhealthy: AtomicBool::new(false),
        }
    }

    /// Whether calls should go to it, as long as there is another one that they could go to.
    pub(super) fn is_available(&self, now: Instant) -> bool {
        !self.unhealthy.load(Ordering::Relaxed) && !self.is_ejected(now)
    }

    pub(super) fn condition(&self, now: Instant) -> Condition {
        if self.unhealthy.load(Ordering::Relaxed) {
            return Condition::Unhealthy;
        }
        let until = self.ejected_until.load(Ordering::Relaxed);
        match until.checked_sub(self.millis(now)) {
            Some(left) if left > 0 => Condition::Ejected(Duration::from_millis(left)),
            _ => Condition::Healthy,
        }
    }

    /// Failed calls in a row so far.
    pub(super) fn failures(&self) -> u32 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Notes what health checks say; whether that is news.
    pub(super) fn checked(&self, healthy: bool) -> bool {
        self.unhealthy.swap(!healthy, Ordering::Relaxed) == healthy
    }

    /// Notes a call that was answered.
    pub(super) fn succeeded(&self) {
        // Reading first keeps the workers' caches from fighting over a line that never changes.
        if self.failures.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Relaxed);
            self.ejections.store(0, Ordering::Relaxed);
        }
    }

    fn is_ejected(&self, now: Instant) -> bool {
        let until = self.ejected_until.load(Ordering::Relaxed);
        until != 0 && until > self.millis(now)
    }

    fn eject(&self, now: Instant, first: Duration) -> Duration {
        let count = self.ejections.fetch_add(1, Ordering::Relaxed) + 1;
        let time = first * count.min(LONGEST);
        let until = self.millis(now + time).max(1);
        self.ejected_until.store(until, Ordering::Relaxed);
        time
    }

    fn millis(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.epoch);
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// The endpoints of one upstream at one moment.
#[derive(Debug, Default)]
pub(super) struct EndpointSet(Box<[Arc<Endpoint>]>);

impl EndpointSet {
    /// The endpoints at these places. Those that were there before keep their history.
    pub(super) fn of(places: Vec<(Target, Arc<str>)>, before: &Self) -> Self {
        let mut endpoints: Vec<Arc<Endpoint>> = Vec::with_capacity(places.len());
        for (target, host) in places {
            if endpoints.iter().any(|endpoint| endpoint.target == target) {
                continue;
            }
            let known = before.iter().find(|endpoint| endpoint.target == target);
            endpoints.push(match known {
                Some(known) => Arc::clone(known),
                None => Arc::new(Endpoint::new(target, host)),
            });
        }
        Self(endpoints.into())
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.0.iter()
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether both have the same endpoints, in whatever order: resolvers shuffle them.
    pub(super) fn same_as(&self, other: &Self) -> bool {
        let has = |endpoint: &Arc<Endpoint>| other.iter().any(|own| Arc::ptr_eq(own, endpoint));
        self.len() == other.len() && self.iter().all(has)
    }

    /// Notes a call that failed, and ejects the endpoint where that was one too many; for how
    /// long, if so. Half of the endpoints, or what the settings say, stay in any case.
    pub(super) fn failed(
        &self,
        endpoint: &Endpoint,
        config: &OutlierConfig,
        now: Instant,
    ) -> Option<Duration> {
        if self.len() < 2 {
            return None;
        }
        let failures = endpoint.failures.fetch_add(1, Ordering::Relaxed) + 1;
        if failures < config.consecutive_failures || endpoint.is_ejected(now) {
            return None;
        }
        let out = self.iter().filter(|other| other.is_ejected(now)).count();
        (out < self.most_ejected(config)).then(|| endpoint.eject(now, config.ejection_time))
    }

    fn most_ejected(&self, config: &OutlierConfig) -> usize {
        match usize::try_from(config.max_ejected_percent) {
            Ok(0) | Err(_) => 0,
            Ok(percent) => (self.len() * percent / 100).max(1),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(ports: &[u16]) -> EndpointSet {
        let places = ports.iter().map(|port| place(*port)).collect();
        EndpointSet::of(places, &EndpointSet::default())
    }

    fn place(port: u16) -> (Target, Arc<str>) {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        (Target::Tcp(address), "app".into())
    }

    fn config(percent: u32) -> OutlierConfig {
        OutlierConfig {
            consecutive_failures: 3,
            ejection_time: Duration::from_secs(30),
            max_ejected_percent: percent,
        }
    }

    fn fail(set: &EndpointSet, index: usize, percent: u32, now: Instant) -> Option<Duration> {
        let mut ejected = None;
        for _ in 0..3 {
            ejected = set.failed(&set.0[index], &config(percent), now);
        }
        ejected
    }

    #[test]
    fn failures_in_a_row_eject_and_each_ejection_is_longer() {
        let set = set(&[1, 2]);
        let now = Instant::now();
        assert_eq!(fail(&set, 0, 50, now), Some(Duration::from_secs(30)));
        assert!(!set.0[0].is_available(now));
        assert!(set.0[1].is_available(now));
        let later = now + Duration::from_secs(31);
        assert!(set.0[0].is_available(later));
        // On probation: one more failure is enough.
        let ejected = set.failed(&set.0[0], &config(50), later);
        assert_eq!(ejected, Some(Duration::from_secs(60)));
        assert_eq!(
            set.0[0].condition(later),
            Condition::Ejected(Duration::from_secs(60))
        );
    }

    #[test]
    fn an_answer_in_between_is_forgiveness() {
        let set = set(&[1, 2]);
        let now = Instant::now();
        for _ in 0..10 {
            set.failed(&set.0[0], &config(100), now);
            set.failed(&set.0[0], &config(100), now);
            set.0[0].succeeded();
        }
        assert!(set.0[0].is_available(now));
    }

    #[test]
    fn no_more_are_ejected_than_may_be() {
        let set = set(&[1, 2, 3, 4]);
        let now = Instant::now();
        for index in 0..4 {
            fail(&set, index, 50, now);
        }
        let left = set.iter().filter(|endpoint| endpoint.is_available(now));
        assert_eq!(left.count(), 2);
        assert_eq!(fail(&set, 3, 0, now), None, "0 % ejects none");
    }

    #[test]
    fn the_only_endpoint_is_never_ejected() {
        let set = set(&[1]);
        assert_eq!(fail(&set, 0, 100, Instant::now()), None);
    }

    #[test]
    fn known_endpoints_keep_their_history_and_doubles_count_once() {
        let before = set(&[1, 2]);
        fail(&before, 0, 50, Instant::now());
        let after = EndpointSet::of(vec![place(3), place(1), place(3)], &before);
        assert_eq!(after.len(), 2);
        assert!(Arc::ptr_eq(&after.0[1], &before.0[0]));
        assert!(!after.same_as(&before));
        let shuffled = EndpointSet::of(vec![place(2), place(1)], &before);
        assert!(shuffled.same_as(&before));
    }
}
