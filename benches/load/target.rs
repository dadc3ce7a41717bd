//! The processes under test: started, pinned, and killed by their own pid when dropped.

use std::ffi::OsString;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use crate::client::Plan;
use crate::connector::Connector;
use crate::papers::{Allowance, Caller, Papers};
use crate::peers::{AccessLog, Found, Peer};
use crate::process::{self, Process};

/// The core of the process under test, and that of everybody else.
const UNDER_TEST: &str = "0";
const THE_OTHERS: &str = "1";
const START: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The upstream itself, plain.
    Straight,
    /// The stack's TLS, and nothing behind it.
    Echo,
    /// A proxy of the same stack that decides nothing.
    Bare,
    /// The sidecar, its decision records switched off.
    Sidecar,
    /// The sidecar, its decision records written to a file.
    SidecarRecording,
    /// The sidecar, its records off, with so many policies in place of one.
    SidecarOf(usize),
    /// The sidecar, its records off, with policies that read signals of the caller.
    SidecarSignals,
    /// Somebody else's proxy.
    Peer(Peer),
    /// Envoy, an access log written to a file.
    EnvoyLogging,
}

/// How many policies it has in the comparison by their number, beside one.
pub(crate) const POLICIES: [usize; 2] = [100, 10_000];

impl Kind {
    /// Whether it refuses anything.
    pub(crate) fn decides(self) -> bool {
        !matches!(self, Self::Straight | Self::Echo | Self::Bare)
    }

    /// Whether it can be asked that way.
    pub(crate) fn speaks(self, plan: Plan) -> bool {
        self != Self::Echo || !matches!(plan, Plan::Http2 { .. })
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SidecarOf(policies) => return write!(f, "wayleave, {policies} policies"),
            Self::Straight => "straight to the upstream",
            Self::Echo => "TLS alone, no proxy",
            Self::Bare => "bare proxy",
            Self::Sidecar => "wayleave, records off",
            Self::SidecarSignals => "wayleave, signals on",
            Self::SidecarRecording => "wayleave, records to a file",
            Self::Peer(peer) => peer.name(),
            Self::EnvoyLogging => "Envoy, access log to a file",
        })
    }
}

/// What all targets of one run share.
pub(crate) struct Stage {
    pub(crate) papers: Papers,
    pub(crate) sidecar: PathBuf,
    pub(crate) peers: Vec<Found>,
    pub(crate) pinned: bool,
    /// What the process under test is run by: nothing, or an instrument with its arguments.
    pub(crate) instrument: Vec<OsString>,
}

impl Stage {
    /// For what is counted and not timed: no peers, no core of its own, any instrument.
    pub(crate) fn counting(sidecar: PathBuf) -> Result<Self> {
        Ok(Self {
            papers: Papers::create()?,
            sidecar,
            peers: Vec::new(),
            pinned: false,
            instrument: Vec::new(),
        })
    }

    /// Everything that can be measured here.
    pub(crate) fn kinds(&self) -> Vec<Kind> {
        let ours = [
            Kind::Straight,
            Kind::Bare,
            Kind::Sidecar,
            Kind::SidecarRecording,
        ];
        let peers = self.peers.iter().map(|found| Kind::Peer(found.peer));
        ours.into_iter().chain(peers).collect()
    }

    /// Everything whose requests are measured: the sidecar by its number of policies as well, and
    /// with signals; Envoy with its log on, as the sidecar with its records; and TLS alone.
    pub(crate) fn crowd(&self) -> Vec<Kind> {
        let more = |kind| match kind {
            Kind::Sidecar => {
                let policies = POLICIES.map(Kind::SidecarOf).into_iter();
                policies.chain([Kind::SidecarSignals]).collect()
            }
            Kind::Straight => vec![Kind::Echo],
            Kind::Peer(Peer::Envoy) => vec![Kind::EnvoyLogging],
            _ => Vec::new(),
        };
        let kinds = self.kinds().into_iter();
        kinds
            .flat_map(|kind| [kind].into_iter().chain(more(kind)))
            .collect()
    }

