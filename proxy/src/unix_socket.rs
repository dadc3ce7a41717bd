//! Unix sockets by which one's own processes are spoken to: made for the owner alone, in place of
//! one that a dead process has left.

use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;

use tokio::net::{UnixListener, UnixStream};

/// Binds a socket that the owner and root can connect to; the inner error is the system's.
///
/// # Errors
/// [`InTheWay`] when something that is no socket is there.
pub(crate) fn bind(path: &Path) -> Result<io::Result<UnixListener>, InTheWay> {
    match std::fs::symlink_metadata(path) {
        Ok(file) if file.file_type().is_socket() => {
            let _ = std::fs::remove_file(path);
        }
        Ok(_) => return Err(InTheWay),
        Err(_) => {}
    }
    Ok(UnixListener::bind(path).and_then(|listener| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        Ok(listener)
    }))
}

/// Something that is no socket is where one is to be.
#[derive(Debug)]
pub(crate) struct InTheWay;

/// The user at the other end, if it is ours or root.
///
/// SECURITY: the file's mode keeps others out already; this holds where the folder was mounted
/// with modes ignored, or the mode was changed.
///
/// # Errors
/// When it is another user, or the system does not say.
pub(crate) fn same_user(stream: &UnixStream) -> io::Result<u32> {
    let (theirs, ours) = (
        stream.peer_cred()?.uid(),
        rustix::process::geteuid().as_raw(),
    );
    if is_trusted(theirs, ours) {
        return Ok(theirs);
    }
    Err(io::Error::new(
        io::ErrorKind::PermissionDenied,
        format!("user {theirs} asks, and we are user {ours}"),
    ))
}

fn is_trusted(user: u32, own: u32) -> bool {
    user == own || user == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rejects_another_user() {
        assert!(is_trusted(1000, 1000));
        assert!(is_trusted(0, 1000));
        assert!(!is_trusted(1001, 1000));
        assert!(!is_trusted(1000, 0));
    }
}
