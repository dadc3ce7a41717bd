//! What lies in the development directory: `ca-key.pem`, `bundle.pem` and, for each workload,
//! `svids/<name>/{svid.pem,key.pem,bundle.pem}`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use wayleave_identity::TrustDomain;

use super::CA_LIFETIME;
use super::directory::Directory;
use super::error::DevError;
use crate::ca::{CaError, CertificateAuthority, SvidRequest};
use crate::verify::{self, Role};
use crate::workload_api::X509Svid;
use crate::{Svid, SvidError, TrustBundle, pem};

const CA_KEY: &str = "ca-key.pem";
const BUNDLE: &str = "bundle.pem";
const SVIDS: &str = "svids";

/// The papers of a development trust domain and the CA that makes them.
#[derive(Debug)]
pub(super) struct Papers {
    directory: Directory,
    trust_domain: TrustDomain,
    ca: CertificateAuthority,
    /// The current authority first, then earlier ones that are still valid.
    bundle_pem: String,
    /// What was read or issued by the latest renewal, by name.
    svids: BTreeMap<String, Pair>,
}

/// An SVID and its key as PKCS#8 DER.
#[derive(Debug)]
struct Pair {
    svid: Arc<Svid>,
    key: Vec<u8>,
}

impl Pair {
    fn from_pem(certificate: &[u8], key: &[u8]) -> Result<Self, SvidError> {
        let svid = Arc::new(Svid::from_pem(certificate, key)?);
        let key = pem::private_key(key).map_err(SvidError::KeyPem)?;
        let key = key.secret_der().to_vec();
        Ok(Self { svid, key })
    }
}

impl Papers {
    pub(super) fn open(
        mut directory: Directory,
        trust_domain: &TrustDomain,
        now: SystemTime,
    ) -> Result<Self, DevError> {
        directory.folder(SVIDS)?;
        let (ca, bundle_pem) = match read_ca(&directory, trust_domain)? {
            Some(found) if found.0.not_after() > now => found,
            _ => make_ca(&mut directory, trust_domain, "", now)?,
        };
        Ok(Self {
            directory,
            trust_domain: trust_domain.clone(),
            ca,
            bundle_pem,
            svids: BTreeMap::new(),
        })
    }

    /// Makes a new CA when this one is past two thirds of its life; the old one stays trusted.
    pub(super) fn renew_ca(&mut self, now: SystemTime) -> Result<SystemTime, DevError> {
        let due = self.ca.not_after() - CA_LIFETIME / 3;
        if now < due {
            return Ok(due);
        }
        let valid = self.still_valid(now)?;
        let (ca, bundle_pem) = make_ca(&mut self.directory, &self.trust_domain, &valid, now)?;
        self.ca = ca;
        self.bundle_pem = bundle_pem;
        Ok(self.ca.not_after() - CA_LIFETIME / 3)
    }

    /// The authorities of the bundle that have not expired, in PEM.
    fn still_valid(&self, now: SystemTime) -> Result<String, DevError> {
        let bundle = self.bundle()?;
        let valid = bundle.authorities().iter().filter(|a| a.is_valid_at(now));
        Ok(valid
            .map(|authority| pem::encode("CERTIFICATE", authority.certificate()))
            .collect())
    }

    /// Issues a workload's SVID when there is none or it is due; returns when it will be due.
    pub(super) fn renew_svid(
        &mut self,
        name: &str,
        request: &SvidRequest,
        now: SystemTime,
    ) -> Result<SystemTime, DevError> {
        check_name(name)?;
        self.directory.folder(&format!("{SVIDS}/{name}"))?;
        let current = self
            .read_svid(name)?
            .filter(|pair| self.is_current(&pair.svid, request, now));
        let pair = match current {
            Some(pair) => pair,
            None => self.issue(name, request, now)?,
        };
        let due = due(pair.svid.not_before(), pair.svid.not_after());
        self.svids.insert(name.to_owned(), pair);
        Ok(due)
    }

    /// Whether an SVID is the one asked for, of the current CA, and not due.
    fn is_current(&self, svid: &Svid, request: &SvidRequest, now: SystemTime) -> bool {
        let Ok(bundle) = TrustBundle::from_der(
            self.trust_domain.clone(),
            vec![self.ca.certificate().clone()],
        ) else {
            return false;
        };
        let bundles = [bundle].into_iter().collect();
        svid.id() == &request.id
            && now < due(svid.not_before(), svid.not_after())
            && verify::verify(svid.chain(), &bundles, Role::Client, now).is_ok()
    }

    /// A pair that does not fit together (after a crash between two writes) counts as none.
    fn read_svid(&self, name: &str) -> Result<Option<Pair>, DevError> {
        let certificate = self.directory.read(&format!("{SVIDS}/{name}/svid.pem"))?;
        let key = self.directory.read(&format!("{SVIDS}/{name}/key.pem"))?;
        let bundle = self.directory.read(&format!("{SVIDS}/{name}/bundle.pem"))?;
        if bundle.as_deref() != Some(self.bundle_pem.as_bytes()) {
            return Ok(None);
        }
        Ok(certificate
            .zip(key)
            .and_then(|(certificate, key)| Pair::from_pem(&certificate, &key).ok()))
    }

