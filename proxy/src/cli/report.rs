//! Tells a user's mistakes: each with its place, the offending text and the remedy.

use std::error::Error;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use miette::{Diagnostic, GraphicalReportHandler, GraphicalTheme};

use super::{FAILED, USAGE};

/// The shape of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// Prints one line about a mistake, causes included, and answers with the exit status for it.
pub(crate) fn mistake(what: &dyn Error) -> ExitCode {
    eprintln!("wayleave: {}", chain(what));
    ExitCode::from(USAGE)
}

/// Prints an answer on standard output, and answers with the exit status.
pub(crate) fn say(text: &str) -> ExitCode {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read this has gone; there is nobody left to tell.
        Err(_) => ExitCode::from(FAILED),
    }
}

/// An error and its causes on one line; a cause that the text tells already is not repeated.
pub(crate) fn chain(what: &dyn Error) -> String {
    let mut line = what.to_string();
    let mut cause = what.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !line.contains(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
        cause = error.source();
    }
    line
}

/// Prints problems that have a place in a file, and answers with the exit status for them.
pub(crate) fn problems<'a>(problems: impl Iterator<Item = &'a dyn Diagnostic>) -> ExitCode {
    let color = wants_color(&std::io::stderr());
    let mut found = 0;
    for problem in problems {
        eprint!("{}", render(problem, color));
        found += 1;
    }
    if found > 1 {
        eprintln!("{}", count(found, "problem", "problems"));
    }
    ExitCode::from(USAGE)
}

/// A problem with its place drawn under the offending text, and its remedy; one line when it
/// has no text to point into.
pub(crate) fn render(problem: &dyn Diagnostic, color: bool) -> String {
    if problem.source_code().is_none() {
        return match problem.help() {
            Some(help) => format!("wayleave: {problem}; {help}\n"),
            None => format!("wayleave: {problem}\n"),
        };
    }
    let theme = match color {
        true => GraphicalTheme::unicode(),
        false => GraphicalTheme::unicode_nocolor(),
    };
    let mut text = String::new();
    match GraphicalReportHandler::new_themed(theme).render_report(&mut text, problem) {
        Ok(()) => text,
        Err(_) => format!("{problem}\n"),
    }
}

/// Whether a person reads this stream and has not asked for plain text (`NO_COLOR`).
pub(crate) fn wants_color(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// A text that may hold a stranger's words, with everything escaped that would steer a terminal.
pub(crate) fn harmless(text: &str) -> String {
    let mut told = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '"' | '\'' | '\\' => told.push(character),
            _ => told.extend(character.escape_debug()),
        }
    }
    told
}

/// A number with its noun.
pub(crate) fn count(number: usize, one: &str, many: &str) -> String {
    match number {
        1 => format!("1 {one}"),
        _ => format!("{number} {many}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot start")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn a_strangers_words_do_not_steer_the_terminal() {
        assert_eq!(
            harmless("it's \"a\\b\": \u{1b}[31m\u{9b}\u{202e}\n"),
            "it's \"a\\b\": \\u{1b}[31m\\u{9b}\\u{202e}\\n"
        );
    }

    #[test]
    fn tells_the_whole_chain_once() {
        let outer = Outer(std::io::Error::other("no such thing"));
        assert_eq!(chain(&outer), "cannot start: no such thing");
    }
}
