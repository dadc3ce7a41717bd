//! Programs that we did not write: found on the machine, or skipped by name.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Output, Stdio};

use tokio::process::Command;

use super::within;

/// Where a program is. Says that the test is skipped, and why, where it is not installed:
/// past the test runner's capture, so that it is seen in a passing run as well.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/usr/local/sbin".into()])
        .map(|directory| directory.join(program))
        .find(|candidate| candidate.is_file());
    if found.is_none() {
        skip(&format!("`{program}` is not installed"));
    }
    found
}

/// Says that this test is skipped, or a part of it, and why: past the test runner's capture.
pub(crate) fn skip(why: &str) {
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    let notice = format!("\nSKIPPED {test}: {why}\n");
    let _ = std::io::stderr().write_all(notice.as_bytes());
}

/// Runs a program to its end.
pub(crate) async fn run(command: &mut Command) -> Finished {
    command.stdin(Stdio::null()).kill_on_drop(true);
    let what = format!("{:?}", command.as_std());
    Finished(within(&what, command.output()).await.unwrap())
}

/// What a program left behind.
pub(crate) struct Finished(pub(crate) Output);

impl Finished {
    pub(crate) fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.0.stdout).into_owned()
    }

    pub(crate) fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.0.stderr).into_owned()
    }

    /// Fails the test, with all the output, where the program failed.
    pub(crate) fn successful(self) -> Self {
        let (status, out, err) = (self.0.status, self.stdout(), self.stderr());
        assert!(status.success(), "{status}\nstdout: {out}\nstderr: {err}");
        self
    }
}
