//! The processes under test: started, pinned, and killed by their own pid when dropped.

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::client::Plan;
use crate::papers::Papers;

/// The core of the process under test, and that of everybody else.
const UNDER_TEST: &str = "0";
const THE_OTHERS: &str = "1";
const START: Duration = Duration::from_secs(20);

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The upstream itself, plain.
    Straight,
    /// A proxy of the same stack that decides nothing.
    Bare,
    /// The sidecar, its decision records switched off.
    Sidecar,
    /// The sidecar, its decision records written to a file.
    SidecarRecording,
}

impl Kind {
    pub(crate) const ALL: [Self; 4] = [
        Self::Straight,
        Self::Bare,
        Self::Sidecar,
        Self::SidecarRecording,
    ];
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Straight => "straight to the upstream",
            Self::Bare => "bare proxy",
            Self::Sidecar => "wayleave, records off",
            Self::SidecarRecording => "wayleave, records to a file",
        })
    }
}

/// A running target with its upstream.
pub(crate) struct Target {
    under_test: Child,
    /// The upstream, where it is not itself under test.
    _upstream: Option<Child>,
    addresses: Addresses,
    pub(crate) tls: bool,
}

struct Addresses {
    http1: SocketAddr,
    http2: SocketAddr,
}

impl Target {
    pub(crate) async fn start(
        kind: Kind,
        papers: &Papers,
        sidecar: &Path,
        pinned: bool,
    ) -> Result<Self> {
        let core = if kind == Kind::Straight {
            UNDER_TEST
        } else {
            THE_OTHERS
        };
        let mut upstream = own(pinned.then_some(core))?;
        let (upstream, addresses) = started(upstream.arg("upstream"), both).await?;
        if kind == Kind::Straight {
            return Ok(Self {
                under_test: upstream,
                _upstream: None,
                addresses,
                tls: false,
            });
        }
        let core = pinned.then_some(UNDER_TEST);
        let address = addresses.http1;
        let (under_test, address) = match kind {
            Kind::Straight | Kind::Bare => {
                let mut bare = own(core)?;
                bare.arg("bare").arg("--papers").arg(papers.path());
                started(bare.arg("--upstream").arg(address.to_string()), one).await?
            }
            Kind::Sidecar => {
                started_sidecar(sidecar, core, &papers.config(address, "off")?).await?
            }
            Kind::SidecarRecording => {
                let config = papers.config(address, "file:decisions.jsonl")?;
                started_sidecar(sidecar, core, &config).await?
            }
        };
        let addresses = Addresses {
            http1: address,
            http2: address,
        };
        Ok(Self {
            under_test,
            _upstream: Some(upstream),
            addresses,
            tls: true,
        })
    }

    pub(crate) fn address(&self, plan: Plan) -> SocketAddr {
        match plan {
            Plan::Http1 { .. } | Plan::Fresh { .. } => self.addresses.http1,
            Plan::Http2 { .. } => self.addresses.http2,
        }
    }

    pub(crate) fn pid(&self) -> Result<u32> {
        self.under_test
            .id()
            .context("the process under test has ended")
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

fn on_core(program: &Path, core: Option<&str>) -> Command {
    match core {
        None => Command::new(program),
        Some(core) => {
            let mut command = Command::new("taskset");
            command.arg("-c").arg(core).arg(program);
            command
        }
    }
}

fn own(core: Option<&str>) -> Result<Command> {
    Ok(on_core(&std::env::current_exe()?, core))
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

/// Starts the sidecar, which tells its addresses when it is ready.
async fn started_sidecar(
    program: &Path,
    core: Option<&str>,
    config: &Path,
) -> Result<(Child, SocketAddr)> {
    let mut command = on_core(program, core);
    command
        .arg("run")
        .arg("--config")
        .arg(config)
        .stdout(Stdio::null());
    let mut child = command.stderr(Stdio::piped()).kill_on_drop(true).spawn()?;
    let mut output = BufReader::new(child.stderr.take().context("no standard error")?);
    let address = timeout(START, first(&mut output, inbound)).await??;
    tokio::spawn(repeat_warnings(output));
    Ok((child, address))
}

/// Reads on, so that the sidecar never waits for us, and repeats what it warns of: a run in
/// which records were dropped or connections refused is not a result.
async fn repeat_warnings(output: impl AsyncBufRead + Unpin) {
    let mut lines = output.lines();
    while let Ok(Some(line)) = lines.next_line().await {
        if line.contains("\"WARN\"") || line.contains("\"ERROR\"") {
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

/// The inbound address in the ready message.
fn inbound(line: &str) -> Option<SocketAddr> {
    let line: Value = serde_json::from_str(line).ok()?;
    let fields = line.get("fields").unwrap_or(&line);
    if fields.get("message")?.as_str()? != "ready" {
        return None;
    }
    let address = fields.get("inbound")?.as_str()?;
    address
        .trim_matches(|c: char| !(c.is_ascii_digit() || c == '.' || c == ':'))
        .parse()
        .ok()
}
