//! `wayleave dev`: the local dev proxy, on embedded defaults and with no other process.

use std::ffi::OsString;
use std::io::Write;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use tokio::net::TcpListener;
use wayleave_authz::Direction;
use wayleave_certs::source::dev::{DevDirectory, DevError, DevWorkloadApi};

use super::banner::Banner;
use super::run::{control_runtime, start_failed};
use super::{FAILED, logging, report, starter};
use crate::app::{Sidecar, Start};
use crate::child::{self, Child, Signal, Signals};
use crate::config::{
    self, Address, HostPort, InboundConfig, InboundMode, LimitsConfig, ListenerProtocol, LogFormat,
    TlsConfig, UpstreamConfig, UpstreamProtocol,
};
use crate::demo;
use crate::drain::DrainTimes;
use crate::listeners::ListenerConfig;
use crate::policies::PolicyFiles;
use crate::record::Output;
use crate::sockets::Sockets;

/// How long calls in flight may take to finish once the dev proxy is told to end.
const DRAIN: DrainTimes = DrainTimes {
    delay: Duration::ZERO,
    limit: Duration::from_secs(2),
};
/// How long a command may take to end after a signal, before it is killed.
const GRACE: Duration = Duration::from_secs(10);
/// How long a command may take until its port accepts connections.
const START: Duration = Duration::from_secs(60);

const EXAMPLES: &str = "\
Examples:
  wayleave dev                              in front of the built-in demo application
  wayleave dev --upstream 127.0.0.1:3000    in front of an application that runs already
  wayleave dev -- npm start                 start the application with PORT set, and end with it
  wayleave dev --listen 127.0.0.1:0 --log json

