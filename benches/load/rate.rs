//! Latency at a fixed rate, in an open loop: requests are due at fixed moments, whether or
//! not earlier ones have been answered, and each latency is counted from the moment at which
//! the request was due. A target that stalls is charged for every request that should have
//! been made meanwhile (no coordinated omission).

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hdrhistogram::Histogram;
use rustix::fd::OwnedFd;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use serde::Serialize;
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::client::{Plan, Sender};
use crate::connector::Connector;
use crate::process::Process;

/// How long an answer may take after the last request was sent.
const GRACE: Duration = Duration::from_secs(30);
/// Latencies are kept to three digits, up to a minute.
const DIGITS: u8 = 3;
const LONGEST_NS: u64 = 60_000_000_000;

/// So many requests a second for so long.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rate {
    pub(crate) per_second: u32,
    pub(crate) length: Duration,
}

/// Whether a schedule of this length was kept: its last answer came in time, but for a moment. A target
/// that does not keep up falls behind by a share of the length.
pub(crate) fn is_sustained(length: Duration, took: Duration) -> bool {
    took <= length + (length / 20).max(Duration::from_millis(100))
}

/// What was measured: a plan, at so many requests a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pace {
    pub(crate) plan: Plan,
    pub(crate) per_second: u32,
}

impl fmt::Display for Pace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}/s", self.plan, self.per_second)
    }
}

/// What was found at one rate. Microseconds, from the moment each request was due.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Latencies {
    /// Requests a second that were due.
    pub(crate) asked_per_second: u32,
    /// Those that were answered a second, until the last answer came.
    pub(crate) answered_per_second: f64,
    pub(crate) sustained: bool,
    /// All that were due.
    pub(crate) requests: u64,
    /// Those among them that nobody was free to send, although as much time again had passed as the
    /// schedule took. They count with the time that they had waited by then.
    pub(crate) unsent: u64,
    pub(crate) p50_us: f64,
    pub(crate) p90_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) p999_us: f64,
    pub(crate) max_us: f64,
    /// How late the loader itself sent, at the 99th percentile: what of the figures above
    /// may be its own.
    pub(crate) sent_late_p99_us: f64,
    /// CPU time of the process under test for one request.
    pub(crate) cpu_us: f64,
}

/// The moments at which requests are due, on their way to whoever is free to send one.
pub(crate) type Due = Arc<Mutex<mpsc::UnboundedReceiver<Instant>>>;

struct Recorded {
    latency: Histogram<u64>,
    lateness: Histogram<u64>,
    unsent: u64,
    /// When the last request was due.
    due: Option<Instant>,
    /// When the last answer came.
    last: Option<Instant>,
}

impl Recorded {
    fn new() -> Result<Self> {
        Ok(Self {
            latency: histogram()?,
            lateness: histogram()?,
            unsent: 0,
            due: None,
            last: None,
        })
    }

    fn add(&mut self, other: &Self) -> Result<()> {
        self.latency.add(&other.latency)?;
        self.lateness.add(&other.lateness)?;
        self.unsent += other.unsent;
        self.due = self.due.max(other.due);
        self.last = self.last.max(other.last);
        Ok(())
    }
}

/// Loads a target at a fixed rate. The plan's connections are opened before the first request
/// is due, and each has been used once.
pub(crate) async fn run(
    connector: &Connector,
    plan: Plan,
    rate: Rate,
    process: Process,
) -> Result<Latencies> {
    run_within(GRACE, connector, plan, rate, process).await
}

async fn run_within(
    grace: Duration,
    connector: &Connector,
    plan: Plan,
    rate: Rate,
    process: Process,
) -> Result<Latencies> {
    let mut senders = Sender::all(connector, plan).await?;
    for sender in &mut senders {
        sender.exchange().await?;
    }
    let (dispatch, due) = mpsc::unbounded_channel();
    let due = self::due(due);
    let mut callers = JoinSet::new();
    // A target that does not keep up gets as much time again, so that a run has an end.
    let give_up = Instant::now() + rate.length * 2;
    for sender in senders {
        callers.spawn(call(sender, Arc::clone(&due), give_up));
    }
    let before = process.cpu()?;
    // A thread of its own, which sleeps: tokio's timers fire on the millisecond.
    let requests = tokio::task::spawn_blocking(move || pace(rate, &dispatch)).await??;
    ensure!(requests > 0, "no request was due in {:?}", rate.length);
    let left = give_up.saturating_duration_since(Instant::now());
    let recorded = timeout(left + grace, finish(callers)).await;
    let recorded = recorded.context("requests were left without an answer")??;
    let cpu = process.cpu()?.saturating_sub(before);
    ensure!(
        recorded.latency.len() == requests,
        "{} of {requests} requests were answered",
        recorded.latency.len()
    );
    Ok(Latencies::of(&recorded, rate, cpu))
}

/// Tells each moment when it has come; answers with how many there were. Blocks its thread.
pub(crate) fn pace(rate: Rate, dispatch: &mpsc::UnboundedSender<Instant>) -> Result<u64> {
    pace_from(rate, dispatch, |_| ())
}

