//! How long a connection may go without what it owes: a call, the rest of a head, a reader of
//! its answers. Looked at from outside, now and then, so that serving needs no timer.

use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, Instant};

use crate::config::LimitsConfig;
use crate::flow::{Movement, Overdue};

/// What is seen of a connection at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sight {
    /// Requests so far.
    pub(super) served: u32,
    /// Whether a call is open.
    pub(super) busy: bool,
    pub(super) movement: Movement,
}

/// What is remembered from look to look.
#[derive(Debug)]
pub(super) struct Patience {
    last: Option<Sight>,
    /// When the connection is to be asked to close; none once it was, or where it may stay.
    close_at: Option<Instant>,
    /// Since when nothing was asked for; none once that was told.
    idle_since: Option<Instant>,
    head_since: Option<Instant>,
    unread_since: Option<Instant>,
}

impl Patience {
    /// For a connection that begins `now`.
    pub(super) fn new(limits: &LimitsConfig, now: Instant) -> Self {
        Self {
            last: None,
            close_at: limits.connection_age.map(|age| now + jittered(age)),
            idle_since: Some(now),
            head_since: None,
            unread_since: None,
        }
    }

    /// What the connection is out of time for, if anything. The gravest is told first.
    pub(super) fn look(
        &mut self,
        sight: Sight,
        limits: &LimitsConfig,
        now: Instant,
    ) -> Option<Overdue> {
        let last = self.last.replace(sight);
        let over = |since: Option<Instant>, limit: Duration| {
            since.is_some_and(|since| now.duration_since(since) >= limit)
        };
        let unread = sight.movement.blocked
            && last.is_some_and(|last| last.movement.written == sight.movement.written);
        self.unread_since = unread.then(|| self.unread_since.unwrap_or(now));
        let same_head = last.is_some_and(|last| last.heads() == sight.heads());
        self.head_since = match sight.head_is_open() {
            true if same_head => self.head_since.or(Some(now)),
            true => Some(now),
            false => None,
        };
        if last.is_some_and(|last| last.served != sight.served) || sight.busy {
            self.idle_since = Some(now);
        }
        if over(self.unread_since, limits.body_timeout) {
            return Some(Overdue::Unread);
        }
        if over(self.head_since, limits.header_timeout) {
            return Some(Overdue::Head);
        }
        if self.close_at.take_if(|at| *at <= now).is_some() {
            return Some(Overdue::Aged);
        }
        if over(self.idle_since, limits.idle_timeout) {
            self.idle_since = None;
            return Some(Overdue::Idle);
        }
        None
    }
}

impl Sight {
    fn head_is_open(&self) -> bool {
        match self.movement.framed {
            true => self.movement.head_open,
            false => !self.busy && self.movement.read != self.movement.at_rest,
        }
    }

    /// Tells one head from the next.
    fn heads(&self) -> u32 {
        match self.movement.framed {
            true => self.movement.heads,
            false => self.served,
        }
    }
}

/// How often connections are looked at: often enough that no limit is overrun by more than a
/// quarter.
pub(crate) fn interval(limits: &LimitsConfig) -> Duration {
    let least = [
        limits.header_timeout,
        limits.body_timeout,
        limits.idle_timeout,
    ]
    .into_iter()
    .chain(limits.connection_age)
    .min()
    .unwrap_or(limits.idle_timeout);
    (least / 4).clamp(Duration::from_millis(25), Duration::from_secs(1))
}

/// The age, up to a tenth more or less: connections that were made together, after a restart for
/// example, must not end together.
fn jittered(age: Duration) -> Duration {
    let random = RandomState::new().hash_one(age) % 201;
    let permille = 900 + u32::try_from(random).unwrap_or(100);
    age.saturating_mul(permille) / 1_000
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn limits() -> LimitsConfig {
        LimitsConfig {
            header_timeout: 10 * SECOND,
            body_timeout: 20 * SECOND,
            idle_timeout: 60 * SECOND,
            ..LimitsConfig::default()
        }
    }

    fn sight() -> Sight {
        Sight {
            served: 0,
            busy: false,
            movement: Movement::default(),
        }
    }

    /// The second at which something is told of a connection that is looked at every second.
    fn told(limits: &LimitsConfig, seen: impl Fn(u64) -> Sight) -> Option<(u64, Overdue)> {
        let start = Instant::now();
        let mut patience = Patience::new(limits, start);
        (1..200).find_map(|second| {
            let now = start + Duration::from_secs(second);
            let overdue = patience.look(seen(second), limits, now)?;
            Some((second, overdue))
        })
    }

    #[test]
    fn an_idle_connection_has_the_idle_time_and_not_that_of_a_head() {
        assert_eq!(told(&limits(), |_| sight()), Some((60, Overdue::Idle)));
        let served = |second| Sight {
            served: u32::from(second >= 30),
            ..sight()
        };
        assert_eq!(told(&limits(), served), Some((90, Overdue::Idle)));
        let busy = |_| Sight {
            busy: true,
            ..sight()
        };
        assert_eq!(told(&limits(), busy), None);
    }

    #[test]
    fn a_head_has_its_time_from_its_first_byte_however_it_trickles() {
        let trickling = |second| Sight {
            served: 1,
            movement: Movement {
                read: 100 + second,
                at_rest: 105,
                ..Movement::default()
            },
            ..sight()
        };
        let from_the_sixth = |second| match second {
            0..=5 => sight(),
            _ => trickling(second),
        };
        assert_eq!(told(&limits(), from_the_sixth), Some((16, Overdue::Head)));
        let one_after_another = |second: u64| Sight {
            served: u32::try_from(second / 5).unwrap(),
            ..trickling(second)
        };
        assert_eq!(told(&limits(), one_after_another), None);
    }

    #[test]
    fn a_head_in_frames_has_its_time_beside_other_calls() {
        let framed = |heads| Sight {
            busy: true,
            movement: Movement {
                framed: true,
                head_open: true,
                heads,
                ..Movement::default()
            },
            ..sight()
        };
        assert_eq!(told(&limits(), |_| framed(3)), Some((11, Overdue::Head)));
        let fast = |second| framed(u32::try_from(second).unwrap());
        assert_eq!(told(&limits(), fast), None);
    }

    #[test]
    fn whoever_does_not_read_has_its_time_and_whoever_reads_slowly_goes_on() {
        let blocked = |written| Sight {
            busy: true,
            movement: Movement {
                blocked: true,
                written,
                ..Movement::default()
            },
            ..sight()
        };
        assert_eq!(told(&limits(), |_| blocked(7)), Some((22, Overdue::Unread)));
        assert_eq!(told(&limits(), |second| blocked(second / 10)), None);
    }

    #[test]
    fn an_old_connection_is_told_once_within_a_tenth_of_its_age() {
        let limits = LimitsConfig {
            connection_age: Some(100 * SECOND),
            ..limits()
        };
        let busy = |_| Sight {
            busy: true,
            ..sight()
        };
        let (second, overdue) = told(&limits, busy).unwrap();
        assert_eq!(overdue, Overdue::Aged);
        assert!((90..=110).contains(&second), "{second}");
    }
}
