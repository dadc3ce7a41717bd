//! Counters of the whole fleet: each sidecar writes what it counts of a principal where others
//! read it, and adds what they count to its own.
//!
//! A hash for each principal has a field for each sidecar, with the time by the server's clock
//! and the counts. A principal is reconciled while something of it is counted here, twice within
//! `reconcile_every`, so that what is known of the others is no older than that. Hence N sidecars
//! together let through at most (N - 1) times more than a policy says what one of them counts
//! within `reconcile_every`, and the time that a round takes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::Pipeline;
use uuid::Uuid;
use wayleave_authz::signals::{Behaviour, Principals, Signal};

use super::link::{Asker, StoreError};
use crate::config::SignalStoreConfig;

/// How many principals are asked for at once.
const BATCH: usize = 256;
/// How many principals are reconciled in one round; of more, others the next time.
const MOST: usize = 20_000;

/// What the fields of one hash hold.
type Fields = HashMap<Vec<u8>, Vec<u8>>;

/// What this sidecar counts for others, and what of it they were told.
#[derive(Debug)]
pub(super) struct Counts {
    /// The name of our field, another for each process.
    own: String,
    /// What the names of the hashes begin with.
    prefix: String,
    signals: Vec<Signal>,
    shortest: Duration,
    longest: Duration,
    told: HashMap<Box<str>, Told>,
    /// With which principal the next round begins, where there are too many for one.
    turn: usize,
}

#[derive(Debug)]
struct Told {
    counts: Vec<u64>,
    /// By the server's clock.
    at_ms: u64,
}

/// One principal in one round.
#[derive(Debug)]
struct Turn {
    behaviour: Arc<Behaviour>,
    key: String,
    write: Write,
}

/// What becomes of our field.
#[derive(Debug, PartialEq, Eq)]
enum Write {
    Nothing,
    Counts(String),
    Remove,
}

impl Counts {
    pub(super) fn new(config: &SignalStoreConfig, prefix: &str) -> Self {
        let windows = || {
            config
                .fleet_wide
                .iter()
                .filter_map(|signal| signal.window())
        };
        Self {
            own: Uuid::now_v7().simple().to_string(),
            prefix: prefix.to_owned(),
            signals: config.fleet_wide.clone(),
            shortest: windows().min().unwrap_or_default(),
            longest: windows().max().unwrap_or_default(),
            told: HashMap::new(),
            turn: 0,
        }
    }

    /// Tells and hears once. Says of how many principals.
    pub(super) async fn round(
        &mut self,
        asker: &mut Asker,
        principals: &Principals,
    ) -> Result<usize, StoreError> {
        let active = self.active(principals);
        if active.is_empty() {
            return Ok(0);
        }
        let (seconds, micros): (u64, u64) = asker.ask(&redis::cmd("TIME")).await?;
        let now_ms = seconds.saturating_mul(1_000).saturating_add(micros / 1_000);
        let mut count = 0;
        for batch in active.chunks(BATCH) {
            let now = Instant::now();
            let turns = batch.iter().map(|one| self.turn(one, now_ms, now));
            let turns: Vec<Turn> = turns.collect();
            let fields: Vec<Fields> = asker.ask_all(&self.asking(&turns)).await?;
            let now = Instant::now();
            for (turn, fields) in turns.iter().zip(&fields) {
                self.hear(&turn.behaviour, fields, now_ms, now);
            }
            self.forget(asker, &turns, &fields, now_ms).await?;
            count += turns.len();
            tokio::task::yield_now().await;
        }
        Ok(count)
    }

    /// Of whom something is counted here, or was when others were told last.
    fn active(&mut self, principals: &Principals) -> Vec<Arc<Behaviour>> {
        let now = Instant::now();
        let mut active = Vec::new();
        principals.for_each(|behaviour| {
            let counts = |signal: &Signal| behaviour.local(*signal, now) > 0;
            if self.signals.iter().any(counts) || self.told.contains_key(behaviour.principal()) {
                active.push(Arc::clone(behaviour));
            }
        });
        if active.len() <= MOST {
            self.turn = 0;
            return active;
        }
        let from = self.turn % active.len();
        self.turn = from + MOST;
        active.rotate_left(from);
        active.truncate(MOST);
        active
    }

    /// What one principal's turn is at a time by the server's clock.
    fn turn(&mut self, behaviour: &Arc<Behaviour>, now_ms: u64, now: Instant) -> Turn {
        let counts = |signal: &Signal| behaviour.local(*signal, now);
        let counts: Vec<u64> = self.signals.iter().map(counts).collect();
        let name = behaviour.principal();
        Turn {
            behaviour: Arc::clone(behaviour),
            key: format!("{}{name}", self.prefix),
            write: self.write(name, counts, now_ms),
        }
    }

