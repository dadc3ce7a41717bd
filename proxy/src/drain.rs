//! The end of serving, in two steps: first no new work is taken and what is open may
//! finish, then what is still open is cut.
//!
//! A [`Drain`] is what connections watch and are counted by: one for each direction, and below
//! it one for each version of a listener. [`Shutdown`] ends the directions in their order.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long what is still open may take to notice that it is cut.
const NOTICE: Duration = Duration::from_secs(1);

/// What everything that serves watches and is counted by. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Drain {
    begun: CancellationToken,
    cut: CancellationToken,
    /// What accepts connections.
    doors: TaskTracker,
    /// What is served, here and by every generation.
    all: TaskTracker,
    /// What is served here.
    own: TaskTracker,
}

impl Drain {
    /// A part that can end earlier than the whole, and ends with it at the latest.
    pub(crate) fn generation(&self) -> Self {
        Self {
            begun: self.begun.child_token(),
            cut: self.cut.child_token(),
            doors: self.doors.clone(),
            all: self.all.clone(),
            own: TaskTracker::new(),
        }
    }

    /// Completes when draining begins.
    pub(crate) async fn begun(&self) {
        self.begun.cancelled().await;
    }

    /// Completes when the time to finish is over.
    pub(crate) async fn cut(&self) {
        self.cut.cancelled().await;
    }

    /// Runs a task here that draining waits for.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        tokio::spawn(self.own.track_future(self.all.track_future(task)));
    }

    /// Runs a task on another worker that draining waits for.
    pub(crate) fn spawn_on(&self, task: impl Future<Output = ()> + Send + 'static, on: &Handle) {
        on.spawn(self.own.track_future(self.all.track_future(task)));
    }

    /// Runs what accepts connections: draining waits for it to have closed its socket, and only
    /// then for the connections.
    pub(crate) fn spawn_door(&self, task: impl Future<Output = ()> + Send + 'static, on: &Handle) {
        on.spawn(self.doors.track_future(task));
    }

    /// A signal for a door to close; given when draining begins at the latest.
    pub(crate) fn closing(&self) -> CancellationToken {
        self.begun.child_token()
    }

    /// Lets what is served here finish for `limit` at most, and cuts the rest.
    pub(crate) async fn retire(self, limit: Duration) {
        self.begun.cancel();
        self.own.close();
        tokio::select! {
            () = self.own.wait() => {}
            () = self.cut() => {}
            () = tokio::time::sleep(limit) => {
                tracing::warn!(open = self.own.len(), "what is open of an earlier configuration is cut");
            }
        }
        self.cut.cancel();
    }

    fn begin(&self) {
        self.begun.cancel();
        self.doors.close();
        self.all.close();
    }

    fn open(&self) -> usize {
        self.all.len()
    }

    /// Completes when nothing is accepted any more and nothing is open.
    async fn ended(&self) {
        self.doors.wait().await;
        self.all.wait().await;
    }

    /// Completes at a moment at which nothing is open.
    async fn idle(&self) {
        self.all.close();
        self.all.wait().await;
    }
}

/// How long the steps of a shutdown take.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct DrainTimes {
    /// From readiness being false to the listeners closing.
    pub(crate) delay: Duration,
    /// What is open may take so long to finish, from the listeners closing on.
    pub(crate) limit: Duration,
}

/// The end of the whole sidecar. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shutdown {
    told: Arc<AtomicBool>,
    /// Towards the workload.
    pub(crate) inbound: Drain,
    /// Away from the workload, which still makes calls while it ends.
    pub(crate) outbound: Drain,
}

impl Shutdown {
    /// Whether the sidecar has been told to end.
    pub(crate) fn is_begun(&self) -> bool {
        self.told.load(Ordering::Relaxed)
    }

    /// Ends everything: readiness first, after the delay what is inbound, then, when nothing
    /// outbound is open either, what is outbound. What is left at the time limit, or when
    /// `hurry` completes, is cut.
    pub(crate) async fn run(&self, times: DrainTimes, hurry: impl Future<Output = ()>) {
        self.told.store(true, Ordering::Relaxed);
        let (inbound, outbound) = (self.inbound.open(), self.outbound.open());
        tracing::info!(inbound, outbound, delay = ?times.delay, limit = ?times.limit, "draining");
        tokio::select! {
            finished = self.finish(times) => match finished {
                true => return tracing::info!("drained"),
                false => self.tell_cut("drain timeout: what is open is cut"),
            },
            () = hurry => self.tell_cut("second signal: what is open is cut"),
        }
        self.cut().await;
    }