/// The same, which tells when the schedule began before anything is due.
pub(crate) fn pace_from(
    rate: Rate,
    dispatch: &mpsc::UnboundedSender<Instant>,
    began: impl FnOnce(Instant),
) -> Result<u64> {
    let period = Duration::from_secs(1) / rate.per_second;
    let total = (rate.length.as_secs_f64() * f64::from(rate.per_second)).round() as u64;
    let timer = Timer::start(period)?;
    began(timer.started);
    let mut told = 0_u32;
    while u64::from(told) < total {
        // A thread that was kept waiting learns of several periods at once, maybe beyond the last.
        for _ in 0..timer.expired()?.min(total - u64::from(told)) {
            told += 1;
            dispatch.send(timer.started + period * told)?;
        }
    }
    Ok(u64::from(told))
}

async fn call(mut sender: Sender, due: Due, give_up: Instant) -> Result<Recorded> {
    let mut recorded = Recorded::new()?;
    while let Some(moment) = next(&due).await {
        recorded.lateness.saturating_record(nanos(moment.elapsed()));
        recorded.due = Some(moment);
        if Instant::now() < give_up {
            sender.exchange().await?;
            recorded.last = Some(Instant::now());
        } else {
            recorded.unsent += 1;
        }
        recorded.latency.saturating_record(nanos(moment.elapsed()));
    }
    Ok(recorded)
}

/// Shares moments out among callers.
pub(crate) fn due(moments: mpsc::UnboundedReceiver<Instant>) -> Due {
    Arc::new(Mutex::new(moments))
}

/// The next moment, for one caller.
pub(crate) async fn next(due: &Due) -> Option<Instant> {
    due.lock().await.recv().await
}

async fn finish(mut callers: JoinSet<Result<Recorded>>) -> Result<Recorded> {
    let mut sum = Recorded::new()?;
    while let Some(caller) = callers.join_next().await {
        sum.add(&caller??)?;
    }
    Ok(sum)
}

/// An empty one, of nanoseconds.
pub(crate) fn histogram() -> Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(1, LONGEST_NS, DIGITS)?)
}

pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

impl Latencies {
    fn of(recorded: &Recorded, rate: Rate, cpu: Duration) -> Self {
        let us =
            |histogram: &Histogram<u64>, share| histogram.value_at_quantile(share) as f64 / 1e3;
        let latency = &recorded.latency;
        let answered = latency.len().saturating_sub(recorded.unsent);
        let late = recorded.last.zip(recorded.due);
        let late = late.map(|(last, due)| last.saturating_duration_since(due));
        let took = rate.length + late.unwrap_or_default();
        Self {
            asked_per_second: rate.per_second,
            answered_per_second: answered as f64 / took.as_secs_f64(),
            sustained: recorded.unsent == 0 && is_sustained(rate.length, took),
            requests: latency.len(),
            unsent: recorded.unsent,
            p50_us: us(latency, 0.5),
            p90_us: us(latency, 0.9),
            p99_us: us(latency, 0.99),
            p999_us: us(latency, 0.999),
            max_us: latency.max() as f64 / 1e3,
            sent_late_p99_us: us(&recorded.lateness, 0.99),
            cpu_us: cpu.as_secs_f64() * 1e6 / answered.max(1) as f64,
        }
    }
}

/// A timer of the kernel's that fires once a period. It does not drift, and counts what was
/// missed.
struct Timer {
    started: Instant,
    timer: OwnedFd,
}

impl Timer {
    fn start(period: Duration) -> Result<Self> {
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC)?;
        let period = Timespec {
            tv_sec: i64::try_from(period.as_secs())?,
            tv_nsec: period.subsec_nanos().into(),
        };
        let every = Itimerspec {
            it_interval: period,
            it_value: period,
        };
        let started = Instant::now();
        timerfd_settime(&timer, TimerfdTimerFlags::empty(), &every)?;
        Ok(Self { started, timer })
    }

    /// Waits for the end of a period; answers with how many have ended since the last call.
    fn expired(&self) -> Result<u64> {
        let mut count = [0; 8];
        rustix::io::read(&self.timer, &mut count)?;
        Ok(u64::from_ne_bytes(count))
    }
}

#[cfg(test)]
mod tests {
    //! The server's delays are known, and the figures must tell them. A busy machine can only
    //! add to a delay, so bounds are from below.

    use std::convert::Infallible;
    use std::net::{Ipv4Addr, SocketAddr};
    use std::sync::atomic::{AtomicU64, Ordering};

    use bytes::Bytes;
    use http::Response;
    use hyper::server::conn::http1;
    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;
    use tokio::net::TcpListener;
    use tokio::time::{sleep, sleep_until};

    use super::*;
    use crate::body::Body;
    use crate::papers::Caller;
    use crate::upstream::BODY;

    const CONNECTIONS: usize = 32;

