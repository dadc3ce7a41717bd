//! The sidecar, as a process of its own, with a CA for this run.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::Context as _;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::transmitter::Transmitter;
use crate::{AS_WAYLEAVE, SOON};

/// A running sidecar. Ended when dropped.
pub(crate) struct Sidecar {
    /// Where agents call.
    pub(crate) address: SocketAddr,
    /// Where security events are pushed to.
    pub(crate) events: SocketAddr,
    folder: TempDir,
    process: Child,
}

impl Sidecar {
    /// Starts one in front of the application, which takes events from the transmitter.
    pub(crate) async fn start(
        application: SocketAddr,
        transmitter: &Transmitter,
    ) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("wayleave-example-")
            .tempdir()?;
        let path = folder.path();
        run(
            path,
            &[
                "ca",
                "init",
                "--dir",
                "ca",
                "--trust-domain",
                "shop.example",
            ],
        )?;
        issue(path, "spiffe://shop.example/ns/shop/sa/orders", "orders")?;
        std::fs::write(path.join("jwks.json"), transmitter.jwks())?;
        let events = free_address()?;
        std::fs::write(path.join("wayleave.yaml"), config(application, events))?;
        let mut process = wayleave(path)
            .args(["run", "--config", "wayleave.yaml"])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let stderr = process.stderr.take().context("no standard error")?;
        let address = tokio::time::timeout(SOON, ready(stderr)).await??;
        Ok(Self {
            address,
            events,
            folder,
            process,
        })
    }

    /// The folder of a new SVID.
    pub(crate) fn svid(&self, id: &str, name: &str) -> anyhow::Result<PathBuf> {
        issue(self.folder.path(), id, name)
    }

    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        self.process.kill().await?;
        Ok(())
    }
}

/// This program again, as the sidecar's own.
fn wayleave(folder: &Path) -> Command {
    let program = std::env::current_exe().unwrap_or_else(|_| "wayleave".into());
    let mut command = Command::new(program);
    command.env(AS_WAYLEAVE, "1").current_dir(folder);
    command
}

fn run(folder: &Path, args: &[&str]) -> anyhow::Result<()> {
    let output = wayleave(folder).into_std_output(args)?;
    anyhow::ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// Runs a command of the sidecar's to its end.
trait ToTheEnd {
    fn into_std_output(self, args: &[&str]) -> std::io::Result<std::process::Output>;
}

impl ToTheEnd for Command {
    fn into_std_output(mut self, args: &[&str]) -> std::io::Result<std::process::Output> {
        self.args(args);
        self.as_std_mut().output()
    }
}

fn issue(folder: &Path, id: &str, name: &str) -> anyhow::Result<PathBuf> {
    let out = format!("svids/{name}");
    run(
        folder,
        &[
            "ca",
            "issue",
            "--dir",
            "ca",
            "--id",
            id,
            "--dns",
            "localhost",
            "--out",
            &out,
        ],
    )?;
    Ok(folder.join(out))
}

/// An address that nobody listens at.
fn free_address() -> std::io::Result<SocketAddr> {
    std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()
}

fn config(application: SocketAddr, events: SocketAddr) -> String {
    let policies = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../examples/rogue_agent/policies"
    );
    format!(
        "identity:
  files:
    svid: svids/orders/svid.pem
    key: svids/orders/key.pem
    bundle: svids/orders/bundle.pem
policies: {{ paths: [{policies:?}] }}
inbound:
  - name: orders
    listen: 127.0.0.1:0
    service: orders
    upstream: {{ address: {application} }}
admin: {{ listen: 127.0.0.1:0 }}
log: {{ decisions: off }}
signals:
  state_dir: state
  ssf:
    - name: security
      issuer: https://security.shop.example
      audience: [https://orders.shop.example]
      jwks: jwks.json
      push: {{ listen: {events}, path: /events }}
"
    )
}

/// Reads the log until the sidecar is ready, and says where it listens; reads on afterwards, so
/// that it never waits for us.
async fn ready(stderr: tokio::process::ChildStderr) -> anyhow::Result<SocketAddr> {
    let mut lines = BufReader::new(stderr).lines();
    let mut log = String::new();
    while let Some(line) = lines.next_line().await? {
        let told: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
        let field = |name: &str| told.get(name).and_then(|value| value.as_str());
        if field("message") == Some("ready") {
            let address = field("inbound").context("no address")?.parse()?;
            tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
            return Ok(address);
        }
        log = log + &line + "\n";
    }
    anyhow::bail!("the sidecar did not start:\n{log}")
}
