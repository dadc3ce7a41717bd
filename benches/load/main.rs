//! Measures a running sidecar beside the same work done without it, through a bare proxy of
//! the same stack, and through the peers that are here, in one run.
//!
//! The process under test has a core of its own where `taskset` is there; clients and
//! upstream share another. CPU time is the process's own accounting, so that a busy machine
//! blurs the figures less than it blurs a clock. Each round measures every target once, so
//! that a slow minute falls on all of them.

mod bare;
mod baseline;
mod body;
mod bulk;
mod call;
mod callgrind;
mod client;
mod connector;
mod decide;
mod decisions;
mod echo;
mod guard;
mod hold;
mod instructions;
mod job;
mod layout;
mod leases;
mod live;
mod measure;
mod papers;
mod peers;
mod plot;
mod probe;
mod process;
mod rate;
mod reliability;
mod report;
mod target;
mod train;
mod upstream;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand, ValueEnum};

use crate::bulk::Way;
use crate::client::Plan;
use crate::papers::{Allowance, Papers};
use crate::peers::Peer;
use crate::rate::{Pace, Rate};
use crate::report::{About, Report};
use crate::target::{Kind, Stage, Target};

/// Load the sidecar, and what it is compared with, and tell what each costs.
#[derive(Debug, Parser)]
#[command(after_help = "Examples:
  cargo build --release -p wayleave-proxy -p wayleave-benches
  benches/peers/install.sh
  target/release/load
  target/release/load --rounds 5 --json results.json --plots plots
  target/release/load --only requests --seconds 20
  target/release/load --only latency --rate 1000,8000,16000
  target/release/load instructions
  target/release/load leases
  target/release/load guard
  target/release/load --smoke")]
struct Arguments {
    /// What to measure; everything by default.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Topic>,
    /// Seconds of each measurement, after its warm-up.
    #[arg(long, default_value_t = 4.0, value_parser = seconds)]
    seconds: f64,
    /// Stop each measurement of CPU time after so many requests, if that is sooner.
    #[arg(long, default_value_t = 10_000_000)]
    requests: u64,
    /// How many times every target is measured.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Requests a second in the measurement of latency, one rate after the other; 500, 1000, 2000
    /// and 4000 by default.
    #[arg(long, value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: Vec<u32>,
    /// Idle connections in the measurement of memory.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=11_000))]
    connections: u32,
    /// Open streams in the measurement of memory.
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    streams: u32,
    /// Bytes of a long body.
    #[arg(long, default_value_t = 1_000_000_000)]
    bytes: u64,
    /// A fraction of a second each, once: does it run at all?
    #[arg(long)]
    smoke: bool,
    /// The sidecar's binary; the `wayleave` beside this program by default.
    #[arg(long, global = true)]
    sidecar: Option<PathBuf>,
    /// Write the results to this file as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Draw the results into this folder as SVG.
    #[arg(long)]
    plots: Option<PathBuf>,
    #[command(subcommand)]
    part: Option<Part>,
}

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Topic {
    /// CPU time of a request, and memory under load.
    Requests,
    /// Latency at a fixed rate.
    Latency,
    /// Memory of idle connections and open streams.
    Memory,
    /// CPU time of a long body, each way.
    Bulk,
}

/// What this program is when it starts itself.
#[derive(Debug, Subcommand)]
enum Part {
    /// Load any server that asks for mutual TLS.
    Call(call::Arguments),
    /// Count the instructions and allocations of a request, under valgrind.
    Instructions(instructions::Arguments),
    /// Cut a tenth of many live streams.
    Leases(leases::Arguments),
    /// Compare those of a request and of a decision with the committed base line.
    Guard(guard::Arguments),
    /// List the sidecar's functions in the order in which they run, for the linker.
    Layout(layout::Arguments),
    /// Have programs that were built to count do what is common, for a profile-guided build.
    Train(train::Arguments),
    /// Mixed traffic while SVIDs rotate, policies reload and the upstream restarts.
    Soak(reliability::soak::Arguments),
    /// A well-behaved client among slow, flooding, lying and idle peers.
    Hostile(reliability::hostile::Arguments),
    /// Upstreams that stall, reset and lie; a full disk, a clock that jumps, and SIGKILL.
    Chaos(reliability::chaos::Arguments),
    /// Time decisions by the number of policies, beside the stock Cedar evaluator.
    Decisions(decisions::Arguments),
    /// Decide so many times, to be counted.
    #[command(hide = true)]
    Decide(decide::Arguments),
    /// Answer every plain request with 200 bytes.
    #[command(hide = true)]
    Upstream,
    /// Answer by TLS alone.
    #[command(hide = true)]
    Echo {
        /// Where the certificates are.
        #[arg(long)]
        papers: PathBuf,
    },
    /// Forward without deciding: the floor under every proxy of this stack.
    #[command(hide = true)]
    Bare {
        /// Where the certificates are.
        #[arg(long)]
        papers: PathBuf,
        /// Where to forward to.
        #[arg(long)]
        upstream: SocketAddr,
    },
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if (0.1..=3_600.0).contains(&seconds) {
        Ok(seconds)
    } else {
        Err("0.1 to 3600".to_owned())
    }
}

