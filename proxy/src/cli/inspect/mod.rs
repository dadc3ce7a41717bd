//! `wayleave inspect`: an SVID, a trust bundle or a live peer, held against every rule.
//!
//! Says in words what is wrong and where the rule stands. It trusts nothing that it looks at
//! and sends a peer nothing but a TLS handshake.

mod findings;
mod live;
mod paper;
mod text;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use clap::{Args, ValueEnum};
use wayleave_certs::bundle::BundleError;
use wayleave_certs::inspect::ReadError;
use wayleave_certs::pem::PemError;
use wayleave_identity::TrustDomain;

use super::FAILED;
use super::report::{self, Format};
use crate::config::{self, HostPort};
use findings::Findings;

const EXAMPLES: &str = "\
Examples:
  wayleave inspect certs/svid.pem
  wayleave inspect certs/svid.pem --key certs/key.pem --bundle certs/bundle.pem
  wayleave inspect bundle.json --trust-domain shop.example
  wayleave inspect localhost:8443 --bundle .wayleave/bundle.pem
  wayleave inspect orders.shop.example:8443 --cert svid.pem --key key.pem --format json

A file is taken for a trust bundle when it is JSON or its first certificate is a CA, and for an
SVID with its chain otherwise; --as says it. Of a live peer, the chain that it sends is shown.

Exit status: 0 every rule is kept; 1 a rule is broken; 2 usage, or nothing could be read.";

/// Look at an SVID, a trust bundle or a live peer, and say which rules it breaks
///
/// Checks every rule of the X509-SVID profile, the chain and the time, and names the section of
/// the specification that each rule stands in.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct InspectArgs {
    /// A file (PEM, DER, or the SPIFFE bundle format), or a peer to shake hands with
    #[arg(value_name = "FILE|HOST:PORT")]
    target: String,
    /// The trust bundle that the chain must lead to (PEM or the SPIFFE bundle format)
    #[arg(long, value_name = "FILE")]
    bundle: Option<PathBuf>,
    /// Of an SVID: its private key. Of a peer: the private key of --cert
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Of a peer: the SVID to show it when it asks for one
    #[arg(long, value_name = "FILE", requires = "key")]
    cert: Option<PathBuf>,
    /// Whose a bundle is; its authorities say it themselves when they are SVIDs
    #[arg(long, value_name = "NAME")]
    trust_domain: Option<TrustDomain>,
    /// What the file is
    #[arg(long = "as", value_enum, value_name = "KIND")]
    kind: Option<Paper>,
    /// How long a peer may take
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = config::duration)]
    timeout: Duration,
    /// The shape of the report: text for people, JSON for programs
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Paper {
    /// A leaf with its chain
    Svid,
    /// The authorities of a trust domain
    Bundle,
}

/// Looks, reports, and says with which status the process should end.
pub(super) fn run(args: &InspectArgs) -> ExitCode {
    let findings = match look(args, SystemTime::now()) {
        Ok(findings) => findings,
        Err(error) => return report::mistake(&error),
    };
    let told = match args.format {
        Format::Text => text::render(&findings),
        Format::Json => findings.to_json(),
    };
    let said = report::say(&told);
    match findings.ok {
        true => said,
        false => ExitCode::from(FAILED),
    }
}

fn look(args: &InspectArgs, now: SystemTime) -> Result<Findings, InspectError> {
    if Path::new(&args.target).exists() {
        return paper::look(args, now);
    }
    match config::host_port(&args.target) {
        Ok(address) => live::look(args, &address, now),
        Err(_) => Err(InspectError::NoTarget(args.target.clone())),
    }
}

/// Why there is nothing to report.
#[derive(Debug, thiserror::Error)]
enum InspectError {
    #[error("there is no file `{0}`, and it is not HOST:PORT of a peer")]
    NoTarget(String),
    #[error("{option} does not go with {with}")]
    Usage {
        option: &'static str,
        with: &'static str,
    },
    #[error("cannot read `{}`", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("`{}` cannot be inspected: {source}", path.display())]
    Unknown {
        path: PathBuf,
        #[source]
        source: ReadError,
    },
    #[error("the trust bundle `{}` cannot be used: {source}", path.display())]
    Bundle {
        path: PathBuf,
        #[source]
        source: BundleError,
    },
    #[error("`{}` cannot be used: {source}", path.display())]
    Pem {
        path: PathBuf,
        #[source]
        source: PemError,
    },
    #[error("`{}` cannot be used: {detail}", path.display())]
    Key { path: PathBuf, detail: String },
    #[error("cannot reach {address}: {source}")]
    Connect {
        address: HostPort,
        #[source]
        source: std::io::Error,
    },
    #[error("{address} did not finish a TLS handshake within {limit:?}")]
    TimedOut { address: HostPort, limit: Duration },
    #[error("{address} sent no certificate: {detail}")]
    NoHandshake { address: HostPort, detail: String },
    #[error("the system refuses a thread or socket: {0}")]
    System(#[from] std::io::Error),
}
