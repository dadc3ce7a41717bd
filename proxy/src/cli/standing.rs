//! `wayleave quarantine`, `wayleave revoke` and `wayleave risk`: what an operator says against
//! principals, told to a running sidecar through its admin socket.

use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, UNIX_EPOCH};

use clap::{Args, Subcommand};
use wayleave_authz::signals::{Known, Origin, Revoked, RiskLevel, Scope};

use super::report::{Format, harmless};
use super::{FAILED, admin_client, report};
use crate::config;
use crate::moment::moment;
use crate::standing::control::PATH;
use crate::standing::{Order, Ordered};

const QUARANTINE: &str = "\
Examples:
  wayleave quarantine list --socket /run/wayleave/admin.sock
  wayleave quarantine start spiffe://shop.example/ns/agents/sa/sweeper --for 15m \\
      --reason \"sweeps the API\" --socket /run/wayleave/admin.sock
  wayleave quarantine lift spiffe://shop.example/ns/agents/sa/sweeper \\
      --socket /run/wayleave/admin.sock

Exit status: 0 done, 1 no answer from the sidecar or it could not be kept, 2 usage.";

const REVOKE: &str = "\
Examples:
  wayleave revoke principal spiffe://shop.example/ns/agents/sa/sweeper --socket admin.sock
  wayleave revoke serial 4f:1a:22 --reason \"key leaked\" --socket admin.sock
  wayleave revoke lift spiffe://shop.example/ns/agents/sa/sweeper --socket admin.sock

Exit status: 0 done, 1 no answer from the sidecar or it could not be kept, 2 usage.";

const RISK: &str = "\
Examples:
  wayleave risk set spiffe://shop.example/ns/agents/sa/sweeper HIGH --socket admin.sock
  wayleave risk list --socket admin.sock

Exit status: 0 done, 1 no answer from the sidecar or it could not be kept, 2 usage.";

/// List, start and lift quarantines
///
/// A principal in quarantine is denied on all of its connections at once, and what it has open is
/// ended.
#[derive(Debug, Args)]
#[command(after_help = QUARANTINE)]
pub(super) struct QuarantineArgs {
    #[command(subcommand)]
    command: QuarantineCommand,
}

#[derive(Debug, Subcommand)]
enum QuarantineCommand {
    /// Show who is in quarantine
    List(ListArgs),
    /// Put a principal in quarantine
    Start {
        /// Its SPIFFE ID, or `anonymous`
        principal: String,
        /// How long, such as 60s, 15m or 12h; up to 720h
        #[arg(long = "for", value_name = "DURATION", value_parser = config::duration)]
        time: Duration,
        /// Deny calls of this service alone
        #[arg(long, value_name = "NAME")]
        service: Option<String>,
        #[command(flatten)]
        said: SaidArgs,
    },
    /// End every quarantine of a principal
    Lift {
        /// Its SPIFFE ID, or `anonymous`
        principal: String,
        #[command(flatten)]
        said: SaidArgs,
    },
}

/// Revoke principals and SVIDs, and take that back
///
/// What is revoked is denied until it is reinstated, and what it has open is ended.
#[derive(Debug, Args)]
#[command(after_help = REVOKE)]
pub(super) struct RevokeArgs {
    #[command(subcommand)]
    command: RevokeCommand,
}

#[derive(Debug, Subcommand)]
enum RevokeCommand {
    /// Show what is revoked
    List(ListArgs),
    /// Revoke a SPIFFE ID: every SVID of it, also those to come
    Principal {
        /// The SPIFFE ID
        id: String,
        #[command(flatten)]
        said: SaidArgs,
    },
    /// Revoke one SVID
    Serial {
        /// Its serial number in hexadecimal, as `wayleave inspect` shows it
        serial: String,
        #[command(flatten)]
        said: SaidArgs,
    },
    /// Reinstate a SPIFFE ID or a serial number
    Lift {
        /// The SPIFFE ID, or the serial number
        subject: String,
        #[command(flatten)]
        said: SaidArgs,
    },
}

/// Say how risky a principal is, for policies that read `context.signals.risk`
#[derive(Debug, Args)]
#[command(after_help = RISK)]
pub(super) struct RiskArgs {
    #[command(subcommand)]
    command: RiskCommand,
}

