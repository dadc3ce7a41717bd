//! The CA's directory: `ca-key.pem`, and `bundle.pem` with the CA's certificate first. The
//! same names as in the directory of `wayleave dev`.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use wayleave_certs::TrustBundle;
use wayleave_certs::ca::CertificateAuthority;
use wayleave_certs::disk::{self, WriteNew};

use super::CaCommandError;

const KEY: &str = "ca-key.pem";
const BUNDLE: &str = "bundle.pem";

/// Mode of directories, which hold keys.
const PRIVATE_DIRECTORY: u32 = 0o700;
/// Mode of private keys.
const PRIVATE: u32 = 0o600;
/// Mode of certificates.
const PUBLIC: u32 = 0o644;

/// A CA as it was read from its directory.
pub(super) struct Opened {
    pub(super) ca: CertificateAuthority,
    /// The CA's own certificate first, then earlier ones that are still trusted.
    pub(super) bundle_pem: Vec<u8>,
}

/// Puts a new CA into a directory, which is made when it is not there.
pub(super) fn create(dir: &Path, ca: &CertificateAuthority) -> Result<(), CaCommandError> {
    const REMEDY: &str = "Choose another directory, or remove the old CA yourself";
    make(dir)?;
    for name in [KEY, BUNDLE] {
        let path = dir.join(name);
        if path.symlink_metadata().is_ok() {
            let remedy = REMEDY;
            return Err(CaCommandError::Exists { path, remedy });
        }
    }
    let key = ca.key_pem();
    write_new(dir.join(KEY), key.as_bytes(), PRIVATE, REMEDY)?;
    let certificate = ca.certificate_pem();
    write_new(dir.join(BUNDLE), certificate.as_bytes(), PUBLIC, REMEDY)
}

/// Reads the CA that is in a directory.
pub(super) fn open(dir: &Path) -> Result<Opened, CaCommandError> {
    let key = read(dir, KEY)?;
    let bundle_pem = read(dir, BUNDLE)?;
    // A key that is not text is no PEM either, and the CA says so.
    let key = String::from_utf8_lossy(&key);
    let ca = CertificateAuthority::from_pem(&bundle_pem, &key).map_err(|source| {
        let dir = dir.to_owned();
        CaCommandError::Unusable { dir, source }
    })?;
    Ok(Opened { ca, bundle_pem })
}

impl Opened {
    /// The trust bundle of the CA's trust domain.
    pub(super) fn bundle(&self, dir: &Path) -> Result<TrustBundle, CaCommandError> {
        let trust_domain = self.ca.trust_domain().clone();
        TrustBundle::from_pem(trust_domain, &self.bundle_pem).map_err(|source| {
            let dir = dir.to_owned();
            CaCommandError::Bundle { dir, source }
        })
    }
}

fn read(dir: &Path, name: &str) -> Result<Vec<u8>, CaCommandError> {
    let path = dir.join(name);
    disk::read(&path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => CaCommandError::NoCa {
            dir: dir.to_owned(),
        },
        _ => CaCommandError::Read { path, source },
    })
}

/// What is handed to a workload.
pub(super) struct Papers<'a> {
    pub(super) certificate: &'a str,
    pub(super) key: &'a str,
    pub(super) bundle: &'a [u8],
}

impl Papers<'_> {
    /// Writes `svid.pem`, `key.pem` and `bundle.pem`, each in one step; with `force` in place
    /// of what is there.
    pub(super) fn write(&self, dir: &Path, force: bool) -> Result<(), CaCommandError> {
        const REMEDY: &str = "Add --force to replace it, or choose another directory";
        make(dir)?;
        let files: [(&str, &[u8], u32); 3] = [
            ("bundle.pem", self.bundle, PUBLIC),
            ("key.pem", self.key.as_bytes(), PRIVATE),
            ("svid.pem", self.certificate.as_bytes(), PUBLIC),
        ];
        let mut paths = files.iter().map(|(name, ..)| dir.join(name));
        if !force && let Some(path) = paths.find(|path| path.symlink_metadata().is_ok()) {
            let remedy = REMEDY;
            return Err(CaCommandError::Exists { path, remedy });
        }
        for (name, bytes, mode) in files {
            let path = dir.join(name);
            if force {
                disk::write_atomic(&path, bytes, mode)
                    .map_err(|source| CaCommandError::Write { path, source })?;
            } else {
                write_new(path, bytes, mode, REMEDY)?;
            }
        }
        Ok(())
    }
}

fn write_new(
    path: PathBuf,
    bytes: &[u8],
    mode: u32,
    remedy: &'static str,
) -> Result<(), CaCommandError> {
    match disk::write_new(&path, bytes, mode) {
        Ok(WriteNew::Created) => Ok(()),
        Ok(WriteNew::Exists) => Err(CaCommandError::Exists { path, remedy }),
        Err(source) => Err(CaCommandError::Write { path, source }),
    }
}

/// Makes a directory that is private from the first moment; one that exists stays as it is.
fn make(dir: &Path) -> Result<(), CaCommandError> {
    let mut builder = DirBuilder::new();
    builder.recursive(true).mode(PRIVATE_DIRECTORY);
    builder.create(dir).map_err(|source| CaCommandError::Write {
        path: dir.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::time::{Duration, SystemTime};

    use super::*;

    fn ca() -> CertificateAuthority {
        let hour = Duration::from_secs(3_600);
        let trust_domain = "shop.example".parse().unwrap();
        CertificateAuthority::create(&trust_domain, hour, SystemTime::now()).unwrap()
    }

    fn mode(path: PathBuf) -> u32 {
        path.metadata().unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn the_key_is_private_and_an_old_ca_is_never_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("new/ca");
        let first = ca();
        create(&dir, &first).unwrap();
        assert_eq!((mode(dir.clone()), mode(dir.join(KEY))), (0o700, 0o600));
        let refused = create(&dir, &ca()).unwrap_err().to_string();
        assert!(refused.contains("ca-key.pem` exists"), "{refused}");
        let opened = open(&dir).unwrap();
        assert_eq!(opened.ca.certificate(), first.certificate());
        assert_eq!(opened.bundle(&dir).unwrap().authorities().len(), 1);
    }

    #[test]
    fn a_directory_without_a_ca_or_with_half_of_two_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("ca");
        let error = |dir: &Path| open(dir).err().unwrap();
        assert!(matches!(error(&dir), CaCommandError::NoCa { .. }));
        create(&dir, &ca()).unwrap();
        std::fs::write(dir.join(BUNDLE), ca().certificate_pem()).unwrap();
        assert!(matches!(error(&dir), CaCommandError::Unusable { .. }));
    }

    #[test]
    fn papers_are_replaced_by_force_alone() {
        let folder = tempfile::tempdir().unwrap();
        let papers = |certificate| Papers {
            certificate,
            key: "key",
            bundle: b"bundle",
        };
        let svid = || std::fs::read_to_string(folder.path().join("svid.pem")).unwrap();
        papers("first").write(folder.path(), false).unwrap();
        assert!(papers("second").write(folder.path(), false).is_err());
        assert_eq!(svid(), "first");
        papers("second").write(folder.path(), true).unwrap();
        assert_eq!(svid(), "second");
        assert_eq!(mode(folder.path().join("key.pem")), 0o600);
    }

    #[test]
    fn nothing_is_written_where_one_of_the_files_exists() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("svid.pem"), "theirs").unwrap();
        let papers = Papers {
            certificate: "ours",
            key: "key",
            bundle: b"bundle",
        };
        assert!(papers.write(folder.path(), false).is_err());
        assert_eq!(folder.path().read_dir().unwrap().count(), 1);
    }
}