    fn write(&mut self, name: &str, counts: Vec<u64>, now_ms: u64) -> Write {
        if counts.iter().all(|count| *count == 0) {
            return match self.told.remove(name) {
                Some(_) => Write::Remove,
                None => Write::Nothing,
            };
        }
        let half = millis(self.shortest) / 2;
        let known = |told: &Told| told.counts == counts && now_ms.saturating_sub(told.at_ms) < half;
        if self.told.get(name).is_some_and(known) {
            return Write::Nothing;
        }
        let mut line = now_ms.to_string();
        for (signal, count) in self.signals.iter().zip(&counts) {
            line.push_str(&format!(" {}={count}", signal.name()));
        }
        let at_ms = now_ms;
        self.told.insert(name.into(), Told { counts, at_ms });
        Write::Counts(line)
    }

    fn asking(&self, turns: &[Turn]) -> Pipeline {
        let mut all = redis::pipe();
        for Turn { key, write, .. } in turns {
            match write {
                Write::Nothing => {}
                Write::Counts(line) => {
                    all.cmd("HSET").arg(key).arg(&self.own).arg(line).ignore();
                    let kept = millis(self.longest).saturating_mul(2);
                    all.cmd("PEXPIRE").arg(key).arg(kept).ignore();
                }
                Write::Remove => {
                    all.cmd("HDEL").arg(key).arg(&self.own).ignore();
                }
            }
            all.cmd("HGETALL").arg(key);
        }
        all
    }

    fn hear(&self, behaviour: &Behaviour, fields: &Fields, now_ms: u64, now: Instant) {
        for signal in &self.signals {
            behaviour.set_others(*signal, self.others(*signal, fields, now_ms), now);
        }
    }

    /// What others count within the window of a signal. What was written before it began is of
    /// sidecars that are gone.
    fn others(&self, signal: Signal, fields: &Fields, now_ms: u64) -> u64 {
        let window = millis(signal.window().unwrap_or_default());
        let others = fields
            .iter()
            .filter(|(field, _)| ***field != *self.own.as_bytes());
        let counts = others.filter_map(|(_, value)| {
            let (at_ms, counts) = std::str::from_utf8(value).ok()?.split_once(' ')?;
            let age = now_ms.saturating_sub(at_ms.parse().ok()?);
            let mut counts = counts.split(' ').filter_map(|count| count.split_once('='));
            let (_, count) = counts.find(|(name, _)| *name == signal.name())?;
            (age < window).then(|| count.parse::<u64>().ok())?
        });
        counts.fold(0, u64::saturating_add)
    }

