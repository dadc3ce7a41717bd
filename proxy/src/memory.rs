//! How much memory the process holds, sampled away from the workers, and whether that is too
//! much to take on more.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::config::MaxMemory;

/// How often it is looked at, where there is a limit.
const SAMPLE: Duration = Duration::from_millis(250);
/// It is enough again below this many hundredths of the limit.
const ENOUGH_AGAIN: u64 = 95;

/// The process's memory against its limit.
#[derive(Debug)]
pub(crate) struct Memory {
    /// In bytes; none where there is no limit.
    limit: Option<u64>,
    short: AtomicBool,
}

impl Memory {
    /// Nothing is sampled before [`watch`](Self::watch) runs.
    pub(crate) fn with_limit(limit: MaxMemory) -> Self {
        let limit = match limit {
            MaxMemory::Off => None,
            MaxMemory::Bytes(bytes) => Some(bytes),
            MaxMemory::Auto => cgroup_limit(Path::new("/")).map(|bytes| bytes / 10 * 9),
        };
        Self {
            limit,
            short: AtomicBool::new(false),
        }
    }

    /// Whether more is held than may be.
    pub(crate) fn is_short(&self) -> bool {
        self.short.load(Ordering::Relaxed)
    }

    /// The limit in bytes.
    pub(crate) fn limit(&self) -> Option<u64> {
        self.limit
    }

    /// The bytes that are resident now; 0 where the system does not tell.
    pub(crate) fn resident() -> u64 {
        resident().unwrap_or(0)
    }

    /// Samples until dropped.
    pub(crate) async fn watch(self: Arc<Self>) {
        let Some(limit) = self.limit else { return };
        loop {
            self.judge(Self::resident(), limit);
            tokio::time::sleep(SAMPLE).await;
        }
    }

    fn judge(&self, resident: u64, limit: u64) {
        let was_short = self.is_short();
        let bound = match was_short {
            true => limit / 100 * ENOUGH_AGAIN,
            false => limit,
        };
        let short = resident > bound;
        self.short.store(short, Ordering::Relaxed);
        match (was_short, short) {
            (false, true) => {
                tracing::warn!(resident, limit, "memory is short: calls are refused");
            }
            (true, false) => tracing::info!(resident, limit, "memory is enough again"),
            _ => {}
        }
    }
}

/// The second number of statm is what is resident, in pages.
fn resident() -> Option<u64> {
    let statm = fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split(' ').nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

/// What the control group that this process is in allows it, of either version.
fn cgroup_limit(root: &Path) -> Option<u64> {
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
    let limits = groups.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, group) = (parts.next()?, parts.next()?.trim_start_matches('/'));
        let mounted = root.join("sys/fs/cgroup");
        let (base, file) = match controllers {
            "" => (mounted, "memory.max"),
            "memory" => (mounted.join("memory"), "memory.limit_in_bytes"),
            _ => return None,
        };
        least_limit(&base, group, file)
    });
    // The first version says "no limit" with a number that no machine has.
    limits.min().filter(|bytes| *bytes < 1 << 60)
}

/// The least limit of a group and those above it. Inside a container the group's own folder is
/// often mounted at the base, and its path not to be found there.
fn least_limit(base: &Path, group: &str, file: &str) -> Option<u64> {
    let folders = Path::new(group).ancestors().map(|group| base.join(group));
    let limit = |folder: PathBuf| -> Option<u64> {
        let text = fs::read_to_string(folder.join(file)).ok()?;
        text.trim().parse().ok()
    };
    folders.filter_map(limit).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_short_above_the_limit_until_well_below_it() {
        let memory = Memory::with_limit(MaxMemory::Bytes(1_000));
        for (resident, short) in [
            (1_000, false),
            (1_001, true),
            (999, true),
            (951, true),
            (950, false),
            (1_000, false),
        ] {
            memory.judge(resident, 1_000);
            assert_eq!(memory.is_short(), short, "{resident}");
        }
    }

    #[test]
    fn the_process_knows_what_it_holds() {
        assert!(resident().unwrap() > 100_000);
    }

    #[test]
    fn the_least_limit_of_the_control_group_counts() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        assert_eq!(cgroup_limit(root.path()), None);
        write("proc/self/cgroup", "0::/kube/pod\n");
        assert_eq!(cgroup_limit(root.path()), None);
        write("sys/fs/cgroup/memory.max", "max\n");
        assert_eq!(cgroup_limit(root.path()), None);
        write("sys/fs/cgroup/kube/memory.max", "2000\n");
        write("sys/fs/cgroup/kube/pod/memory.max", "3000\n");
        assert_eq!(cgroup_limit(root.path()), Some(2_000));
        write("proc/self/cgroup", "4:memory:/gone\n0::/\n");
        write(
            "sys/fs/cgroup/memory/memory.limit_in_bytes",
            "9223372036854771712\n",
        );
        assert_eq!(cgroup_limit(root.path()), None);
        write("sys/fs/cgroup/memory/memory.limit_in_bytes", "1000\n");
        assert_eq!(cgroup_limit(root.path()), Some(1_000));
    }
}