#[derive(Debug, Subcommand)]
enum RiskCommand {
    /// Show who is said to be risky
    List(ListArgs),
    /// Rate a principal
    Set {
        /// Its SPIFFE ID
        principal: String,
        /// NONE, LOW, MEDIUM or HIGH
        #[arg(value_parser = level)]
        level: RiskLevel,
        #[command(flatten)]
        said: SaidArgs,
    },
}

#[derive(Debug, Args)]
struct ListArgs {
    #[command(flatten)]
    socket: SocketArgs,
    /// The shape of the answer: text for people, JSON for programs
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Debug, Args)]
struct SaidArgs {
    /// Why, for the log and for whoever lists it
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    #[command(flatten)]
    socket: SocketArgs,
}

#[derive(Debug, Args)]
struct SocketArgs {
    /// The sidecar's admin socket: `admin.socket` of its configuration
    #[arg(long, value_name = "PATH")]
    socket: PathBuf,
    /// How long to wait for the answer
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = config::duration)]
    timeout: Duration,
}

/// Why nothing was done.
#[derive(Debug, thiserror::Error)]
enum SaidError {
    #[error("no answer at `{path}`; is it admin.socket of a running sidecar?")]
    NoAnswer {
        path: String,
        #[source]
        source: io::Error,
    },
    #[error("`{path}` is not the admin socket of this version of wayleave: {detail}")]
    NotControl { path: String, detail: String },
    #[error("{0}")]
    Usage(String),
    #[error("{0}")]
    Failed(String),
}

pub(super) fn quarantine(args: QuarantineArgs) -> ExitCode {
    let (order, said) = match args.command {
        QuarantineCommand::List(args) => return list(&args, quarantines),
        QuarantineCommand::Start {
            principal,
            time,
            service,
            mut said,
        } => {
            let order = Order::Quarantine {
                principal,
                seconds: time.as_secs(),
                service,
                reason: said.reason.take(),
            };
            (order, said)
        }
        QuarantineCommand::Lift {
            principal,
            mut said,
        } => {
            let reason = said.reason.take();
            (Order::Release { principal, reason }, said)
        }
    };
    give(&order, &said.socket)
}

pub(super) fn revoke(args: RevokeArgs) -> ExitCode {
    let (order, said) = match args.command {
        RevokeCommand::List(args) => return list(&args, revocations),
        RevokeCommand::Principal { id, mut said } => {
            let subject = Revoked::Principal(id.into());
            let reason = said.reason.take();
            (Order::Revoke { subject, reason }, said)
        }
        RevokeCommand::Serial { serial, mut said } => {
            let subject = Revoked::Serial(serial.into());
            let reason = said.reason.take();
            (Order::Revoke { subject, reason }, said)
        }
        RevokeCommand::Lift { subject, mut said } => {
            let subject = match subject.contains("://") {
                true => Revoked::Principal(subject.into()),
                false => Revoked::Serial(subject.into()),
            };
            let reason = said.reason.take();
            (Order::Reinstate { subject, reason }, said)
        }
    };
    give(&order, &said.socket)
}

pub(super) fn risk(args: RiskArgs) -> ExitCode {
    match args.command {
        RiskCommand::List(args) => list(&args, risks),
        RiskCommand::Set {
            principal,
            level,
            mut said,
        } => {
            let order = Order::Rate {
                principal,
                level,
                reason: said.reason.take(),
            };
            give(&order, &said.socket)
        }
    }
}

fn level(name: &str) -> Result<RiskLevel, String> {
    let level = RiskLevel::from_name(&name.to_ascii_uppercase());
    level.ok_or_else(|| "write NONE, LOW, MEDIUM or HIGH".to_owned())
}

fn give(order: &Order, socket: &SocketArgs) -> ExitCode {
    // Strings and numbers: there is nothing here that JSON cannot say.
    let body = serde_json::to_string(order).unwrap_or_default();
    let told = ask("POST", &body, socket).and_then(|answer| parse::<Ordered>(&answer, socket));
    match told {
        Ok(Ordered { changed: true }) => report::say("done\n"),
        Ok(Ordered { changed: false }) => report::say("nothing to do: it is so already\n"),
        Err(error) => failed(&error),
    }
}

