//! `wayleave ca bundle`: the CA's trust bundle on standard output.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use clap::{Args, ValueEnum};
use wayleave_certs::bundle::BundleDocument;
use wayleave_certs::{TrustBundle, pem};

use super::{CaCommandError, directory};
use crate::config;

const EXAMPLES: &str = "\
Examples:
  wayleave ca bundle --dir ca > bundle.pem
  wayleave ca bundle --dir ca --format jwks --sequence 7 --refresh-hint 5m > bundle.json

The second is what a SPIFFE bundle endpoint serves to other trust domains.";

/// Arguments of `wayleave ca bundle`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct BundleArgs {
    /// The CA's directory
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// PEM, or the SPIFFE bundle format (a JWK set)
    #[arg(long, value_enum, default_value_t = Format::Pem)]
    format: Format,
    /// With jwks: the `spiffe_sequence` of the JWK set; to be raised with each change of the bundle
    #[arg(long, value_name = "NUMBER")]
    sequence: Option<u64>,
    /// With jwks: the `spiffe_refresh_hint` of the JWK set: how soon others should fetch it again
    #[arg(long, value_name = "DURATION", value_parser = config::duration)]
    refresh_hint: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// One certificate after the other
    Pem,
    /// The SPIFFE bundle format
    Jwks,
}

/// The bundle, in the form that was asked for; authorities that are over are left out.
pub(super) fn run(args: &BundleArgs, now: SystemTime) -> Result<String, CaCommandError> {
    let bundle = directory::open(&args.dir)?.bundle(&args.dir)?;
    let authorities = bundle.authorities().iter();
    let valid = authorities.filter(|authority| authority.is_valid_at(now));
    let certificates: Vec<_> = valid.map(|a| a.certificate().clone()).collect();
    if args.format == Format::Pem {
        let pem = certificates
            .iter()
            .map(|der| pem::encode("CERTIFICATE", der));
        return Ok(pem.collect());
    }
    let bundle = TrustBundle::from_der(bundle.trust_domain().clone(), certificates);
    let bundle = bundle.map_err(|source| CaCommandError::Bundle {
        dir: args.dir.clone(),
        source,
    })?;
    let document = BundleDocument {
        bundle: bundle.with_sequence(args.sequence),
        refresh_hint: args.refresh_hint,
    };
    Ok(document.to_jwks() + "\n")
}
