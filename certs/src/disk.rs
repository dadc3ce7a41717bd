//! Writing private and public papers to disk: atomically, with their mode from the first byte,
//! and never through a symbolic link.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// The most bytes that are read of a PEM, CRL or bundle file.
pub const MAX_FILE_BYTES: u64 = 4 * 1024 * 1024;

/// What [`write_new`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteNew {
    /// The file was made.
    Created,
    /// There was something by that name; it was not touched.
    Exists,
}

/// Writes a file that does not exist yet, and leaves alone whatever exists by that name.
///
/// # Errors
///
/// When the file cannot be written; what was begun is removed again.
pub fn write_new(path: &Path, bytes: &[u8], mode: u32) -> io::Result<WriteNew> {
    if fs::symlink_metadata(path).is_ok() {
        return Ok(WriteNew::Exists);
    }
    let temporary = write_temporary(path, bytes, mode)?;
    // A hard link never replaces, so that two starts at once cannot overwrite each other.
    let linked = fs::hard_link(&temporary, path);
    fs::remove_file(&temporary)?;
    match linked {
        Ok(()) => Ok(WriteNew::Created),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(WriteNew::Exists),
        Err(error) => Err(error),
    }
}

/// Writes or replaces a file in one step: a reader sees the old bytes or the new ones.
///
/// # Errors
///
/// When the file cannot be written; what was begun is removed again.
pub fn write_atomic(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let temporary = write_temporary(path, bytes, mode)?;
    fs::rename(&temporary, path).inspect_err(|_| {
        let _ = fs::remove_file(&temporary);
    })
}

/// Reads a file of at most [`MAX_FILE_BYTES`].
///
/// # Errors
///
/// When it cannot be read, is not a regular file, or is larger.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    // A FIFO would block the opening for ever, so the kind is looked at first.
    let metadata = fs::metadata(path)?;
    if metadata.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    if !metadata.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?
        .take(MAX_FILE_BYTES + 1)
        .read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(io::Error::other("it is larger than 4 MiB"));
    }
    Ok(bytes)
}

/// Makes a new file beside `path`, with its mode from the start.
fn write_temporary(path: &Path, bytes: &[u8], mode: u32) -> io::Result<PathBuf> {
    let temporary = temporary_name(path)?;
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&temporary)?;
    let written = file
        .write_all(bytes)
        .and_then(|()| file.set_permissions(fs::Permissions::from_mode(mode)))
        .and_then(|()| file.sync_all());
    if let Err(error) = written {
        let _ = fs::remove_file(&temporary);
        return Err(error);
    }
    Ok(temporary)
}

fn temporary_name(path: &Path) -> io::Result<PathBuf> {
    let name = path
        .file_name()
        .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    let mut random = [0_u8; 8];
    aws_lc_rs::rand::fill(&mut random).map_err(|_| io::Error::other("no random bytes"))?;
    let mut temporary = std::ffi::OsString::from(".");
    temporary.push(name);
    temporary.push(format!(".{:016x}.tmp", u64::from_ne_bytes(random)));
    Ok(path.with_file_name(temporary))
}

/// The user that files made in `directory` belong to.
pub(crate) fn user_of_new_files(directory: &Path) -> io::Result<u32> {
    let temporary = write_temporary(&directory.join("owner"), b"", 0o600)?;
    let user = fs::symlink_metadata(&temporary).map(|metadata| metadata.uid());
    fs::remove_file(&temporary)?;
    user
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn write_new_makes_a_file_and_never_touches_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("policy");
        assert_eq!(write_new(&path, b"ours", 0o640).unwrap(), WriteNew::Created);
        assert_eq!(write_new(&path, b"again", 0o640).unwrap(), WriteNew::Exists);
        assert_eq!(fs::read(&path).unwrap(), b"ours");
        assert_eq!(mode(&path), 0o640);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn write_new_does_not_follow_a_dangling_link() {
        let dir = tempfile::tempdir().unwrap();
        let (link, target) = (dir.path().join("link"), dir.path().join("target"));
        std::os::unix::fs::symlink(&target, &link).unwrap();
        assert_eq!(write_new(&link, b"x", 0o600).unwrap(), WriteNew::Exists);
        assert!(!target.exists());
    }

    #[test]
    fn write_atomic_replaces_a_link_and_not_what_it_points_to() {
        let dir = tempfile::tempdir().unwrap();
        let (link, target) = (dir.path().join("link"), dir.path().join("target"));
        fs::write(&target, b"theirs").unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        write_atomic(&link, b"ours", 0o600).unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"theirs");
        assert_eq!(fs::read(&link).unwrap(), b"ours");
        assert_eq!(mode(&link), 0o600);
    }

    #[test]
    fn refuses_to_read_what_is_too_large_or_not_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("large");
        File::create(&path)
            .unwrap()
            .set_len(MAX_FILE_BYTES + 1)
            .unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("4 MiB"));
        assert_eq!(
            read(dir.path()).unwrap_err().kind(),
            io::ErrorKind::IsADirectory
        );
        assert!(read(Path::new("/dev/null")).is_err());
    }
}
