//! The command that `wayleave dev -- COMMAND` starts, and the signals it is passed.
//!
//! The command gets a free loopback port in `PORT`, ends with the proxy and gives it its exit
//! status. It is never restarted, and its output is its own: this module reads none of it.
//!
//! Without a terminal the command leads a process group of its own, so that a signal, and the
//! kill at the end, reach everything it started. On a terminal it stays in the group of the
//! proxy: a group in the background could not read keys, and Ctrl-C and Ctrl-Z reach both
//! already.

use std::ffi::{OsStr, OsString};
use std::io::{self, IsTerminal as _};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use std::time::Duration;

use rustix::process::{Pid, kill_process, kill_process_group};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::signal::unix::{self, SignalKind};
use tokio::time::{sleep, timeout};

/// How often a starting command's port is tried.
const PROBE_INTERVAL: Duration = Duration::from_millis(50);
/// Longest single attempt to connect to it.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// A running command.
///
/// Dropping it kills the command, and its process group where it leads one.
#[derive(Debug)]
pub(crate) struct Child {
    process: tokio::process::Child,
    pid: Pid,
    leads_group: bool,
    ended: bool,
}

/// Why a command could not be started; each is the caller's mistake.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChildError {
    /// Nothing stands after `--`.
    #[error("no command was given; write it after `--`, such as `wayleave dev -- npm start`")]
    Empty,
    /// There is no such program.
    #[error("cannot find the command `{program}`; check its spelling and your PATH")]
    NotFound {
        /// As it was given.
        program: String,
    },
    /// The file is there, and may not be executed.
    #[error("the command `{program}` may not be executed; check its permissions")]
    NotExecutable {
        /// As it was given.
        program: String,
    },
    /// The system refused for another reason.
    #[error("cannot start the command `{program}`: {source}")]
    Start {
        /// As it was given.
        program: String,
        /// What the system said.
        source: io::Error,
    },
}

/// A signal that is passed on to the command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signal {
    /// SIGHUP.
    Hangup,
    /// SIGINT.
    Interrupt,
    /// SIGTERM.
    Terminate,
    /// SIGUSR1.
    User1,
    /// SIGUSR2.
    User2,
}

impl Child {
    /// Starts `command` with `PORT` set to `port`.
    ///
    /// # Errors
    ///
    /// When there is no command, or the system cannot run it.
    pub(crate) fn spawn(command: &[OsString], port: u16) -> Result<Self, ChildError> {
        Self::spawn_in_group(command, port, !io::stdin().is_terminal())
    }

