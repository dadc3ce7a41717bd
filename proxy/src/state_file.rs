//! A file of the state directory to which lines are appended: on disk before anybody is told, and
//! replaced in one step. What the lines say is the affair of who keeps them.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use wayleave_certs::disk;

/// SECURITY: who can write it can lift a quarantine, and who reads it learns who calls whom.
const MODE: u32 = 0o600;
/// What is read at a start, at most.
const LARGEST: u64 = 1 << 30;

/// The file.
#[derive(Debug, Clone)]
pub(crate) struct StateFile(PathBuf);

/// The file or its folder cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot use `{path}`; check signals.state_dir and its permissions")]
pub(crate) struct StateFileError {
    path: String,
    #[source]
    source: io::Error,
}

impl StateFile {
    /// A file of a state directory, which is made if it is missing; and what is in it.
    ///
    /// # Errors
    /// When the folder cannot be made, or the file cannot be read or has more than 1 GiB.
    pub(crate) fn open(folder: &Path, name: &str) -> Result<(Self, Vec<u8>), StateFileError> {
        let file = Self(folder.join(name));
        let made = fs::create_dir_all(folder);
        let text = made.and_then(|()| file.read());
        let text = text.map_err(|source| file.unusable(source))?;
        Ok((file, text))
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Tells that it cannot be used, and why.
    pub(crate) fn unusable(&self, source: io::Error) -> StateFileError {
        StateFileError {
            path: self.0.display().to_string(),
            source,
        }
    }

    /// Appends whole lines, which are on disk when this returns. Of what fails nothing stays: what
    /// comes next must not stand behind half a line.
    ///
    /// # Errors
    /// When the system refuses.
    pub(crate) fn append(&self, lines: &[u8]) -> io::Result<()> {
        if lines.is_empty() {
            return Ok(());
        }
        // Opened anew each time: another process may have replaced the file.
        let mut options = OpenOptions::new();
        let options = options.append(true).create(true).mode(MODE);
        let mut file = options.open(&self.0)?;
        let before = file.metadata()?.len();
        let written = file.write_all(lines).and_then(|()| file.sync_data());
        if written.is_err() {
            let _ = file.set_len(before);
        }
        written
    }

    /// Replaces everything in it, at once or not at all.
    ///
    /// # Errors
    /// When the system refuses.
    pub(crate) fn replace(&self, text: &[u8]) -> io::Result<()> {
        disk::write_atomic(&self.0, text, MODE)?;
        let folder = self.0.parent();
        folder.map_or(Ok(()), |folder| File::open(folder)?.sync_all())
    }

    fn read(&self) -> io::Result<Vec<u8>> {
        match fs::metadata(&self.0) {
            Ok(found) if found.len() > LARGEST => {
                Err(io::Error::other("the file is larger than 1 GiB"))
            }
            Ok(_) => fs::read(&self.0),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn what_was_appended_or_put_in_its_place_is_there_and_for_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        let (file, none) = StateFile::open(&state, "a.jsonl").unwrap();
        assert!(none.is_empty());
        file.append(b"1\n").unwrap();
        file.append(b"2\n").unwrap();
        assert_eq!(StateFile::open(&state, "a.jsonl").unwrap().1, b"1\n2\n");
        for write in [StateFile::replace, StateFile::append] {
            write(&file, b"3\n").unwrap();
            let mode = fs::metadata(file.path()).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        assert_eq!(StateFile::open(&state, "a.jsonl").unwrap().1, b"3\n3\n");
    }
}
