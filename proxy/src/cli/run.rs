//! `wayleave run`: the sidecar, from a configuration file.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use miette::Diagnostic;
use wayleave_authz::Direction;
use wayleave_certs::IdentityReader;

use super::handing_over::HandingOver;
use super::logging::{self, LogLevel};
use super::reload::{Asked, Reloader};
use super::{FAILED, report};
use crate::app::{Sidecar, Start, StartError};
use crate::child::{Signal, Signals};
use crate::config::{self, Config, DecisionSink, LogFormat};
use crate::drain::DrainTimes;
use crate::hand_over::Successor;
use crate::identity::{self, OpenIdentity};
use crate::identity_switch::IdentityKeeper;
use crate::listeners::ListenerConfig;
use crate::open_files;
use crate::policies::PolicyFiles;
use crate::record::Output;
use crate::warnings;

const EXAMPLES: &str = "\
Examples:
  wayleave run --config wayleave.yaml
  WAYLEAVE_LOG=debug wayleave run --config /etc/wayleave/wayleave.yaml

Decision records go to standard output, everything else to standard error. Configuration,
policies and certificates are read again when their files change; SIGHUP reads the
configuration at once. SIGTERM and SIGINT drain: readiness goes false, after drain_delay the
inbound listeners close, calls in flight finish within drain_timeout, and the workload's own
calls are carried until it has none open; a second signal ends at once.

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
    let path = args.config;
    let read =
        config::text_of(&path).and_then(|text| Ok((config::parse_file(&path, &text)?, text)));
    let (config, text) = match read {
        Ok(read) => read,
        Err(errors) => {
            return report::problems(errors.problems().iter().map(|p| p as &dyn Diagnostic));
        }
    };
    let level = logging::start(config.log.level, config.log.format);
    match control_runtime() {
        Ok(runtime) => runtime
            .block_on(serve(path, text, config, level))
            .unwrap_or_else(|status| status),
        Err(error) => report::mistake(&error),
    }
}

/// The runtime that admin, watching and signals live on; calls have their own.
pub(super) fn control_runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
}

async fn serve(
    path: PathBuf,
    text: String,
    config: Config,
    level: LogLevel,
) -> Result<ExitCode, ExitCode> {
    let identity = OpenIdentity::open(config.identity.clone(), SystemTime::now())
        .map_err(|error| report::mistake(&error))?;
    warn(&config, &identity.reader());
    let output = output(&config.log.decisions, config.log.format)
        .map_err(|error| report::mistake(&error))?;
    let mut signals = Signals::listen().map_err(|error| report::mistake(&error))?;
    let (identity, switch) = IdentityKeeper::new(identity);
    let reader = identity.reader();
    let mut kept = tokio::spawn(identity.keep());
    let mut handing = HandingOver::begin(config.runtime.hand_over.as_deref())
        .await
        .map_err(|error| report::mistake(&error))?;
    if handing.has_predecessor() {
        // It serves until we can.
        tokio::select! {
            () = identity::until_svid(reader.clone()) => {}
            lost = &mut kept => return Err(identity_lost(lost)),
            () = wait_for_end(&mut signals) => return Ok(ExitCode::SUCCESS),
        }
    }
    let mut reloader = Reloader::new(path, text, config.clone(), (switch, reader.clone()), level);
    // Listeners come before the first SVID, so that probes and callers find a sidecar that is
    // not ready rather than none.
    let listeners = ListenerConfig::all(&config);
    let mut sidecar = Sidecar::start(Start {
        identity: reader.clone(),
        policies: PolicyFiles::new(config.policies.paths),
        listeners,
        admin: config.admin.listen,
        output,
        workers: config.runtime.workers,
        probes: config.probes,
        max_memory: config.runtime.max_memory,
        sockets: handing.sockets(config.runtime.reuse_port),
        config: Some(Arc::clone(reloader.loads())),
        signals: config.signals,
        control: config.admin.socket,
    })
    .map_err(|error| start_failed(&error))?;
    sidecar.metrics().config_load(Some(0));
    handing
        .serve()
        .await
        .map_err(|error| report::mistake(&error))?;
    open_files::raise_limit();
    tokio::spawn(tell_ready(addresses(&sidecar), reader));
    let (status, times) = loop {
        tokio::select! {
            lost = &mut kept => break (identity_lost(lost), reloader.drain_times()),
            signal = signals.next() => match signal {
                Signal::Hangup => reloader.reload(&mut sidecar, Asked::BySignal).await,
                Signal::Interrupt | Signal::Terminate => {
                    break (ExitCode::SUCCESS, reloader.drain_times());
                }
                Signal::User1 | Signal::User2 => {}
            },
            () = reloader.perhaps_changed() => {
                reloader.reload(&mut sidecar, Asked::ByChange).await;
            }
            successor = handing.successor() => match successor {
                Successor::Asks(answer) => {
                    let _ = answer.send(sidecar.sockets());
                }
                Successor::Serves(stopped) => {
                    sidecar.leave_to_successor();
                    handing.leave(stopped);
                    // Nobody is to be kept away: who connects reaches the successor.
                    let limit = reloader.drain_times().limit;
                    break (ExitCode::SUCCESS, DrainTimes { delay: Duration::ZERO, limit });
                }
            },
        }
    };
    sidecar.drain(times, wait_for_end(&mut signals)).await;
    Ok(status)
}

/// Tells what the configuration allows and its owner had better know.
pub(super) fn warn(config: &Config, identity: &IdentityReader) {
    let current = identity.current();
    let missing = current.map(|current| warnings::without_bundle(config, current.bundles()));
    for warning in warnings::warnings(config)
        .iter()
        .chain(missing.iter().flatten())
    {
        tracing::warn!("{warning}");
    }
}

/// The addresses that callers and probes reach, port 0 resolved.
struct Addresses {
    inbound: String,
    outbound: String,
    admin: SocketAddr,
}

fn addresses(sidecar: &Sidecar) -> Addresses {
    if let Some(address) = sidecar.probes() {
        tracing::info!(listener = "probes", %address, "listening");
    }
    let joined = |direction| {
        let listeners = sidecar.listening(direction);
        for (name, address) in &listeners {
            tracing::info!(listener = name, %address, "listening");
        }
        let addresses = listeners.iter().map(|(_, address)| address.to_string());
        addresses.collect::<Vec<_>>().join(",")
    };
    Addresses {
        inbound: joined(Direction::Inbound),
        outbound: joined(Direction::Outbound),
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
async fn wait_for_end(signals: &mut Signals) {
    while !matches!(signals.next().await, Signal::Interrupt | Signal::Terminate) {}
}

/// Tells why a sidecar did not start, and answers with the exit status.
pub(super) fn start_failed(error: &StartError) -> ExitCode {
    match error {
        StartError::Policies(errors) => {
            report::problems(errors.problems().iter().map(|p| p as &dyn Diagnostic))
        }
        StartError::Plan(_)
        | StartError::Standing(_)
        | StartError::Control(_)
        | StartError::Store(_)
        | StartError::Ssf(_) => report::mistake(error),
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
pub(super) struct OutputError {
    path: String,
    #[source]
    source: std::io::Error,
}

pub(super) fn output(sink: &DecisionSink, format: LogFormat) -> Result<Output, OutputError> {
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
