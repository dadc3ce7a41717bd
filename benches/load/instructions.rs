//! Counts the instructions and allocations of a request with callgrind: figures that depend
//! on the code and not on the neighbours, user space only.

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use tokio::process::Command;

use crate::client::{Plan, Sender};
use crate::papers::{Allowance, Papers};
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
/// How many functions a list has.
const LISTED: usize = 40;
/// Threads that spend less than this on a request have no part in it.
const NOTHING: f64 = 20.0;

/// The plans: one caller, so that every run does the same in the same order.
const PLANS: [Plan; 2] = [
    Plan::Http1 { connections: 1 },
    Plan::Http2 {
        connections: 1,
        streams: 1,
    },
];
const KINDS: [Kind; 3] = [Kind::Bare, Kind::Sidecar, Kind::SidecarRecording];

/// Counts, and prints a table.
pub(crate) async fn run(arguments: &Arguments, sidecar: PathBuf) -> Result<()> {
    let scratch = tempfile::tempdir()?;
    let folder = arguments.lists.as_deref().unwrap_or(scratch.path());
    std::fs::create_dir_all(folder)?;
    let folder = folder.canonicalize()?;
    let mut stage = Stage {
        papers: Papers::create()?,
        sidecar,
        peers: Vec::new(),
        pinned: false,
        instrument: Vec::new(),
    };
    println!("| plan | process | thread | instructions a request | allocations a request |");
    println!("| --- | --- | --- | ---: | ---: |");
    for plan in PLANS {
        for kind in KINDS {
            let out = folder.join(name(plan, kind));
            stage.instrument = callgrind(&out);
            let threads = count(&stage, plan, kind, arguments.requests, &out).await?;
            for (thread, profile) in threads {
                tell(plan, kind, &thread, &profile, arguments.requests, &out)?;
            }
        }
    }
    Ok(())
}

/// A file name: `http1-bare`.
fn name(plan: Plan, kind: Kind) -> String {
    let plan = match plan {
        Plan::Http2 { .. } => "http2",
        Plan::Http1 { .. } | Plan::Fresh { .. } => "http1",
    };
    let kind = match kind {
        Kind::Bare => "bare",
        Kind::SidecarRecording => "recording",
        _ => "wayleave",
    };
    format!("{plan}-{kind}")
}

fn callgrind(out: &Path) -> Vec<OsString> {
    let mut file = OsString::from("--callgrind-out-file=");
    file.push(out);
    [
        "valgrind",
        "--quiet",
        "--tool=callgrind",
        "--separate-threads=yes",
    ]
    .into_iter()
    .map(OsString::from)
    .chain([file])
    .collect()
}

