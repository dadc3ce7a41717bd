//! From a file to a [`Config`], or to all that is wrong with it.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use serde::Deserialize;

use super::problem::{ConfigErrors, Problems, Wrong};
use super::raw::RawConfig;
use super::reader::{NodeReader, Notes};
use super::tree::Tree;
use super::validate::Validator;
use super::{Config, problem};

/// Largest configuration file, in bytes.
const MAX_BYTES: u64 = 1 << 20;

/// Reads and validates the configuration file at `path`.
///
/// # Errors
///
/// All the problems of the file, each with its place.
pub fn load(path: &Path) -> Result<Config, ConfigErrors> {
    parse_file(path, &text_of(path)?)
}

/// Reads the configuration file at `path`, and does not look into it.
///
/// # Errors
///
/// Why it cannot be read.
pub fn text_of(path: &Path) -> Result<String, ConfigErrors> {
    read(path).or_else(|error| {
        let mut problems = Problems::new(&path.to_string_lossy(), "");
        problems.add_unplaced(unreadable(&error));
        problems.finish(None)
    })
}

/// Validates the `text` of the configuration file at `path`.
///
/// # Errors
///
/// All the problems of the text, each with its place.
pub fn parse_file(path: &Path, text: &str) -> Result<Config, ConfigErrors> {
    let base = path.parent().unwrap_or(Path::new(""));
    parse(&path.to_string_lossy(), text, base)
}

/// Validates the configuration `text`.
///
/// `name` stands for the file in messages; relative paths start from `base`.
///
/// # Errors
///
/// All the problems of the text, each with its place.
pub fn parse(name: &str, text: &str, base: &Path) -> Result<Config, ConfigErrors> {
    let mut problems = Problems::new(name, text);
    let config =
        Tree::read(text, &mut problems).and_then(|tree| config(&tree, base, &mut problems));
    problems.finish(config)
}

fn config(tree: &Tree, base: &Path, problems: &mut Problems) -> Option<Config> {
    let notes = Notes::default();
    let raw = RawConfig::deserialize(NodeReader::new(tree, &notes));
    for (place, wrong) in notes.into_inner() {
        problems.add(&place, wrong);
    }
    match raw {
        Ok(raw) => Validator {
            tree,
            base,
            problems,
        }
        .config(&raw),
        Err(error) => {
            problems.add_unplaced(Wrong::new(problem::quoted(&error.to_string())));
            None
        }
    }
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?
        .take(MAX_BYTES + 1)
        .read_to_string(&mut text)?;
    if text.len() as u64 > MAX_BYTES {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(text)
}

fn unreadable(error: &io::Error) -> Wrong {
    let remedy = match error.kind() {
        io::ErrorKind::NotFound => "name an existing file with `--config`".to_owned(),
        io::ErrorKind::PermissionDenied => {
            "let the user that runs wayleave read the file".to_owned()
        }
        io::ErrorKind::InvalidData => "save the file as UTF-8 text".to_owned(),
        io::ErrorKind::FileTooLarge => format!("keep it below {} MiB", MAX_BYTES >> 20),
        _ => "check the path and the file's permissions".to_owned(),
    };
    Wrong::new(format!("cannot read the configuration: {error}")).help(remedy)
}
