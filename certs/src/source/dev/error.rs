//! What can go wrong with the development directory, each with what to do about it.

use std::io;
use std::path::PathBuf;

use crate::SvidError;
use crate::bundle::BundleError;
use crate::ca::CaError;

/// Why the development directory cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DevError {
    /// Reading or writing failed.
    #[error("{}: cannot {action}: {source}", path.display())]
    Io {
        /// What was to be done.
        action: &'static str,
        /// To which file or directory.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The path is not a directory.
    #[error("{}: not a directory; choose another with --dir", .0.display())]
    NotADirectory(PathBuf),
    /// The path is a symbolic link.
    #[error("{}: is a symbolic link, which keys are not written through; give the directory itself", .0.display())]
    SymbolicLink(PathBuf),
    /// The directory is somebody else's.
    #[error("{}: belongs to user {owner}, not to you (user {user}); keys are only kept in a directory of your own", path.display())]
    OtherOwner {
        /// The file or directory.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who we are.
        user: u32,
    },
    /// The directory was in use for something else and others may look into it.
    #[error("{}: holds other files and is open to other users (mode {mode:03o}); choose an empty directory with --dir, or `chmod 700` it", path.display())]
    OpenDirectory {
        /// The directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A file stands where one is to be written, and is not ours.
    #[error("{}: was not written by `wayleave dev`, or was changed since; it is left alone. Move it away, or choose another directory with --dir", .0.display())]
    Foreign(PathBuf),
    /// The list of what was written here cannot be read.
    #[error("{}: line {line} is not `<sha256>  <file>`; it lists what `wayleave dev` has written. Move the directory away to start afresh", path.display())]
    Manifest {
        /// The list.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// The CA in the directory is that of another trust domain.
    #[error("{}: holds the CA of trust domain `{found}`, not of `{expected}`; choose another directory with --dir", path.display())]
    OtherTrustDomain {
        /// The CA's certificate.
        path: PathBuf,
        /// The trust domain that it speaks for.
        found: wayleave_identity::TrustDomain,
        /// The one that is wanted.
        expected: wayleave_identity::TrustDomain,
    },
    /// Somebody listens on the Workload API's socket.
    #[error("{}: another `wayleave dev` serves the Workload API there; end it, or choose another directory with --dir", .0.display())]
    SocketInUse(PathBuf),
    /// A workload's name cannot be that of a folder.
    #[error("`{0}` cannot be the name of a folder; use letters, digits, `-` and `_`")]
    Name(String),
    /// The CA cannot be used or will not issue.
    #[error("{}: {source}", path.display())]
    Ca {
        /// The file of the CA or the SVID that was to be issued.
        path: PathBuf,
        /// What is wrong.
        source: CaError,
    },
    /// An SVID that was written cannot be used.
    #[error("{}: {source}", path.display())]
    Svid {
        /// The certificate.
        path: PathBuf,
        /// What is wrong.
        source: SvidError,
    },
    /// The bundle cannot be used.
    #[error("{}: {source}", path.display())]
    Bundle {
        /// The bundle.
        path: PathBuf,
        /// What is wrong.
        source: BundleError,
    },
}
