//! The order of the sidecar's functions, for the linker: what runs for a request first, then what
//! ran at the start. What never ran comes behind them and is never mapped (docs/performance.md).

use std::collections::HashSet;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::callgrind::{self, Profile, control};
use crate::client::{Plan, Sender};
use crate::papers::Allowance;
use crate::probe;
use crate::reliability::everyday::Day;
use crate::target::{Kind, Stage, Target};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Where to write the list, one symbol a line.
    #[arg(long)]
    out: PathBuf,
}

/// What a sidecar usually does: records, signals, policies of a whole fleet.
pub(crate) const KINDS: [Kind; 3] = [
    Kind::SidecarRecording,
    Kind::SidecarSignals,
    Kind::SidecarOf(100),
];
/// How callers come to it.
const PLANS: [Plan; 3] = [
    Plan::Http1 { connections: 1 },
    Plan::Http2 {
        connections: 1,
        streams: 1,
    },
    Plan::Fresh { callers: 1 },
];
/// Exchanges by each plan that belong to the start, and those that count as the work.
const WARM_UP: u32 = 20;
const EXCHANGES: u32 = 100;
/// Those of each job beside plain requests.
const OF_A_JOB: usize = 5;
/// Fewer functions than that are not the sidecar's: a build without symbols, for example.
const LEAST: usize = 1_000;

/// Runs the sidecar under callgrind, and writes the list.
///
/// # Errors
/// When valgrind is not here, the sidecar does not do its job, or has no symbols.
pub(crate) async fn run(arguments: &Arguments, sidecar: PathBuf) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut stage = Stage::counting(sidecar)?;
    let (mut work, mut start) = (Vec::new(), Vec::new());
    for (number, kind) in KINDS.into_iter().enumerate() {
        eprintln!("watching: {kind}");
        let out = folder.path().join(number.to_string());
        stage.instrument = instrument(&out);
        watch(&stage, kind).await?;
        start.extend(profiles(&out, 1)?);
        work.extend(profiles(&out, 2)?);
    }
    eprintln!("watching: what is common beside");
    let out = folder.path().join("day");
    let instrument = instrument(&out);
    let day = Day::spend(stage.sidecar.clone(), instrument, OF_A_JOB).await?;
    control("--dump", day.pid()).await?;
    start.extend(profiles(&out, 1)?);
    let symbols = order([Profile::sum(work), Profile::sum(start)]);
    ensure!(
        symbols.len() >= LEAST,
        "only {} functions seen: {} has no symbols",
        symbols.len(),
        stage.sidecar.display()
    );
    let mut text = String::new();
    for symbol in &symbols {
        writeln!(text, "{symbol}")?;
    }
    let out = &arguments.out;
    std::fs::write(out, text).with_context(|| out.display().to_string())?;
    println!("{}: {} functions", out.display(), symbols.len());
    Ok(())
}

/// Callgrind, with the names that the linker knows.
fn instrument(out: &Path) -> Vec<OsString> {
    let mut words = callgrind::command(out);
    words.push("--demangle=no".into());
    words
}

/// Leaves two dumps: of the start with the first of everything, and of the work.
async fn watch(stage: &Stage, kind: Kind) -> Result<()> {
    let target = Target::start(kind, stage, Allowance::RULE)
        .await
        .context("starting under valgrind, which must be installed")?;
    let address = target.tls_address().context("no mutual TLS")?;
    probe::ask(address, stage.papers.path(), kind.decides()).await?;
    for exchanges in [WARM_UP, EXCHANGES] {
        for plan in PLANS {
            let connector = target.connector(plan, stage)?;
            for mut sender in Sender::all(&connector, plan).await? {
                sender.exchanges(exchanges).await?;
            }
        }
        control("--dump", target.process.pid()).await?;
    }
    Ok(())
}

/// What each thread did up to the dump of that number.
fn profiles(out: &Path, dump: u32) -> Result<Vec<Profile>> {
    let texts = callgrind::dumps(out, dump)?;
    Ok(texts.iter().map(|text| Profile::read(text)).collect())
}

/// The functions of each profile, the dearest first, and no function twice.
fn order(profiles: impl IntoIterator<Item = Profile>) -> Vec<String> {
    let (mut symbols, mut seen) = (Vec::new(), HashSet::new());
    for profile in profiles {
        for name in profile.dearest() {
            // An address stands for what has no symbol.
            if !name.starts_with("0x") && seen.insert(name.clone()) {
                symbols.push(name);
            }
        }
    }
    symbols
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_works_comes_before_what_starts_and_nothing_comes_twice() {
        let start = Profile::read("fn=(1) open\n1 5\nfn=(2) serve\n1 900\nfn=(3) parse\n1 40\n");
        let work =
            Profile::read("fn=(1) serve\n1 20\nfn=(2) decide\n1 30\nfn=(3) 0x4848340\n1 8\n");
        let symbols = order([work, start]);
        assert_eq!(symbols, ["decide", "serve", "parse", "open"]);
    }
}
