//! A Redis server of a test's own, on a port of its own, and ways to be cut off from it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::task::JoinHandle;

use super::eventually;
use super::process::Process;
use super::tool::{self, run};

/// The server. It ends, by its own pid, when it is dropped.
pub(crate) struct Redis {
    program: PathBuf,
    args: Vec<String>,
    pub(crate) port: u16,
    process: Option<Process>,
    _folder: TempDir,
}

impl Redis {
    /// Starts one with nothing in it. None, and a notice, where Redis is not installed.
    pub(crate) async fn start(args: &[&str]) -> Option<Self> {
        let program = tool::find("redis-server")?;
        tool::find("redis-cli")?;
        let folder = tempfile::tempdir().unwrap();
        let args = args.iter().map(|arg| (*arg).to_owned());
        let directory = ["--dir".to_owned(), folder.path().display().to_string()];
        let mut redis = Self {
            program,
            args: args.chain(directory).collect(),
            port: 0,
            process: None,
            _folder: folder,
        };
        // Another process may take the port that was free a moment ago.
        for _ in 0..5 {
            let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
            redis.port = free.local_addr().unwrap().port();
            drop(free);
            if redis.launch().await {
                return Some(redis);
            }
        }
        panic!("redis-server does not start");
    }

    /// Starts it again, at the same port, with nothing in it.
    pub(crate) async fn restart(&mut self) {
        assert!(self.launch().await, "redis-server does not start again");
    }

    async fn launch(&mut self) -> bool {
        let port = self.port.to_string();
        let mut command = Command::new(&self.program);
        command.args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
        if !self.args.iter().any(|arg| arg == "--tls-port") {
            command.args(["--port", &port]);
        }
        let args = self.args.iter().map(|arg| arg.replace("PORT", &port));
        let process = Process::start(command.args(args));
        let started = eventually("redis-server to start or to end", || async {
            let log = process.stdout.text();
            if log.contains("Ready to accept connections") {
                return Some(true);
            }
            (log.contains("bind: Address") || log.contains("Failed")).then_some(false)
        })
        .await;
        self.process = Some(process);
        started
    }

    /// Ends it at once; all that is in it is lost.
    pub(crate) async fn kill(&mut self) {
        let mut process = self.process.take().unwrap();
        process.signal("KILL").await;
        process.ended().await;
    }

    /// Stops it where it is: it accepts connections and says nothing.
    pub(crate) async fn pause(&self) {
        self.process.as_ref().unwrap().signal("STOP").await;
    }

    /// Has it go on.
    pub(crate) async fn resume(&self) {
        self.process.as_ref().unwrap().signal("CONT").await;
    }

    /// Asks it something.
    pub(crate) async fn ask(&self, args: &[&str]) -> String {
        let mut command = Command::new("redis-cli");
        command.args(["-p", &self.port.to_string()]).args(args);
        run(&mut command).await.successful().stdout()
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }
}

/// A wire to a server that can be cut and mended.
pub(crate) struct Wire {
    pub(crate) address: SocketAddr,
    to: u16,
    listening: Option<JoinHandle<()>>,
    through: Arc<Mutex<Vec<JoinHandle<()>>>>,
}

impl Wire {
    pub(crate) async fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut wire = Self {
            address: listener.local_addr().unwrap(),
            to: port,
            listening: None,
            through: Arc::default(),
        };
        wire.lead(listener);
        wire
    }

    fn lead(&mut self, listener: TcpListener) {
        let (to, through) = (self.to, Arc::clone(&self.through));
        self.listening = Some(tokio::spawn(async move {
            while let Ok((mut here, _)) = listener.accept().await {
                let carrying = tokio::spawn(async move {
                    if let Ok(mut there) = TcpStream::connect(("127.0.0.1", to)).await {
                        let _ = tokio::io::copy_bidirectional(&mut here, &mut there).await;
                    }
                });
                through.lock().unwrap().push(carrying);
            }
        }));
    }

    /// Ends every connection and takes no other.
    pub(crate) fn cut(&mut self) {
        if let Some(listening) = self.listening.take() {
            listening.abort();
        }
        let all = std::mem::take(&mut *self.through.lock().unwrap());
        all.iter().for_each(JoinHandle::abort);
    }

    pub(crate) async fn mend(&mut self) {
        let listener = eventually("the address to be free", || async {
            TcpListener::bind(self.address).await.ok()
        });
        let listener = listener.await;
        self.lead(listener);
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.cut();
    }
}
