//! `wayleave run`: the sidecar, from a configuration file.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::SystemTime;

use miette::Diagnostic;
use wayleave_certs::IdentityReader;

use super::{FAILED, logging, report};
use crate::app::{Sidecar, Start, StartError};
use crate::child::{Signal, Signals};
use crate::config::{self, Config, DecisionSink, LogFormat};
use crate::identity::{self, OpenIdentity};
use crate::policies::PolicyFiles;
use crate::record::Output;

const EXAMPLES: &str = "\
Examples:
  wayleave run --config wayleave.yaml
  WAYLEAVE_LOG=debug wayleave run --config /etc/wayleave/wayleave.yaml

Decision records go to standard output, everything else to standard error. Policies and
certificates are read again when their files change. SIGTERM and SIGINT drain: readiness
goes false, calls in flight finish within drain_timeout; a second signal ends at once.

Exit status: 0 drained; 1 failed while running; 2 usage, configuration, certificates or policies.";

/// Arguments of `wayleave run`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct RunArgs {
    /// The configuration file (docs/configuration.md)
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

/// Runs the sidecar until a signal ends it.
pub(super) fn run(args: RunArgs) -> ExitCode {
    let config = match config::load(&args.config) {
        Ok(config) => config,
        Err(errors) => {
            return report::problems(errors.problems().iter().map(|p| p as &dyn Diagnostic));
        }
    };
    logging::start(config.log.level, config.log.format);
    match control_runtime() {
        Ok(runtime) => runtime.block_on(serve(config)),
        Err(error) => report::mistake(&error),
    }
}

/// The runtime that admin, watching and signals live on; calls have their own.
pub(super) fn control_runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
}

async fn serve(config: Config) -> ExitCode {
    let identity = match OpenIdentity::open(config.identity, SystemTime::now()) {
        Ok(identity) => identity,
        Err(error) => return report::mistake(&error),
    };
    let output = match output(&config.log.decisions, config.log.format) {
        Ok(output) => output,
        Err(error) => return report::mistake(&error),
    };
    let mut signals = match Signals::listen() {
        Ok(signals) => signals,
        Err(error) => return report::mistake(&error),
    };
    let reader = identity.reader();
    // Listeners come before the first SVID, so that probes and callers find a sidecar that is
    // not ready rather than none.
    let started = Sidecar::start(Start {
        identity: reader.clone(),
        policies: PolicyFiles::new(config.policies.paths),
        inbound: config.inbound,
        outbound: config.outbound,
        destinations: config.destinations,
        admin: config.admin.listen,
        output,
        workers: config.runtime.workers,
    });
    let sidecar = match started {
        Ok(sidecar) => sidecar,
        Err(error) => return start_failed(&error),
    };
    let mut kept = tokio::spawn(identity.keep());
    tokio::spawn(tell_ready(addresses(&sidecar), reader));
    let status = tokio::select! {
        lost = &mut kept => identity_lost(lost),
        () = wait_for_end(&mut signals) => ExitCode::SUCCESS,
    };
    sidecar
        .drain(config.drain_timeout, wait_for_end(&mut signals))
        .await;
    status
}

/// The addresses that callers and probes reach, port 0 resolved.
struct Addresses {
    inbound: String,
    outbound: String,
    admin: SocketAddr,
}

fn addresses(sidecar: &Sidecar) -> Addresses {
    for (name, address) in sidecar.inbound().iter().chain(sidecar.outbound()) {
        tracing::info!(listener = &**name, %address, "listening");
    }
    let joined = |listeners: &[(Arc<str>, SocketAddr)]| {
        let addresses = listeners.iter().map(|(_, address)| address.to_string());
        addresses.collect::<Vec<_>>().join(",")
    };
    Addresses {
        inbound: joined(sidecar.inbound()),
        outbound: joined(sidecar.outbound()),
        admin: sidecar.admin(),
    }
}

/// One line with the addresses, once there is an identity to serve with.
async fn tell_ready(addresses: Addresses, identity: IdentityReader) {
    let Addresses {
        inbound,
        outbound,
        admin,
    } = addresses;
    if identity.current().is_none() {
        tracing::info!(%inbound, %outbound, %admin, "waiting for the first SVID");
        identity::until_svid(identity).await;
    }
    tracing::info!(inbound, outbound, %admin, "ready");
}

/// Tells why there will be no identity any more, and answers with the exit status.
fn identity_lost(lost: Result<identity::Lost, tokio::task::JoinError>) -> ExitCode {
    let error: &dyn std::error::Error = match &lost {
        Ok(lost) => lost,
        Err(panic) => panic,
    };
    tracing::error!("{}", report::chain(error));
    ExitCode::from(FAILED)
}

/// Completes with a signal that ends the process.
pub(super) async fn wait_for_end(signals: &mut Signals) {
    while matches!(signals.next().await, Signal::User1 | Signal::User2) {}
}

/// Tells why a sidecar did not start, and answers with the exit status.
pub(super) fn start_failed(error: &StartError) -> ExitCode {
    match error {
        StartError::Policies(errors) => {
            report::problems(errors.problems().iter().map(|p| p as &dyn Diagnostic))
        }
        StartError::Bind { .. } | StartError::Listener(_) => report::mistake(error),
        StartError::System(_) | StartError::Fips(_) => {
            report::mistake(error);
            ExitCode::from(FAILED)
        }
    }
}

/// An output that could not be opened.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot append decision records to `{path}`; check log.decisions and the folder's permissions"
)]
struct OutputError {
    path: String,
    #[source]
    source: std::io::Error,
}

fn output(sink: &DecisionSink, format: LogFormat) -> Result<Output, OutputError> {
    let to: Box<dyn std::io::Write + Send> = match sink {
        DecisionSink::Off => return Ok(Output::Off),
        DecisionSink::Stdout => Box::new(std::io::stdout()),
        DecisionSink::File(path) => Output::append(path).map_err(|source| OutputError {
            path: path.display().to_string(),
            source,
        })?,
    };
    Ok(match format {
        LogFormat::Json => Output::Json(to),
        LogFormat::Text => Output::Text { to, colour: false },
    })
}
