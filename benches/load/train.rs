//! The training run of a profile-guided build: programs that count where they go (`rustc
//! -Cprofile-generate`) do what is common, and leave what they counted when they end. The bare proxy
//! is trained by the same requests as the sidecar, so that what one gains, the other does.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use tokio::task::JoinSet;

use crate::bulk::{self, Way};
use crate::client::{Plan, Sender};
use crate::layout;
use crate::papers::Allowance;
use crate::probe;
use crate::reliability::everyday::Day;
use crate::target::{Kind, Stage, Target};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Where the programs leave what they counted: a folder that holds nothing of another run.
    #[arg(long)]
    out: PathBuf,
}

/// How what was counted is named.
const COUNTED: &str = "profraw";
/// Exchanges of each caller that keeps its connection, and of each that opens a new one for every
/// request. So many, and not for so long: two runs count nearly the same.
const EXCHANGES: u32 = 1_000;
const HANDSHAKES: u32 = 100;
/// Those of each job beside plain requests.
const OF_A_JOB: usize = 200;
/// A long body, each way.
const BYTES: u64 = 100_000_000;
/// What is measured with long bodies.
const CARRIERS: [Kind; 2] = [Kind::Bare, Kind::Sidecar];

/// Runs the sidecar and the bare proxy at their work.
///
/// # Errors
/// When one of them does not do its job, or was not built to count.
pub(crate) async fn run(arguments: &Arguments, sidecar: PathBuf) -> Result<()> {
    let out = &arguments.out;
    fs::create_dir_all(out).with_context(|| out.display().to_string())?;
    ensure!(left(out)? == 0, "{} holds another run", out.display());
    let mut stage = Stage::counting(sidecar)?;
    stage.instrument = counting(&out.canonicalize()?);
    for kind in [Kind::Bare].into_iter().chain(layout::KINDS) {
        eprintln!("training: {kind}");
        answer(&stage, kind).await?;
    }
    for kind in CARRIERS {
        eprintln!("training: long bodies, {kind}");
        carry(&stage, kind).await?;
    }
    eprintln!("training: what is common beside");
    let day = Day::spend(stage.sidecar.clone(), stage.instrument.clone(), OF_A_JOB).await?;
    day.end().await?;
    let left = left(out)?;
    let programs = layout::KINDS.len() + CARRIERS.len() + 2;
    ensure!(
        left == programs,
        "{left} of {programs} programs left what they counted in {}: were all built with \
         -Cprofile-generate?",
        out.display()
    );
    println!("{}: the counts of {programs} programs", out.display());
    Ok(())
}

/// Has a program leave its counts in the folder: this one counts as well, and nobody wants that.
fn counting(folder: &Path) -> Vec<OsString> {
    let mut variable = OsString::from("LLVM_PROFILE_FILE=");
    variable.push(folder.join(format!("%p.{COUNTED}")));
    vec!["env".into(), variable]
}

async fn answer(stage: &Stage, kind: Kind) -> Result<()> {
    let target = Target::start(kind, stage, Allowance::RULE).await?;
    let address = target.tls_address().context("no mutual TLS")?;
    probe::ask(address, stage.papers.path(), kind.decides()).await?;
    for plan in Plan::ALL {
        let exchanges = match plan {
            Plan::Fresh { .. } => HANDSHAKES,
            Plan::Http1 { .. } | Plan::Http2 { .. } => EXCHANGES,
        };
        let mut callers = JoinSet::new();
        for mut sender in Sender::all(&target.connector(plan, stage)?, plan).await? {
            callers.spawn(async move { sender.exchanges(exchanges).await });
        }
        while let Some(caller) = callers.join_next().await {
            caller??;
        }
    }
    target.end().await
}

async fn carry(stage: &Stage, kind: Kind) -> Result<()> {
    let target = Target::start(kind, stage, Allowance::UPLOAD).await?;
    for way in Way::ALL {
        bulk::carry(&target, stage, way, BYTES).await?;
    }
    target.end().await
}

/// How many programs left what they counted.
fn left(folder: &Path) -> Result<usize> {
    let mut left = 0;
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        left += usize::from(
            path.extension()
                .is_some_and(|extension| extension == COUNTED),
        );
    }
    Ok(left)
}