    /// A server that answers the request of each number after the delay that `delay` gives.
    async fn server<D>(delay: impl Fn(u64) -> D + Clone + Send + 'static) -> SocketAddr
    where
        D: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let number = Arc::new(AtomicU64::new(0));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (number, delay) = (Arc::clone(&number), delay.clone());
                let service = service_fn(move |_| {
                    let waiting = delay(number.fetch_add(1, Ordering::Relaxed));
                    async move {
                        waiting.await;
                        let body = Body::Whole(Bytes::from_static(BODY));
                        Ok::<_, Infallible>(Response::new(body))
                    }
                });
                let serving = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                tokio::spawn(serving);
            }
        });
        address
    }

    async fn measured(address: SocketAddr, per_second: u32, length: Duration) -> Latencies {
        let connector = Connector::new(address, None, Caller::Loader).unwrap();
        let plan = Plan::Http1 {
            connections: CONNECTIONS,
        };
        let process = Process::new(std::process::id());
        let rate = Rate { per_second, length };
        run(&connector, plan, rate, process).await.unwrap()
    }

    const MS: f64 = 1e3;

    #[tokio::test]
    async fn a_known_distribution_is_told_as_it_is() {
        // Of every hundred answers 80 take 10 ms, 15 take 100 ms and 5 take 400 ms.
        let delay = |number: u64| {
            let ms = match number % 100 {
                0..80 => 10,
                80..95 => 100,
                _ => 400,
            };
            sleep(Duration::from_millis(ms))
        };
        let found = measured(server(delay).await, 200, Duration::from_secs(4)).await;
        assert_eq!(found.requests, 800);
        assert!(found.p50_us >= 10.0 * MS, "{found:?}");
        assert!(found.p90_us >= 100.0 * MS, "{found:?}");
        assert!(found.p99_us >= 400.0 * MS, "{found:?}");
    }

    #[tokio::test]
    async fn a_stall_is_charged_to_every_request_that_was_due_meanwhile() {
        // Nothing is answered from the first to the second second.
        let stalled = tokio::time::Instant::now() + Duration::from_secs(1);
        let delay = move |_| async move {
            if tokio::time::Instant::now() >= stalled {
                sleep_until(stalled + Duration::from_secs(1)).await;
            }
        };
        let found = measured(server(delay).await, 200, Duration::from_secs(4)).await;
        assert_eq!(found.requests, 800);
        // A quarter of the requests was due in the stall, spread evenly over it: a tenth of all
        // waited for at least 600 ms. Callers that wait for their answers would have sent one
        // request each, 4% of all, and told of a stall at the 99th percentile only.
        assert!(found.p90_us >= 500.0 * MS, "{found:?}");
        assert!(found.p99_us >= 900.0 * MS, "{found:?}");
    }

    #[test]
    fn a_pacer_that_is_kept_waiting_tells_no_more_than_is_due() {
        let (dispatch, mut due) = mpsc::unbounded_channel();
        let rate = Rate {
            per_second: 1_000,
            length: Duration::from_millis(20),
        };
        // Kept waiting for longer than the schedule.
        let late = |_| std::thread::sleep(Duration::from_millis(50));
        assert_eq!(pace_from(rate, &dispatch, late).unwrap(), 20);
        drop(dispatch);
        let moments: Vec<_> = std::iter::from_fn(|| due.blocking_recv()).collect();
        assert_eq!(moments.len(), 20);
        assert_eq!(moments[19] - moments[0], Duration::from_millis(19));
    }

    #[test]
    fn a_schedule_is_kept_that_ends_a_moment_late() {
        let ms = Duration::from_millis;
        assert!(is_sustained(ms(200), ms(290)));
        assert!(!is_sustained(ms(200), ms(400)));
        assert!(is_sustained(ms(10_000), ms(10_490)));
        assert!(!is_sustained(ms(10_000), ms(10_600)));
    }

    #[tokio::test]
    async fn a_rate_that_is_not_sustained_is_told_and_the_run_has_an_end() {
        // 32 callers at 200 ms an answer: 160 a second, at most.
        let delay = |_| sleep(Duration::from_millis(200));
        let found = measured(server(delay).await, 800, Duration::from_secs(1)).await;
        assert!(!found.sustained, "{found:?}");
        assert!(found.answered_per_second <= 161.0, "{found:?}");
        // Two seconds, and what was under way then; all others count as well.
        assert!(found.unsent >= 800 - 352, "{found:?}");
        assert_eq!(found.requests, 800);
        assert!(found.p90_us >= 1_000.0 * MS, "{found:?}");
    }

    #[tokio::test]
    async fn an_answer_that_never_comes_is_an_error_and_no_figure() {
        let delay = |number: u64| async move {
            // The first of each connection is its warm-up.
            if number > 2 * CONNECTIONS as u64 {
                std::future::pending::<()>().await;
            }
        };
        let address = server(delay).await;
        let connector = Connector::new(address, None, Caller::Loader).unwrap();
        let plan = Plan::Http1 {
            connections: CONNECTIONS,
        };
        let rate = Rate {
            per_second: 1_000,
            length: Duration::from_millis(500),
        };
        let process = Process::new(std::process::id());
        let error = run_within(Duration::from_secs(1), &connector, plan, rate, process).await;
        assert!(error.is_err());
    }
}