    fn spawn_in_group(
        command: &[OsString],
        port: u16,
        leads_group: bool,
    ) -> Result<Self, ChildError> {
        let (program, arguments) = command.split_first().ok_or(ChildError::Empty)?;
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env("PORT", port.to_string())
            .kill_on_drop(true);
        if leads_group {
            command.process_group(0);
        }
        let failed = |source| start_error(program, source);
        let process = command.spawn().map_err(failed)?;
        let pid = process
            .id()
            .and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?))
            .ok_or_else(|| failed(io::Error::other("it has no process id")))?;
        Ok(Self {
            process,
            pid,
            leads_group,
            ended: false,
        })
    }

    /// The command's process id.
    #[must_use]
    pub(crate) fn id(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Waits for the command to end; its exit code as a shell tells it, 128 + n for signal n.
    ///
    /// May be dropped and called again.
    ///
    /// # Errors
    ///
    /// When the system cannot tell the command's state.
    pub(crate) async fn wait(&mut self) -> io::Result<u8> {
        let status = self.process.wait().await?;
        self.ended = true;
        Ok(exit_code(status))
    }

    /// Passes `signal` on.
    ///
    /// On a terminal SIGINT is left out, because Ctrl-C has reached the command already.
    pub(crate) fn forward(&self, signal: Signal) {
        if self.leads_group || signal != Signal::Interrupt {
            self.send(signal.into());
        }
    }

    /// Asks the command to end, and kills it when it has not after `grace`.
    ///
    /// # Errors
    ///
    /// When the system cannot tell the command's state.
    pub(crate) async fn stop(&mut self, grace: Duration) -> io::Result<u8> {
        self.send(rustix::process::Signal::TERM);
        if let Ok(code) = timeout(grace, self.wait()).await {
            return code;
        }
        self.send(rustix::process::Signal::KILL);
        self.wait().await
    }

    fn send(&self, signal: rustix::process::Signal) {
        // INVARIANT: until it was waited for, the process id cannot belong to another process.
        if self.ended {
            return;
        }
        let sent = if self.leads_group {
            kill_process_group(self.pid, signal)
        } else {
            kill_process(self.pid, signal)
        };
        if let Err(error) = sent {
            tracing::debug!(pid = self.id(), %error, "the signal was not delivered");
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.send(rustix::process::Signal::KILL);
    }
}

impl From<Signal> for rustix::process::Signal {
    fn from(signal: Signal) -> Self {
        match signal {
            Signal::Hangup => Self::HUP,
            Signal::Interrupt => Self::INT,
            Signal::Terminate => Self::TERM,
            Signal::User1 => Self::USR1,
            Signal::User2 => Self::USR2,
        }
    }
}

/// The signals that the proxy receives and passes on.
#[derive(Debug)]
pub(crate) struct Signals {
    hangup: unix::Signal,
    interrupt: unix::Signal,
    terminate: unix::Signal,
    user1: unix::Signal,
    user2: unix::Signal,
}

impl Signals {
    /// Begins to listen; from here on these signals no longer end the process by themselves.
    ///
    /// # Errors
    ///
    /// When the system refuses a handler.
    pub(crate) fn listen() -> io::Result<Self> {
        Ok(Self {
            hangup: unix::signal(SignalKind::hangup())?,
            interrupt: unix::signal(SignalKind::interrupt())?,
            terminate: unix::signal(SignalKind::terminate())?,
            user1: unix::signal(SignalKind::user_defined1())?,
            user2: unix::signal(SignalKind::user_defined2())?,
        })
    }

    /// The next signal; may be dropped and called again.
    pub(crate) async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.hangup.recv() => Signal::Hangup,
            _ = self.interrupt.recv() => Signal::Interrupt,
            _ = self.terminate.recv() => Signal::Terminate,
            _ = self.user1.recv() => Signal::User1,
            _ = self.user2.recv() => Signal::User2,
        }
    }
}

/// A loopback port that was free a moment ago.
///
/// # Errors
///
/// When the system has none.
pub(crate) async fn free_port() -> io::Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    Ok(listener.local_addr()?.port())
}

/// Waits until something accepts connections on loopback `port`, for at most `limit`.
///
/// The address that does, IPv4 before IPv6, because `localhost` is either; `None` when the time
/// is over.
pub(crate) async fn accepting(port: u16, limit: Duration) -> Option<SocketAddr> {
    let addresses: [SocketAddr; 2] = [
        (Ipv4Addr::LOCALHOST, port).into(),
        (Ipv6Addr::LOCALHOST, port).into(),
    ];
    let probe = async {
        loop {
            for address in addresses {
                if let Ok(Ok(_)) = timeout(PROBE_TIMEOUT, TcpStream::connect(address)).await {
                    return address;
                }
            }
            sleep(PROBE_INTERVAL).await;
        }
    };
    timeout(limit, probe).await.ok()
}

fn start_error(program: &OsStr, source: io::Error) -> ChildError {
    let program = program.to_string_lossy().escape_debug().to_string();
    match source.kind() {
        io::ErrorKind::NotFound => ChildError::NotFound { program },
        io::ErrorKind::PermissionDenied => ChildError::NotExecutable { program },
        _ => ChildError::Start { program, source },
    }
}