    /// Lets what is open finish; false when the time was too short.
    async fn finish(&self, times: DrainTimes) -> bool {
        tokio::time::sleep(times.delay).await;
        let deadline = Instant::now() + times.limit;
        self.inbound.begin();
        let kept = async {
            self.inbound.ended().await;
            self.outbound.idle().await;
        };
        // At the end of the time, what is outbound gets a moment to finish as well.
        let last_call = deadline - NOTICE.min(times.limit / 2);
        let _ = tokio::time::timeout_at(last_call, kept).await;
        self.outbound.begin();
        let ended = async { tokio::join!(self.inbound.ended(), self.outbound.ended()) };
        tokio::time::timeout_at(deadline, ended).await.is_ok()
    }

    fn tell_cut(&self, why: &str) {
        let (inbound, outbound) = (self.inbound.open(), self.outbound.open());
        tracing::warn!(inbound, outbound, "{why}");
    }

    async fn cut(&self) {
        for drain in [&self.inbound, &self.outbound] {
            drain.begin();
            drain.cut.cancel();
        }
        let ended = async { tokio::join!(self.inbound.ended(), self.outbound.ended()) };
        if tokio::time::timeout(NOTICE, ended).await.is_err() {
            let (inbound, outbound) = (self.inbound.open(), self.outbound.open());
            tracing::warn!(inbound, outbound, "some connections did not end");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::oneshot;

    const TIMES: DrainTimes = DrainTimes {
        delay: Duration::from_secs(5),
        limit: Duration::from_secs(30),
    };

    fn open(drain: &Drain) -> oneshot::Sender<()> {
        let (close, closed) = oneshot::channel::<()>();
        let cut = drain.clone();
        drain.spawn(async move {
            tokio::select! {
                _ = closed => {}
                () = cut.cut() => {}
            }
        });
        close
    }

    fn run(shutdown: &Shutdown) -> tokio::task::JoinHandle<()> {
        let shutdown = shutdown.clone();
        tokio::spawn(async move { shutdown.run(TIMES, std::future::pending()).await })
    }

    #[tokio::test(start_paused = true)]
    async fn readiness_is_false_before_anything_closes() {
        let shutdown = Shutdown::default();
        let ended = run(&shutdown);
        tokio::time::sleep(Duration::from_secs(4)).await;
        assert!(shutdown.is_begun());
        assert!(!shutdown.inbound.begun.is_cancelled());
        ended.await.unwrap();
        assert!(shutdown.inbound.begun.is_cancelled());
    }

    #[tokio::test(start_paused = true)]
    async fn outbound_stays_open_until_inbound_has_drained_and_nothing_outbound_is_open() {
        let shutdown = Shutdown::default();
        let (inbound, outbound) = (open(&shutdown.inbound), open(&shutdown.outbound));
        let ended = run(&shutdown);
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert!(shutdown.inbound.begun.is_cancelled());
        inbound.send(()).unwrap();
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert!(!shutdown.outbound.begun.is_cancelled());
        outbound.send(()).unwrap();
        ended.await.unwrap();
        assert!(shutdown.outbound.begun.is_cancelled());
        assert!(
            !shutdown.outbound.cut.is_cancelled(),
            "nothing was left to cut"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_open_is_cut_at_the_time_limit() {
        let shutdown = Shutdown::default();
        let _open = [
            open(&shutdown.inbound.generation()),
            open(&shutdown.outbound),
        ];
        let began = Instant::now();
        run(&shutdown).await.unwrap();
        assert_eq!(began.elapsed(), TIMES.delay + TIMES.limit);
        assert!(shutdown.outbound.cut.is_cancelled());
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_signal_ends_at_once_also_during_the_delay() {
        let shutdown = Shutdown::default();
        let _open = open(&shutdown.inbound);
        let began = Instant::now();
        let hurry = tokio::time::sleep(Duration::from_secs(1));
        shutdown.run(TIMES, hurry).await;
        assert_eq!(began.elapsed(), Duration::from_secs(1));
        assert!(shutdown.inbound.cut.is_cancelled());
    }

    #[tokio::test(start_paused = true)]
    async fn a_retired_generation_is_cut_and_the_others_are_not() {
        let drain = Drain::default();
        let (old, new) = (drain.generation(), drain.generation());
        let _open = [open(&old), open(&new)];
        old.clone().retire(TIMES.limit).await;
        assert!(old.cut.is_cancelled());
        assert!(!new.begun.is_cancelled() && !new.cut.is_cancelled());
        assert_eq!(drain.open(), 2);
        drop(_open);
        drain.idle().await;
    }
}