fn main() -> Result<()> {
    let mut arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    match arguments.part.take() {
        Some(Part::Upstream) => runtime.block_on(upstream::serve()),
        Some(Part::Echo { papers }) => runtime.block_on(echo::serve(&papers)),
        Some(Part::Bare { papers, upstream }) => runtime.block_on(bare::serve(&papers, upstream)),
        Some(Part::Instructions(counted)) => {
            let sidecar = sidecar(&arguments)?;
            runtime.block_on(instructions::run(&counted, sidecar))
        }
        Some(Part::Leases(leases)) => {
            let sidecar = sidecar(&arguments)?;
            runtime.block_on(leases::run(&leases, &sidecar))
        }
        Some(Part::Guard(guarded)) => {
            let sidecar = sidecar(&arguments)?;
            runtime.block_on(guard::run(&guarded, sidecar))
        }
        Some(Part::Layout(listed)) => {
            let sidecar = sidecar(&arguments)?;
            runtime.block_on(layout::run(&listed, sidecar))
        }
        Some(Part::Train(trained)) => {
            let sidecar = sidecar(&arguments)?;
            runtime.block_on(train::run(&trained, sidecar))
        }
        Some(Part::Soak(soak)) => {
            let sidecar = sidecar(&arguments)?;
            process::raise_open_files(OPEN_FILES);
            runtime.block_on(reliability::soak::run(&soak, sidecar))
        }
        Some(Part::Hostile(hostile)) => {
            let sidecar = sidecar(&arguments)?;
            let open_files = process::raise_open_files(OPEN_FILES);
            runtime.block_on(reliability::hostile::run(&hostile, sidecar, open_files))
        }
        Some(Part::Chaos(chaos)) => {
            let sidecar = sidecar(&arguments)?;
            runtime.block_on(reliability::chaos::run(&chaos, sidecar))
        }
        Some(Part::Call(called)) => {
            process::raise_open_files(OPEN_FILES);
            runtime.block_on(call::run(&called))
        }
        Some(Part::Decisions(timed)) => decisions::run(&timed),
        Some(Part::Decide(decided)) => decide::run(&decided),
        None => runtime.block_on(compare(arguments)),
    }
}

/// Descriptors that a process needs to hold 10,000 connections with some to the upstream.
const OPEN_FILES: u64 = 30_000;

/// Measures every target in every way, round by round, and reports.
async fn compare(mut arguments: Arguments) -> Result<()> {
    let open_files = process::raise_open_files(OPEN_FILES);
    let first = process::go_first();
    if arguments.smoke {
        arguments.make_short();
    }
    let stage = Stage {
        papers: Papers::create()?,
        sidecar: sidecar(&arguments)?,
        peers: Peer::ALL.into_iter().filter_map(Peer::find).collect(),
        pinned: target::pin_self(),
        instrument: Vec::new(),
    };
    let mut run = Run {
        report: Report::new(arguments.about(&stage, first)),
        stage,
        arguments,
        open_files,
    };
    let ended = run.all().await;
    // What was found before a failure is told all the same.
    println!("{}", run.report);
    if let Some(path) = &run.arguments.json {
        let json = run.report.json()?;
        std::fs::write(path, json).with_context(|| path.display().to_string())?;
    }
    if let Some(folder) = &run.arguments.plots {
        plot::draw(&run.report, folder)?;
    }
    ended
}

impl Arguments {
    fn make_short(&mut self) {
        (self.seconds, self.rounds) = (0.2, 1);
        (self.connections, self.streams) = (100, 50);
        self.bytes = 20_000_000;
        if self.rate.is_empty() {
            self.rate = vec![500, 2_000];
        }
    }

    fn asks_for(&self, topic: Topic) -> bool {
        self.only.is_empty() || self.only.contains(&topic)
    }

    fn length(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }

    /// The rates at which latency is measured, each once, the lowest first.
    fn rates(&self) -> Vec<u32> {
        let mut rates = match self.rate.as_slice() {
            [] => vec![500, 1_000, 2_000, 4_000],
            rates => rates.to_vec(),
        };
        rates.sort_unstable();
        rates.dedup();
        rates
    }

    fn about(&self, stage: &Stage, first: bool) -> About {
        About {
            first,
            seconds: self.seconds,
            rounds: self.rounds,
            pinned: stage.pinned,
            rates: self.rates(),
            peers: stage.peers.clone(),
        }
    }
}

/// One run, and what it has found so far.
struct Run {
    arguments: Arguments,
    stage: Stage,
    report: Report,
    open_files: u64,
}

impl Run {
    async fn all(&mut self) -> Result<()> {
        self.prove().await?;
        for round in 1..=self.arguments.rounds {
            eprintln!("round {round} of {}", self.arguments.rounds);
            self.requests().await?;
            self.latencies().await?;
            self.bulk().await?;
        }
        // What is held is counted, not timed: once is enough.
        self.memory().await
    }

