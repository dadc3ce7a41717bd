//! Counts the instructions and allocations of a request with callgrind: figures that depend
//! on the code and not on the neighbours, user space only.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::callgrind::{self, Profile, control, threads_of};
use crate::client::{Plan, Sender};
use crate::papers::Allowance;
use crate::target::{Kind, Stage, Target};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Requests that are counted, after the warm-up.
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    requests: u32,
    /// Write callgrind's files, and the functions that most is spent in, to this folder.
    #[arg(long)]
    lists: Option<PathBuf>,
}

/// Requests before the count begins: every table and pool is as large as it gets.
const WARM_UP: u32 = 300;
/// Threads that spend less than this on a request have no part in it.
const NOTHING: f64 = 20.0;

/// The plans: one caller, so that every run does the same in the same order.
pub(crate) const PLANS: [Plan; 2] = [
    Plan::Http1 { connections: 1 },
    Plan::Http2 {
        connections: 1,
        streams: 1,
    },
];
const KINDS: [Kind; 4] = [
    Kind::Bare,
    Kind::Sidecar,
    Kind::SidecarSignals,
    Kind::SidecarRecording,
];

/// Counts, and prints a table.
pub(crate) async fn run(arguments: &Arguments, sidecar: PathBuf) -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let folder = arguments.lists.as_deref().unwrap_or(scratch.path());
    std::fs::create_dir_all(folder)?;
    let folder = folder.canonicalize()?;
    let mut stage = Stage::counting(sidecar)?;
    println!("| plan | process | thread | instructions a request | allocations a request |");
    println!("| --- | --- | --- | ---: | ---: |");
    for plan in PLANS {
        for kind in KINDS {
            let out = folder.join(name(plan, kind));
            stage.instrument = callgrind::command(&out);
            let threads = count(&stage, plan, kind, arguments.requests, &out).await?;
            for (thread, profile) in threads {
                tell(plan, kind, &thread, &profile, arguments.requests, &out)?;
            }
        }
    }
    Ok(())
}

/// A file name: `http1-bare`.
pub(crate) fn name(plan: Plan, kind: Kind) -> String {
    let plan = match plan {
        Plan::Http2 { .. } => "http2",
        Plan::Http1 { .. } | Plan::Fresh { .. } => "http1",
    };
    let kind = match kind {
        Kind::Bare => "bare",
        Kind::SidecarSignals => "signals",
        Kind::SidecarRecording => "recording",
        _ => "wayleave",
    };
    format!("{plan}-{kind}")
}

/// Runs one target and answers with what each of its threads did, by the thread's name.
pub(crate) async fn count(
    stage: &Stage,
    plan: Plan,
    kind: Kind,
    requests: u32,
    out: &Path,
) -> Result<Vec<(String, Profile)>> {
    let target = Target::start(kind, stage, Allowance::RULE)
        .await
        .context("starting under valgrind, which must be installed")?;
    let connector = target.connector(plan, stage)?;
    let mut senders = Sender::all(&connector, plan).await?;
    let sender = senders.first_mut().context("a plan without callers")?;
    let pid = target.process.pid();
    sender.exchanges(WARM_UP).await?;
    control("--zero", pid).await?;
    sender.exchanges(requests).await?;
    control("--dump", pid).await?;
    let mut threads = Vec::new();
    for (number, thread) in threads_of(pid)?.into_iter().enumerate() {
        // The first dump, of the thread with that number in the order of their starts.
        let mut path = out.as_os_str().to_owned();
        path.push(format!(".1-{:02}", number + 1));
        if let Ok(text) = std::fs::read_to_string(path) {
            threads.push((thread, Profile::read(&text)));
        }
    }
    ensure!(!threads.is_empty(), "callgrind left no dump");
    Ok(threads)
}

fn tell(
    plan: Plan,
    kind: Kind,
    thread: &str,
    profile: &Profile,
    requests: u32,
    out: &Path,
) -> Result<()> {
    let each = |count: u64| count as f64 / f64::from(requests);
    let instructions = each(profile.total());
    if instructions < NOTHING {
        return Ok(());
    }
    let plan = match plan {
        Plan::Http2 { .. } => "HTTP/2",
        Plan::Http1 { .. } | Plan::Fresh { .. } => "HTTP/1.1",
    };
    let allocations = each(profile.allocations);
    println!("| {plan} | {kind} | {thread} | {instructions:.0} | {allocations:.2} |");
    let mut path = out.as_os_str().to_owned();
    path.push(format!("-{thread}.txt"));
    std::fs::write(path, profile.lists(requests))?;
    Ok(())
}
