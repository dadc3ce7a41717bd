//! Reads all files of an identity at once and checks that they belong together.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use aws_lc_rs::digest::{Context, SHA256};
use wayleave_identity::TrustDomain;

use super::FilesConfig;
use super::error::{FileError, FileProblem};
use crate::revocation::RevocationList;
use crate::verify::{self, Role};
use crate::{Svid, TrustBundle, TrustBundles, disk};

/// What the files hold.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) svid: Arc<Svid>,
    pub(super) bundles: TrustBundles,
    /// Of all bytes read, to tell a change from a mere touch.
    pub(super) digest: Vec<u8>,
}

impl Loaded {
    pub(super) fn read(config: &FilesConfig, now: SystemTime) -> Result<Self, FileError> {
        let mut reader = Reader(Context::new(&SHA256));
        let svid = read_svid(&mut reader, config, now)?;
        let own = svid.id().trust_domain();
        let mut all = read_bundles(&mut reader, &config.bundle, own)?;
        // The own bundle is first: lists of unknown issuers go to it.
        all.sort_by_key(|bundle| bundle.trust_domain() != own);
        for (trust_domain, path) in &config.federated {
            if trust_domain == own {
                let problem = FileProblem::OwnTrustDomain(own.clone());
                return Err(FileError::new(path, problem));
            }
            let mut found = read_bundles(&mut reader, path, trust_domain)?;
            // SECURITY: a partner's file speaks for the partner's trust domain and no other.
            found.retain(|bundle| bundle.trust_domain() == trust_domain);
            all.retain(|bundle| bundle.trust_domain() != trust_domain);
            all.append(&mut found);
        }
        for path in &config.revocation_lists {
            read_revocation_lists(&mut reader, path, &mut all)?;
        }
        let bundles = all.into_iter().collect();
        check_svid_against_bundle(config, &svid, &bundles, now)?;
        Ok(Self {
            svid: Arc::new(svid),
            bundles,
            digest: reader.0.finish().as_ref().to_vec(),
        })
    }
}

/// Reads files and keeps a digest of everything that it read.
struct Reader(Context);

impl Reader {
    fn read(&mut self, path: &Path, role: &'static str) -> Result<Vec<u8>, FileError> {
        let bytes = disk::read(path).map_err(|error| FileError::io(path, role, error))?;
        self.0.update(&(bytes.len() as u64).to_be_bytes());
        self.0.update(&bytes);
        Ok(bytes)
    }
}

fn read_svid(
    reader: &mut Reader,
    config: &FilesConfig,
    now: SystemTime,
) -> Result<Svid, FileError> {
    let certificate = reader.read(&config.svid, "SVID")?;
    let key = reader.read(&config.key, "private key")?;
    let svid = Svid::from_pem(&certificate, &key)
        .map_err(|error| FileError::svid(&config.svid, &config.key, error))?;
    check_validity(&svid, now).map_err(|problem| FileError::new(&config.svid, problem))?;
    Ok(svid)
}

fn check_validity(svid: &Svid, now: SystemTime) -> Result<(), FileProblem> {
    let id = || svid.id().to_string();
    if let Ok(ago) = now.duration_since(svid.not_after())
        && !ago.is_zero()
    {
        let seconds = ago.as_secs();
        return Err(FileProblem::Expired { id: id(), seconds });
    }
    match svid.not_before().duration_since(now) {
        Ok(left) if !left.is_zero() => Err(FileProblem::NotYetValid {
            id: id(),
            seconds: left.as_secs(),
        }),
        _ => Ok(()),
    }
}

fn read_bundles(
    reader: &mut Reader,
    path: &Path,
    trust_domain: &TrustDomain,
) -> Result<Vec<TrustBundle>, FileError> {
    let text = reader.read(path, "trust bundle")?;
    TrustBundle::from_any(trust_domain.clone(), &text)
        .map_err(|error| FileError::new(path, FileProblem::Bundle(error)))
}

fn read_revocation_lists(
    reader: &mut Reader,
    path: &Path,
    bundles: &mut [TrustBundle],
) -> Result<(), FileError> {
    let bytes = reader.read(path, "revocation list")?;
    RevocationList::from_pem_or_der(&bytes)
        .and_then(|lists| TrustBundle::assign(lists, bundles))
        .map_err(|error| FileError::new(path, FileProblem::RevocationList(error)))
}

/// Our own SVID must verify as a peer's would; otherwise the files are not of one issuer.
fn check_svid_against_bundle(
    config: &FilesConfig,
    svid: &Svid,
    bundles: &TrustBundles,
    now: SystemTime,
) -> Result<(), FileError> {
    match verify::verify(svid.chain(), bundles, Role::Server, now) {
        Ok(_) => Ok(()),
        Err(source) => Err(FileError::new(
            &config.bundle,
            FileProblem::SvidNotFromBundle {
                svid: config.svid.clone(),
                source,
            },
        )),
    }
}
