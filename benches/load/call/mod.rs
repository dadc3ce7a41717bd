//! Loads any server that asks for mutual TLS, be it this sidecar or not: several identities at
//! once, those that are to be served and those that are to be refused, in every protocol.

mod caller;
mod found;
#[cfg(test)]
mod honesty;
mod identities;
mod report;

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::sleep;

use crate::job::{Ask, Job};
use crate::process::Process;
use crate::rate::{self, Due, Rate};
use caller::{PAUSE, Shared, lock};
use found::{Found, Side};

#[derive(Debug, clap::Args)]
#[command(after_help = "Example, with the papers of `wayleave dev`:
  load call localhost:8443 --roots .wayleave/bundle.pem --path /orders/7 \\
    --allowed .wayleave/svids/agent/svid.pem,.wayleave/svids/agent/key.pem \\
    --connections 8 --seconds 10")]
pub(crate) struct Arguments {
    /// The server: host and port.
    server: String,
    /// What is done on each connection again and again.
    #[arg(long, value_enum, default_value_t = Job::Http1)]
    job: Job,
    /// The trust bundle by which the server is verified, in PEM.
    #[arg(long)]
    roots: PathBuf,
    /// Certificate and key of a caller that is to be served: two files in PEM, with a comma.
    /// As often as there are such callers; connections are shared out among them.
    #[arg(long, value_parser = pair)]
    allowed: Vec<Pair>,
    /// The same of a caller that is to be refused.
    #[arg(long, value_parser = pair)]
    denied: Vec<Pair>,
    /// The name in the server's certificate; the host by default.
    #[arg(long)]
    name: Option<String>,
    /// The host that is asked for; host and port of the server by default.
    #[arg(long)]
    authority: Option<String>,
    /// Path and query; for gRPC `/package.Service/Method`.
    #[arg(long, default_value = "/")]
    path: String,
    /// Bytes of a message, where the job has messages. The server must echo them in streams,
    /// WebSockets and TCP.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1_048_576))]
    bytes: u32,
    /// Connections in all.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=20_000))]
    connections: u32,
    /// Callers that share each connection, where the protocol can: HTTP/2 and unary gRPC.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    streams: u32,
    /// A new connection, with a full handshake, for each exchange.
    #[arg(long)]
    fresh: bool,
    /// Exchanges a second at fixed moments (an open loop); without it, each caller makes its next
    /// when the last was answered.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: Option<u32>,
    /// Seconds before anything counts.
    #[arg(long, default_value_t = 1.0, value_parser = crate::seconds)]
    warm_up: f64,
    /// Seconds that count.
    #[arg(long, default_value_t = 10.0, value_parser = crate::seconds)]
    seconds: f64,
    /// Tell what CPU time and memory this process takes: the server, where it is on this machine.
    #[arg(long)]
    pid: Option<u32>,
    /// Write the results to this file as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// The files of a certificate chain and its key.
#[derive(Clone, Debug)]
pub(crate) struct Pair {
    chain: PathBuf,
    key: PathBuf,
}

fn pair(text: &str) -> Result<Pair, String> {
    match text.split_once(',') {
        Some((chain, key)) => Ok(Pair {
            chain: chain.into(),
            key: key.into(),
        }),
        None => Err("two files with a comma: CHAIN.pem,KEY.pem".to_owned()),
    }
}

/// What one run found.
struct Outcome {
    /// How long exchanges counted.
    length: Duration,
    sides: BTreeMap<Side, Found>,
    /// How long exchanges that were due waited for a caller, in nanoseconds.
    late: Histogram<u64>,
    /// CPU time and the most memory of the server.
    server: Option<(Duration, u64)>,
}

/// # Errors
/// Where an exchange did not end as was to be expected of its caller, or none was made.
pub(crate) async fn run(arguments: &Arguments) -> Result<()> {
    measure(arguments).await?.report(arguments)
}

async fn measure(arguments: &Arguments) -> Result<Outcome> {
    measure_pausing(arguments, PAUSE).await
}

async fn measure_pausing(arguments: &Arguments, pause: Duration) -> Result<Outcome> {
    let callers = identities::callers(arguments)?;
    let (warm_up, length) = (
        Duration::from_secs_f64(arguments.warm_up),
        Duration::from_secs_f64(arguments.seconds),
    );
    let pacing = arguments.rate.map(|per_second| {
        let length = warm_up + length;
        pacing(Rate { per_second, length })
    });
    let (due, pacing, started) = match pacing {
        Some((due, pacing, started)) => {
            let started = started.await.context("the schedule did not begin")?;
            (Some(due), Some(pacing), started)
        }
        None => (None, None, Instant::now()),
    };
    let begin = started + warm_up;
    let shared = Arc::new(Shared {
        job: arguments.job,
        fresh: arguments.fresh,
        pause,
        ask: arguments.ask()?,
        due,
        counts: begin..begin + length,
        stopping: AtomicBool::new(false),
        count: AtomicU64::new(0),
        found: Mutex::new(BTreeMap::from([
            (Side::Allowed, Found::new()?),
            (Side::Denied, Found::new()?),
        ])),
        late: Mutex::new(rate::histogram()?),
    });
    let mut tasks = JoinSet::new();
    for (side, connector) in callers {
        let (shared, streams) = (Arc::clone(&shared), arguments.streams);
        tasks.spawn(caller::keep_calling(side, connector, streams, shared));
    }
    sleep(begin.saturating_duration_since(Instant::now())).await;
    let server = observe(arguments.pid, &shared, length).await?;
    shared.stopping.store(true, Ordering::Relaxed);
    if let Some(pacing) = pacing {
        pacing.await??;
    }
    while let Some(caller) = tasks.join_next().await {
        caller??;
    }
    let mut sides = std::mem::take(&mut *lock(&shared.found));
    sides.retain(|_, found| !found.latency.is_empty());
    let late = lock(&shared.late).clone();
    Ok(Outcome {
        length,
        sides,
        late,
        server,
    })
}

/// The moments of a schedule, whoever tells them, and when it began.
fn pacing(rate: Rate) -> (Due, JoinHandle<Result<u64>>, oneshot::Receiver<Instant>) {
    let (dispatch, due) = mpsc::unbounded_channel();
    let (begin, began) = oneshot::channel();
    let telling = tokio::task::spawn_blocking(move || {
        rate::pace_from(rate, &dispatch, |started| {
            // Who does not wait for it does not need it.
            let _ = begin.send(started);
        })
    });
    (rate::due(due), telling, began)
}

impl Arguments {
    fn ask(&self) -> Result<Ask> {
        let authority = self.authority.as_ref().unwrap_or(&self.server);
        Ok(Ask {
            authority: authority.clone(),
            path: self.path.clone(),
            mark: None,
            message: vec![b'w'; usize::try_from(self.bytes)?].into(),
        })
    }
}

/// Waits for as long as exchanges count; answers with what that cost the server, where its process
/// is known.
async fn observe(
    pid: Option<u32>,
    shared: &Shared,
    length: Duration,
) -> Result<Option<(Duration, u64)>> {
    let process = pid.map(Process::new);
    let before = process.map(Process::cpu).transpose()?;
    progress(shared, length).await;
    let Some((process, before)) = process.zip(before) else {
        return Ok(None);
    };
    let cpu = process.cpu()?.saturating_sub(before);
    Ok(Some((cpu, process.memory()?.peak_kib)))
}

/// Waits, and tells a terminal each second how many exchanges there were.
async fn progress(shared: &Shared, length: Duration) {
    let (start, terminal) = (Instant::now(), std::io::stderr().is_terminal());
    while let Some(left) = length
        .checked_sub(start.elapsed())
        .filter(|left| !left.is_zero())
    {
        sleep(left.min(Duration::from_secs(1))).await;
        if terminal {
            let count = shared.count.load(Ordering::Relaxed);
            eprint!(
                "\r{:.0} s: {count} exchanges ",
                start.elapsed().as_secs_f64()
            );
        }
    }
    if terminal {
        eprintln!();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_two_files() {
        assert!(pair("chain.pem").is_err());
        let both = pair("a/chain.pem,b/key.pem").unwrap();
        assert_eq!(
            (both.chain, both.key),
            ("a/chain.pem".into(), "b/key.pem".into())
        );
    }
}
