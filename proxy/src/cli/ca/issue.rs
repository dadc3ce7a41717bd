//! `wayleave ca issue`: an X509-SVID with its key and the trust bundle, as a sidecar reads them.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use clap::Args;
use rustls::pki_types::DnsName;
use wayleave_certs::ca::SvidRequest;
use wayleave_identity::SpiffeId;

use super::directory::{self, Papers};
use super::{CaCommandError, lifetime};
use crate::cli::banner::quote;
use crate::moment::moment;

const EXAMPLES: &str = "\
Examples:
  wayleave ca issue --dir ca --id spiffe://shop.example/ns/web/sa/cart --out certs/cart
  wayleave ca issue --dir ca --id spiffe://shop.example/ns/web/sa/orders \\
      --dns localhost --ip 127.0.0.1 --lifetime 10m --out certs/orders
  wayleave ca issue --dir .wayleave --id spiffe://dev.wayleave/ns/default/sa/cart --out cart

Writes OUT/svid.pem, OUT/key.pem (mode 0600) and OUT/bundle.pem, each in one step. A running
sidecar that reads these files takes the new ones up by itself.";

/// Arguments of `wayleave ca issue`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct IssueArgs {
    /// The CA's directory
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Whom the SVID names, in the CA's trust domain
    #[arg(long, value_name = "SPIFFE-ID")]
    id: SpiffeId,
    /// A DNS name beside the SPIFFE ID, for clients that verify names; can be repeated
    #[arg(long, value_name = "NAME", value_parser = dns_name)]
    dns: Vec<String>,
    /// An IP address beside the SPIFFE ID; can be repeated
    #[arg(long, value_name = "IP")]
    ip: Vec<IpAddr>,
    /// How long the SVID is valid; never beyond the CA's own end
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = lifetime)]
    lifetime: Duration,
    /// Where the three files go; made when it is not there
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Replace files that are there
    #[arg(long)]
    force: bool,
}

/// Issues, writes and says what was written.
pub(super) fn run(args: IssueArgs, now: SystemTime) -> Result<String, CaCommandError> {
    let opened = directory::open(&args.dir)?;
    let request = SvidRequest {
        dns_names: args.dns,
        ip_addresses: args.ip,
        ..SvidRequest::new(args.id, args.lifetime)
    };
    let issued = opened.ca.issue(&request, now)?;
    let papers = Papers {
        certificate: &issued.certificate_pem,
        key: &issued.key_pem,
        bundle: &opened.bundle_pem,
    };
    papers.write(&args.out, args.force)?;
    let note = match now.checked_add(args.lifetime) {
        Some(asked) if asked <= issued.not_after => "",
        _ => " (the end of the CA)",
    };
    Ok(format!(
        "{}, until {}{note}\n  {}/{{svid.pem,key.pem,bundle.pem}}\n",
        request.id,
        moment(issued.not_after),
        quote(&args.out),
    ))
}

fn dns_name(text: &str) -> Result<String, &'static str> {
    DnsName::try_from(text)
        .map(|name| name.as_ref().to_owned())
        .map_err(|_| "expected a DNS name such as `orders.shop.example`, without a wildcard")
}
