//! The threads that serve calls: one current-thread runtime each, sharing nothing on the
//! request path but snapshots and counters.

use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;

use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

/// A worker as others see it: where to spawn, and how many connections it has.
#[derive(Debug, Clone)]
pub(crate) struct Seat {
    runtime: Handle,
    connections: Arc<AtomicUsize>,
}

impl Seat {
    /// Where this worker's tasks run.
    pub(crate) fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// How many connections it serves.
    pub(crate) fn load(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Counts a connection in.
    pub(crate) fn enter(&self) {
        self.connections.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a connection out.
    pub(crate) fn leave(&self) {
        self.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

/// All workers of the sidecar.
pub(crate) struct Workers {
    first: Seat,
    workers: Vec<(Seat, JoinHandle<()>)>,
    stop: CancellationToken,
}

impl Workers {
    /// Starts `count` workers.
    ///
    /// # Errors
    /// When the system refuses a thread or a runtime.
    pub(crate) fn start(count: NonZeroUsize) -> io::Result<Self> {
        let stop = CancellationToken::new();
        let (first, thread) = start_one(0, stop.clone())?;
        let mut workers = vec![(first.clone(), thread)];
        for index in 1..count.get() {
            workers.push(start_one(index, stop.clone())?);
        }
        Ok(Self {
            first,
            workers,
            stop,
        })
    }

    /// The worker that accepts connections.
    pub(crate) fn first(&self) -> &Seat {
        &self.first
    }

    /// The places at which connections can be served; never empty.
    pub(crate) fn seats(&self) -> impl Iterator<Item = &Seat> {
        self.workers.iter().map(|(seat, _)| seat)
    }

    /// Ends every worker; what still runs on them is dropped. Blocks until they are gone.
    pub(crate) fn stop(self) {
        self.stop.cancel();
        for (_, thread) in self.workers {
            if thread.join().is_err() {
                tracing::error!("a worker ended in a panic");
            }
        }
    }
}

fn start_one(index: usize, stop: CancellationToken) -> io::Result<(Seat, JoinHandle<()>)> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let seat = Seat {
        runtime: runtime.handle().clone(),
        connections: Arc::default(),
    };
    let thread = std::thread::Builder::new()
        .name(format!("worker-{index}"))
        .spawn(move || runtime.block_on(stop.cancelled()))?;
    Ok((seat, thread))
}
