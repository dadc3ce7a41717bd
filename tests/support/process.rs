//! A started program with its output read line by line. It is killed, by its own pid, when
//! the test drops it.

use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::Notify;

use super::{PATIENCE, within};

/// The sidecar's command line, ready to be given arguments.
pub(crate) fn wayleave() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_wayleave"));
    for name in ["WAYLEAVE_LOG", "NO_COLOR", "PORT"] {
        command.env_remove(name);
    }
    command
}

pub(crate) struct Process {
    child: Child,
    pub(crate) stdout: Lines,
    pub(crate) stderr: Lines,
}

impl Process {
    pub(crate) fn start(command: &mut Command) -> Self {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.kill_on_drop(true).spawn().unwrap();
        let stdout = Lines::read(child.stdout.take().unwrap());
        let stderr = Lines::read(child.stderr.take().unwrap());
        Self {
            child,
            stdout,
            stderr,
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id().expect("the process has ended already")
    }

    /// Sends a signal by name, for example `TERM`.
    pub(crate) async fn signal(&self, name: &str) {
        // The shell's own `kill`: the program of that name is not on every machine.
        let kill = format!("kill -{name} {}", self.pid());
        let status = Command::new("sh").arg("-c").arg(kill).status().await;
        assert!(status.unwrap().success(), "could not send SIG{name}");
    }

    /// Waits for the end of the process and of its output.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let status = match tokio::time::timeout(PATIENCE, self.child.wait()).await {
            Ok(status) => status.unwrap(),
            Err(_) => panic!("the process does not end; its log:\n{}", self.stderr.text()),
        };
        within("the end of the output", async {
            self.stdout.finished().await;
            self.stderr.finished().await;
        })
        .await;
        status
    }

    /// A line of `/proc/PID/status` in KiB, for example `VmHWM`, the peak memory.
    pub(crate) fn memory_kib(&self, field: &str) -> u64 {
        let path = format!("/proc/{}/status", self.pid());
        let status = std::fs::read_to_string(Path::new(&path)).unwrap();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        line.unwrap()
            .trim()
            .trim_end_matches(" kB")
            .parse()
            .unwrap()
    }
}

/// The lines that a process has written so far.
#[derive(Clone, Default)]
pub(crate) struct Lines(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    lines: Vec<String>,
    ended: bool,
}

impl Lines {
    fn read(source: impl AsyncRead + Unpin + Send + 'static) -> Self {
        let lines = Self::default();
        let shared = Arc::clone(&lines.0);
        tokio::spawn(async move {
            let mut reader = BufReader::new(source).lines();
            while let Ok(Some(line)) = reader.next_line().await {
                shared.state.lock().unwrap().lines.push(line);
                shared.changed.notify_waiters();
            }
            shared.state.lock().unwrap().ended = true;
            shared.changed.notify_waiters();
        });
        lines
    }

    pub(crate) fn all(&self) -> Vec<String> {
        self.0.state.lock().unwrap().lines.clone()
    }

    pub(crate) fn text(&self) -> String {
        self.all().join("\n")
    }

    async fn finished(&self) {
        loop {
            let changed = self.0.changed.notified();
            if self.0.state.lock().unwrap().ended {
                return;
            }
            changed.await;
        }
    }

    /// The first line that `pick` makes something of, waiting for it where it is yet to come.
    pub(crate) async fn find<T>(&self, what: &str, pick: impl Fn(&str) -> Option<T>) -> T {
        match tokio::time::timeout(PATIENCE, self.search(&pick)).await {
            Ok(Some(found)) => found,
            Ok(None) => panic!("the output ended without {what}:\n{}", self.text()),
            Err(_) => panic!("the output is still without {what}:\n{}", self.text()),
        }
    }

    async fn search<T>(&self, pick: &impl Fn(&str) -> Option<T>) -> Option<T> {
        let mut read = 0;
        loop {
            let changed = self.0.changed.notified();
            let ended = {
                let state = self.0.state.lock().unwrap();
                if let Some(found) = state.lines[read..].iter().find_map(|line| pick(line)) {
                    return Some(found);
                }
                read = state.lines.len();
                state.ended
            };
            if ended {
                return None;
            }
            changed.await;
        }
    }

    /// Waits for a line that contains `text`.
    pub(crate) async fn contains(&self, text: &str) -> String {
        self.find(&format!("`{text}`"), |line| {
            line.contains(text).then(|| line.to_owned())
        })
        .await
    }

    /// Waits for a JSON line that `accept` agrees to.
    pub(crate) async fn json(
        &self,
        what: &str,
        accept: impl Fn(&serde_json::Value) -> bool,
    ) -> serde_json::Value {
        self.find(what, |line| serde_json::from_str(line).ok().filter(&accept))
            .await
    }
}
