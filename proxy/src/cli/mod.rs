//! The command line: one file a command, and what they share.
//!
//! Exit status: 0 when all went well, 1 when something failed while running, 2 for a
//! mistake in the usage, the configuration, the certificates or the policies.

mod admin_client;
mod banner;
mod ca;
mod check;
mod dev;
mod diff;
mod explain;
mod handing_over;
mod inspect;
mod logging;
mod policy_source;
mod ready;
mod records;
mod reload;
mod report;
mod run;
mod standing;
mod starter;
mod status;
mod test;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Something failed while running.
pub(crate) const FAILED: u8 = 1;
/// The user's to mend: usage, configuration, certificates, policies.
pub(crate) const USAGE: u8 = 2;

const EXAMPLES: &str = "\
Examples:
  wayleave dev                                  try it: demo application, dev certificates
  wayleave dev --upstream 127.0.0.1:3000        in front of your own application
  wayleave dev -- npm start                     the same, and start it too
  wayleave check --config wayleave.yaml         find every mistake before it runs
  wayleave run --config wayleave.yaml           the sidecar
  wayleave explain --policies policies ...      why a call is allowed or denied

Exit status: 0 all went well; 1 failed while running; 2 usage, configuration or policy.";

/// An mTLS sidecar that authorizes every single call.
#[derive(Debug, Parser)]
#[command(name = "wayleave", version, about, after_help = EXAMPLES, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a local dev proxy on embedded defaults: dev CA, sample callers, starter policies
    Dev(dev::DevArgs),
    /// Run the sidecar with a configuration file
    Run(run::RunArgs),
    /// Check a configuration, its certificates and its policies, and start nothing
    Check(check::CheckArgs),
    /// Decide a call offline and say why: the policies, their conditions, the nearest permits
    Explain(explain::ExplainArgs),
    /// Run policy unit tests
    Test(test::TestArgs),
    /// Tell which recorded calls new policies would decide otherwise
    Diff(diff::DiffArgs),
    /// Ask a running sidecar whether it is ready, as a container's health check
    Ready(ready::ReadyArgs),
    /// Show a running sidecar's identity, trust bundles, policies and listeners
    Status(status::StatusArgs),
    /// List, start and lift quarantines at a running sidecar
    Quarantine(standing::QuarantineArgs),
    /// Revoke principals and SVIDs at a running sidecar, and take that back
    Revoke(standing::RevokeArgs),
    /// Tell a running sidecar how risky a principal is
    Risk(standing::RiskArgs),
    /// Make a CA for development and tests, and issue X509-SVIDs with it
    Ca(ca::CaArgs),
    /// Look at an SVID, a trust bundle or a live peer, and say which rules it breaks
    Inspect(inspect::InspectArgs),
}

/// Runs the command that the process was called with.
pub fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Dev(args) => dev::run(args),
        Command::Run(args) => run::run(args),
        Command::Check(args) => check::run(&args),
        Command::Explain(args) => explain::run(&args),
        Command::Test(args) => test::run(&args),
        Command::Diff(args) => diff::run(&args),
        Command::Ready(args) => ready::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Quarantine(args) => standing::quarantine(args),
        Command::Revoke(args) => standing::revoke(args),
        Command::Risk(args) => standing::risk(args),
        Command::Ca(args) => ca::run(args),
        Command::Inspect(args) => inspect::run(&args),
    }
}
