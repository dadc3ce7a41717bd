//! The directory itself: private to its user, no symbolic links, and a memory of what was
//! written into it.

use std::fs::{self, DirBuilder, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use super::error::DevError;
use super::manifest::Manifest;
use crate::disk;

const MANIFEST: &str = "written.sha256";
const DIRECTORY_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// An opened development directory.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    user: u32,
    manifest: Manifest,
    /// The list as it stands on disk.
    saved: String,
}

impl Directory {
    /// Opens the directory, or makes it.
    pub(super) fn open(path: &Path) -> Result<Self, DevError> {
        let found = metadata(path)?;
        if found.is_none() {
            make_directory(path)?;
        }
        check_kind(path)?;
        let user = disk::user_of_new_files(path).map_err(|e| io_error("write into", path, e))?;
        let mut directory = Self {
            path: path.to_owned(),
            user,
            manifest: Manifest::default(),
            saved: String::new(),
        };
        directory.check_owner(path)?;
        directory.read_manifest()?;
        directory.make_private()?;
        Ok(directory)
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Reads a file that was written here; none when there is no file.
    pub(super) fn read(&self, name: &str) -> Result<Option<Vec<u8>>, DevError> {
        let path = self.path(name);
        let Some(found) = metadata(&path)? else {
            return Ok(None);
        };
        if !found.is_file() {
            return Err(DevError::Foreign(path));
        }
        let bytes = disk::read(&path).map_err(|e| io_error("read", &path, e))?;
        if !self.manifest.knows(name, &bytes) {
            return Err(DevError::Foreign(path));
        }
        self.check_owner(&path)?;
        close_to_others(&path, &found, FILE_MODE)?;
        Ok(Some(bytes))
    }

    /// Writes a file, or replaces one that was written here.
    pub(super) fn write(&mut self, name: &str, bytes: &[u8]) -> Result<(), DevError> {
        self.read(name)?;
        self.manifest.announce(name, bytes);
        self.save_manifest()?;
        let path = self.path(name);
        disk::write_atomic(&path, bytes, FILE_MODE).map_err(|e| io_error("write", &path, e))?;
        self.manifest.settle(name, bytes);
        Ok(())
    }

    /// Makes way for a new socket: one that nobody listens on any more is removed.
    pub(super) fn make_way_for_socket(&self, name: &str) -> Result<PathBuf, DevError> {
        let path = self.path(name);
        let Some(found) = metadata(&path)? else {
            return Ok(path);
        };
        if !found.file_type().is_socket() {
            return Err(DevError::Foreign(path));
        }
        self.check_owner(&path)?;
        if UnixStream::connect(&path).is_ok() {
            return Err(DevError::SocketInUse(path));
        }
        fs::remove_file(&path).map_err(|error| io_error("remove the old", &path, error))?;
        Ok(path)
    }

    /// Makes a private folder below the directory, or checks the one that is there.
    pub(super) fn folder(&self, name: &str) -> Result<(), DevError> {
        let path = self.path(name);
        match metadata(&path)? {
            None => make_directory(&path),
            Some(found) => {
                check_kind(&path)?;
                self.check_owner(&path)?;
                close_to_others(&path, &found, DIRECTORY_MODE)
            }
        }
    }

    /// Writes the list of what was written, if it is another than on disk.
    pub(super) fn save_manifest(&mut self) -> Result<(), DevError> {
        let text = self.manifest.to_text();
        if text != self.saved {
            let path = self.path(MANIFEST);
            disk::write_atomic(&path, text.as_bytes(), FILE_MODE)
                .map_err(|e| io_error("write", &path, e))?;
            self.saved = text;
        }
        Ok(())
    }

    fn read_manifest(&mut self) -> Result<(), DevError> {
        let path = self.path(MANIFEST);
        let Some(found) = metadata(&path)? else {
            return Ok(());
        };
        if !found.is_file() {
            return Err(DevError::Foreign(path));
        }
        self.check_owner(&path)?;
        let bytes = disk::read(&path).map_err(|e| io_error("read", &path, e))?;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        self.manifest = Manifest::parse(&text).map_err(|line| DevError::Manifest { path, line })?;
        self.saved = text;
        Ok(())
    }

    /// Closes the directory to others, unless it was in use for something else before.
    fn make_private(&self) -> Result<(), DevError> {
        let found = metadata(&self.path)?.ok_or_else(|| gone(&self.path))?;
        let mode = found.mode() & 0o777;
        let ours = !self.saved.is_empty() || self.is_empty()?;
        if mode & 0o077 != 0 && !ours {
            let path = self.path.clone();
            return Err(DevError::OpenDirectory { path, mode });
        }
        close_to_others(&self.path, &found, DIRECTORY_MODE)
    }

    fn is_empty(&self) -> Result<bool, DevError> {
        let mut entries = fs::read_dir(&self.path).map_err(|e| io_error("list", &self.path, e))?;
        Ok(entries.next().is_none())
    }

    fn check_owner(&self, path: &Path) -> Result<(), DevError> {
        let owner = metadata(path)?.ok_or_else(|| gone(path))?.uid();
        if owner == self.user {
            return Ok(());
        }
        Err(DevError::OtherOwner {
            path: path.to_owned(),
            owner,
            user: self.user,
        })
    }
}

/// Of the path itself: a symbolic link is not followed.
fn metadata(path: &Path) -> Result<Option<Metadata>, DevError> {
    match fs::symlink_metadata(path) {
        Ok(metadata) => Ok(Some(metadata)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io_error("look at", path, error)),
    }
}

fn check_kind(path: &Path) -> Result<(), DevError> {
    let kind = metadata(path)?.ok_or_else(|| gone(path))?.file_type();
    if kind.is_symlink() {
        return Err(DevError::SymbolicLink(path.to_owned()));
    }
    if !kind.is_dir() {
        return Err(DevError::NotADirectory(path.to_owned()));
    }
    Ok(())
}

fn make_directory(path: &Path) -> Result<(), DevError> {
    let made = DirBuilder::new().mode(DIRECTORY_MODE).create(path);
    made.map_err(|error| io_error("make directory", path, error))
}

/// Takes rights from group and others that a private file or directory does not give.
fn close_to_others(path: &Path, found: &Metadata, mode: u32) -> Result<(), DevError> {
    if found.mode() & 0o077 == 0 {
        return Ok(());
    }
    tracing::warn!(path = %path.display(), "was open to other users and is closed to them now");
    fs::set_permissions(path, Permissions::from_mode(mode))
        .map_err(|error| io_error("change the mode of", path, error))
}

fn gone(path: &Path) -> DevError {
    io_error("look at", path, io::ErrorKind::NotFound.into())
}

pub(super) fn io_error(action: &'static str, path: &Path, source: io::Error) -> DevError {
    DevError::Io {
        action,
        path: path.to_owned(),
        source,
    }
}