/// Runs one target and answers with what each of its threads did, by the thread's name.
async fn count(
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
    let mut sender = match plan {
        Plan::Http2 { .. } => Sender::Http2(connector.http2().await?),
        Plan::Http1 { .. } | Plan::Fresh { .. } => Sender::Http1(connector.http1().await?),
    };
    let pid = target.process.pid();
    send(&mut sender, WARM_UP).await?;
    control("--zero", pid).await?;
    send(&mut sender, requests).await?;
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

async fn send(sender: &mut Sender, requests: u32) -> Result<()> {
    for _ in 0..requests {
        sender.exchange().await?;
    }
    Ok(())
}

async fn control(what: &str, pid: u32) -> Result<()> {
    let mut command = Command::new("callgrind_control");
    let status = command
        .args([what, &pid.to_string()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .await
        .context("callgrind_control, which comes with valgrind")?;
    ensure!(status.success(), "callgrind_control {what}: {status}");
    Ok(())
}

/// The names of a process's threads in the order of their starts.
fn threads_of(pid: u32) -> Result<Vec<String>> {
    let mut threads = Vec::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let entry = entry?;
        let id: u32 = entry.file_name().to_string_lossy().parse()?;
        let name = std::fs::read_to_string(entry.path().join("comm"))?;
        threads.push((id, name.trim().to_owned()));
    }
    threads.sort();
    let main = threads.first_mut().map(|(_, name)| name);
    if let Some(main) = main {
        // It bears the instrument's name.
        *main = "main".to_owned();
    }
    Ok(threads.into_iter().map(|(_, name)| name).collect())
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

/// Instructions of one function: in it, and in it with what it calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Cost {
    own: u64,
    inclusive: u64,
}

/// What one thread did, from a dump in callgrind's format.
#[derive(Debug, Default)]
struct Profile {
    functions: HashMap<String, Cost>,
    /// Calls of the allocator that give memory.
    allocations: u64,
}

/// What the C library calls the functions that give memory.
const ALLOCATORS: [&str; 5] = [
    "malloc",
    "calloc",
    "realloc",
    "posix_memalign",
    "aligned_alloc",
];

impl Profile {
    /// Reads a dump (<https://valgrind.org/docs/manual/cl-format.html>).
    fn read(text: &str) -> Self {
        let mut profile = Self::default();
        let mut names = Names::default();
        let (mut function, mut callee) = (String::new(), String::new());
        let mut called = None;
        for line in text.lines() {
            if let Some(name) = line.strip_prefix("fn=") {
                function = names.resolve(name);
            } else if let Some(name) = line.strip_prefix("cfn=") {
                callee = names.resolve(name);
            } else if let Some(call) = line.strip_prefix("calls=") {
                called = call.split(' ').next().and_then(|count| count.parse().ok());
            } else if let Some(cost) = cost(line) {
                profile.add(&function, &callee, called.take(), cost);
            }
        }
        profile
    }

    fn add(&mut self, function: &str, callee: &str, called: Option<u64>, cost: u64) {
        let of = self.functions.entry(function.to_owned()).or_default();
        of.inclusive += cost;
        match called {
            None => of.own += cost,
            Some(count) if ALLOCATORS.contains(&callee) => self.allocations += count,
            Some(_) => {}
        }
    }

    fn total(&self) -> u64 {
        self.functions.values().map(|cost| cost.own).sum()
    }

    /// The functions that most is spent in, for one request.
    fn lists(&self, requests: u32) -> String {
        let mut text = String::new();
        // What calls itself is counted twice; nothing takes more than all.
        let inclusive = |cost: &Cost| cost.inclusive.min(self.total());
        for (title, figure) in [
            (
                "in the function itself",
                &(|cost: &Cost| cost.own) as &dyn Fn(&Cost) -> u64,
            ),
            ("with what it calls", &inclusive),
        ] {
            let mut functions: Vec<_> = self.functions.iter().collect();
            functions.sort_by_key(|(name, cost)| (u64::MAX - figure(cost), *name));
            text += &format!("instructions a request {title}\n");
            for (name, cost) in functions.into_iter().take(LISTED) {
                let each = figure(cost) as f64 / f64::from(requests);
                text += &format!("{each:>8.0}  {name}\n");
            }
            text.push('\n');
        }
        text
    }
}

/// Instructions of a line `position cost`, where a position may be relative or compressed.
fn cost(line: &str) -> Option<u64> {
    let first = line.chars().next()?;
    if !(first.is_ascii_digit() || matches!(first, '+' | '-' | '*')) {
        return None;
    }
    line.split(' ').nth(1)?.parse().ok()
}

/// Names are given once, with a number that stands for them from then on.
#[derive(Default)]
struct Names(HashMap<String, String>);

impl Names {
    fn resolve(&mut self, text: &str) -> String {
        let (number, name) = text.split_once(' ').unwrap_or((text, ""));
        if !name.is_empty() {
            self.0.insert(number.to_owned(), plain(name).to_owned());
        }
        self.0.get(number).cloned().unwrap_or_default()
    }
}

/// A name without the depth of its recursion.
fn plain(name: &str) -> &str {
    let (before, depth) = name.rsplit_once('\'').unwrap_or((name, ""));
    let deep = !depth.is_empty() && depth.bytes().all(|b| b.is_ascii_digit());
    if deep { before } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DUMP: &str = "\
events: Ir
fl=(1) main.c
fn=(1) main
16 400
cfn=(2) serve
calls=2 50
17 1000
+1 20
fn=(2)
50 300
cfn=(3) malloc
calls=4 0
51 480
cfn=(4) serve'2
calls=1 0
* 220
fn=(4)
50 220
fn=(3)
0 480
totals: 1420
";

    #[test]
    fn reads_costs_calls_and_allocations() {
        let profile = Profile::read(DUMP);
        let cost = |own, inclusive| Cost { own, inclusive };
        assert_eq!(profile.functions["main"], cost(420, 1_420));
        assert_eq!(profile.functions["malloc"], cost(480, 480));
        assert_eq!(profile.functions["serve"].own, 520);
        assert_eq!(profile.total(), 1_420);
        assert_eq!(profile.allocations, 4);
    }

    #[test]
    fn lists_the_dearest_first() {
        let lists = Profile::read(DUMP).lists(10);
        let lines: Vec<_> = lines_of(&lists, "in the function itself");
        assert_eq!(lines, ["52  serve", "48  malloc", "42  main"]);
        let lines: Vec<_> = lines_of(&lists, "with what it calls");
        assert_eq!(lines.first().copied(), Some("142  main"));
    }

    fn lines_of<'a>(lists: &'a str, title: &str) -> Vec<&'a str> {
        let list = lists.split("\n\n").find(|list| list.contains(title));
        list.unwrap().lines().skip(1).map(str::trim).collect()
    }
}