    /// A command on a core, run by the instrument if it is the one under test.
    fn command(&self, program: &Path, core: &str) -> Command {
        let mut words: Vec<OsString> = Vec::new();
        if self.pinned {
            words.extend(["taskset", "-c", core].map(OsString::from));
        }
        if core == UNDER_TEST {
            words.extend(self.instrument.iter().cloned());
        }
        words.push(program.into());
        let mut words = words.into_iter();
        let mut command = Command::new(words.next().unwrap_or_default());
        command.args(words);
        command
    }

    /// This program, as another of its parts.
    fn own(&self, core: &str) -> Result<Command> {
        Ok(self.command(&std::env::current_exe()?, core))
    }

    fn peer(&self, peer: Peer) -> Result<&Found> {
        let found = self.peers.iter().find(|found| found.peer == peer);
        found.with_context(|| format!("{} is not here", peer.name()))
    }
}

/// A running target with its upstream.
pub(crate) struct Target {
    pub(crate) process: Process,
    /// Kept: they end when dropped.
    under_test: Child,
    _upstream: Option<Child>,
    addresses: Addresses,
    tls: bool,
}

struct Addresses {
    http1: SocketAddr,
    http2: SocketAddr,
}

impl Target {
    pub(crate) async fn start(kind: Kind, stage: &Stage, allowance: Allowance) -> Result<Self> {
        let core = match kind {
            Kind::Straight => UNDER_TEST,
            _ => THE_OTHERS,
        };
        let mut upstream = stage.own(core)?;
        let (upstream, addresses) = started(upstream.arg("upstream"), both).await?;
        if kind == Kind::Straight {
            return Self::new(upstream, None, addresses);
        }
        let (under_test, address) = proxy(kind, stage, addresses.http1, allowance).await?;
        let addresses = Addresses {
            http1: address,
            http2: address,
        };
        Self::new(under_test, Some(upstream), addresses)
    }

    fn new(under_test: Child, upstream: Option<Child>, addresses: Addresses) -> Result<Self> {
        let pid = under_test
            .id()
            .context("the process under test has ended")?;
        Ok(Self {
            process: Process::new(pid),
            tls: upstream.is_some(),
            under_test,
            _upstream: upstream,
            addresses,
        })
    }

    /// Opens connections for a plan, as the caller that the rule allows.
    pub(crate) fn connector(&self, plan: Plan, stage: &Stage) -> Result<Connector> {
        let address = match plan {
            Plan::Http1 { .. } | Plan::Fresh { .. } => self.addresses.http1,
            Plan::Http2 { .. } => self.addresses.http2,
        };
        let papers = self.tls.then(|| stage.papers.path());
        Connector::new(address, papers, Caller::Loader)
    }

    /// Has it end by itself, as an operator does.
    pub(crate) async fn end(self) -> Result<()> {
        process::end(self.under_test).await
    }

    /// Where it listens, if it asks for mutual TLS there.
    pub(crate) fn tls_address(&self) -> Option<SocketAddr> {
        self.tls.then_some(self.addresses.http1)
    }
}

/// Starts a proxy in front of `upstream`; answers once it accepts connections.
async fn proxy(
    kind: Kind,
    stage: &Stage,
    upstream: SocketAddr,
    allowance: Allowance,
) -> Result<(Child, SocketAddr)> {
    let recording = |decisions, allowance| async move {
        let config = stage.papers.config(upstream, decisions, allowance)?;
        let command = stage.command(&stage.sidecar, UNDER_TEST);
        started_sidecar(command, &config, &["\"WARN\"", "\"ERROR\""]).await
    };
    match kind {
        Kind::Straight | Kind::Bare => {
            let mut bare = stage.own(UNDER_TEST)?;
            bare.arg("bare").arg("--papers").arg(stage.papers.path());
            started(bare.arg("--upstream").arg(upstream.to_string()), one).await
        }
        Kind::Echo => {
            let mut echo = stage.own(UNDER_TEST)?;
            echo.arg("echo").arg("--papers").arg(stage.papers.path());
            started(&mut echo, one).await
        }
        Kind::Sidecar => recording("off", allowance).await,
        Kind::SidecarOf(policies) => {
            let many = stage.papers.many_policies(policies)?;
            recording("off", allowance.with(many)).await
        }
        Kind::SidecarSignals => {
            let reading = stage.papers.signal_policies()?;
            recording("off", allowance.with(reading)).await
        }
        Kind::SidecarRecording => recording("file:log/decisions.jsonl", allowance).await,
        Kind::Peer(peer) => started_peer(stage.peer(peer)?, AccessLog::Off, stage, upstream).await,
        Kind::EnvoyLogging => {
            let envoy = stage.peer(Peer::Envoy)?;
            started_peer(envoy, AccessLog::File, stage, upstream).await
        }
    }
}

