//! What is wrong with an identity file, in one line that names the file and the remedy.

use std::io;
use std::path::{Path, PathBuf};

use crate::SvidError;
use crate::bundle::BundleError;
use crate::pem::PemError;
use crate::revocation::RevocationListError;
use crate::verify::VerifyError;

/// A file of the identity that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{}: {problem}", path.display())]
pub struct FileError {
    /// Which file.
    pub path: PathBuf,
    /// What is wrong with it.
    #[source]
    pub problem: FileProblem,
}

/// What is wrong with a file of the identity.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FileProblem {
    /// It is not there.
    #[error("the {role} file does not exist; check the path, or that the issuer has written it")]
    Missing {
        /// What it should hold.
        role: &'static str,
    },
    /// We may not read it.
    #[error("the {role} file may not be read by this user; change its owner or mode")]
    PermissionDenied {
        /// What it should hold.
        role: &'static str,
    },
    /// It cannot be read for another reason.
    #[error("the {role} file cannot be read: {source}")]
    Unreadable {
        /// What it should hold.
        role: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The certificate or the key is not usable.
    #[error("{0}")]
    Svid(#[source] SvidError),
    /// The key is that of another certificate.
    #[error("{source}, which is in {}; write both again from one issuance", certificate.display())]
    KeyMismatch {
        /// Where the certificate is.
        certificate: PathBuf,
        /// Whose it is.
        source: SvidError,
    },
    /// The SVID is over.
    #[error(
        "the SVID of `{id}` expired {seconds} s ago; have the issuer renew it, and check this machine's clock"
    )]
    Expired {
        /// Whose it is.
        id: String,
        /// How long ago.
        seconds: u64,
    },
    /// The SVID is not valid yet.
    #[error(
        "the SVID of `{id}` is only valid in {seconds} s; check the clocks of this machine and of the issuer"
    )]
    NotYetValid {
        /// Whose it is.
        id: String,
        /// In how long.
        seconds: u64,
    },
    /// The bundle is not usable.
    #[error("the trust bundle cannot be used: {0}")]
    Bundle(#[source] BundleError),
    /// The SVID was not issued by an authority of the bundle.
    #[error("the SVID in {} is not one of this trust bundle ({source}); the two files come from different issuers, or one is older", svid.display())]
    SvidNotFromBundle {
        /// Where the SVID is.
        svid: PathBuf,
        /// Why it does not verify.
        source: VerifyError,
    },
    /// The revocation list is not usable.
    #[error("the revocation list cannot be used: {0}")]
    RevocationList(#[source] RevocationListError),
    /// A federated bundle names the SVID's own trust domain.
    #[error(
        "this is listed as the bundle of another trust domain, but `{0}` is the SVID's own; leave it out"
    )]
    OwnTrustDomain(wayleave_identity::TrustDomain),
}

impl FileError {
    pub(super) fn new(path: &Path, problem: FileProblem) -> Self {
        Self {
            path: path.to_owned(),
            problem,
        }
    }

    pub(super) fn io(path: &Path, role: &'static str, source: io::Error) -> Self {
        let problem = match source.kind() {
            io::ErrorKind::NotFound => FileProblem::Missing { role },
            io::ErrorKind::PermissionDenied => FileProblem::PermissionDenied { role },
            _ => FileProblem::Unreadable { role, source },
        };
        Self::new(path, problem)
    }

    /// An SVID is two files: says which of them is meant.
    pub(super) fn svid(certificate: &Path, key: &Path, error: SvidError) -> Self {
        match error {
            SvidError::KeyMismatch { .. } => Self::new(
                key,
                FileProblem::KeyMismatch {
                    certificate: certificate.to_owned(),
                    source: error,
                },
            ),
            SvidError::KeyPem(_) | SvidError::UnusableKey(_) => {
                Self::new(key, FileProblem::Svid(error))
            }
            _ => Self::new(certificate, FileProblem::Svid(error)),
        }
    }

    /// Whether the files may only be out of step for a moment, so that a retry is worth it.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match &self.problem {
            FileProblem::Missing { .. }
            | FileProblem::KeyMismatch { .. }
            | FileProblem::SvidNotFromBundle { .. } => true,
            FileProblem::Svid(SvidError::CertificatePem(error) | SvidError::KeyPem(error))
            | FileProblem::Bundle(BundleError::Pem(error)) => {
                matches!(error, PemError::Empty { .. } | PemError::Broken { .. })
            }
            _ => false,
        }
    }
}
