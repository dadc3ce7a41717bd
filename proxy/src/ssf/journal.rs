//! Keeps which tokens were taken in a file of the state directory: one batch of tokens a line,
//! appended and synced before any of them is acknowledged.

use std::io;
use std::path::Path;

use super::ledger::{Entry, Ledger};
use crate::state_file::{StateFile, StateFileError};

/// The file's name in the state directory.
const NAME: &str = "ssf.jsonl";
/// Tokens on one line of a file that was written anew.
const BATCH: usize = 64;
/// Tokens in the file from which on it may be written anew, when half of them are not needed.
const WORTH_IT: usize = 10_000;

/// The file.
#[derive(Debug)]
pub(super) struct Journal {
    file: StateFile,
    /// How many tokens are in it.
    entries: usize,
}

/// Why the journal cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JournalError {
    #[error(transparent)]
    File(#[from] StateFileError),
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
        let (file, text) = StateFile::open(folder, NAME)?;
        let ledger = parse(&text, file.path())?;
        let mut journal = Self { file, entries: 0 };
        let rewritten = journal.rewrite(&ledger, now);
        rewritten.map_err(|error| journal.file.unusable(error))?;
        Ok((journal, ledger))
    }

    /// Writes tokens, which are on disk when this returns; and forgets what is not needed.
    pub(super) fn append(&mut self, batch: &[Entry]) -> io::Result<()> {
        if batch.is_empty() {
            return Ok(());
        }
        self.file.append(&line(batch)?)?;
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
        self.file.replace(&text)?;
        self.entries = entries.len();
        Ok(())
    }
}

fn line(batch: &[Entry]) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(batch)?;
    line.push(b'\n');
    Ok(line)
}

/// What the text of the file at `path` remembers. A last line that was not written whole is none:
/// nobody was told that it was taken.
fn parse(text: &[u8], path: &Path) -> Result<Ledger, JournalError> {
    let mut ledger = Ledger::default();
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
