//! Files: an SVID with its chain, or a trust bundle.

use std::path::Path;
use std::time::SystemTime;

use rustls::pki_types::CertificateDer;
use wayleave_certs::bundle::{BundleError, JwksError};
use wayleave_certs::inspect::{self, BundleReport};
use wayleave_certs::verify::Role;
use wayleave_certs::{TrustBundle, TrustBundles, disk, pem};
use wayleave_identity::TrustDomain;

use super::findings::{Findings, Kind};
use super::{InspectArgs, InspectError, Paper};

/// Looks at a file.
pub(super) fn look(args: &InspectArgs, now: SystemTime) -> Result<Findings, InspectError> {
    if args.cert.is_some() {
        let (option, with) = ("--cert", "a file; it is for a live peer");
        return Err(InspectError::Usage { option, with });
    }
    let path = Path::new(&args.target);
    let bytes = read(path)?;
    let unknown = |source| InspectError::Unknown {
        path: path.to_owned(),
        source,
    };
    let kind = inspect::kind_of(&bytes).map_err(unknown)?;
    match (kind, args.kind) {
        (inspect::Kind::Jwks, Some(Paper::Svid)) => {
            let (option, with) = ("--as svid", "JSON, which is a trust bundle");
            Err(InspectError::Usage { option, with })
        }
        (inspect::Kind::Jwks, _) => {
            refuse_svid_options(args)?;
            let found = BundleReport::of_jwks(&bytes, args.trust_domain.as_ref(), now);
            Ok(bundles(args, found))
        }
        (inspect::Kind::Bundle, None) | (_, Some(Paper::Bundle)) => {
            refuse_svid_options(args)?;
            let certificates = inspect::certificates(&bytes).map_err(unknown)?;
            let found = BundleReport::new(&certificates, args.trust_domain.clone(), now);
            Ok(bundles(args, vec![found]))
        }
        (_, Some(Paper::Svid)) | (inspect::Kind::Svid, None) => {
            let chain = inspect::certificates(&bytes).map_err(unknown)?;
            svid(args, chain, now)
        }
    }
}

/// A bundle is what others are held against; it has no key and leads nowhere itself.
fn refuse_svid_options(args: &InspectArgs) -> Result<(), InspectError> {
    let with = "a trust bundle; it is for an SVID or a peer";
    for (option, given) in [("--bundle", &args.bundle), ("--key", &args.key)] {
        if given.is_some() {
            return Err(InspectError::Usage { option, with });
        }
    }
    Ok(())
}

fn bundles(args: &InspectArgs, found: Vec<BundleReport>) -> Findings {
    let mut findings = Findings::new(&args.target, Kind::Bundle);
    findings.bundles = found.into_iter().map(Into::into).collect();
    findings.counted()
}

fn svid(
    args: &InspectArgs,
    chain: Vec<CertificateDer<'static>>,
    now: SystemTime,
) -> Result<Findings, InspectError> {
    let mut findings = Findings::new(&args.target, Kind::Svid);
    describe_chain(&mut findings, args, &chain, Role::Client, now)?;
    if let Some(path) = &args.key {
        let key = pem::private_key(&read(path)?).map_err(|source| InspectError::Pem {
            path: path.clone(),
            source,
        })?;
        findings.checks.push(inspect::key(chain, key).into());
    }
    Ok(findings.counted())
}

/// Adds a chain and the rules for it.
pub(super) fn describe_chain(
    findings: &mut Findings,
    args: &InspectArgs,
    chain: &[CertificateDer<'_>],
    role: Role,
    now: SystemTime,
) -> Result<(), InspectError> {
    let certificates = inspect::chain(chain, now);
    let facts = certificates.first().and_then(|leaf| leaf.facts.as_ref());
    let id = facts.and_then(|facts| facts.id.as_ref());
    let bundles = match (&args.bundle, id) {
        (Some(path), Some(id)) => {
            let whose = args.trust_domain.clone();
            let whose = whose.unwrap_or_else(|| id.trust_domain().clone());
            Some(read_bundles(path, whose)?)
        }
        // Without an ID there is no trust domain to look for; the path says so.
        (Some(_), None) => Some(TrustBundles::default()),
        (None, _) => None,
    };
    findings.chain = certificates.into_iter().map(Into::into).collect();
    findings.checks.push(inspect::order(chain).into());
    let path = inspect::path(chain, bundles.as_ref(), role, now);
    findings.checks.push(path.into());
    Ok(())
}

/// The bundles in a file; none where they are those of other trust domains, and then the path
/// leads nowhere.
fn read_bundles(path: &Path, trust_domain: TrustDomain) -> Result<TrustBundles, InspectError> {
    match TrustBundle::from_any(trust_domain, &read(path)?) {
        Ok(bundles) => Ok(bundles.into_iter().collect()),
        Err(error) if is_for_others(&error) => Ok(TrustBundles::default()),
        Err(source) => Err(InspectError::Bundle {
            path: path.to_owned(),
            source,
        }),
    }
}

fn is_for_others(error: &BundleError) -> bool {
    match error {
        BundleError::OtherTrustDomain { .. } => true,
        BundleError::Jwks(JwksError::NoTrustDomain(_)) => true,
        BundleError::Jwks(JwksError::Bundle(inner)) => is_for_others(inner),
        _ => false,
    }
}

pub(super) fn read(path: &Path) -> Result<Vec<u8>, InspectError> {
    disk::read(path).map_err(|source| InspectError::Read {
        path: path.to_owned(),
        source,
    })
}
