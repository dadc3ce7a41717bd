//! What is wrong with a source file, where, and what to write instead. Problems are
//! collected, so that a user meets all of them at once.

use std::{fmt, ops::Range, path::Path, sync::Arc};

use miette::{Diagnostic, LabeledSpan, NamedSource, SourceCode};

/// The text of a file as problems point into it.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    name: Arc<str>,
    text: Arc<str>,
}

impl Source {
    pub(crate) fn new(name: &str, text: &str) -> Self {
        Self {
            name: name.into(),
            text: text.into(),
        }
    }

    pub(crate) fn name(&self) -> &Arc<str> {
        &self.name
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Line and column of a byte offset, both counted from 1, columns in characters.
    pub(crate) fn place(&self, offset: usize) -> (usize, usize) {
        let before = self.text.get(..offset).unwrap_or(&self.text);
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let line = before.matches('\n').count() + 1;
        let column = before
            .get(line_start..)
            .map_or(0, |line| line.chars().count())
            + 1;
        (line, column)
    }

    /// A problem at this byte range.
    pub(crate) fn problem(&self, span: Range<usize>, message: impl Into<String>) -> Problem {
        let (line, column) = self.place(span.start);
        Problem {
            file: Arc::clone(&self.name),
            place: Some(Box::new(Place {
                line,
                column,
                span,
                source: NamedSource::new(&*self.name, Arc::clone(&self.text)),
            })),
            message: message.into(),
            help: None,
        }
    }
}

/// One mistake in one file.
#[derive(Clone, Debug)]
pub struct Problem {
    file: Arc<str>,
    place: Option<Box<Place>>,
    message: String,
    help: Option<String>,
}

#[derive(Clone, Debug)]
struct Place {
    line: usize,
    column: usize,
    span: Range<usize>,
    source: NamedSource<Arc<str>>,
}

impl Problem {
    /// A problem of a whole file, such as one that cannot be read.
    pub(crate) fn of_file(file: &Path, message: impl Into<String>) -> Self {
        Self {
            file: file.display().to_string().into(),
            place: None,
            message: message.into(),
            help: None,
        }
    }

    pub(crate) fn with_help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// The file, as it was named when it was loaded.
    #[must_use]
    pub fn file(&self) -> &str {
        &self.file
    }

    /// The line, counted from 1; none where the whole file is at fault.
    #[must_use]
    pub fn line(&self) -> Option<usize> {
        self.place.as_ref().map(|place| place.line)
    }

    /// The column in characters, counted from 1.
    #[must_use]
    pub fn column(&self) -> Option<usize> {
        self.place.as_ref().map(|place| place.column)
    }

    /// What is wrong, without the place.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What to do about it.
    #[must_use]
    pub fn help_text(&self) -> Option<&str> {
        self.help.as_deref()
    }

    /// The offending text.
    #[must_use]
    pub fn excerpt(&self) -> Option<&str> {
        let place = self.place.as_ref()?;
        place.source.inner().get(place.span.clone())
    }

    /// Sorts by file, then by place.
    fn order(&self) -> (&str, usize) {
        let start = self.place.as_ref().map_or(0, |place| place.span.start);
        (&self.file, start)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.file)?;
        if let Some(place) = &self.place {
            write!(f, ":{}:{}", place.line, place.column)?;
        }
        write!(f, ": {}", self.message)
    }
}

impl std::error::Error for Problem {}

impl Diagnostic for Problem {
    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.help
            .as_ref()
            .map(|help| Box::new(help) as Box<dyn fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.place
            .as_ref()
            .map(|place| &place.source as &dyn SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let place = self.place.as_ref()?;
        let label = LabeledSpan::new_with_span(None, place.span.clone());
        Some(Box::new(std::iter::once(label)))
    }
}

/// All that is wrong with what was to be loaded: never empty.
#[derive(Clone, Debug)]
pub struct LoadErrors(Vec<Problem>);

impl LoadErrors {
    /// `value` if there are no problems, otherwise all of them, ordered by file and place.
    pub(crate) fn none_or<T>(mut problems: Vec<Problem>, value: T) -> Result<T, Self> {
        if problems.is_empty() {
            return Ok(value);
        }
        problems.sort_by(|a, b| a.order().cmp(&b.order()));
        Err(Self(problems))
    }

    /// The problems, ordered by file and place.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.0
    }
}

impl From<Problem> for LoadErrors {
    fn from(problem: Problem) -> Self {
        Self(vec![problem])
    }
}

/// One line for each problem.
impl fmt::Display for LoadErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            fmt::Display::fmt(problem, f)?;
        }
        Ok(())
    }
}

impl std::error::Error for LoadErrors {}

impl Diagnostic for LoadErrors {
    fn related<'a>(&'a self) -> Option<Box<dyn Iterator<Item = &'a dyn Diagnostic> + 'a>> {
        Some(Box::new(
            self.0.iter().map(|problem| problem as &dyn Diagnostic),
        ))
    }
}

/// The candidate that `word` was probably meant to be.
pub(crate) fn did_you_mean<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let furthest = (word.chars().count() / 3).clamp(1, 3);
    candidates
        .into_iter()
        .map(|candidate| (edits(word, candidate), candidate))
        .filter(|(distance, _)| *distance <= furthest)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// The number of characters to insert, delete, replace or swap with the next one.
fn edits(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    let mut previous: Vec<usize> = Vec::new();
    let mut last = None;
    for (index, character) in from.chars().enumerate() {
        let mut next = vec![index + 1];
        for (column, target) in to.iter().enumerate() {
            let at = |row: &[usize], index: usize| row.get(index).copied().unwrap_or(usize::MAX);
            let replaced = at(&row, column) + usize::from(character != *target);
            let moved = at(&row, column + 1).min(at(&next, column)) + 1;
            let swapped = match column.checked_sub(1).and_then(|before| to.get(before)) {
                Some(before) if Some(*target) == last && *before == character => {
                    at(&previous, column - 1).saturating_add(1)
                }
                _ => usize::MAX,
            };
            next.push(replaced.min(moved).min(swapped));
        }
        previous = std::mem::replace(&mut row, next);
        last = Some(character);
    }
    row.last().copied().unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_count_lines_and_characters_from_one() {
        let source = Source::new("p", "ab\ncé f");
        assert_eq!(source.place(0), (1, 1));
        assert_eq!(source.place(3), (2, 1));
        assert_eq!(source.place(7), (2, 4));
        assert_eq!(source.place(99), (2, 5));
    }

    #[test]
    fn a_slip_of_the_fingers_is_recognised_and_a_stranger_is_not() {
        let known = ["reason", "status", "mode"];
        assert_eq!(did_you_mean("raeson", known), Some("reason"));
        assert_eq!(did_you_mean("statu", known), Some("status"));
        assert_eq!(did_you_mean("owner", known), None);
    }
}
