//! The README's commands are run as they stand there, in their order, none left out.
//!
//! They run in a folder that looks like a fresh clone: everything of the repository is
//! there by name, and what a command makes stays out of the repository. Only the ports
//! are put in place, because the tests run beside each other.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use tokio::process::Command;

use crate::support::process::Process;
use crate::support::tool;

pub(super) fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_owned()
}

/// A command of the README, and the output that is shown below it.
#[derive(Debug)]
pub(super) struct Shown {
    pub(super) command: String,
    pub(super) output: String,
}

/// The commands in fences marked `sh` or `console`: in a console they follow `$ `, and
/// what follows them is their output.
pub(super) fn commands(readme: &str) -> Vec<Shown> {
    let mut shown: Vec<Shown> = Vec::new();
    let mut fence = None;
    for line in readme.lines() {
        if let Some(kind) = line.trim().strip_prefix("```") {
            fence = if fence.is_some() { None } else { Some(kind) };
            continue;
        }
        let command = match fence {
            Some("console") => line.trim_start().strip_prefix("$ "),
            Some("sh" | "bash" | "shell") => {
                let line = line.trim();
                (!line.is_empty() && !line.starts_with('#')).then_some(line)
            }
            _ => continue,
        };
        match (command, shown.last_mut()) {
            (Some(command), _) => {
                shown.push(Shown {
                    command: command.to_owned(),
                    output: String::new(),
                });
            }
            (None, Some(last)) if fence == Some("console") => last.output += &format!("{line}\n"),
            (None, _) => {}
        }
    }
    shown
}

/// The arguments of a command that is the sidecar's own.
fn own_arguments(command: &str) -> Option<&str> {
    let command = command.split(" #").next().unwrap_or(command).trim();
    [
        "cargo run --release -- ",
        "cargo run -- ",
        "./target/release/wayleave ",
        "wayleave ",
    ]
    .iter()
    .find_map(|prefix| command.strip_prefix(prefix))
}

/// A folder in which the repository's own relative paths work.
fn clone() -> tempfile::TempDir {
    let clone = tempfile::Builder::new()
        .prefix("wayleave-readme-")
        .tempdir()
        .unwrap();
    for entry in std::fs::read_dir(repository()).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name();
        if name != ".wayleave" && name != "target" && name != ".git" {
            symlink(entry.path(), clone.path().join(name)).unwrap();
        }
    }
    clone
}

/// What is left of an output when that is taken away which differs from run to run: ids,
/// ports, sizes and times.
pub(super) fn shape(output: &str) -> String {
    let lines = output
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty());
    let words = lines.flat_map(|line| line.split(['"', ' ', ',', ':', '=', ';', '/', '{', '}']));
    let fixed = words.filter(|word| {
        !word.is_empty()
            && word
                .chars()
                .all(|c| c.is_ascii_alphabetic() || "-_.".contains(c))
    });
    fixed.collect::<Vec<_>>().join(" ")
}

/// What starts an example of the sidecar.
const EXAMPLE: &str = "cargo run --release -p wayleave-proxy --example ";

/// Runs an example, which is built with the tests. How often its agent is told to slow down, if it
/// is, depends on the machine.
async fn example(name: &str, shown: &str) {
    let built = Path::new(env!("CARGO_BIN_EXE_wayleave")).parent().unwrap();
    let program = built.join("examples").join(name);
    let output = tool::run(&mut Command::new(program))
        .await
        .successful()
        .stdout();
    let story = |output: &str| {
        let lines = output.lines().filter(|line| !line.contains("429"));
        lines.map(shape).collect::<Vec<_>>()
    };
    assert_eq!(story(&output), story(shown), "{output}");
}

struct Reader {
    clone: tempfile::TempDir,
    dev: Option<(Process, u16)>,
}

impl Reader {
    async fn follow(&mut self, shown: &Shown) {
        let command = shown.command.as_str();
        if let Some(arguments) = own_arguments(command) {
            self.own(arguments).await;
        } else if command.starts_with("curl ") {
            self.curl(shown).await;
        } else if let Some(name) = command.strip_prefix(EXAMPLE) {
            example(name, &shown.output).await;
        } else {
            // The test command runs this test; a clone is what this folder is.
            let known = ["cargo test", "git clone ", "cd "];
            assert!(
                known.iter().any(|known| command.starts_with(known)),
                "the README has a command that this test cannot run: {command}"
            );
        }
    }

    async fn own(&mut self, arguments: &str) {
        let script = format!("exec {} {arguments}", env!("CARGO_BIN_EXE_wayleave"));
        let mut command = Command::new("sh");
        command.current_dir(self.clone.path());
        if arguments.split(' ').next() == Some("dev") {
            let ports = "--listen 127.0.0.1:0 --admin 127.0.0.1:0";
            let script = script.replacen(" dev", &format!(" dev {ports}"), 1);
            let process = Process::start(command.arg("-c").arg(script));
            let port = process.stdout.find("the banner", |line| {
                let url = line
                    .trim_start()
                    .strip_prefix("curl ")?
                    .split("https://localhost:")
                    .nth(1)?;
                url.split('/').next()?.parse().ok()
            });
            let port = port.await;
            self.dev = Some((process, port));
        } else {
            tool::run(command.arg("-c").arg(script)).await.successful();
        }
    }

    async fn curl(&self, shown: &Shown) {
        if tool::find("curl").is_none() {
            return;
        }
        let (_, port) = self
            .dev
            .as_ref()
            .expect("a curl command before the sidecar's start");
        let script = shown
            .command
            .replace("localhost:8443", &format!("localhost:{port}"));
        let mut sh = Command::new("sh");
        sh.arg("-c").arg(&script).current_dir(self.clone.path());
        let output = tool::run(&mut sh).await.successful().stdout();
        if !shown.output.is_empty() {
            assert_eq!(shape(&output), shape(&shown.output), "{script}\n{output}");
        }
    }
}

#[tokio::test]
async fn the_commands_of_the_readme_do_what_it_says() {
    let readme = std::fs::read_to_string(repository().join("README.md")).unwrap();
    let shown = commands(&readme);
    let has = |start: &str| shown.iter().any(|shown| shown.command.starts_with(start));
    assert!(has("cargo run --release -- dev"), "{shown:?}");
    assert!(has("cargo test"), "{shown:?}");
    let mut reader = Reader {
        clone: clone(),
        dev: None,
    };
    for shown in &shown {
        reader.follow(shown).await;
    }
    if let Some((mut process, _)) = reader.dev {
        process.signal("TERM").await;
        assert_eq!(process.ended().await.code(), Some(0));
    }
}
