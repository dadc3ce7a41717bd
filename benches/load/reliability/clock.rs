//! The clock of the sidecar jumps (libfaketime), its callers' does not: an hour forth and back
//! changes nothing; beyond the validity of all certificates nobody gets in or stays; and when the
//! clock is right again, so is all else.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;

use super::chaos::{Client, Got, Scene, until};
use super::ground::{Ground, Setting};
use super::verdict::Findings;

const CALLS: u64 = 50;
/// A clock that jumps tells nobody: the sidecar looks at it every 30 s, and then its callers have
/// 5 s to finish (`trust_grace`).
const LEAVING: Duration = Duration::from_secs(60);

pub(crate) async fn run(ground: &Ground, findings: &mut Findings) -> Result<()> {
    let Some(library) = library() else {
        findings.skip("chaos: clock jumps (no libfaketime)");
        return Ok(());
    };
    let offset = ground.papers.path().join("log").join("clock");
    set(&offset, "+0")?;
    let environment = [
        ("LD_PRELOAD", library.into_os_string()),
        ("FAKETIME_TIMESTAMP_FILE", offset.clone().into_os_string()),
        ("FAKETIME_NO_CACHE", OsString::from("1")),
        // A clock that is set does not move the monotonic one.
        ("FAKETIME_DONT_FAKE_MONOTONIC", OsString::from("1")),
        ("DONT_FAKE_MONOTONIC", OsString::from("1")),
    ];
    let sidecar = ground.start_with(Setting::PLAIN, environment).await?;
    let mut scene = Scene::new(ground, sidecar).await?;
    for (what, jump) in [
        ("an hour forth", "+3600"),
        ("back, and some minutes more", "-240"),
        ("to what it was", "+0"),
    ] {
        set(&offset, jump)?;
        let kept = scene.served(CALLS).await;
        scene.client = Client::new(ground)?;
        let new = scene.served(CALLS).await;
        findings.promise(
            &format!("calls go on when the clock jumps {what}"),
            kept == CALLS && new == CALLS,
            format!("{kept} and {new} of {CALLS} served, on connections kept and new"),
        );
    }
    beyond(ground, &offset, &mut scene, findings).await?;
    scene.sidecar.kill().await
}

/// All certificates have expired, as the sidecar sees it.
async fn beyond(
    ground: &Ground,
    offset: &Path,
    scene: &mut Scene,
    findings: &mut Findings,
) -> Result<()> {
    set(offset, "+172800")?;
    let mut newcomer = Client::new(ground)?;
    let in_vain = newcomer.call(http::Method::GET, 0).await == Got::Broken;
    findings.promise(
        "nobody gets in with an expired certificate",
        in_vain,
        in_vain,
    );
    let ended = until(LEAVING, &mut scene.client, |got| !got.is_ok()).await;
    let told = ended
        .as_ref()
        .map_or_else(ToString::to_string, |()| "ended".to_owned());
    findings.promise(
        "nobody stays with an expired certificate",
        ended.is_ok(),
        told,
    );
    set(offset, "+0")?;
    let back = until(LEAVING, &mut newcomer, Got::is_ok).await;
    let told = back
        .as_ref()
        .map_or_else(ToString::to_string, |()| "served".to_owned());
    let lives = scene.sidecar.lives()?;
    findings.promise(
        "calls go on when the clock is right again",
        back.is_ok() && lives,
        told,
    );
    Ok(())
}

fn set(offset: &Path, jump: &str) -> Result<()> {
    let new = offset.with_extension("new");
    std::fs::write(&new, format!("{jump}\n"))?;
    Ok(std::fs::rename(new, offset)?)
}

/// The variant for programs with threads, where Debian puts it.
fn library() -> Option<PathBuf> {
    let mut folders = vec![
        PathBuf::from("/usr/lib/faketime"),
        "/usr/local/lib/faketime".into(),
    ];
    let more = std::fs::read_dir("/usr/lib").ok()?.flatten();
    folders.extend(more.map(|entry| entry.path().join("faketime")));
    let mut libraries = folders
        .iter()
        .map(|folder| folder.join("libfaketimeMT.so.1"));
    libraries.find(|library| library.is_file())
}
