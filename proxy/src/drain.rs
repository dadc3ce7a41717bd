//! The end of serving, in two steps: first no new work is taken and what is open may
//! finish, then what is still open is cut.

use std::time::Duration;

use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What everything that serves watches and is counted by. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Drain {
    begun: CancellationToken,
    cut: CancellationToken,
    tasks: TaskTracker,
}

/// How long what is still open may take to notice that it is cut.
const NOTICE: Duration = Duration::from_secs(1);

impl Drain {
    /// Whether draining has begun.
    pub(crate) fn is_begun(&self) -> bool {
        self.begun.is_cancelled()
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
        self.tasks.spawn(task);
    }

    /// Runs a task on another worker that draining waits for.
    pub(crate) fn spawn_on(&self, task: impl Future<Output = ()> + Send + 'static, on: &Handle) {
        self.tasks.spawn_on(task, on);
    }

    /// Begins, waits for what is open for `limit` at most or until `hurry` completes, and
    /// then cuts the rest.
    pub(crate) async fn run(&self, limit: Duration, hurry: impl Future<Output = ()>) {
        tracing::info!(open = self.tasks.len(), "draining");
        self.begun.cancel();
        self.tasks.close();
        tokio::select! {
            () = self.tasks.wait() => return tracing::info!("drained"),
            () = tokio::time::sleep(limit) => {
                tracing::warn!(open = self.tasks.len(), "drain timeout: what is open is cut");
            }
            () = hurry => {
                tracing::warn!(open = self.tasks.len(), "second signal: what is open is cut");
            }
        }
        self.cut.cancel();
        if tokio::time::timeout(NOTICE, self.tasks.wait())
            .await
            .is_err()
        {
            tracing::warn!(open = self.tasks.len(), "some connections did not end");
        }
    }
}
