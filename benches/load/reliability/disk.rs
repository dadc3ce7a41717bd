//! Decision records have nowhere to go: calls go on, and what was not written is counted.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::time::sleep;

use super::chaos::Scene;
use super::ground::{Ground, Setting};
use super::verdict::Findings;

const CALLS: u64 = 200;
const PATIENCE: Duration = Duration::from_secs(15);
const FAILURES: &str = "wayleave_record_write_failures_total";
/// What the small disk holds, and what of it is taken.
const SIZE: &str = "size=256k";
const BALLAST: usize = 224 * 1024;
/// Where the small disk is, from the papers.
const FOLDER: &str = "log/small";

pub(crate) async fn run(ground: &Ground, findings: &mut Findings) -> Result<()> {
    always_full(ground, findings).await?;
    match SmallDisk::mount(ground.papers.path()) {
        Ok(disk) => fills_and_empties(ground, &disk, findings).await,
        Err(error) => {
            findings.skip(&format!(
                "chaos: a disk that fills up and is emptied ({error:#})"
            ));
            Ok(())
        }
    }
}

/// `/dev/full` answers every write with ENOSPC.
async fn always_full(ground: &Ground, findings: &mut Findings) -> Result<()> {
    let setting = Setting {
        decisions: "file:/dev/full",
        ..Setting::PLAIN
    };
    let sidecar = ground.start(setting).await?;
    let mut scene = Scene::new(ground, sidecar).await?;
    let served = scene.served(CALLS).await;
    let failures = until_failures(ground, 0.0).await?;
    findings.promise(
        "calls go on before a full disk, and failures to write are counted",
        served == CALLS && failures > 0.0,
        format!("{served} of {CALLS} served, {failures} failures"),
    );
    scene.sidecar.kill().await
}

async fn fills_and_empties(
    ground: &Ground,
    disk: &SmallDisk,
    findings: &mut Findings,
) -> Result<()> {
    let ballast = disk.folder.join("ballast");
    std::fs::write(&ballast, vec![b'w'; BALLAST])?;
    let setting = Setting {
        decisions: "file:log/small/decisions.jsonl",
        ..Setting::PLAIN
    };
    let sidecar = ground.start(setting).await?;
    let mut scene = Scene::new(ground, sidecar).await?;
    let (mut served, mut calls) = (0, 0);
    let start = Instant::now();
    let mut failures = 0.0;
    while failures == 0.0 && start.elapsed() < PATIENCE {
        (served, calls) = (served + scene.served(CALLS).await, calls + CALLS);
        failures = ground.metric(FAILURES).await?;
    }
    findings.promise(
        "calls go on while a disk fills up",
        served == calls && failures > 0.0,
        format!("{served} of {calls} served, {failures} failures"),
    );
    std::fs::remove_file(&ballast)?;
    let records = disk.folder.join("decisions.jsonl");
    let before = std::fs::metadata(&records)?.len();
    let start = Instant::now();
    let mut grown = false;
    while !grown && start.elapsed() < PATIENCE {
        scene.served(1).await;
        grown = std::fs::metadata(&records)?.len() > before;
    }
    let torn = torn(&records)?;
    findings.promise(
        "records are written again once there is room",
        grown && torn <= 1 && scene.sidecar.lives()?,
        format!("{torn} lines were torn where the disk was full"),
    );
    scene.sidecar.kill().await
}

/// Lines that are no JSON.
fn torn(records: &Path) -> Result<usize> {
    let text = std::fs::read_to_string(records)?;
    let whole = |line: &&str| serde_json::from_str::<serde_json::Value>(line).is_err();
    Ok(text.lines().filter(whole).count())
}

async fn until_failures(ground: &Ground, above: f64) -> Result<f64> {
    let start = Instant::now();
    loop {
        let failures = ground.metric(FAILURES).await?;
        if failures > above || start.elapsed() > PATIENCE {
            return Ok(failures);
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// A small file system in memory, gone when dropped.
struct SmallDisk {
    folder: PathBuf,
}

impl SmallDisk {
    fn mount(papers: &Path) -> Result<Self> {
        let folder = papers.join(FOLDER);
        std::fs::create_dir_all(&folder)?;
        let mut mount = Command::new("mount");
        mount
            .args(["-t", "tmpfs", "-o", SIZE, "tmpfs"])
            .arg(&folder);
        let status = mount.stdout(Stdio::null()).stderr(Stdio::null()).status();
        ensure!(
            status.context("no `mount`")?.success(),
            "tmpfs cannot be mounted here"
        );
        Ok(Self { folder })
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: the sidecar may still have its file open.
        let _ = Command::new("umount").arg("-l").arg(&self.folder).status();
    }
}
