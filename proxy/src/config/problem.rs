//! What is wrong with a configuration file, told so that it can be mended.
//!
//! A [`Problem`] has its place in the text, the offending text and the remedy; [`ConfigErrors`]
//! holds all the problems of one file. Text from the file is escaped and shortened before it is
//! shown, so that a hostile file cannot write control sequences to a terminal or a log.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use miette::{Diagnostic, LabeledSpan, NamedSource, SourceCode, SourceSpan};

use super::secret::masked;

/// Longest piece of a file that a message repeats, in characters.
const QUOTE_CHARS: usize = 80;

/// One mistake in a configuration file.
///
/// Its `Display` is `file:line:column: message`; [`Diagnostic::help`] says what to write instead.
#[derive(Debug, Clone)]
pub struct Problem {
    message: String,
    help: Option<String>,
    place: Option<Range<usize>>,
    source: Arc<NamedSource<String>>,
}

impl Problem {
    /// The file's name as it was given.
    #[must_use]
    pub fn file(&self) -> &str {
        self.source.name()
    }

    /// The line, counted from 1; `None` when the file could not be read at all.
    #[must_use]
    pub fn line(&self) -> Option<usize> {
        self.position().map(|(line, _)| line)
    }

    /// The column in characters, counted from 1; `None` when the file could not be read at all.
    #[must_use]
    pub fn column(&self) -> Option<usize> {
        self.position().map(|(_, column)| column)
    }

    /// What is wrong, without the place.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// What to write instead.
    #[must_use]
    pub fn remedy(&self) -> Option<&str> {
        self.help.as_deref()
    }

    /// `file:line:column: message; remedy`, on one line.
    #[must_use]
    pub fn one_line(&self) -> String {
        match self.remedy() {
            Some(remedy) => format!("{self}; {remedy}"),
            None => self.to_string(),
        }
    }

    fn position(&self) -> Option<(usize, usize)> {
        let start = self.place.as_ref()?.start;
        let before = self.source.inner().get(..start)?;
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let column = before.get(line_start..)?.chars().count();
        Some((before.matches('\n').count() + 1, column + 1))
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&quoted(self.file()))?;
        if let Some((line, column)) = self.position() {
            write!(f, ":{line}:{column}")?;
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
            .map(|_| &*self.source as &dyn SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let span = SourceSpan::from(self.place.clone()?);
        Some(Box::new(std::iter::once(LabeledSpan::underline(span))))
    }
}

/// Every problem of one configuration file, in the order of the file; never empty.
#[derive(Debug, Clone)]
pub struct ConfigErrors {
    problems: Vec<Problem>,
}

impl ConfigErrors {
    /// The problems, in the order of the file.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            f.write_str(&problem.one_line())?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// Collects problems of one file while it is being checked.
#[derive(Debug)]
pub(super) struct Problems {
    source: Arc<NamedSource<String>>,
    found: Vec<Problem>,
}

impl Problems {
    /// A collector for the file `name` with the content `text`.
    pub(super) fn new(name: &str, text: &str) -> Self {
        Self {
            source: Arc::new(NamedSource::new(name, masked(text)).with_language("yaml")),
            found: Vec::new(),
        }
    }

    /// Notes a problem at `place`, a byte range of the text.
    pub(super) fn add(&mut self, place: &Range<usize>, wrong: Wrong) {
        self.push(Some(place.clone()), wrong);
    }

    /// Notes a problem of the file as a whole.
    pub(super) fn add_unplaced(&mut self, wrong: Wrong) {
        self.push(None, wrong);
    }

    fn push(&mut self, place: Option<Range<usize>>, wrong: Wrong) {
        self.found.push(Problem {
            message: wrong.message,
            help: wrong.help,
            place,
            source: Arc::clone(&self.source),
        });
    }

    /// The value, unless problems were found.
    ///
    /// # Errors
    ///
    /// All problems noted so far; one that says so when there is neither value nor problem.
    pub(super) fn finish<T>(mut self, value: Option<T>) -> Result<T, ConfigErrors> {
        match value {
            Some(value) if self.found.is_empty() => return Ok(value),
            // SECURITY: a check that yields nothing and says nothing must not pass as success.
            None if self.found.is_empty() => {
                self.add_unplaced(Wrong::new("the configuration is not valid"));
            }
            _ => {}
        }
        self.found
            .sort_by_key(|problem| problem.place.as_ref().map_or(0, |place| place.start));
        Err(ConfigErrors {
            problems: self.found,
        })
    }
}

/// What is wrong with one value, and the remedy, before its place is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wrong {
    message: String,
    help: Option<String>,
}

impl Wrong {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            help: None,
        }
    }

    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Adds one more way out to what is expected.
    pub(super) fn or(mut self, way: &str) -> Self {
        let told = self.help.as_mut().unwrap_or(&mut self.message);
        told.push_str(", or ");
        told.push_str(way);
        self
    }

    /// Says which key the value belongs to: "`inbound[0].listen`: ...".
    pub(super) fn of(mut self, path: &str) -> Self {
        if !path.is_empty() {
            self.message = format!("`{}`: {}", quoted(path), self.message);
        }
        self
    }
}

/// `text` without passwords, with control characters escaped, and cut to a length that fits a
/// message.
pub(super) fn quoted(text: &str) -> String {
    let text = &*masked(text);
    let mut shown: String = text
        .chars()
        .take(QUOTE_CHARS)
        .flat_map(char::escape_debug)
        .collect();
    shown = shown.replace("\\'", "'").replace("\\\"", "\"");
    if text.chars().nth(QUOTE_CHARS).is_some() {
        shown.push_str("...");
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_told_in_lines_and_characters() {
        let mut problems = Problems::new("w.yaml", "a: 1\né: wrong\n");
        problems.add(&(9..14), Wrong::new("bad value").help("write 2"));
        let errors = problems.finish::<()>(None).unwrap_err();
        assert_eq!(errors.to_string(), "w.yaml:2:4: bad value; write 2");
    }

    #[test]
    fn control_characters_are_escaped_and_long_text_is_cut() {
        assert_eq!(quoted("a\u{1b}[31mb"), "a\\u{1b}[31mb");
        assert_eq!(quoted("it's"), "it's");
        assert!(quoted(&"x".repeat(500)).len() < 100);
    }

    #[test]
    fn neither_value_nor_problem_is_an_error() {
        assert!(Problems::new("w.yaml", "").finish::<()>(None).is_err());
    }

    #[test]
    fn a_place_outside_the_text_does_not_panic() {
        let mut problems = Problems::new("w.yaml", "é");
        problems.add(&(1..90), Wrong::new("odd"));
        let errors = problems.finish::<()>(None).unwrap_err();
        assert_eq!(errors.to_string(), "w.yaml: odd");
    }
}
