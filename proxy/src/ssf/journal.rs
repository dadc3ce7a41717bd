//! Keeps which tokens were taken in a file of the state directory: one batch of tokens a line,
//! appended and synced before any of them is acknowledged.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use wayleave_certs::disk;

use super::ledger::{Entry, Ledger};

/// The file's name in the state directory.
const NAME: &str = "ssf.jsonl";
/// What would be read at a start, at most.
const LARGEST: u64 = 1 << 30;
/// Tokens on one line of a file that was written anew.
const BATCH: usize = 64;
/// Tokens in the file from which on it may be written anew, when half of them are not needed.
const WORTH_IT: usize = 10_000;

/// The file.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    /// How many tokens are in it.
    entries: usize,
}

/// Why the journal cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JournalError {
    #[error("cannot use `{path}`; check signals.state_dir and its permissions")]
    File {
        path: String,
        #[source]
        source: io::Error,
    },
    #[error(
        "line {line} of `{path}` is not what this version writes; correct it, or move the file \
         away to forget which events were taken"
    )]
    Line {
        path: String,
        line: usize,
        #[source]
        source: serde_json::Error,
    },
}

impl Journal {
    /// Opens the journal of a state directory, which is made if it is missing.
    ///
    /// # Errors
    /// When it cannot be read or written, or has a line that is none, the last one apart.
    pub(super) fn open(folder: &Path, now: u64) -> Result<(Self, Ledger), JournalError> {
        let path = folder.join(NAME);
        let failed = |source| JournalError::File {
            path: path.display().to_string(),
            source,
        };
        fs::create_dir_all(folder).map_err(failed)?;
        let ledger = read(&path)?;
        let mut journal = Self {
            path: path.clone(),
            entries: 0,
        };
        journal.rewrite(&ledger, now).map_err(failed)?;
        Ok((journal, ledger))
    }

    /// Writes tokens, which are on disk when this returns; and forgets what is not needed.
    pub(super) fn append(&mut self, batch: &[Entry]) -> io::Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        // Opened anew each time: another process may have replaced the file.
        let mut file = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&self.path)?;
        let before = file.metadata()?.len();
        let written = file
            .write_all(&line(batch)?)
            .and_then(|()| file.sync_data());
        if written.is_err() {
            // What comes next must not stand behind half a line.
            let _ = file.set_len(before);
        }
        written?;
        self.entries += batch.len();
        Ok(())
    }

    /// Writes the file anew where it has grown far beyond what is needed.
    pub(super) fn compact(&mut self, ledger: &Ledger, now: u64) -> io::Result<()> {
        if self.entries < WORTH_IT || self.entries < ledger.size().saturating_mul(2) {
            return Ok(());
        }
        self.rewrite(ledger, now)
    }

    fn rewrite(&mut self, ledger: &Ledger, now: u64) -> io::Result<()> {
        let entries: Vec<Entry> = ledger.entries(now).collect();
        let mut text = Vec::new();
        for batch in entries.chunks(BATCH) {
            text.extend(line(batch)?);
        }
        disk::write_atomic(&self.path, &text, 0o600)?;
        self.entries = entries.len();
        let folder = self.path.parent();
        folder.map_or(Ok(()), |folder| File::open(folder)?.sync_all())
    }
}

fn line(batch: &[Entry]) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(batch)?;
    line.push(b'\n');
    Ok(line)
}

/// What the file remembers. A last line that was not written whole is none: nobody was told that
/// it was taken.
fn read(path: &Path) -> Result<Ledger, JournalError> {
    let failed = |source| JournalError::File {
        path: path.display().to_string(),
        source,
    };
    let mut ledger = Ledger::default();
    let text = match fs::metadata(path) {
        Ok(found) if found.len() > LARGEST => {
            return Err(failed(io::Error::other("the file is larger than 1 GiB")));
        }
        Ok(_) => fs::read(path).map_err(failed)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(ledger),
        Err(error) => return Err(failed(error)),
    };
    let mut lines = text.split(|byte| *byte == b'\n').enumerate().peekable();
    while let Some((index, line)) = lines.next() {
        if line.is_empty() {
            continue;
        }
        match serde_json::from_slice::<Vec<Entry>>(line) {
            Ok(batch) => batch.iter().for_each(|entry| ledger.restore(entry)),
            Err(_) if lines.all(|(_, rest)| rest.is_empty()) => {
                let path = path.display();
                tracing::warn!(%path, "the last line was not written whole, and is left out");
                break;
            }
            Err(source) => {
                return Err(JournalError::Line {
                    path: path.display().to_string(),
                    line: index + 1,
                    source,
                });
            }
        }
    }
    Ok(ledger)
}
