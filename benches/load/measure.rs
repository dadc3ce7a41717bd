//! One measurement: load for a while, and what it cost the process under test.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde::Serialize;
use tokio::time::sleep;

use crate::client::{Callers, Plan, Shared};
use crate::process::{Memory, Process};
use crate::target::{Stage, Target};

const MAX_WARM_UP: Duration = Duration::from_secs(1);
const POLL: Duration = Duration::from_millis(20);

/// What one measurement found.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Measured {
    pub(crate) requests: u64,
    pub(crate) wall_s: f64,
    /// User and system time of the process under test.
    pub(crate) cpu_s: f64,
    /// Latencies of the closed loop: they say how the queue of callers moved, not how
    /// the target answers at a given rate.
    pub(crate) p50_us: u64,
    pub(crate) p99_us: u64,
    /// Before the first connection.
    pub(crate) idle: Memory,
    /// Under the load.
    pub(crate) loaded: Memory,
}

impl Measured {
    /// CPU time of the process under test for one request, in microseconds.
    pub(crate) fn cpu_us(&self) -> f64 {
        self.cpu_s * 1e6 / (self.requests.max(1) as f64)
    }
}

/// Loads a target for `length`, or until `requests` are answered, after a warm-up.
pub(crate) async fn run(
    target: &Target,
    plan: Plan,
    stage: &Stage,
    length: Duration,
    requests: u64,
) -> Result<Measured> {
    let idle = target.process.memory()?;
    let mut callers = Callers::start(target.connector(plan, stage)?, plan).await?;
    let shared = Arc::clone(&callers.shared);
    let observed = tokio::select! {
        observed = observe(target.process, &shared, length, requests) => observed?,
        error = callers.failed() => return Err(error),
    };
    let loaded = target.process.memory()?;
    let latencies = callers.stop().await?;
    Ok(Measured {
        p50_us: percentile(&latencies, 50),
        p99_us: percentile(&latencies, 99),
        idle,
        loaded,
        ..observed
    })
}

/// Warms up, then reads the process's accounts before and after.
async fn observe(
    process: Process,
    shared: &Shared,
    length: Duration,
    requests: u64,
) -> Result<Measured> {
    sleep((length / 4).min(MAX_WARM_UP)).await;
    shared.measuring.store(true, Ordering::Relaxed);
    let (cpu, answered, start) = (
        process.cpu()?,
        shared.answered.load(Ordering::Relaxed),
        Instant::now(),
    );
    let mut counted = 0;
    while start.elapsed() < length && counted < requests {
        sleep(POLL).await;
        counted = shared
            .answered
            .load(Ordering::Relaxed)
            .saturating_sub(answered);
    }
    Ok(Measured {
        requests: counted,
        wall_s: start.elapsed().as_secs_f64(),
        cpu_s: process.cpu()?.saturating_sub(cpu).as_secs_f64(),
        p50_us: 0,
        p99_us: 0,
        idle: Memory::default(),
        loaded: Memory::default(),
    })
}

fn percentile(sorted: &[Duration], share: usize) -> u64 {
    let at = sorted.len().saturating_mul(share) / 100;
    let latency = sorted.get(at.min(sorted.len().saturating_sub(1)));
    latency.map_or(0, |latency| {
        u64::try_from(latency.as_micros()).unwrap_or(u64::MAX)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_the_sorted_list() {
        let latencies: Vec<_> = (1..=200).map(Duration::from_micros).collect();
        assert_eq!(percentile(&latencies, 50), 101);
        assert_eq!(percentile(&latencies, 99), 199);
        assert_eq!(percentile(&latencies, 100), 200);
        assert_eq!(percentile(&[], 50), 0);
    }
}