    /// Removes the fields of sidecars that are gone.
    async fn forget(
        &self,
        asker: &mut Asker,
        turns: &[Turn],
        fields: &[Fields],
        now_ms: u64,
    ) -> Result<(), StoreError> {
        let kept = millis(self.longest).saturating_mul(2);
        let is_gone = |value: &[u8]| {
            let at_ms = std::str::from_utf8(value).ok();
            let at_ms = at_ms.and_then(|text| text.split_once(' ')?.0.parse().ok());
            at_ms.is_none_or(|at_ms: u64| now_ms.saturating_sub(at_ms) > kept)
        };
        let mut all = redis::pipe();
        for (turn, fields) in turns.iter().zip(fields) {
            for (field, _) in fields.iter().filter(|(_, value)| is_gone(value)) {
                all.cmd("HDEL").arg(&turn.key).arg(field).ignore();
            }
        }
        match all.is_empty() {
            true => Ok(()),
            false => asker.ask_all(&all).await,
        }
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::StoreUrl;
    use proptest::prelude::*;
    use wayleave_authz::Resource;
    use wayleave_authz::signals::SignalSet;

    const CART: &str = "spiffe://shop.example/ns/web/sa/cart";
    const LIMIT: i64 = 30;
    const STEP: u64 = 50;
    const EVERY: u64 = 1_000;

    fn counts() -> Counts {
        let config = SignalStoreConfig {
            url: StoreUrl {
                tls: false,
                address: crate::config::host_port("127.0.0.1:1").unwrap(),
                user: None,
                password: None,
                database: 0,
            },
            password_file: None,
            ca_file: None,
            prefix: "p:".to_owned(),
            timeout: Duration::from_secs(1),
            fleet_wide: vec![Signal::CallsPerMinute, Signal::CallsPerHour],
            reconcile_every: Duration::from_millis(EVERY),
        };
        Counts::new(&config, "p:count:")
    }

    /// One sidecar of a fleet, whose store is a table.
    struct Member {
        principals: Principals,
        counts: Counts,
        /// When within `EVERY` its rounds are.
        phase: u64,
        calls: Vec<u64>,
    }

    impl Member {
        fn new(phase: u64) -> Self {
            Self {
                principals: Principals::new(16),
                counts: counts(),
                phase,
                calls: Vec::new(),
            }
        }

        /// Whether a call is let through.
        fn call(&mut self, at: u64, now: Instant) -> bool {
            let reads = SignalSet::EMPTY.with(Signal::CallsPerMinute);
            let resource = Resource {
                service: "orders",
                host: "orders",
                path: "/",
                template: None,
                port: 443,
                documented: false,
            };
            let behaviour = self.principals.of(CART);
            let (_, values) = behaviour.begin(reads, &resource, None, now);
            self.calls.push(at);
            values.value(Signal::CallsPerMinute) <= LIMIT
        }

        fn round(&mut self, store: &mut Fields, at: u64, now: Instant) {
            let behaviour = self.principals.of(CART);
            let counted = self.counts.turn(&behaviour, at, now);
            let own = self.counts.own.clone().into_bytes();
            match counted.write {
                Write::Nothing => {}
                Write::Counts(line) => drop(store.insert(own, line.into_bytes())),
                Write::Remove => drop(store.remove(&own)),
            }
            self.counts.hear(&behaviour, store, at, now);
        }

        /// The most that it counted within `EVERY`.
        fn most(&self) -> usize {
            let within = |from: u64| {
                let within = self
                    .calls
                    .iter()
                    .filter(|at| (from..=from + EVERY).contains(at));
                within.count()
            };
            self.calls
                .iter()
                .map(|from| within(*from))
                .max()
                .unwrap_or_default()
        }
    }

    proptest! {
        #[test]
        fn a_fleet_lets_through_what_one_counts_in_an_interval_for_each_other_one_and_no_more(
            phases in prop::collection::vec(0..EVERY / 2 / STEP, 2..5),
            calls in prop::collection::vec((any::<prop::sample::Index>(), 0..6_u64), 0..400),
        ) {
            let start = Instant::now();
            let mut fleet: Vec<_> = phases.iter().map(|p| Member::new(p * STEP)).collect();
            let (mut store, mut at, mut through) = (Fields::new(), 0, 0);
            for (who, pause) in calls {
                for _ in 0..pause {
                    at += STEP;
                    let now = start + Duration::from_millis(at);
                    for member in &mut fleet {
                        if at % (EVERY / 2) == member.phase {
                            member.round(&mut store, at, now);
                        }
                    }
                }
                // All within one window, so that every call counts.
                prop_assume!(at < 59_000);
                let who = who.index(fleet.len());
                let now = start + Duration::from_millis(at);
                through += i64::from(fleet[who].call(at, now));
            }
            let most = fleet.iter().map(Member::most).max().unwrap_or_default();
            let bound = LIMIT + (fleet.len() as i64 - 1) * most as i64;
            prop_assert!(through <= bound, "{through} of {bound}");
        }
    }

    #[test]
    fn what_others_count_is_summed_and_what_is_too_old_or_no_count_is_not() {
        let counts = counts();
        let now_ms = 10_000_000;
        let field = |name: &str, value: String| (name.as_bytes().to_vec(), value.into_bytes());
        let fields = Fields::from([
            field(&counts.own, format!("{now_ms} calls_per_minute=100")),
            field(
                "a",
                format!("{} calls_per_minute=7 calls_per_hour=9", now_ms - 59_999),
            ),
            field("b", format!("{now_ms} calls_per_hour=2 calls_per_minute=5")),
            field(
                "old",
                format!("{} calls_per_minute=40 calls_per_hour=3", now_ms - 60_000),
            ),
            field("junk", "x calls_per_minute=1".to_owned()),
            field("less", format!("{now_ms} calls_per_minute=-1")),
        ]);
        assert_eq!(counts.others(Signal::CallsPerMinute, &fields, now_ms), 12);
        assert_eq!(counts.others(Signal::CallsPerHour, &fields, now_ms), 14);
    }

    #[test]
    fn a_count_is_told_when_it_changes_or_would_grow_too_old_and_taken_back_when_it_is_nought() {
        let mut counts = counts();
        let told = Write::Counts("5 calls_per_minute=1 calls_per_hour=1".to_owned());
        assert_eq!(counts.write(CART, vec![1, 1], 5), told);
        assert_eq!(counts.write(CART, vec![1, 1], 6), Write::Nothing);
        assert!(matches!(
            counts.write(CART, vec![2, 2], 7),
            Write::Counts(_)
        ));
        assert_eq!(counts.write(CART, vec![2, 2], 30_006), Write::Nothing);
        assert!(matches!(
            counts.write(CART, vec![2, 2], 30_007),
            Write::Counts(_)
        ));
        assert_eq!(counts.write(CART, vec![0, 0], 30_008), Write::Remove);
        assert_eq!(counts.write(CART, vec![0, 0], 30_009), Write::Nothing);
    }
}