The directory holds a dev CA, SVIDs for the sample callers `frontend` and `agent`, and
policies/*.cedar, which you can edit while it runs. SPIFFE client libraries get the callers'
SVIDs from its sockets: workload.sock has both, svids/NAME/workload.sock that of one caller,
for SPIFFE_ENDPOINT_SOCKET=unix:///absolute/path. The certificates are for development:
whoever can read the directory can be any caller.

Exit status: 0 ended by a signal; that of COMMAND where one is given; 1 failed while
running; 2 usage, directory, certificates or policies.";

/// Arguments of `wayleave dev`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct DevArgs {
    /// Where callers connect, with mutual TLS; port 0 takes a free one
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:8443")]
    listen: SocketAddr,
    /// Where health, metrics and decisions are served, in plain HTTP
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:15000")]
    admin: SocketAddr,
    /// The application to forward to; the built-in demo application when absent
    #[arg(long, value_name = "HOST:PORT", conflicts_with = "command", value_parser = config::host_port)]
    upstream: Option<HostPort>,
    /// What the application speaks; http2 is h2c with prior knowledge, as gRPC servers do
    #[arg(long, value_name = "PROTOCOL", default_value = "http1")]
    upstream_protocol: UpstreamProtocol,
    /// Where certificates and policies are kept; made when it is not there
    #[arg(long, value_name = "DIR", default_value = ".wayleave")]
    dir: PathBuf,
    /// How decisions and log lines are written
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    log: LogFormat,
    /// A command to start with PORT set, and to forward to
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// Runs the dev proxy until a signal or its command ends it.
pub(super) fn run(args: DevArgs) -> ExitCode {
    logging::start(tracing::Level::INFO, args.log);
    match control_runtime() {
        Ok(runtime) => runtime
            .block_on(serve(args))
            .unwrap_or_else(|status| status),
        Err(error) => report::mistake(&error),
    }
}

/// The socket by which quarantines are started and lifted; none where its path would be longer
/// than one may be.
fn admin_socket(dir: &Path) -> Option<PathBuf> {
    let path = dir.join("admin.sock");
    (path.as_os_str().len() <= config::SOCKET_PATH).then_some(path)
}

async fn serve(args: DevArgs) -> Result<ExitCode, ExitCode> {
    let mut signals = Signals::listen().map_err(|error| report::mistake(&error))?;
    let workloads = starter::workloads().map_err(|error| report::mistake(&error))?;
    let directory = DevDirectory::open(&args.dir, workloads, SystemTime::now())
        .map_err(|error| report::mistake(&error))?;
    let policies = starter::write(&args.dir).map_err(|source| {
        report::mistake(&DirError {
            dir: args.dir.clone(),
            source,
        })
    })?;
    let api = workload_api(&directory).map_err(|error| report::mistake(&error))?;
    let socket = api
        .as_ref()
        .and_then(|api| api.paths().next())
        .map(Path::to_owned);
    let upstream = Upstream::prepare(&args)
        .await
        .map_err(|error| report::mistake(&error))?;
    let sidecar = Sidecar::start(Start {
        identity: directory.reader(),
        policies: PolicyFiles::new(vec![policies]),
        listeners: vec![ListenerConfig::Inbound(Box::new(inbound(
            &args,
            upstream.address.clone(),
        )))],
        admin: args.admin,
        output: output(args.log),
        workers: NonZeroUsize::MIN,
        sockets: Sockets::default(),
        config: None,
        signals: config::SignalsConfig::default(),
        control: admin_socket(&args.dir),
        probes: None,
        max_memory: config::MaxMemory::Auto,
    })
    .map_err(|error| start_failed(&error))?;
    let child = upstream
        .start(&args.command)
        .map_err(|error| report::mistake(&error))?;
    tokio::spawn(directory.run());
    let api = tokio::spawn(async move {
        if let Some(api) = api {
            api.serve().await;
        }
    });
    tell_ready(&args, &sidecar, &upstream.words, socket.as_deref());
    let status = match child {
        None => {
            wait_for_end(&mut signals).await;
            ExitCode::SUCCESS
        }
        Some(child) => follow(child, &mut signals, upstream.address.port).await,
    };
    sidecar.drain(DRAIN, wait_for_end(&mut signals)).await;
    // The sockets are removed when their task has ended.
    api.abort();
    let _ = api.await;
    Ok(status)
}

/// The sockets of the Workload API. Where the system cannot make them (a path of more than 107
/// bytes, a file system without sockets), the dev proxy goes on without.
fn workload_api(directory: &DevDirectory) -> Result<Option<DevWorkloadApi>, DevError> {
    match directory.workload_api() {
        Err(error @ DevError::Io { .. }) => {
            tracing::warn!(%error, "no Workload API; a directory elsewhere, with a shorter path, may have one (--dir)");
            Ok(None)
        }
        opened => opened.map(Some),
    }
}

/// Something about the directory that is the user's to mend.
#[derive(Debug, thiserror::Error)]
#[error("cannot make the policies folder in `{}`", dir.display())]
struct DirError {
    dir: PathBuf,
    #[source]
    source: std::io::Error,
}

fn inbound(args: &DevArgs, address: HostPort) -> InboundConfig {
    InboundConfig {
        name: "inbound".into(),
        listen: args.listen,
        service: starter::SERVICE.into(),
        hosts: Vec::new(),
        protocol: ListenerProtocol::Http,
        upstream: UpstreamConfig {
            protocol: args.upstream_protocol,
            ..UpstreamConfig::at(Address::Tcp(address))
        },
        limits: LimitsConfig::default(),
        mode: InboundMode::Enforce,
        show_reason: true,
        tls: TlsConfig::default(),
        trust_domains: None,
    }
}

fn output(format: LogFormat) -> Output {
    let stdout = std::io::stdout();
    let colour = report::wants_color(&stdout);
    match format {
        LogFormat::Json => Output::Json(Box::new(stdout)),
        LogFormat::Text => Output::Text {
            to: Box::new(stdout),
            colour,
        },
    }
}

/// The banner goes where it does not mix with JSON.
fn tell_ready(args: &DevArgs, sidecar: &Sidecar, upstream: &str, workload_api: Option<&Path>) {
    let listening = sidecar.listening(Direction::Inbound);
    let Some((_, inbound)) = listening.first() else {
        return;
    };
    let admin_socket = admin_socket(&args.dir);
    let banner = Banner {
        inbound: *inbound,
        admin: sidecar.admin(),
        upstream,
        dir: &args.dir,
        workload_api,
        admin_socket: admin_socket.as_deref(),
    };
    let text = banner.text();
    let _ = match args.log {
        LogFormat::Text => std::io::stdout().write_all(text.as_bytes()),
        LogFormat::Json => std::io::stderr().write_all(text.as_bytes()),
    };
}

/// What the dev proxy forwards to.
struct Upstream {
    address: HostPort,
    words: String,
}

impl Upstream {
    /// Finds the address, and starts the demo application when nothing else was named.
    async fn prepare(args: &DevArgs) -> std::io::Result<Self> {
        if let Some(address) = args.upstream.clone() {
            let words = address.to_string();
            return Ok(Self { address, words });
        }
        if let Some(program) = args.command.first() {
            let port = child::free_port().await?;
            // A command may listen on either loopback address; the name stands for both.
            let address = HostPort {
                host: "localhost".into(),
                port,
            };
            let words = format!(
                "{} on port {port}",
                program.to_string_lossy().escape_debug()
            );
            return Ok(Self { address, words });
        }
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let port = listener.local_addr()?.port();
        tokio::spawn(demo::serve(listener, std::future::pending()));
        let address = HostPort {
            host: "127.0.0.1".into(),
            port,
        };
        Ok(Self {
            address,
            words: "the built-in demo application".into(),
        })
    }

    /// Starts the command, if one was given.
    fn start(&self, command: &[OsString]) -> Result<Option<Child>, child::ChildError> {
        if command.is_empty() {
            return Ok(None);
        }
        Child::spawn(command, self.address.port).map(Some)
    }
}

/// Passes signals on to the command, and answers with its exit status when it has ended.
async fn follow(mut child: Child, signals: &mut Signals, port: u16) -> ExitCode {
    tokio::spawn(async move {
        if child::accepting(port, START).await.is_none() {
            tracing::warn!(
                port,
                "the command does not listen on PORT; calls get 502 until it does"
            );
        }
    });
    loop {
        let signal = tokio::select! {
            ended = child.wait() => return status(ended),
            signal = signals.next() => signal,
        };
        child.forward(signal);
        if matches!(
            signal,
            Signal::Interrupt | Signal::Terminate | Signal::Hangup
        ) {
            let ended = match tokio::time::timeout(GRACE, child.wait()).await {
                Ok(ended) => ended,
                Err(_) => child.stop(Duration::ZERO).await,
            };
            return status(ended);
        }
    }
}

/// Completes with a signal that ends the dev proxy: closing the terminal is one.
async fn wait_for_end(signals: &mut Signals) {
    while matches!(signals.next().await, Signal::User1 | Signal::User2) {}
}

fn status(ended: std::io::Result<u8>) -> ExitCode {
    match ended {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            report::mistake(&error);
            ExitCode::from(FAILED)
        }
    }
}
