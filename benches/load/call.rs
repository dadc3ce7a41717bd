//! Loads any server that asks for mutual TLS, be it this sidecar or not: several identities at
//! once, those that are to be served and those that are to be refused, in every protocol.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::net::{SocketAddr, ToSocketAddrs};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use hdrhistogram::Histogram;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::connector::Connector;
use crate::job::{Answer, Ask, Job, Line};
use crate::process::Process;
use crate::rate::{self, Due, Rate};

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

/// Whether a caller is to be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Side {
    Allowed,
    Denied,
}

impl Side {
    fn name(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Denied => "denied",
        }
    }

    /// What is told of an exchange, and whether it is what was to be expected.
    fn judge(self, job: Job, answer: &Result<Answer>) -> (String, bool) {
        match (self, answer) {
            (Self::Allowed, Ok(Answer::Ok)) => ("ok".to_owned(), true),
            (Self::Denied, Ok(refused @ (Answer::Http(403 | 401) | Answer::Grpc(7 | 16)))) => {
                (refused.to_string(), true)
            }
            // Bytes cannot be told anything.
            (Self::Denied, Err(_)) if job == Job::Tcp => ("closed".to_owned(), true),
            (_, Ok(answer)) => (answer.to_string(), false),
            (_, Err(_)) => ("broke".to_owned(), false),
        }
    }
}

/// What one side found. Latencies are in nanoseconds.
struct Found {
    latency: Histogram<u64>,
    answers: BTreeMap<String, u64>,
    unexpected: u64,
    /// The first thing that was not to be expected.
    example: Option<String>,
}

/// Latencies are kept to three digits, up to a minute.
const LONGEST_NS: u64 = 60_000_000_000;
/// An exchange that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(30);
/// After a failure, so that a server that is gone is not called as fast as can be.
const PAUSE: Duration = Duration::from_millis(20);

/// What all callers share.
struct Shared {
    job: Job,
    fresh: bool,
    ask: Ask,
    /// Where exchanges are due at fixed moments.
    due: Option<Due>,
    /// Exchanges that were due, or begun, from here on and up to there count.
    counts: Range<Instant>,
    stopping: AtomicBool,
    count: AtomicU64,
    found: Mutex<BTreeMap<Side, Found>>,
}