    fn issue(
        &mut self,
        name: &str,
        request: &SvidRequest,
        now: SystemTime,
    ) -> Result<Pair, DevError> {
        let issued = self.ca.issue(request, now).map_err(|source| DevError::Ca {
            path: self.svid_directory(name),
            source,
        })?;
        let file = |kind: &str| format!("{SVIDS}/{name}/{kind}.pem");
        self.directory
            .write(&file("bundle"), self.bundle_pem.as_bytes())?;
        self.directory
            .write(&file("key"), issued.key_pem.as_bytes())?;
        self.directory
            .write(&file("svid"), issued.certificate_pem.as_bytes())?;
        Pair::from_pem(issued.certificate_pem.as_bytes(), issued.key_pem.as_bytes()).map_err(
            |source| DevError::Svid {
                path: self.directory.path(&file("svid")),
                source,
            },
        )
    }

    /// A workload's SVID that was read or issued.
    pub(super) fn svid(&self, name: &str) -> Option<&Arc<Svid>> {
        self.svids.get(name).map(|pair| &pair.svid)
    }

    /// A workload's SVID as the Workload API sends it; its hint is the workload's name.
    pub(super) fn message(&self, name: &str) -> Option<X509Svid> {
        let pair = self.svids.get(name)?;
        let bundle = self.bundle().ok()?;
        let authorities = bundle.authorities().iter();
        Some(X509Svid {
            spiffe_id: pair.svid.id().to_string(),
            x509_svid: pair
                .svid
                .chain()
                .iter()
                .flat_map(|der| der.to_vec())
                .collect(),
            x509_svid_key: pair.key.clone(),
            bundle: authorities.flat_map(|a| a.certificate().to_vec()).collect(),
            hint: name.to_owned(),
        })
    }

    pub(super) fn bundle(&self) -> Result<TrustBundle, DevError> {
        TrustBundle::from_pem(self.trust_domain.clone(), self.bundle_pem.as_bytes()).map_err(
            |source| DevError::Bundle {
                path: self.bundle_path(),
                source,
            },
        )
    }

    pub(super) fn directory(&self) -> &Directory {
        &self.directory
    }

    pub(super) fn sync(&mut self) -> Result<(), DevError> {
        self.directory.save_manifest()
    }

    pub(super) fn bundle_path(&self) -> PathBuf {
        self.directory.path(BUNDLE)
    }

    pub(super) fn svid_directory(&self, name: &str) -> PathBuf {
        self.directory.path(SVIDS).join(name)
    }
}

/// When two thirds of a life are over.
fn due(not_before: SystemTime, not_after: SystemTime) -> SystemTime {
    let life = not_after
        .duration_since(not_before)
        .unwrap_or(Duration::ZERO);
    not_before + life * 2 / 3
}

fn read_ca(
    directory: &Directory,
    expected: &TrustDomain,
) -> Result<Option<(CertificateAuthority, String)>, DevError> {
    let bundle = directory.read(BUNDLE)?;
    let key = directory.read(CA_KEY)?;
    let (Some(bundle), Some(key)) = (bundle, key) else {
        return Ok(None);
    };
    let (bundle, key) = (
        String::from_utf8_lossy(&bundle).into_owned(),
        String::from_utf8_lossy(&key).into_owned(),
    );
    let path = directory.path(BUNDLE);
    match CertificateAuthority::from_pem(bundle.as_bytes(), &key) {
        Ok(ca) if ca.trust_domain() != expected => Err(DevError::OtherTrustDomain {
            path,
            found: ca.trust_domain().clone(),
            expected: expected.clone(),
        }),
        Ok(ca) => Ok(Some((ca, bundle))),
        // Both files are ours, so a pair that does not fit is what a crash left behind.
        Err(CaError::KeyMismatch) => Ok(None),
        Err(source) => Err(DevError::Ca { path, source }),
    }
}

/// Makes a CA; `trusted` are the authorities that stay in the bundle behind it.
fn make_ca(
    directory: &mut Directory,
    trust_domain: &TrustDomain,
    trusted: &str,
    now: SystemTime,
) -> Result<(CertificateAuthority, String), DevError> {
    let path = directory.path(BUNDLE);
    let ca = CertificateAuthority::create(trust_domain, CA_LIFETIME, now)
        .map_err(|source| DevError::Ca { path, source })?;
    let bundle = ca.certificate_pem() + trusted;
    // The bundle is looked at first, so that a foreign one is found before anything is written.
    directory.read(BUNDLE)?;
    directory.write(CA_KEY, ca.key_pem().as_bytes())?;
    directory.write(BUNDLE, bundle.as_bytes())?;
    Ok((ca, bundle))
}

/// Names become folders: no separators, no dots, nothing hidden.
fn check_name(name: &str) -> Result<(), DevError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    if name.is_empty() || !name.chars().all(allowed) {
        return Err(DevError::Name(name.to_owned()));
    }
    Ok(())
}