/// Puts this process on the core of the others, where there are two and `taskset` is there.
pub(crate) fn pin_self() -> bool {
    let several = std::thread::available_parallelism().is_ok_and(|cores| cores.get() > 1);
    let pid = std::process::id().to_string();
    let mut taskset = std::process::Command::new("taskset");
    taskset
        .args(["-cp", THE_OTHERS, &pid])
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    several && taskset.status().is_ok_and(|status| status.success())
}

fn one(line: &str) -> Option<SocketAddr> {
    line.trim().parse().ok()
}

fn both(line: &str) -> Option<Addresses> {
    let (http1, http2) = line.trim().split_once(' ')?;
    Some(Addresses {
        http1: http1.parse().ok()?,
        http2: http2.parse().ok()?,
    })
}

/// Starts one of our own parts, whose first line tells where it listens.
async fn started<T>(command: &mut Command, read: fn(&str) -> Option<T>) -> Result<(Child, T)> {
    let mut child = command.stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
    let output = child.stdout.take().context("no standard output")?;
    let address = timeout(START, first(BufReader::new(output), read)).await??;
    Ok((child, address))
}

/// Starts the sidecar, which tells its addresses when it is ready. Lines of its log with one of
/// `levels` are repeated.
pub(crate) async fn started_sidecar(
    mut command: Command,
    config: &Path,
    levels: &'static [&'static str],
) -> Result<(Child, SocketAddr)> {
    command
        .arg("run")
        .arg("--config")
        .arg(config)
        .stdout(Stdio::null());
    let mut child = command.stderr(Stdio::piped()).kill_on_drop(true).spawn()?;
    let mut output = BufReader::new(child.stderr.take().context("no standard error")?);
    let address = timeout(START, first(&mut output, inbound)).await??;
    tokio::spawn(repeat(output, levels));
    Ok((child, address))
}

/// Starts a peer on a port that was free a moment ago, and waits until it accepts.
async fn started_peer(
    found: &Found,
    log: AccessLog,
    stage: &Stage,
    upstream: SocketAddr,
) -> Result<(Child, SocketAddr)> {
    let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
    let arguments = found.configure(&stage.papers, log, address, upstream)?;
    let mut command = stage.command(&found.program, UNDER_TEST);
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    let mut child = command.kill_on_drop(true).spawn()?;
    let accepts = async {
        while TcpStream::connect(address).await.is_err() {
            if let Some(status) = child.try_wait()? {
                bail!("{} ended before it was ready: {status}", found.peer.name());
            }
            sleep(POLL).await;
        }
        Ok(())
    };
    timeout(START, accepts).await??;
    Ok((child, address))
}

/// Reads on, so that the sidecar never waits for us, and repeats what it warns of: a run in
/// which records were dropped or connections refused is not a result.
async fn repeat(output: impl AsyncBufRead + Unpin, levels: &[&str]) {
    let mut lines = output.lines();
    while let Ok(Some(line)) = lines.next_line().await {
        if levels.iter().any(|level| line.contains(level)) {
            eprintln!("the sidecar says: {line}");
        }
    }
}

async fn first<T>(
    mut output: impl AsyncBufRead + Unpin,
    read: impl Fn(&str) -> Option<T>,
) -> Result<T> {
    let mut told = String::new();
    loop {
        let start = told.len();
        if output.read_line(&mut told).await? == 0 {
            bail!("it ended before it was ready: {told}");
        }
        if let Some(found) = told.get(start..).and_then(&read) {
            return Ok(found);
        }
    }
}

/// The first inbound address in the ready message.
fn inbound(line: &str) -> Option<SocketAddr> {
    let line: Value = serde_json::from_str(line).ok()?;
    let fields = line.get("fields").unwrap_or(&line);
    if fields.get("message")?.as_str()? != "ready" {
        return None;
    }
    let address = fields.get("inbound")?.as_str()?;
    let first = address.split(',').next()?;
    first
        .trim_matches(|c: char| !(c.is_ascii_digit() || c == '.' || c == ':'))
        .parse()
        .ok()
}
