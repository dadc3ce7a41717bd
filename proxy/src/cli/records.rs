//! Decision records as the policy commands read them: a file or standard input, one line at
//! a time, however long it is.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::Path;

use crate::record::replay::{Recorded, ReplayError};

/// The records of one file, with the number of the line that each stands on.
pub(super) struct Records {
    lines: Box<dyn Iterator<Item = (usize, io::Result<String>)>>,
    path: String,
    failure: Option<RecordsError>,
}

/// A file of records that could not be read.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the decision records in `{path}`")]
pub(super) struct RecordsError {
    path: String,
    #[source]
    source: io::Error,
}

impl Records {
    /// Opens a file of records; `-` is standard input.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub(super) fn open(path: &Path) -> Result<Self, RecordsError> {
        let name = path.display().to_string();
        let lines: Box<dyn Iterator<Item = io::Result<String>>> = match path == Path::new("-") {
            true => Box::new(io::stdin().lines()),
            false => match File::open(path) {
                Ok(file) => Box::new(BufReader::new(file).lines()),
                Err(source) => return Err(RecordsError { path: name, source }),
            },
        };
        let lines = Box::new((1..).zip(lines));
        Ok(Self {
            lines,
            path: name,
            failure: None,
        })
    }

    /// What ended the reading early, if something did.
    ///
    /// # Errors
    /// When the file could not be read to its end.
    pub(super) fn finish(self) -> Result<(), RecordsError> {
        self.failure.map_or(Ok(()), Err)
    }
}

impl Iterator for Records {
    type Item = (usize, Result<Recorded, ReplayError>);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (number, line) = self.lines.next()?;
            match line {
                Ok(line) if line.trim().is_empty() => {}
                Ok(line) => return Some((number, Recorded::read(&line))),
                Err(source) => {
                    self.failure = Some(RecordsError {
                        path: self.path.clone(),
                        source,
                    });
                    return None;
                }
            }
        }
    }
}
