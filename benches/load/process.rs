//! What the kernel tells about a process under test and the processes that it started.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;
use tokio::process::Child;
use tokio::time::timeout;

/// The kernel counts a process's CPU time in ticks of this length on every Linux that
/// this runs on (`getconf CLK_TCK`).
const TICK: Duration = Duration::from_millis(10);

/// How long a process may take to end by itself.
const END: Duration = Duration::from_secs(60);

/// The niceness of what is measured, where that is allowed.
const FIRST: i32 = -15;

/// A process with its descendants: nginx works in a child.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Process(u32);

/// Memory in KiB, summed over the family: pages that two processes share count twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Memory {
    pub(crate) resident_kib: u64,
    pub(crate) peak_kib: u64,
}

/// A program on the path, or in one of the other folders.
pub(crate) fn find_program(
    name: &str,
    others: impl IntoIterator<Item = PathBuf>,
) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(others);
    let mut programs = folders.map(|folder| folder.join(name));
    programs.find(|program| program.is_file())
}

/// Sends a signal to a child that was not waited for: its id is still its own.
pub(crate) fn signal(child: &Child, signal: Signal) -> Result<()> {
    let id = i32::try_from(child.id().context("it has ended")?)?;
    let id = Pid::from_raw(id).context("no id")?;
    Ok(kill_process(id, signal)?)
}

/// Asks a child to end, and answers when it has.
pub(crate) async fn end(mut child: Child) -> Result<()> {
    signal(&child, Signal::TERM)?;
    let status = timeout(END, child.wait()).await??;
    ensure!(status.success(), "asked to end: {status}");
    Ok(())
}

impl Process {
    pub(crate) fn new(pid: u32) -> Self {
        Self(pid)
    }

    pub(crate) fn pid(self) -> u32 {
        self.0
    }

    /// User and system time of all threads of the family so far.
    pub(crate) fn cpu(self) -> Result<Duration> {
        let times = self.family()?.into_iter();
        let times: Vec<Duration> = times
            .filter_map(|pid| scheduled(pid).or(ticked(pid)))
            .collect();
        ensure!(!times.is_empty(), "the process under test has ended");
        Ok(times.iter().sum())
    }

    pub(crate) fn memory(self) -> Result<Memory> {
        let mut sum = Memory::default();
        for pid in self.family()? {
            let Ok(status) = std::fs::read_to_string(folder(pid).join("status")) else {
                continue;
            };
            sum.resident_kib += kib(&status, "VmRSS:")?;
            sum.peak_kib += kib(&status, "VmHWM:")?;
        }
        Ok(sum)
    }

    /// The process itself first, then whatever descends from it now.
    fn family(self) -> Result<Vec<u32>> {
        let parents = parents()?;
        let mut family = vec![self.0];
        let mut next = 0;
        while let Some(&parent) = family.get(next) {
            let children = parents.iter().filter(|(_, of)| **of == parent);
            family.extend(children.map(|(pid, _)| *pid));
            next += 1;
        }
        Ok(family)
    }
}

fn folder(pid: u32) -> PathBuf {
    PathBuf::from(format!("/proc/{pid}"))
}

/// Every process of the machine with its parent.
fn parents() -> Result<HashMap<u32, u32>> {
    let mut parents = HashMap::new();
    for entry in std::fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // A process that ended meanwhile has no parent to tell.
        if let Some(parent) = fields(pid).and_then(|fields| fields.get(1)?.parse().ok()) {
            parents.insert(pid, parent);
        }
    }
    Ok(parents)
}

/// The fields of `stat` from the third on (proc(5)). The second is the program's name, in
/// parentheses and free to hold spaces.
fn fields(pid: u32) -> Option<Vec<String>> {
    let stat = std::fs::read_to_string(folder(pid).join("stat")).ok()?;
    let (_, fields) = stat.rsplit_once(") ")?;
    Some(fields.split(' ').map(str::to_owned).collect())
}

/// The time that the scheduler gave to the threads that a process has now, to the nanosecond
/// (`schedstat`, where the kernel keeps it).
fn scheduled(pid: u32) -> Option<Duration> {
    let mut sum = None;
    for thread in std::fs::read_dir(folder(pid).join("task")).ok()? {
        let Ok(told) = std::fs::read_to_string(thread.ok()?.path().join("schedstat")) else {
            continue;
        };
        let nanos = told.split(' ').next()?.parse().ok()?;
        sum = Some(sum.unwrap_or_default() + Duration::from_nanos(nanos));
    }
    sum
}

/// User and system time of one process, to the tick.
fn ticked(pid: u32) -> Option<Duration> {
    let fields = fields(pid)?;
    let (user, system): (u32, u32) = (fields.get(11)?.parse().ok()?, fields.get(12)?.parse().ok()?);
    Some(TICK * user.checked_add(system)?)
}

fn kib(status: &str, name: &str) -> Result<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let kib = line
        .with_context(|| format!("`status` has no {name}"))?
        .trim()
        .trim_end_matches(" kB");
    Ok(kib.parse()?)
}

/// Raises this process's limit of open files, and so that of what it starts, to `wanted` or
/// as far as it goes; answers with what it is now.
pub(crate) fn raise_open_files(wanted: u64) -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let now = getrlimit(Resource::Nofile);
    let hard = now.maximum.unwrap_or(u64::MAX);
    // Only a privileged process may raise the hard limit.
    for maximum in [hard.max(wanted), hard] {
        let limit = Rlimit {
            current: Some(wanted.min(maximum)),
            maximum: Some(maximum),
        };
        if now.current.is_none_or(|current| current < wanted) {
            let _ = setrlimit(Resource::Nofile, limit);
        }
    }
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Goes before others for the processor, and so does what it starts: a busy machine blurs
/// latencies less. Only a privileged process may; answers whether it could.
pub(crate) fn go_first() -> bool {
    rustix::process::setpriority_process(None, FIRST).is_ok()
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};
    use std::time::Instant;

    use super::*;

    #[test]
    fn reads_the_cpu_time_that_a_process_has_used() {
        let process = Process::new(std::process::id());
        let before = process.cpu().unwrap();
        let start = Instant::now();
        let mut sum = 0_u64;
        while process.cpu().unwrap() < before + Duration::from_millis(100) {
            sum = std::hint::black_box(sum.wrapping_add(1));
            assert!(
                start.elapsed() < Duration::from_secs(60),
                "CPU time does not grow"
            );
        }
        let memory = process.memory().unwrap();
        assert!(memory.resident_kib > 100 && memory.peak_kib >= memory.resident_kib);
    }

    #[test]
    fn both_accounts_of_a_process_agree() {
        let mut sum = 0_u64;
        while ticked(std::process::id()).unwrap() < Duration::from_millis(200) {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        // Threads that have ended are in the second account alone.
        let (scheduled, ticked) = (scheduled(std::process::id()), ticked(std::process::id()));
        assert!(scheduled.is_none_or(|time| time < ticked.unwrap() + 5 * TICK));
    }

    #[test]
    fn a_child_belongs_to_its_family() {
        let mut child = Command::new("cat")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let family = Process::new(std::process::id()).family().unwrap();
        let alone = Process::new(child.id()).family().unwrap();
        // `cat` ends with its input.
        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(family.contains(&child.id()));
        assert_eq!(alone, [child.id()]);
    }

    #[test]
    fn a_process_that_is_gone_is_an_error_and_no_zero() {
        let mut child = Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        assert!(Process::new(child.id()).cpu().is_err());
    }
}
