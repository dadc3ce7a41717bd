//! `wayleave ca init`: a new CA for a trust domain.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use clap::Args;
use wayleave_certs::ca::CertificateAuthority;
use wayleave_identity::TrustDomain;

use super::{CaCommandError, directory, lifetime};
use crate::cli::banner::quote;
use crate::moment::moment;

const EXAMPLES: &str = "\
Examples:
  wayleave ca init --dir ca --trust-domain shop.example
  wayleave ca init --dir /tmp/ca --trust-domain test.example --lifetime 1h

Writes DIR/ca-key.pem (mode 0600) and DIR/bundle.pem. An existing CA is never replaced.";

/// Arguments of `wayleave ca init`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct InitArgs {
    /// The CA's directory; made when it is not there
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// The trust domain that the CA speaks for
    #[arg(long, value_name = "NAME")]
    trust_domain: TrustDomain,
    /// How long the CA is valid
    #[arg(long, value_name = "DURATION", default_value = "2160h", value_parser = lifetime)]
    lifetime: Duration,
}

/// Makes the CA and says what to do next.
pub(super) fn run(args: &InitArgs, now: SystemTime) -> Result<String, CaCommandError> {
    let ca = CertificateAuthority::create(&args.trust_domain, args.lifetime, now)?;
    directory::create(&args.dir, &ca)?;
    let InitArgs {
        dir, trust_domain, ..
    } = args;
    let until = moment(ca.not_after());
    let dir = quote(dir);
    Ok(format!(
        "CA of {trust_domain}, until {until}, in {dir}\n\n\
         next:  wayleave ca issue --dir {dir} --id spiffe://{trust_domain}/ns/default/sa/web --out web\n"
    ))
}
