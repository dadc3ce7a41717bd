//! The commands in docs/identity.md are run as they stand there, and print what it shows.

use std::path::Path;

use tokio::process::Command;

use super::dev::Dev;
use super::readme::{Shown, commands, repository, shape};
use crate::support::tool;

/// Runs a command where `wayleave` is found, with the ports of a running dev proxy.
async fn follow(folder: &Path, dev: &Dev, admin: &str, shown: &Shown) {
    let inbound = format!("localhost:{}", dev.address().port());
    let status = format!("wayleave status --admin {admin}");
    let script = shown
        .command
        .replace("localhost:8443", &inbound)
        .replace("wayleave status", &status);
    let program = Path::new(env!("CARGO_BIN_EXE_wayleave"));
    let path = std::env::var("PATH").unwrap_or_default();
    let path = format!("{}:{path}", program.parent().unwrap().display());
    let mut sh = Command::new("sh");
    sh.arg("-c").arg(&script).current_dir(folder);
    let output = tool::run(sh.env("PATH", path)).await.successful().stdout();
    assert_eq!(shape(&output), shape(&shown.output), "{script}\n{output}");
}

#[tokio::test]
async fn the_commands_of_the_identity_document_print_what_it_shows() {
    let document = std::fs::read_to_string(repository().join("docs/identity.md")).unwrap();
    let shown = commands(&document);
    assert!(shown.len() >= 6, "{shown:?}");
    let folder = tempfile::tempdir().unwrap();
    let dev = Dev::start(&folder.path().join(".wayleave"), &[]).await;
    let admin = dev.process.stdout.find("the admin address", |line| {
        let url = line.trim_start().strip_prefix("admin")?.trim_start();
        let address = url.strip_prefix("http://")?.split(' ').next()?;
        Some(address.to_owned())
    });
    let admin = admin.await;
    for shown in &shown {
        follow(folder.path(), &dev, &admin, shown).await;
    }
    dev.stop().await;
}