fn exit_code(status: ExitStatus) -> u8 {
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal))
        .unwrap_or(1);
    u8::try_from(code).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::Instant;

    const LONG: Duration = Duration::from_secs(20);

    fn command(words: &[&str]) -> Vec<OsString> {
        words.iter().map(OsString::from).collect()
    }

    fn shell(script: &str) -> Child {
        Child::spawn_in_group(&command(&["/bin/sh", "-c", script]), 4321, true).unwrap()
    }

    async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
        let deadline = Instant::now() + LONG;
        while !holds() {
            assert!(Instant::now() < deadline, "{what}");
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// A process that ended and was not yet reaped by its parent counts as gone.
    fn is_running(pid: i32) -> bool {
        std::fs::read_to_string(format!("/proc/{pid}/stat"))
            .is_ok_and(|stat| !stat.contains(") Z "))
    }

    #[tokio::test]
    async fn the_exit_status_is_the_commands_own() {
        assert_eq!(shell("exit 0").wait().await.unwrap(), 0);
        assert_eq!(shell("exit 7").wait().await.unwrap(), 7);
        assert_eq!(shell("kill -KILL $$").wait().await.unwrap(), 137);
    }

    #[tokio::test]
    async fn the_port_is_in_the_environment() {
        assert_eq!(shell("test \"$PORT\" = 4321").wait().await.unwrap(), 0);
    }

    #[tokio::test]
    async fn a_signal_is_passed_on() {
        let folder = tempfile::tempdir().unwrap();
        let ready = folder.path().join("ready");
        for (signal, code) in [
            (Signal::Hangup, 1),
            (Signal::Interrupt, 2),
            (Signal::Terminate, 15),
            (Signal::User1, 10),
            (Signal::User2, 12),
        ] {
            let mut child = shell(&format!(
                "trap 'exit {code}' HUP INT TERM USR1 USR2; touch {}; for _ in $(seq 600); do sleep 0.05; done",
                ready.display()
            ));
            eventually("the trap is set", || ready.exists()).await;
            child.forward(signal);
            assert_eq!(child.wait().await.unwrap(), code, "{signal:?}");
            std::fs::remove_file(&ready).unwrap();
        }
    }

    /// Where the terminal has sent it to the command already.
    #[tokio::test]
    async fn an_interrupt_is_not_sent_twice_in_a_shared_group() {
        let folder = tempfile::tempdir().unwrap();
        let ready = folder.path().join("ready");
        let script = format!(
            "trap 'exit 2' INT; trap 'exit 15' TERM; touch {}; for _ in $(seq 600); do sleep 0.05; done",
            ready.display()
        );
        let words = command(&["/bin/sh", "-c", &script]);
        let mut child = Child::spawn_in_group(&words, 4321, false).unwrap();
        eventually("the traps are set", || ready.exists()).await;
        child.forward(Signal::Interrupt);
        child.forward(Signal::Terminate);
        assert_eq!(child.wait().await.unwrap(), 15);
    }

    #[tokio::test]
    async fn a_command_that_ignores_the_request_to_end_is_killed() {
        let folder = tempfile::tempdir().unwrap();
        let ready = folder.path().join("ready");
        let script = format!(
            "trap '' TERM; touch {}; for _ in $(seq 600); do sleep 0.05; done",
            ready.display()
        );
        let mut child = shell(&script);
        eventually("the trap is set", || ready.exists()).await;
        let code = child.stop(Duration::from_millis(200)).await.unwrap();
        assert_eq!(code, 137);
    }

    #[tokio::test]
    async fn what_the_command_started_ends_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pid");
        let child = shell(&format!("sleep 600 & echo $! > {}; wait", file.display()));
        let mut grandchild = 0;
        eventually("the grandchild runs", || {
            let text = std::fs::read_to_string(&file).unwrap_or_default();
            grandchild = text.trim().parse().unwrap_or(0);
            grandchild != 0
        })
        .await;
        assert!(is_running(grandchild));
        drop(child);
        eventually("the grandchild is gone", || !is_running(grandchild)).await;
    }

    #[tokio::test]
    async fn a_command_that_cannot_start_is_one_clear_line() {
        let told = |words: &[&str]| Child::spawn(&command(words), 1).unwrap_err().to_string();
        assert_eq!(
            told(&["/nonexistent/x\u{1b}"]),
            "cannot find the command `/nonexistent/x\\u{1b}`; check its spelling and your PATH"
        );
        assert!(told(&["/dev/null"]).contains("may not be executed"));
        assert!(told(&[]).starts_with("no command was given"));
    }

    #[tokio::test]
    async fn a_port_is_found_when_it_accepts_and_given_up_when_it_never_does() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        assert_eq!(accepting(address.port(), LONG).await, Some(address));
        drop(listener);
        let silent = free_port().await.unwrap();
        assert_eq!(accepting(silent, Duration::from_millis(120)).await, None);
    }
}
