//! The callers: each makes its exchanges one after the other, either at once when the last was
//! answered or when one is due, and notes what came of each.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use hdrhistogram::Histogram;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::found::{Found, Side};
use crate::connector::Connector;
use crate::job::{Answer, Ask, Job, Line};
use crate::rate::{self, Due, nanos};

/// An exchange that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(30);
/// After a failure in a closed loop, so that a server that is gone is not called as fast as can be.
pub(super) const PAUSE: Duration = Duration::from_millis(20);

/// What all callers share.
pub(super) struct Shared {
    pub(super) job: Job,
    pub(super) fresh: bool,
    /// After a failure in a closed loop.
    pub(super) pause: Duration,
    pub(super) ask: Ask,
    /// Where exchanges are due at fixed moments.
    pub(super) due: Option<Due>,
    /// Exchanges that were due, or begun, from here on and up to there count.
    pub(super) counts: Range<Instant>,
    pub(super) stopping: AtomicBool,
    pub(super) count: AtomicU64,
    pub(super) found: Mutex<BTreeMap<Side, Found>>,
    /// How long exchanges that were due waited for a caller, in nanoseconds.
    pub(super) late: Mutex<Histogram<u64>>,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One connection, made again when it breaks, with the callers that share it.
pub(super) async fn keep_calling(
    side: Side,
    connector: Connector,
    streams: u32,
    shared: Arc<Shared>,
) -> Result<()> {
    // What does not open here is opened, and told, by the first exchange.
    let line = open(&connector, &shared).await.ok();
    let mut callers = JoinSet::new();
    for _ in 1..streams {
        let line = line.as_ref().and_then(Line::share);
        let (connector, shared) = (connector.clone(), Arc::clone(&shared));
        if shared.job.shares() {
            callers.spawn(async move { caller(side, &connector, line, &shared).await });
        }
    }
    caller(side, &connector, line, &shared).await;
    while let Some(caller) = callers.join_next().await {
        caller?;
    }
    Ok(())
}

/// A connection on which the job can be done, or what came of opening it.
async fn open(connector: &Connector, shared: &Shared) -> Result<Line, Result<Answer>> {
    let opening = Line::open(connector, shared.job, &shared.ask);
    match timeout(PATIENCE, opening).await {
        Ok(Ok(Ok(line))) => Ok(line),
        Ok(Ok(Err(answer))) => Err(Ok(answer)),
        Ok(Err(error)) => Err(Err(error)),
        Err(_) => Err(Err(anyhow::anyhow!("no connection in {PATIENCE:?}"))),
    }
}

async fn caller(side: Side, connector: &Connector, mut line: Option<Line>, shared: &Shared) {
    while let Some(begun) = shared.next().await {
        if shared.counts.end.elapsed() > PATIENCE {
            // What was due and could not be sent is told, and not left out.
            shared.note(side, begun, &Err(anyhow::anyhow!("due, and never sent")));
            continue;
        }
        if shared.fresh {
            line = None;
        }
        let answer = exchange(connector, &mut line, shared).await;
        // Before any pause: that is not the server's.
        shared.note(side, begun, &answer);
        // In an open loop, what is due next is due all the same.
        if line.is_none() && shared.due.is_none() {
            sleep(shared.pause).await;
        }
    }
}

/// One exchange, on a new connection where there is none. A connection that broke is let go.
async fn exchange(
    connector: &Connector,
    line: &mut Option<Line>,
    shared: &Shared,
) -> Result<Answer> {
    let mut opened = match line.take() {
        Some(line) => line,
        None => match open(connector, shared).await {
            Ok(opened) => opened,
            Err(answer) => return answer,
        },
    };
    let answer = match timeout(PATIENCE, opened.exchange(&shared.ask)).await {
        Ok(answer) => answer?,
        Err(_) => anyhow::bail!("no answer in {PATIENCE:?}"),
    };
    *line = Some(opened);
    Ok(answer)
}

impl Shared {
    /// The moment from which the next exchange of a caller counts: in an open loop the one at which
    /// it was due. None at the end.
    async fn next(&self) -> Option<Instant> {
        let Some(due) = &self.due else {
            let stopping = self.stopping.load(Ordering::Relaxed);
            return (!stopping).then(Instant::now);
        };
        let moment = rate::next(due).await?;
        if self.counts.contains(&moment) {
            lock(&self.late).saturating_record(nanos(moment.elapsed()));
        }
        Some(moment)
    }

    fn note(&self, side: Side, begun: Instant, answer: &Result<Answer>) {
        if !self.counts.contains(&begun) {
            return;
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        let (took, at) = (begun.elapsed(), self.counts.start.elapsed());
        if let Some(found) = lock(&self.found).get_mut(&side) {
            found.add(took, at, side.judge(self.job, answer), answer);
        }
    }
}