fn list(args: &ListArgs, render: fn(&Known) -> String) -> ExitCode {
    let answer = ask("GET", "", &args.socket);
    let known = answer.and_then(|answer| {
        let known = parse::<Known>(&answer, &args.socket)?;
        Ok((known, answer))
    });
    match known {
        Ok((_, answer)) if args.format == Format::Json => report::say(&answer),
        Ok((known, _)) => report::say(&render(&known)),
        Err(error) => failed(&error),
    }
}

fn failed(error: &SaidError) -> ExitCode {
    let usage = report::mistake(error);
    match error {
        SaidError::Usage(_) => usage,
        _ => ExitCode::from(FAILED),
    }
}

/// Asks the sidecar, and answers with the body of a good answer.
fn ask(method: &str, body: &str, socket: &SocketArgs) -> Result<String, SaidError> {
    let path = socket.socket.display().to_string();
    let answer = exchange(&socket.socket, method, body, socket.timeout);
    let answer = answer.map_err(|source| SaidError::NoAnswer {
        path: path.clone(),
        source,
    })?;
    let not_control = |detail: &str| SaidError::NotControl {
        path: path.clone(),
        detail: detail.to_owned(),
    };
    let text = admin_client::body(&answer).unwrap_or_default();
    let text = String::from_utf8_lossy(text).into_owned();
    match admin_client::status(&answer) {
        Some(200) => Ok(text),
        Some(400) => Err(SaidError::Usage(why(&text))),
        Some(500 | 507) => Err(SaidError::Failed(why(&text))),
        Some(code) => Err(not_control(&format!("it answers with {code}"))),
        None => Err(not_control("it does not speak HTTP")),
    }
}

fn why(text: &str) -> String {
    let parsed: Option<serde_json::Value> = serde_json::from_str(text).ok();
    let error = parsed
        .as_ref()
        .and_then(|parsed| parsed.get("error")?.as_str());
    harmless(error.unwrap_or(text))
}

fn parse<T: serde::de::DeserializeOwned>(text: &str, socket: &SocketArgs) -> Result<T, SaidError> {
    serde_json::from_str(text).map_err(|error| SaidError::NotControl {
        path: socket.socket.display().to_string(),
        detail: error.to_string(),
    })
}

fn exchange(path: &Path, method: &str, body: &str, limit: Duration) -> io::Result<Vec<u8>> {
    let mut stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(limit))?;
    stream.set_write_timeout(Some(limit))?;
    let length = body.len();
    let request = format!(
        "{method} {PATH} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(answer)
}

fn quarantines(known: &Known) -> String {
    let mut text = String::new();
    for quarantine in &known.quarantines {
        let until = moment(UNIX_EPOCH + Duration::from_millis(quarantine.until_ms));
        let what = match &quarantine.scope {
            Scope::Everything => "everything".to_owned(),
            Scope::Service(name) => format!("the service {}", harmless(name)),
        };
        let principal = harmless(&quarantine.principal);
        let origin = by(&quarantine.origin);
        let _ = writeln!(text, "{principal}  {what} until {until}, {origin}");
    }
    or_nobody(text, "nobody is in quarantine\n")
}

fn revocations(known: &Known) -> String {
    let mut text = String::new();
    for revocation in &known.revocations {
        let subject = match &revocation.subject {
            Revoked::Principal(id) => harmless(id),
            Revoked::Serial(serial) => format!("serial {}", harmless(serial)),
        };
        let _ = writeln!(text, "{subject}  {}", by(&revocation.origin));
    }
    or_nobody(text, "nothing is revoked\n")
}

fn risks(known: &Known) -> String {
    let mut text = String::new();
    for risk in &known.risks {
        let (principal, level) = (harmless(&risk.principal), risk.level.as_str());
        let _ = writeln!(text, "{principal}  {level}, {}", by(&risk.origin));
    }
    or_nobody(text, "nobody is rated\n")
}

fn or_nobody(text: String, nobody: &str) -> String {
    match text.is_empty() {
        true => nobody.to_owned(),
        false => text,
    }
}

fn by(origin: &Origin) -> String {
    let at = moment(UNIX_EPOCH + Duration::from_millis(origin.at_ms));
    let mut text = format!("by {} at {at}", harmless(&origin.by));
    if let Some(reason) = &origin.reason {
        let _ = write!(text, ": {}", harmless(reason));
    }
    text
}
