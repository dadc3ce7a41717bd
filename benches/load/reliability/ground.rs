//! What a reliability run stands on: papers, addresses that stay the same over restarts, and the
//! sidecar between them.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::ErrorKind::AddrInUse;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use crate::connector::Connector;
use crate::job::{Ask, Job};
use crate::papers::{self, Papers};
use crate::process::{self, Process};
use crate::target;

/// How long an address may be in use by what has just ended.
const LETTING_GO: Duration = Duration::from_secs(10);

const SOCKET: &str = "admin.sock";

/// Policies that read what a fleet shares.
const SHARED: &str = r#"
@id("but-for-its-quarantine") permit (
  principal == Workload::"spiffe://load.example/ns/denied/sa/0", action, resource);
@id("not-so-much") forbid (principal, action, resource)
when { context.signals.calls_per_minute > 1000000000 };
"#;

/// One address for each listener, or each of its upstreams.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Three {
    pub(crate) web: SocketAddr,
    pub(crate) rpc: SocketAddr,
    pub(crate) raw: SocketAddr,
}

/// What a configuration says beyond what all have in common.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setting {
    pub(crate) limits: &'static str,
    pub(crate) upstream: &'static str,
    pub(crate) decisions: &'static str,
}

impl Setting {
    pub(crate) const PLAIN: Self = Self {
        limits: "",
        upstream: "",
        decisions: "off",
    };
}

pub(crate) struct Ground {
    pub(crate) papers: Papers,
    pub(crate) listens: Three,
    pub(crate) upstreams: Three,
    /// Where the workload comes to its sidecar with calls of its own: to the sidecar's own listener, so
    /// that one process is at both ends of mutual TLS.
    outbound: SocketAddr,
    admin: SocketAddr,
    program: PathBuf,
    /// Where the signal store is, if there is one.
    store: Option<SocketAddr>,
    /// What the sidecar is run by: nothing, or an instrument with its arguments.
    instrument: Vec<OsString>,
}

impl Ground {
    /// Ground with so many allowed and so many denied callers.
    pub(crate) fn lay(program: PathBuf, callers: usize) -> Result<Self> {
        let papers = Papers::create()?;
        for caller in 0..callers {
            papers.issue(&allowed(caller), &format!("ns/allowed/sa/{caller}"))?;
            papers.issue(&denied(caller), &format!("ns/denied/sa/{caller}"))?;
        }
        let mut free = free_addresses(8)?.into_iter();
        let mut next = || free.next().context("too few addresses");
        let mut three = || {
            Ok::<_, anyhow::Error>(Three {
                web: next()?,
                rpc: next()?,
                raw: next()?,
            })
        };
        let (listens, upstreams) = (three()?, three()?);
        let ground = Self {
            papers,
            listens,
            upstreams,
            outbound: next()?,
            admin: next()?,
            program,
            store: None,
            instrument: Vec::new(),
        };
        ground.permit(0)?;
        Ok(ground)
    }

    /// Shares what is known of callers through a store at this address. From now on the policies read
    /// a counter that the fleet shares, and allow the first of the denied callers as well: nothing but
    /// a [quarantine](Self::quarantine) stops that one.
    pub(crate) fn share(&mut self, store: SocketAddr) -> Result<()> {
        self.store = Some(store);
        self.permit(0)
    }

