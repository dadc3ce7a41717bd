//! Measures a running sidecar: CPU time per request through it, beside the same work done
//! without it and through a bare proxy of the same stack, in one run.
//!
//! The process under test has a core of its own where `taskset` is there; clients and
//! upstream share another. CPU time is the process's own accounting, so that a busy machine
//! blurs the figures less than it blurs a clock. Each round measures every target once, so
//! that a slow minute falls on all of them.

mod bare;
mod client;
mod measure;
mod papers;
mod report;
mod target;
mod upstream;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

use crate::client::Plan;
use crate::papers::Papers;
use crate::report::{Report, Row};
use crate::target::{Kind, Target};

/// Load the sidecar and tell what a request costs.
#[derive(Debug, Parser)]
#[command(after_help = "Examples:
  cargo build --release -p wayleave-proxy -p wayleave-benches
  target/release/load
  target/release/load --seconds 20 --rounds 5 --json results.json
  target/release/load --smoke")]
struct Arguments {
    /// Seconds of each measurement, after its warm-up.
    #[arg(long, default_value_t = 4.0, value_parser = seconds)]
    seconds: f64,
    /// Stop each measurement after so many requests, if that is sooner.
    #[arg(long, default_value_t = 10_000_000)]
    requests: u64,
    /// How many times every target is measured; the median is told.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// A fraction of a second each, once: does it run at all?
    #[arg(long)]
    smoke: bool,
    /// The sidecar's binary; the `wayleave` beside this program by default.
    #[arg(long)]
    sidecar: Option<PathBuf>,
    /// Write the results to this file as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    #[command(subcommand)]
    part: Option<Part>,
}

/// What this program is when it starts itself.
#[derive(Debug, Subcommand)]
enum Part {
    /// Answer every plain request with 200 bytes.
    #[command(hide = true)]
    Upstream,
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
        Some(Part::Bare { papers, upstream }) => runtime.block_on(bare::serve(&papers, upstream)),
        None => runtime.block_on(compare(&arguments)),
    }
}

/// Measures every target by every plan, round by round, and reports.
async fn compare(arguments: &Arguments) -> Result<()> {
    let sidecar = sidecar(arguments)?;
    let (length, rounds) = if arguments.smoke {
        (0.2, 1)
    } else {
        (arguments.seconds, arguments.rounds)
    };
    let papers = Papers::create()?;
    let pinned = target::pin_self();
    let mut report = Report::new(length, rounds, pinned);
    for round in 1..=rounds {
        for plan in Plan::ALL {
            for kind in Kind::ALL {
                eprintln!("round {round} of {rounds}: {plan}, {kind}");
                let target = Target::start(kind, &papers, &sidecar, pinned).await?;
                let length = Duration::from_secs_f64(length);
                let measured = measure::run(&target, plan, &papers, length, arguments.requests)
                    .await
                    .with_context(|| format!("measuring {kind} by {plan}"))?;
                report.add(Row {
                    plan,
                    kind,
                    measured,
                });
            }
        }
    }
    println!("{report}");
    if let Some(path) = &arguments.json {
        std::fs::write(path, report.json()?).with_context(|| path.display().to_string())?;
    }
    Ok(())
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
