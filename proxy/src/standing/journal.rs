//! Keeps what is known against principals in a file of the state directory, so that a restart
//! forgets nothing: one change a line, appended and synced in batches.

use std::io;
use std::path::Path;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use wayleave_authz::signals::{Change, Principals};

use super::now_ms;
use crate::state_file::{StateFile, StateFileError};

/// The file's name in the state directory.
const NAME: &str = "standing.jsonl";

/// Where changes are written. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Journal {
    lines: mpsc::UnboundedSender<Line>,
}

#[derive(Debug)]
enum Line {
    Change(Vec<u8>),
    /// Tells when everything before it is on disk.
    Sync(oneshot::Sender<Result<(), Arc<io::Error>>>),
}

/// Why the journal cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum JournalError {
    /// The file or its folder cannot be used.
    #[error(transparent)]
    File(#[from] StateFileError),
    /// A line is no change.
    #[error(
        "line {line} of `{path}` is not a change that this version knows; correct it, or move \
         the file away to forget every quarantine, revocation and rating"
    )]
    Line {
        path: String,
        line: usize,
        #[source]
        source: serde_json::Error,
    },
    /// A write failed.
    #[error("the journal in signals.state_dir cannot be written")]
    Write(#[source] Arc<io::Error>),
    /// The writer is gone.
    #[error("the sidecar is stopping")]
    Stopped,
}

impl Journal {
    /// Opens the journal of a state directory, which is made if it is missing, and reads what it
    /// remembers. What has no effect any more is left out, and not kept.
    ///
    /// # Errors
    /// When it cannot be read, or written.
    pub(crate) fn open(folder: &Path) -> Result<(Self, Vec<Change>), JournalError> {
        let (file, text) = StateFile::open(folder, NAME)?;
        let changes = in_effect(&parse(&text, file.path())?);
        let replaced = lines_of(&changes).and_then(|text| file.replace(&text));
        replaced.map_err(|error| file.unusable(error))?;
        let (lines, waiting) = mpsc::unbounded_channel();
        let writer = Writer {
            file: file.clone(),
            failing: false,
        };
        std::thread::Builder::new()
            .name("standing".to_owned())
            .spawn(move || writer.run(waiting))
            .map_err(|error| file.unusable(error))?;
        Ok((Self { lines }, changes))
    }

    /// Writes a change, soon.
    pub(super) fn write(&self, change: &Change) {
        // Strings and numbers: there is nothing here that JSON cannot say.
        let mut line = serde_json::to_vec(change).unwrap_or_default();
        line.push(b'\n');
        // It fails only when the process ends.
        let _ = self.lines.send(Line::Change(line));
    }

    /// Completes when everything before is on disk.
    ///
    /// # Errors
    /// When some of it is not.
    pub(super) async fn written(&self) -> Result<(), JournalError> {
        let (told, done) = oneshot::channel();
        let sent = self.lines.send(Line::Sync(told));
        sent.map_err(|_| JournalError::Stopped)?;
        let written = done.await.map_err(|_| JournalError::Stopped)?;
        written.map_err(JournalError::Write)
    }
}

/// The fewest changes that leave what these leave.
fn in_effect(changes: &[Change]) -> Vec<Change> {
    let principals = Principals::new(0);
    for change in changes {
        // It fitted in the process that wrote it.
        let _ = principals.apply(change);
    }
    principals.expire(now_ms());
    principals.changes()
}

/// Every change in the text of the file at `path`. A last line that was not written whole is none.
fn parse(text: &[u8], path: &Path) -> Result<Vec<Change>, JournalError> {
    let whole = text
        .iter()
        .rposition(|byte| *byte == b'\n')
        .map_or(0, |at| at + 1);
    if whole < text.len() {
        let path = path.display();
        tracing::warn!(%path, "the last line was not written whole, and is left out");
    }
    let lines = text.get(..whole).unwrap_or_default();
    let lines = lines.split(|byte| *byte == b'\n').enumerate();
    let lines = lines.filter(|(_, line)| !line.is_empty());
    let changes = lines.map(|(index, line)| {
        serde_json::from_slice(line).map_err(|source| JournalError::Line {
            path: path.display().to_string(),
            line: index + 1,
            source,
        })
    });
    changes.collect()
}

fn lines_of(changes: &[Change]) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    for change in changes {
        serde_json::to_writer(&mut text, change)?;
        text.push(b'\n');
    }
    Ok(text)
}

struct Writer {
    file: StateFile,
    failing: bool,
}

impl Writer {
    /// Writes what comes, all that waits at once, until the last journal is dropped.
    fn run(mut self, mut waiting: mpsc::UnboundedReceiver<Line>) {
        while let Some(first) = waiting.blocking_recv() {
            let (mut text, mut asked) = (Vec::new(), Vec::new());
            let mut next = Some(first);
            while let Some(line) = next {
                match line {
                    Line::Change(line) => text.extend(line),
                    Line::Sync(told) => asked.push(told),
                }
                next = waiting.try_recv().ok();
            }
            let written = self.file.append(&text).map_err(Arc::new);
            self.tell(&written);
            for told in asked {
                let _ = told.send(written.clone());
            }
        }
    }

    fn tell(&mut self, written: &Result<(), Arc<io::Error>>) {
        if let Err(error) = written
            && !self.failing
        {
            let path = self.file.path().display();
            tracing::error!(%error, %path, "what is said against principals cannot be written");
        }
        self.failing = written.is_err();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use wayleave_authz::signals::{Origin, Quarantine, Risk, RiskLevel, Scope};

    fn rated(principal: &str, level: RiskLevel) -> Change {
        Change::Rated(Risk {
            principal: principal.into(),
            level,
            origin: origin(),
        })
    }

    fn origin() -> Origin {
        Origin {
            by: "operator".into(),
            reason: None,
            at_ms: 1,
        }
    }

    #[tokio::test]
    async fn what_was_written_is_remembered() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        let (journal, none) = Journal::open(&state).unwrap();
        assert!(none.is_empty());
        let changes = [rated("a", RiskLevel::High), rated("b", RiskLevel::Low)];
        journal.write(&rated("a", RiskLevel::Medium));
        changes.iter().for_each(|change| journal.write(change));
        journal.write(&Change::Quarantined(Quarantine {
            principal: "c".into(),
            scope: Scope::Everything,
            until_ms: now_ms(),
            status: None,
            origin: origin(),
        }));
        journal.written().await.unwrap();
        let lines = || {
            fs::read_to_string(state.join(NAME))
                .unwrap()
                .lines()
                .count()
        };
        assert_eq!(lines(), 4);
        assert_eq!(Journal::open(&state).unwrap().1, changes);
        assert_eq!(lines(), 2);
        assert_eq!(Journal::open(&state).unwrap().1, changes);
    }

    #[test]
    fn a_line_that_was_not_written_whole_is_left_out_and_another_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(NAME);
        let line = serde_json::to_string(&rated("a", RiskLevel::High)).unwrap();
        fs::write(&path, format!("{line}\n{}", &line[..10])).unwrap();
        let (_, remembered) = Journal::open(folder.path()).unwrap();
        assert_eq!(remembered, [rated("a", RiskLevel::High)]);
        fs::write(&path, format!("{line}\nx\n{line}\n")).unwrap();
        let refused = Journal::open(folder.path()).unwrap_err();
        assert!(refused.to_string().starts_with("line 2 of"), "{refused}");
    }
}