    /// Whoever is measured does the job: it refuses, and never resumes.
    async fn prove(&mut self) -> Result<()> {
        for kind in self.stage.crowd() {
            let target = Target::start(kind, &self.stage, Allowance::RULE).await?;
            let Some(address) = target.tls_address() else {
                continue;
            };
            let proof = probe::ask(address, self.stage.papers.path(), kind.decides()).await;
            let proof = proof.with_context(|| format!("{kind} does not do the job"))?;
            self.report.proofs.push((kind, proof));
        }
        Ok(())
    }

    async fn requests(&mut self) -> Result<()> {
        if !self.arguments.asks_for(Topic::Requests) {
            return Ok(());
        }
        let length = self.arguments.length();
        for plan in Plan::ALL {
            for kind in self.stage.crowd() {
                if !kind.speaks(plan) {
                    continue;
                }
                eprintln!("  CPU: {plan}, {kind}");
                let target = Target::start(kind, &self.stage, Allowance::RULE).await?;
                let requests = self.arguments.requests;
                let found = measure::run(&target, plan, &self.stage, length, requests)
                    .await
                    .with_context(|| format!("measuring {kind} by {plan}"))?;
                self.report.requests.add(plan, kind, found);
            }
        }
        Ok(())
    }

    async fn latencies(&mut self) -> Result<()> {
        if !self.arguments.asks_for(Topic::Latency) {
            return Ok(());
        }
        for plan in Plan::KEPT {
            for kind in self.stage.kinds() {
                eprintln!("  latency: {plan}, {kind}");
                let target = Target::start(kind, &self.stage, Allowance::RULE).await?;
                self.by_rate(plan, kind, &target).await?;
            }
        }
        Ok(())
    }

    async fn by_rate(&mut self, plan: Plan, kind: Kind, target: &Target) -> Result<()> {
        let connector = target.connector(plan, &self.stage)?;
        for per_second in self.arguments.rates() {
            let length = self.arguments.length();
            let rate = Rate { per_second, length };
            let found = rate::run(&connector, plan, rate, target.process)
                .await
                .with_context(|| format!("latency of {kind} by {plan} at {per_second}/s"))?;
            let pace = Pace { plan, per_second };
            self.report.latencies.add(pace, kind, found);
        }
        Ok(())
    }

    /// The upload needs a rule of its own, which the peers are not given.
    async fn bulk(&mut self) -> Result<()> {
        if !self.arguments.asks_for(Topic::Bulk) {
            return Ok(());
        }
        for way in Way::ALL {
            for kind in [Kind::Straight, Kind::Bare, Kind::Sidecar] {
                eprintln!("  long body: {way}, {kind}");
                let target = Target::start(kind, &self.stage, Allowance::UPLOAD).await?;
                let found = bulk::carry(&target, &self.stage, way, self.arguments.bytes)
                    .await
                    .with_context(|| format!("carrying {way} by {kind}"))?;
                self.report.carried.add(way, kind, found);
            }
        }
        Ok(())
    }

    async fn memory(&mut self) -> Result<()> {
        if !self.arguments.asks_for(Topic::Memory) {
            return Ok(());
        }
        let (connections, streams) = self.arguments.held(self.open_files)?;
        // The upstream has nothing to do with idle connections of others.
        let kinds = self.stage.kinds();
        for kind in kinds.into_iter().filter(|kind| *kind != Kind::Straight) {
            eprintln!("  memory: {kind}");
            let target = Target::start(kind, &self.stage, Allowance::MANY).await?;
            let found = hold::connections(&target, &self.stage, connections)
                .await
                .with_context(|| format!("holding connections to {kind}"))?;
            self.report.held.add("idle connections", kind, found);
            let target = Target::start(kind, &self.stage, Allowance::MANY).await?;
            let found = hold::streams(&target, &self.stage, streams)
                .await
                .with_context(|| format!("holding streams to {kind}"))?;
            self.report.held.add("open HTTP/2 streams", kind, found);
        }
        Ok(())
    }
}

impl Arguments {
    /// How many connections and streams to hold, as far as open files allow.
    fn held(&self, open_files: u64) -> Result<(usize, usize)> {
        let wanted = usize::try_from(self.connections)?;
        let fits = |count: &usize| hold::fits(*count, open_files);
        let connections = [wanted, wanted / 2, wanted / 10].into_iter().find(fits);
        let connections = connections.context("too few open files (see `ulimit -n`)")?;
        if connections < wanted {
            eprintln!("{open_files} open files: {connections} connections in place of {wanted}");
        }
        Ok((connections, usize::try_from(self.streams)?))
    }
}

fn sidecar(arguments: &Arguments) -> Result<PathBuf> {
    let beside = || Ok::<_, anyhow::Error>(std::env::current_exe()?.with_file_name("wayleave"));
    let path = arguments.sidecar.clone().map_or_else(beside, Ok)?;
    anyhow::ensure!(
        path.is_file(),
        "there is no {}; build it with `cargo build --release -p wayleave-proxy`",
        path.display()
    );
    Ok(path)
}
