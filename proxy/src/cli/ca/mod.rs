//! `wayleave ca`: a CA in a directory, for development and tests.
//!
//! Makes the CA, issues X509-SVIDs and prints the trust bundle. It keeps no book of what it
//! issued, revokes nothing and renews nothing; production identities come from SPIRE or
//! cert-manager.

mod bundle;
mod directory;
mod init;
mod issue;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use clap::{Args, Subcommand};
use wayleave_certs::bundle::BundleError;
use wayleave_certs::ca::CaError;

use super::report;
use crate::config;

const EXAMPLES: &str = "\
Examples:
  wayleave ca init --dir ca --trust-domain shop.example
  wayleave ca issue --dir ca --id spiffe://shop.example/ns/web/sa/cart --out certs/cart
  wayleave ca bundle --dir ca --format jwks

The directory of `wayleave dev` (.wayleave) is a CA as well: `wayleave ca issue --dir .wayleave`
makes another caller for it.

Exit status: 0 done; 2 usage, directory or certificates.";

/// Make a CA for development and tests, and issue X509-SVIDs with it
///
/// Not for production: the CA's key lies in a file. Use SPIRE or cert-manager there.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct CaArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a new CA for a trust domain
    Init(init::InitArgs),
    /// Issue an X509-SVID with its key and the trust bundle
    Issue(issue::IssueArgs),
    /// Print the trust bundle, as PEM or in the SPIFFE bundle format
    Bundle(bundle::BundleArgs),
}

/// Runs a command of the CA.
pub(super) fn run(args: CaArgs) -> ExitCode {
    let now = SystemTime::now();
    let done = match args.command {
        Command::Init(args) => init::run(&args, now),
        Command::Issue(args) => issue::run(args, now),
        Command::Bundle(args) => bundle::run(&args, now),
    };
    match done {
        Ok(told) => report::say(&told),
        Err(error) => report::mistake(&error),
    }
}

/// A lifetime that a certificate, which knows no fractions of a second, can have.
fn lifetime(text: &str) -> Result<Duration, &'static str> {
    let lifetime = config::duration(text)?;
    match lifetime.as_secs() {
        0 => Err("expected at least `1s`"),
        _ => Ok(lifetime),
    }
}

/// Why the CA did not do what it was told.
#[derive(Debug, thiserror::Error)]
enum CaCommandError {
    #[error("`{}` exists; it was not touched. {remedy}", path.display())]
    Exists { path: PathBuf, remedy: &'static str },
    #[error("there is no CA in `{}`; make one with `wayleave ca init`", dir.display())]
    NoCa { dir: PathBuf },
    #[error("cannot read `{}`", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("cannot write `{}`; check that the folder exists and its permissions", path.display())]
    Write {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the CA in `{}` cannot be used", dir.display())]
    Unusable {
        dir: PathBuf,
        #[source]
        source: CaError,
    },
    #[error("the trust bundle in `{}` cannot be used", dir.display())]
    Bundle {
        dir: PathBuf,
        #[source]
        source: BundleError,
    },
    #[error(transparent)]
    Ca(#[from] CaError),
}