/// # Errors
/// Where an exchange did not end as was to be expected of its caller, or none was made.
pub(crate) async fn run(arguments: &Arguments) -> Result<()> {
    let callers = callers(arguments)?;
    let (dispatch, due) = mpsc::unbounded_channel();
    let (warm_up, length) = (
        Duration::from_secs_f64(arguments.warm_up),
        Duration::from_secs_f64(arguments.seconds),
    );
    let begin = Instant::now() + warm_up;
    let shared = Arc::new(Shared {
        job: arguments.job,
        fresh: arguments.fresh,
        ask: Ask {
            authority: arguments
                .authority
                .clone()
                .unwrap_or_else(|| arguments.server.clone()),
            path: arguments.path.clone(),
            mark: None,
            message: vec![b'w'; usize::try_from(arguments.bytes)?].into(),
        },
        due: arguments.rate.map(|_| rate::due(due)),
        counts: begin..begin + length,
        stopping: AtomicBool::new(false),
        count: AtomicU64::new(0),
        found: Mutex::new(BTreeMap::from([
            (Side::Allowed, Found::new()?),
            (Side::Denied, Found::new()?),
        ])),
    });
    let mut tasks = JoinSet::new();
    for (side, connector) in callers {
        let shared = Arc::clone(&shared);
        let streams = arguments.streams;
        tasks.spawn(async move { keep_calling(side, connector, streams, shared).await });
    }
    if let Some(per_second) = arguments.rate {
        let rate = Rate {
            per_second,
            length: warm_up + length,
        };
        tokio::task::spawn_blocking(move || rate::pace(rate, &dispatch));
    }
    sleep(warm_up).await;
    let process = arguments.pid.map(Process::new);
    let before = process.map(Process::cpu).transpose()?;
    progress(&shared, length).await;
    let cpu = process
        .map(Process::cpu)
        .transpose()?
        .zip(before)
        .map(|(now, then)| now - then);
    let memory = process.map(Process::memory).transpose()?;
    shared.stopping.store(true, Ordering::Relaxed);
    while let Some(caller) = tasks.join_next().await {
        caller??;
    }
    let mut found = std::mem::take(&mut *lock(&shared.found));
    found.retain(|_, found| !found.latency.is_empty());
    report(
        arguments,
        length,
        &found,
        cpu,
        memory.map(|memory| memory.peak_kib),
    )
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One connector for each connection, by turns of all identities.
fn callers(arguments: &Arguments) -> Result<Vec<(Side, Connector)>> {
    let mut addresses = arguments.server.to_socket_addrs().context("host:port")?;
    let address = addresses.next().context("the host has no address")?;
    let host = arguments
        .server
        .rsplit_once(':')
        .map_or("", |(host, _)| host);
    let name = arguments
        .name
        .as_deref()
        .unwrap_or(host.trim_matches(['[', ']']));
    let allowed = arguments.allowed.iter().map(|pair| (Side::Allowed, pair));
    let denied = arguments.denied.iter().map(|pair| (Side::Denied, pair));
    let mut identities = Vec::new();
    for (side, pair) in allowed.chain(denied) {
        identities.push((side, connector(address, name, &arguments.roots, pair)?));
    }
    ensure!(
        !identities.is_empty(),
        "nobody calls: give `--allowed` or `--denied`"
    );
    let connections = usize::try_from(arguments.connections)?.max(identities.len());
    Ok(identities
        .iter()
        .cycle()
        .take(connections)
        .cloned()
        .collect())
}

fn connector(address: SocketAddr, name: &str, roots: &Path, pair: &Pair) -> Result<Connector> {
    let told = |path: &Path| path.display().to_string();
    let mut store = RootCertStore::empty();
    for root in CertificateDer::pem_file_iter(roots).with_context(|| told(roots))? {
        store.add(root?).with_context(|| told(roots))?;
    }
    let chain = CertificateDer::pem_file_iter(&pair.chain).with_context(|| told(&pair.chain))?;
    let chain = chain
        .collect::<Result<Vec<_>, _>>()
        .with_context(|| told(&pair.chain))?;
    let key = PrivateKeyDer::from_pem_file(&pair.key).with_context(|| told(&pair.key))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(store)
        .with_client_auth_cert(chain, key)?;
    config.resumption = rustls::client::Resumption::disabled();
    Connector::with(address, name, Some(config))
}

/// One connection, made again when it breaks, with the callers that share it.
async fn keep_calling(
    side: Side,
    connector: Connector,
    streams: u32,
    shared: Arc<Shared>,
) -> Result<()> {
    let line = open(side, &connector, &shared).await;
    let mut callers = JoinSet::new();
    for _ in 1..streams {
        if let Some(line) = line.as_ref().and_then(Line::share) {
            let (connector, shared) = (connector.clone(), Arc::clone(&shared));
            callers.spawn(async move { caller(side, &connector, Some(line), &shared).await });
        }
    }
    caller(side, &connector, line, &shared).await?;
    while let Some(caller) = callers.join_next().await {
        caller??;
    }
    Ok(())
}

async fn open(side: Side, connector: &Connector, shared: &Shared) -> Option<Line> {
    let begun = Instant::now();
    let opened = timeout(PATIENCE, Line::open(connector, shared.job, &shared.ask)).await;
    let refused = match opened {
        Ok(Ok(Ok(line))) => return Some(line),
        Ok(Ok(Err(answer))) => Ok(answer),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(anyhow::anyhow!("no connection in {PATIENCE:?}")),
    };
    shared.note(side, begun, refused);
    sleep(PAUSE).await;
    None
}

async fn caller(
    side: Side,
    connector: &Connector,
    mut line: Option<Line>,
    shared: &Shared,
) -> Result<()> {
    loop {
        // In an open loop an exchange counts from the moment at which it was due.
        let begun = match &shared.due {
            None if shared.stopping.load(Ordering::Relaxed) => break,
            None => Instant::now(),
            Some(due) => match rate::next(due).await {
                None => break,
                Some(moment) => moment,
            },
        };
        if shared.counts.end.elapsed() > PATIENCE {
            // What was due and could not be sent is told, and not left out.
            shared.note(side, begun, Err(anyhow::anyhow!("due, and never sent")));
            continue;
        }
        if line.is_none() || shared.fresh {
            line = open(side, connector, shared).await;
        }
        let Some(open) = &mut line else {
            continue;
        };
        let answer = match timeout(PATIENCE, open.exchange(&shared.ask)).await {
            Ok(answer) => answer,
            Err(_) => Err(anyhow::anyhow!("no answer in {PATIENCE:?}")),
        };
        if answer.is_err() {
            line = None;
            // Refused bytes are refused again and again.
            sleep(PAUSE).await;
        }
        shared.note(side, begun, answer);
    }
    Ok(())
}

impl Shared {
    fn note(&self, side: Side, begun: Instant, answer: Result<Answer>) {
        if !self.counts.contains(&begun) {
            return;
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        let took = u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
        let (told, expected) = side.judge(self.job, &answer);
        let mut found = lock(&self.found);
        let Some(found) = found.get_mut(&side) else {
            return;
        };
        found.latency.saturating_record(took);
        if !expected {
            found.unexpected += 1;
            let why = || {
                answer
                    .as_ref()
                    .map_or_else(|e| format!("{e:#}"), ToString::to_string)
            };
            found.example.get_or_insert_with(why);
        }
        *found.answers.entry(told).or_default() += 1;
    }
}

impl Found {
    fn new() -> Result<Self> {
        Ok(Self {
            latency: Histogram::new_with_bounds(1, LONGEST_NS, 3)?,
            answers: BTreeMap::new(),
            unexpected: 0,
            example: None,
        })
    }

    fn us(&self, share: f64) -> f64 {
        self.latency.value_at_quantile(share) as f64 / 1e3
    }
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

fn report(
    arguments: &Arguments,
    length: Duration,
    found: &BTreeMap<Side, Found>,
    cpu: Option<Duration>,
    peak_kib: Option<u64>,
) -> Result<()> {
    println!(
        "{}, {} connections, {:.1} s\n",
        arguments.job,
        arguments.connections,
        length.as_secs_f64()
    );
    println!(
        "| callers | exchanges | a second | p50 µs | p90 µs | p99 µs | p99.9 µs | most µs | answers |"
    );
    println!("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |");
    for (side, found) in found {
        let answers = found
            .answers
            .iter()
            .map(|(answer, count)| format!("{answer}: {count}"));
        println!(
            "| {} | {} | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} | {} |",
            side.name(),
            found.latency.len(),
            found.latency.len() as f64 / length.as_secs_f64(),
            found.us(0.5),
            found.us(0.9),
            found.us(0.99),
            found.us(0.999),
            found.us(1.0),
            answers.collect::<Vec<_>>().join(", ")
        );
    }
    let exchanges: u64 = found.values().map(|found| found.latency.len()).sum();
    let cpu_us = cpu.map(|cpu| cpu.as_secs_f64() * 1e6 / exchanges.max(1) as f64);
    if let (Some(cpu_us), Some(peak_kib)) = (cpu_us, peak_kib) {
        println!(
            "\nthe server: {cpu_us:.1} µs of CPU an exchange, {:.1} MiB at most",
            peak_kib as f64 / 1024.0
        );
    }
    if let Some(path) = &arguments.json {
        write_json(path, arguments, length, found, cpu_us, peak_kib)?;
    }
    ensure!(exchanges > 0, "no exchange was made");
    for (side, found) in found {
        if let Some(example) = &found.example {
            bail!(
                "{} exchanges of {} callers ended otherwise than they should, such as: {example}",
                found.unexpected,
                side.name()
            );
        }
    }
    Ok(())
}

fn write_json(
    path: &Path,
    arguments: &Arguments,
    length: Duration,
    found: &BTreeMap<Side, Found>,
    cpu_us: Option<f64>,
    peak_kib: Option<u64>,
) -> Result<()> {
    let sides: serde_json::Value = found
        .iter()
        .map(|(side, found)| {
            json!({
                "callers": side.name(),
                "exchanges": found.latency.len(),
                "unexpected": found.unexpected,
                "answers": found.answers,
                "p50_us": found.us(0.5),
                "p90_us": found.us(0.9),
                "p99_us": found.us(0.99),
                "p999_us": found.us(0.999),
                "max_us": found.us(1.0),
            })
        })
        .collect();
    let report = json!({
        "job": arguments.job,
        "connections": arguments.connections,
        "streams": arguments.streams,
        "fresh": arguments.fresh,
        "rate": arguments.rate,
        "seconds": length.as_secs_f64(),
        "cpu_us": cpu_us,
        "peak_kib": peak_kib,
        "callers": sides,
    });
    let text = serde_json::to_string_pretty(&report)? + "\n";
    std::fs::write(path, text).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_expected_depends_on_the_caller() {
        let expected = |side: Side, job, answer: &Result<Answer>| side.judge(job, answer).1;
        let broke = || Err(anyhow::anyhow!("reset"));
        assert!(expected(Side::Allowed, Job::Http1, &Ok(Answer::Ok)));
        assert!(!expected(Side::Allowed, Job::Http1, &Ok(Answer::Http(403))));
        assert!(!expected(Side::Allowed, Job::Tcp, &broke()));
        assert!(expected(Side::Denied, Job::Http1, &Ok(Answer::Http(403))));
        assert!(expected(Side::Denied, Job::GrpcUnary, &Ok(Answer::Grpc(7))));
        assert!(expected(Side::Denied, Job::Tcp, &broke()));
        assert!(!expected(Side::Denied, Job::Http1, &Ok(Answer::Ok)));
        assert!(!expected(Side::Denied, Job::Http1, &Ok(Answer::Http(502))));
        assert!(!expected(Side::Denied, Job::Http1, &broke()));
    }

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