    /// Puts the first of the denied callers into quarantine, as an operator does.
    pub(crate) async fn quarantine(&self) -> Result<()> {
        let mut command = Command::new(&self.program);
        command.args([
            "quarantine",
            "start",
            "spiffe://load.example/ns/denied/sa/0",
        ]);
        command
            .args(["--for", "720h", "--socket"])
            .arg(self.papers.path().join(SOCKET));
        let output = command.stdin(Stdio::null()).kill_on_drop(true).output();
        let output = timeout(LETTING_GO, output)
            .await
            .context("`wayleave quarantine`")??;
        let told = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "`wayleave quarantine`: {told}");
        Ok(())
    }

    /// The same, with the sidecar run by an instrument.
    pub(crate) fn run_by(self, instrument: Vec<OsString>) -> Self {
        Self { instrument, ..self }
    }

    /// Writes the policies anew. They always say the same of the callers; their number and text
    /// change with the edition.
    pub(crate) fn permit(&self, edition: usize) -> Result<()> {
        let mut text = format!("// Edition {edition}.\n");
        text += "@id(\"the-allowed-call\") permit (principal in \
                 SpiffePath::\"spiffe://load.example/ns/allowed\", action in \
                 [Action::\"http:read\", Action::\"http:write\", Action::\"tcp:connect\"], resource);\n\
                 @id(\"to-itself\") permit (principal == \
                 Workload::\"spiffe://load.example/sa/app\", action in Action::\"http:read\", resource);\n\
                 @id(\"nobody-there\") forbid (principal, action in Action::\"http:read\", \
                 resource in Service::\"web\") when { resource.path like \"/forbidden*\" };\n";
        if self.store.is_some() {
            text += SHARED;
        }
        for more in 0..edition % 50 {
            let _ = writeln!(
                text,
                "@id(\"more-{edition}-{more}\") permit (principal == \
                 Workload::\"spiffe://load.example/ns/nobody/sa/{more}\", action, resource);"
            );
        }
        self.papers.place("calls.cedar", &text)
    }

    fn configure(&self, setting: Setting) -> Result<PathBuf> {
        let Setting {
            limits,
            upstream,
            decisions,
        } = setting;
        let mut yaml = format!(
            "identity: {{ files: {{ svid: app.pem, key: app.key, bundle: bundle.pem }} }}\n\
             policies: {{ paths: [calls.cedar] }}\n\
             admin: {{ listen: \"{}\", socket: {SOCKET} }}\n\
             log: {{ decisions: \"{decisions}\" }}\n",
            self.admin
        );
        if let Some(store) = self.store {
            let _ = writeln!(
                yaml,
                "signals: {{ store: {{ url: \"redis://{store}\", timeout: 300ms, \
                 fleet_wide: [calls_per_minute], reconcile_every: 1s }} }}"
            );
        }
        yaml += "inbound:\n";
        let (listens, upstreams) = (self.listens, self.upstreams);
        for (name, listen, address, more, limits, upstream) in [
            ("web", listens.web, upstreams.web, "", limits, upstream),
            (
                "rpc",
                listens.rpc,
                upstreams.rpc,
                ", protocol: http2",
                limits,
                upstream,
            ),
            ("raw", listens.raw, upstreams.raw, "", "", ""),
        ] {
            let protocol = if name == "raw" { "tcp" } else { "http" };
            let _ = writeln!(
                yaml,
                "  - name: {name}\n    listen: \"{listen}\"\n    service: {name}\n    \
                 protocol: {protocol}\n    limits: {{ {limits} }}\n    \
                 upstream: {{ address: \"{address}\"{more}{upstream} }}"
            );
        }
        let _ = writeln!(
            yaml,
            "outbound: [{{ name: out, listen: \"{}\", destination: itself }}]\n\
             destinations:\n  - service: itself\n    upstream: {{ address: \"{}\", \
             tls: {{ peer: \"spiffe://load.example/sa/app\" }} }}",
            self.outbound, listens.web
        );
        self.papers.place("wayleave.yaml", &yaml)?;
        Ok(self.papers.path().join("wayleave.yaml"))
    }

    /// Starts the sidecar, by itself or under something; answers when it is ready.
    pub(crate) async fn start(&self, setting: Setting) -> Result<Sidecar> {
        self.start_with(setting, []).await
    }

    /// Starts it with variables in its environment.
    pub(crate) async fn start_with(
        &self,
        setting: Setting,
        environment: impl IntoIterator<Item = (&'static str, OsString)>,
    ) -> Result<Sidecar> {
        let config = self.configure(setting)?;
        let program = OsString::from(&self.program);
        let mut words = self.instrument.iter().cloned().chain([program]);
        let mut command = Command::new(words.next().unwrap_or_default());
        command.args(words).envs(environment).stdin(Stdio::null());
        // Warnings are what is wanted here: there is one for each peer that was refused.
        let (child, _) = target::started_sidecar(command, &config, &["\"ERROR\""]).await?;
        let process = Process::new(child.id().context("the sidecar has ended")?);
        Ok(Sidecar { child, process })
    }

    /// A caller's way to a job's listener, with the SVID that the folder has for it now.
    pub(crate) fn connector(&self, caller: &str, job: Job) -> Result<Connector> {
        let tls = papers::client_named(self.papers.path(), caller)?;
        Connector::with(self.listens.of(job), "localhost", Some(tls))
    }

    /// The workload's own way out.
    pub(crate) fn connector_out(&self) -> Result<Connector> {
        Connector::with(self.outbound, "localhost", None)
    }

    /// The value of a metric, summed over its labels.
    pub(crate) async fn metric(&self, name: &str) -> Result<f64> {
        let mut stream = TcpStream::connect(self.admin).await?;
        let request = format!(
            "GET /metrics HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n",
            self.admin
        );
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        let lines = answer.lines().filter(|line| {
            line.strip_prefix(name)
                .is_some_and(|rest| rest.starts_with(['{', ' ']))
        });
        let values = lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        Ok(values.sum())
    }
}

/// The name of an allowed caller's papers.
pub(crate) fn allowed(caller: usize) -> String {
    format!("allowed-{caller}")
}

/// The name of a denied caller's papers.
pub(crate) fn denied(caller: usize) -> String {
    format!("denied-{caller}")
}

/// What is asked for by a job: `message` is for those that send any.
pub(crate) fn ask(job: Job, message: &[u8]) -> Ask {
    Ask {
        authority: "localhost".to_owned(),
        path: match job {
            Job::GrpcUnary => "/reliability.Echo/Once",
            Job::GrpcStream => "/reliability.Echo/Stream",
            Job::Http1 | Job::Http2 | Job::WebSocket | Job::Tcp => "/api/items",
        }
        .to_owned(),
        mark: None,
        message: message.to_vec().into(),
    }
}

/// Listens at an address; whoever had it before may need a moment to let go of it.
pub(crate) async fn bind(address: SocketAddr) -> Result<TcpListener> {
    let start = Instant::now();
    loop {
        match TcpListener::bind(address).await {
            Err(error) if error.kind() == AddrInUse && start.elapsed() < LETTING_GO => {
                sleep(Duration::from_millis(5)).await;
            }
            bound => return bound.with_context(|| format!("listening at {address}")),
        }
    }
}

/// Addresses that nobody listens on: all are held at once, then let go.
pub(super) fn free_addresses(count: usize) -> Result<Vec<SocketAddr>> {
    let held = (0..count).map(|_| std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)));
    let held = held.collect::<std::io::Result<Vec<_>>>()?;
    Ok(held
        .iter()
        .map(std::net::TcpListener::local_addr)
        .collect::<std::io::Result<_>>()?)
}

/// A running sidecar; it is killed when dropped.
pub(crate) struct Sidecar {
    child: Child,
    pub(crate) process: Process,
}

impl Sidecar {
    /// SIGKILL; answers when it is gone.
    pub(crate) async fn kill(mut self) -> Result<()> {
        self.child.kill().await?;
        Ok(())
    }

    /// SIGTERM; answers when it has ended.
    pub(crate) async fn end(self) -> Result<()> {
        process::end(self.child).await
    }

    /// Whether it still runs.
    pub(crate) fn lives(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }
}
