//! Revocations that race with new calls: whoever was told that one is in force finds no call alive
//! afterwards, and begins none.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::task::JoinSet;

use super::calls::{Whose, connection_of_http2};
use super::triggers::Trigger;
use super::world::World;
use crate::support::{client, eventually, within};

const CALLERS: usize = 8;
const ROUNDS: u64 = 6;
/// Calls of one caller that are open at once.
const OPEN: usize = 6;

/// In which part of a round we are: allowed, being revoked, revoked, being reinstated. It only
/// grows, so that whoever finds it twice the same was in that part all the while.
#[derive(Default)]
struct Clock(AtomicU64);

impl Clock {
    fn part(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    fn tick(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

const ALLOWED: u64 = 0;
const REVOKED: u64 = 2;

#[derive(Default)]
struct Race {
    clock: Clock,
    over: AtomicBool,
    /// Answers that are being read.
    open: Arc<AtomicUsize>,
    /// Calls that began in each part of a round, or were refused there.
    seen: [AtomicUsize; 2],
}

/// Reads an answer until it ends, which it does by being cut.
async fn read(mut answer: Incoming, open: Arc<AtomicUsize>) {
    let whole = loop {
        match answer.frame().await {
            Some(Ok(_)) => {}
            Some(Err(_)) => break false,
            None => break true,
        }
    };
    open.fetch_sub(1, Ordering::SeqCst);
    assert!(!whole, "the end looks like a whole answer");
}

/// Calls again and again, by a connection that stays and by new ones.
async fn caller(world: Arc<World>, race: Arc<Race>) {
    let (mut open, mut kept) = (
        JoinSet::new(),
        connection_of_http2(&world, Whose::Hit).await,
    );
    for turn in 0_u64.. {
        if race.over.load(Ordering::SeqCst) {
            break;
        }
        if open.len() >= OPEN {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            while open.try_join_next().is_some_and(|ended| ended.is_ok()) {}
            continue;
        }
        if turn % 3 == 0 {
            kept = connection_of_http2(&world, Whose::Hit).await;
        }
        let before = race.clock.part();
        let request = client::get("https://localhost/hit/download");
        let answer = within("the head", kept.0.send_request(request)).await;
        // A call that is ended before its head has left has none.
        let status = answer.as_ref().map_or(0, |answer| answer.status().as_u16());
        let after = race.clock.part();
        if before == after && before % 4 == REVOKED {
            assert_eq!(status, 403, "a call began after its principal was revoked");
            race.seen[1].fetch_add(1, Ordering::SeqCst);
        }
        if before == after && before % 4 == ALLOWED {
            assert_eq!(
                status, 200,
                "a call was refused that nothing stands against"
            );
            race.seen[0].fetch_add(1, Ordering::SeqCst);
        }
        if let Ok(answer) = answer
            && status == 200
        {
            race.open.fetch_add(1, Ordering::SeqCst);
            open.spawn(read(answer.into_body(), Arc::clone(&race.open)));
        }
    }
    while let Some(ended) = open.join_next().await {
        ended.unwrap();
    }
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    eventually(what, || async { holds().then_some(()) }).await;
}

#[tokio::test]
async fn no_call_outlives_a_revocation_that_it_races_with() {
    let world = Arc::new(World::begin(Trigger::Revocation.beginning()).await);
    let race = Arc::<Race>::default();
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        callers.spawn(caller(Arc::clone(&world), Arc::clone(&race)));
    }
    let count = |part: usize| race.seen[part].load(Ordering::SeqCst);
    for round in 0..ROUNDS {
        let [began, refused] = [0, 1].map(count);
        until("calls to begin", || count(0) >= began + CALLERS).await;
        race.clock.tick();
        world.operator(&["revoke", "principal", &world.hit]).await;
        race.clock.tick();
        until("every call to end", || {
            race.open.load(Ordering::SeqCst) == 0
        })
        .await;
        until("calls to be refused", || count(1) >= refused + CALLERS).await;
        until("every call to have ended", || {
            race.open.load(Ordering::SeqCst) == 0
        })
        .await;
        if round + 1 < ROUNDS {
            race.clock.tick();
            world.operator(&["revoke", "lift", &world.hit]).await;
            race.clock.tick();
        }
    }
    race.over.store(true, Ordering::SeqCst);
    while let Some(caller) = callers.join_next().await {
        caller.unwrap();
    }
}
