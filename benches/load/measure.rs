//! One measurement: load for a while, and what it cost the process under test.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;
use tokio::time::sleep;

use crate::client::{Callers, Plan, Shared};
use crate::papers::Papers;
use crate::target::Target;

/// The kernel counts a process's CPU time in ticks of this length on every Linux that
/// this runs on (`getconf CLK_TCK`).
const TICK: Duration = Duration::from_millis(10);
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
    pub(crate) peak_memory_kib: u64,
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
    papers: &Papers,
    length: Duration,
    requests: u64,
) -> Result<Measured> {
    let tls = target.tls.then(|| papers.path());
    let process = Process::new(target.pid()?);
    let mut callers = Callers::start(target.address(plan), plan, tls).await?;
    let shared = Arc::clone(&callers.shared);
    let observed = tokio::select! {
        observed = observe(&process, &shared, length, requests) => observed?,
        error = callers.failed() => return Err(error),
    };
    let latencies = callers.stop().await?;
    let peak_memory_kib = process.peak_memory_kib()?;
    let (p50_us, p99_us) = (percentile(&latencies, 50), percentile(&latencies, 99));
    Ok(Measured {
        p50_us,
        p99_us,
        peak_memory_kib,
        ..observed
    })
}

/// Warms up, then reads the process's accounts before and after.
async fn observe(
    process: &Process,
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
        peak_memory_kib: 0,
    })
}

fn percentile(sorted: &[Duration], share: usize) -> u64 {
    let at = sorted.len().saturating_mul(share) / 100;
    let latency = sorted.get(at.min(sorted.len().saturating_sub(1)));
    latency.map_or(0, |latency| {
        u64::try_from(latency.as_micros()).unwrap_or(u64::MAX)
    })
}

/// What the kernel tells about a process.
struct Process(PathBuf);

impl Process {
    fn new(pid: u32) -> Self {
        Self(PathBuf::from(format!("/proc/{pid}")))
    }

    /// User and system time of all threads so far (proc(5), fields 14 and 15 of `stat`).
    fn cpu(&self) -> Result<Duration> {
        let stat = std::fs::read_to_string(self.0.join("stat"))?;
        // The second field is the program's name, in parentheses and free to hold spaces.
        let (_, fields) = stat
            .rsplit_once(") ")
            .context("`stat` has no program name")?;
        let ticks = |field: usize| -> Result<u32> {
            Ok(fields
                .split(' ')
                .nth(field)
                .context("`stat` is short")?
                .parse()?)
        };
        Ok(TICK * ticks(11)?.saturating_add(ticks(12)?))
    }

    fn peak_memory_kib(&self) -> Result<u64> {
        let status = std::fs::read_to_string(self.0.join("status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line
            .context("`status` has no VmHWM")?
            .trim()
            .trim_end_matches(" kB");
        Ok(kib.parse()?)
    }
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

    #[test]
    fn reads_the_cpu_time_that_a_process_has_used() {
        let process = Process::new(std::process::id());
        let before = process.cpu().unwrap();
        let start = Instant::now();
        let mut sum = 0_u64;
        while process.cpu().unwrap() < before + 10 * TICK {
            sum = std::hint::black_box(sum.wrapping_add(1));
            assert!(
                start.elapsed() < Duration::from_secs(60),
                "CPU time does not grow"
            );
        }
        assert!(process.peak_memory_kib().unwrap() > 100);
    }
}
