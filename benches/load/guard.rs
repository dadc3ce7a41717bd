//! The regression guard: what a request and a decision take in instructions, beside the figures
//! that were last accepted.
//!
//! Each is counted beside a yardstick in the same run: the request beside the bare proxy's, which
//! is the same stack without the sidecar's work; the decision beside the stock Cedar evaluator's.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use clap::Subcommand;

use crate::baseline::{self, Baseline, Figure, Figures, Machine, TOLERANCE};
use crate::callgrind::Profile;
use crate::client::Plan;
use crate::decide::{self, Decider};
use crate::instructions::{self, PLANS};
use crate::target::{Kind, Stage};

/// Where the figures are kept, from the top of the repository.
const BASELINE: &str = "benches/baseline.json";
/// How many policies decide.
const POLICIES: [usize; 2] = [10, 1_000];
/// Whether this program, and the sidecar that was built with it, were compiled by a profile.
const TRAINED: bool = option_env!("WAYLEAVE_TRAINED").is_some();
/// Requests that are counted.
const REQUESTS: u32 = 2_000;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The accepted figures.
    #[arg(long, default_value = BASELINE, global = true)]
    baseline: PathBuf,
    #[command(subcommand)]
    accept: Option<Accept>,
}

#[derive(Debug, Subcommand)]
enum Accept {
    /// Count, and make the figures the new base line.
    Accept {
        /// Why the figures are right, in some words; kept beside them.
        #[arg(long, value_parser = baseline::reason)]
        reason: String,
    },
}

/// # Errors
/// When a figure rose above the base line.
pub(crate) async fn run(arguments: &Arguments, sidecar: PathBuf) -> Result<()> {
    let machine = Machine {
        architecture: std::env::consts::ARCH.to_owned(),
        compiler: compiler(&sidecar)?,
        trained: TRAINED,
    };
    let path = &arguments.baseline;
    if let Some(Accept::Accept { reason }) = &arguments.accept {
        let baseline = Baseline {
            accepted: time::OffsetDateTime::now_utc().date().to_string(),
            reason: reason.clone(),
            machine,
            figures: count(sidecar).await?,
        };
        baseline.write(path)?;
        println!("{} has the new figures; commit it", path.display());
        return Ok(());
    }
    let baseline = Baseline::read(path)?;
    if baseline.machine != machine {
        println!(
            "SKIPPED: instructions: the base line is of {}, this build of {machine}; \
             `load guard accept` makes one of its own",
            baseline.machine
        );
        return Ok(());
    }
    report(&baseline, &count(sidecar).await?)
}

fn report(baseline: &Baseline, now: &Figures) -> Result<()> {
    println!("base line of {}: {}\n", baseline.accepted, baseline.reason);
    println!("instructions (to the yardstick), allocations\n");
    println!("| figure | base line | now | |\n| --- | ---: | ---: | --- |");
    let judged = baseline.judge(now);
    for line in &judged {
        println!("{line}");
    }
    let failed = judged.iter().filter(|line| line.verdict.fails()).count();
    if failed > 0 {
        bail!(
            "{failed} of {} figures are not within {:.0} % of the base line. Where that is right: \
             target/release/load guard accept --reason \"...\"",
            judged.len(),
            TOLERANCE * 100.0
        );
    }
    Ok(())
}

async fn count(sidecar: PathBuf) -> Result<Figures> {
    let folder = tempfile::tempdir()?;
    let mut stage = Stage::counting(sidecar)?;
    let mut figures = Figures::new();
    for plan in PLANS {
        let name = match plan {
            Plan::Http2 { .. } => "HTTP/2 request",
            _ => "HTTP/1.1 request",
        };
        eprintln!("counting: {name}");
        let yardstick = thread(&mut stage, plan, Kind::Bare, "main", folder.path()).await?;
        let counted = thread(&mut stage, plan, Kind::Sidecar, "worker-0", folder.path()).await?;
        figures.insert(name.to_owned(), figure(counted, yardstick.0));
    }
    eprintln!("counting: the yardstick of decisions");
    let yardstick = decide::count(Decider::Stock, 10, folder.path()).await?;
    for policies in POLICIES {
        let name = format!("decision, {policies} policies");
        eprintln!("counting: {name}");
        let counted = decide::count(Decider::Compiled, policies, folder.path()).await?;
        figures.insert(name, figure(counted, yardstick.0));
    }
    Ok(figures)
}

/// What one thread spends on a request: the one that carries it.
async fn thread(
    stage: &mut Stage,
    plan: Plan,
    kind: Kind,
    name: &str,
    folder: &Path,
) -> Result<(f64, f64)> {
    let out = folder.join(instructions::name(plan, kind));
    stage.instrument = crate::callgrind::command(&out);
    let threads = instructions::count(stage, plan, kind, REQUESTS, &out).await?;
    let found = threads.iter().find(|(thread, _)| thread == name);
    let (_, profile) = found.with_context(|| format!("{kind} has no thread {name}"))?;
    Ok(each(profile))
}

fn each(profile: &Profile) -> (f64, f64) {
    let each = |count: u64| count as f64 / f64::from(REQUESTS);
    (each(profile.total()), each(profile.allocations))
}

fn figure((instructions, allocations): (f64, f64), yardstick: f64) -> Figure {
    Figure {
        instructions: instructions.round(),
        allocations: (allocations * 100.0).round() / 100.0,
        yardstick: yardstick.round(),
    }
}

/// What the compiler wrote of itself into a program (`.comment`).
fn compiler(program: &Path) -> Result<String> {
    const MARK: &[u8] = b"rustc version ";
    let bytes = std::fs::read(program).with_context(|| program.display().to_string())?;
    let at = bytes.windows(MARK.len()).position(|window| window == MARK);
    let rest = at.and_then(|at| bytes.get(at..)).unwrap_or_default();
    let end = rest.iter().position(|byte| *byte == 0).unwrap_or_default();
    let version = String::from_utf8_lossy(rest.get(..end).unwrap_or_default());
    ensure!(
        !version.is_empty(),
        "{} does not say who compiled it",
        program.display()
    );
    Ok(version.into_owned())
}
