//! Callgrind, the part of valgrind that counts: how it is started, told and read.

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use tokio::process::Command;

/// How many functions a list has.
const LISTED: usize = 40;

/// A command line that counts whatever is appended to it, each thread by itself.
pub(crate) fn command(out: &Path) -> Vec<OsString> {
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

/// Tells a process that is being counted: `--zero` or `--dump`.
pub(crate) async fn control(what: &str, pid: u32) -> Result<()> {
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

/// What was dumped at the `number`th time, a text for each thread.
pub(crate) fn dumps(out: &Path, number: u32) -> Result<Vec<String>> {
    let folder = out.parent().context("a dump is in no folder")?;
    let name = out.file_name().context("a dump has no name")?;
    let prefix = format!("{}.{number}-", name.to_string_lossy());
    let mut texts = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(&prefix) {
            texts.push(std::fs::read_to_string(entry.path())?);
        }
    }
    ensure!(!texts.is_empty(), "callgrind left no dump {number}");
    Ok(texts)
}

/// The names of a process's threads in the order of their starts.
pub(crate) fn threads_of(pid: u32) -> Result<Vec<String>> {
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

/// Instructions of one function: in it, and in it with what it calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cost {
    pub(crate) own: u64,
    pub(crate) inclusive: u64,
}

/// What one thread did, from a dump in callgrind's format.
#[derive(Debug, Default)]
pub(crate) struct Profile {
    functions: HashMap<String, Cost>,
    /// Calls of the allocator that give memory.
    pub(crate) allocations: u64,
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
    pub(crate) fn read(text: &str) -> Self {
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

    /// What several did together.
    pub(crate) fn sum(profiles: impl IntoIterator<Item = Self>) -> Self {
        let mut sum = Self::default();
        for profile in profiles {
            for (name, cost) in profile.functions {
                let of = sum.functions.entry(name).or_default();
                of.own += cost.own;
                of.inclusive += cost.inclusive;
            }
            sum.allocations += profile.allocations;
        }
        sum
    }

    /// The functions in which something was spent, those with most first.
    pub(crate) fn dearest(self) -> Vec<String> {
        let mut functions: Vec<_> = self.functions.into_iter().collect();
        functions.retain(|(_, cost)| cost.own > 0);
        functions.sort_by(|(a, of_a), (b, of_b)| (of_b.own, a).cmp(&(of_a.own, b)));
        functions.into_iter().map(|(name, _)| name).collect()
    }

    pub(crate) fn total(&self) -> u64 {
        self.functions.values().map(|cost| cost.own).sum()
    }

    /// The functions that most is spent in, for one request.
    pub(crate) fn lists(&self, requests: u32) -> String {
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
