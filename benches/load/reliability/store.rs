//! A signal store of a run's own: a Redis or Valkey server on loopback that is killed, started again with
//! nothing in it, and stopped where it stands. It ends by its own id, with the run or with what
//! started it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use super::ground::{self, Ground};
use crate::process::{self, find_program};

/// The programs that are looked for, in this order.
pub(super) const PROGRAMS: [&str; 2] = ["redis-server", "valkey-server"];
/// How long anything may take that the run waits for.
const PATIENCE: Duration = Duration::from_secs(15);
const POLL: Duration = Duration::from_millis(20);

/// The server. It is killed when dropped, stopped or not.
pub(super) struct Store {
    program: PathBuf,
    pub(super) address: SocketAddr,
    folder: TempDir,
    child: Option<Child>,
}

/// What was seen of a store that came and went.
#[derive(Debug, Default)]
pub(super) struct Losses {
    /// Ends with all that was in it.
    pub(super) ends: u32,
    /// Times in which it said nothing.
    pub(super) pauses: u32,
    /// Losses that the sidecar's metrics told of.
    pub(super) noticed: u32,
    /// Returns that they told of.
    pub(super) found_again: u32,
    /// Ends after which the sidecar wrote anew what had been in it.
    pub(super) written_anew: u32,
}

impl Store {
    /// Starts one where the machine has a server.
    pub(super) async fn start() -> Result<Option<Self>> {
        let found = |name| find_program(name, []);
        let Some(program) = PROGRAMS.into_iter().find_map(found) else {
            return Ok(None);
        };
        let address = ground::free_addresses(1)?;
        let mut store = Self {
            program,
            address: *address.first().context("no address")?,
            folder: tempfile::tempdir()?,
            child: None,
        };
        store.launch().await?;
        Ok(Some(store))
    }

    /// Answers once it does. There is nothing in it.
    async fn launch(&mut self) -> Result<()> {
        let mut command = match find_program("setpriv", []) {
            // However this process ends, the server does too.
            Some(setpriv) => {
                let mut command = Command::new(setpriv);
                command
                    .args(["--pdeathsig", "KILL", "--"])
                    .arg(&self.program);
                command
            }
            None => Command::new(&self.program),
        };
        command.args(["--save", "", "--appendonly", "no", "--daemonize", "no"]);
        command
            .args(["--bind", "127.0.0.1", "--dir"])
            .arg(self.folder.path());
        command.args(["--port", &self.address.port().to_string()]);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let child = self.child.insert(command.kill_on_drop(true).spawn()?);
        let start = Instant::now();
        while ask(self.address, "PING").await.ok().as_deref() != Some("+PONG") {
            if let Some(status) = child.try_wait()? {
                bail!("{} ended at its start: {status}", self.program.display());
            }
            ensure!(start.elapsed() < PATIENCE, "the store does not answer");
            sleep(POLL).await;
        }
        Ok(())
    }

    /// Answers when it is gone.
    pub(super) async fn kill(&mut self) -> Result<()> {
        let mut child = self.child.take().context("the store is away")?;
        Ok(child.kill().await?)
    }

    /// It accepts connections and says nothing, or goes on.
    fn signal(&self, signal: Signal) -> Result<()> {
        let child = self.child.as_ref().context("the store is away")?;
        process::signal(child, signal)
    }

    /// How many things are known against principals.
    pub(super) async fn entries(&self) -> Result<u64> {
        let told = ask(self.address, "HLEN wayleave:standing").await?;
        let count = told.strip_prefix(':').context("no number")?;
        Ok(count.parse()?)
    }

    /// Ends it and stops it by turns until the end, so often, each time for so long at least.
    pub(super) async fn come_and_go(
        &mut self,
        ground: &Ground,
        every: Duration,
        away: Duration,
        end: Instant,
    ) -> Result<Losses> {
        let mut losses = Losses::default();
        let mut due = Instant::now() + every;
        while due < end {
            sleep(due.saturating_duration_since(Instant::now())).await;
            if losses.ends > losses.pauses {
                losses.pauses += 1;
                self.pause(ground, away, &mut losses).await?;
            } else {
                losses.ends += 1;
                self.end(ground, away, &mut losses).await?;
            }
            due = (due + every).max(Instant::now());
        }
        Ok(losses)
    }

    async fn end(&mut self, ground: &Ground, away: Duration, losses: &mut Losses) -> Result<()> {
        self.kill().await?;
        losses.noticed += u32::from(until_connected(ground, false).await);
        sleep(away).await;
        self.launch().await?;
        losses.found_again += u32::from(until_connected(ground, true).await);
        let written = until(|| async { self.entries().await.is_ok_and(|count| count > 0) });
        losses.written_anew += u32::from(written.await);
        Ok(())
    }

    async fn pause(&mut self, ground: &Ground, away: Duration, losses: &mut Losses) -> Result<()> {
        self.signal(Signal::STOP)?;
        losses.noticed += u32::from(until_connected(ground, false).await);
        sleep(away).await;
        self.signal(Signal::CONT)?;
        losses.found_again += u32::from(until_connected(ground, true).await);
        Ok(())
    }
}

impl Losses {
    pub(super) fn count(&self) -> u32 {
        self.ends + self.pauses
    }
}

/// Whether the sidecar's metrics come to say so.
pub(super) async fn until_connected(ground: &Ground, connected: bool) -> bool {
    let wanted = f64::from(u8::from(connected));
    until(|| async move {
        let told = ground.metric("wayleave_signal_store_connected").await;
        told.is_ok_and(|told| told == wanted)
    })
    .await
}

async fn until<F: Future<Output = bool>>(mut holds: impl FnMut() -> F) -> bool {
    let waiting = async {
        while !holds().await {
            sleep(POLL).await;
        }
    };
    timeout(PATIENCE, waiting).await.is_ok()
}

/// The first line of an answer.
async fn ask(address: SocketAddr, command: &str) -> Result<String> {
    let asking = async {
        let mut stream = TcpStream::connect(address).await?;
        stream
            .write_all(format!("{command}\r\n").as_bytes())
            .await?;
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n") {
            ensure!(stream.read_buf(&mut answer).await? > 0, "it closed");
        }
        Ok(String::from_utf8(answer)?)
    };
    let answer = timeout(PATIENCE, asking).await.context("no answer")??;
    Ok(answer.lines().next().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_store_is_empty_after_its_end_and_not_after_a_pause() {
        let Some(mut store) = Store::start().await.unwrap() else {
            eprintln!("skipped: neither of {PROGRAMS:?} is installed");
            return;
        };
        let address = store.address;
        let put = "HSET wayleave:standing someone something";
        assert_eq!(ask(address, put).await.unwrap(), ":1");
        store.signal(Signal::STOP).unwrap();
        store.signal(Signal::CONT).unwrap();
        assert_eq!(store.entries().await.unwrap(), 1);
        store.kill().await.unwrap();
        assert!(store.entries().await.is_err());
        store.launch().await.unwrap();
        assert_eq!(store.entries().await.unwrap(), 0);
    }

    #[tokio::test]
    async fn a_store_that_is_stopped_ends_when_it_is_dropped() {
        let Some(store) = Store::start().await.unwrap() else {
            eprintln!("skipped: neither of {PROGRAMS:?} is installed");
            return;
        };
        let id = store.child.as_ref().unwrap().id().unwrap();
        store.signal(Signal::STOP).unwrap();
        drop(store);
        let gone = until(|| async {
            let stat = std::fs::read_to_string(format!("/proc/{id}/stat"));
            stat.map_or(true, |stat| stat.contains(") Z "))
        });
        assert!(gone.await);
    }
}
