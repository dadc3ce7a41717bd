//! Reads policy files, entities files and folders of them. The only place in this crate that touches the disk, and
//! only when it is called.

use std::{
    fs,
    io::Read as _,
    path::{Path, PathBuf},
};

use crate::problem::{LoadErrors, Problem, Source};

/// No file of policies that a person writes is larger.
const LARGEST_FILE: u64 = 8 * 1024 * 1024;

/// The name and text of one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyFile {
    /// What problems and explanations call it: its path. A name that ends in `.cedar` is that
    /// of a file with policies; every other is that of an entities file.
    pub name: String,
    /// Cedar policies, or entities in YAML or JSON.
    pub text: String,
}

impl PolicyFile {
    pub(crate) fn holds_policies(&self) -> bool {
        self.name.ends_with(".cedar")
    }
}

/// Reads the files named, and from the folders named every file of policies, `*.cedar`, and
/// of entities, `entities.yaml` or `*.entities.yaml` (also `.yml` and `.json`), sorted by
/// path.
///
/// # Errors
///
/// Names each path that is missing, unreadable, too large (8 MiB) or not UTF-8, and each
/// named file that is neither.
pub fn read(paths: &[PathBuf]) -> Result<Vec<PolicyFile>, LoadErrors> {
    read_all(paths, &POLICIES)
}

/// Reads the files named, and from the folders named every file of policy tests: `*.yaml`,
/// `*.yml` or `*.json` that is not one of entities, sorted by path.
///
/// # Errors
///
/// As [`read`].
pub fn read_tests(paths: &[PathBuf]) -> Result<Vec<PolicyFile>, LoadErrors> {
    read_all(paths, &TESTS)
}

/// Which files are read.
struct Wanted {
    accepts: fn(&Path) -> bool,
    what: &'static str,
    help: &'static str,
}

const POLICIES: Wanted = Wanted {
    accepts: |path| is_policies(path) || is_entities(path),
    what: "this is not a policy file",
    help: "name files that end in `.cedar` or `entities.yaml`, or the folder they are in",
};

const TESTS: Wanted = Wanted {
    accepts: |path| is_yaml(path) && !is_entities(path),
    what: "this is not a file of policy tests",
    help: "name files that end in `.yaml`, `.yml` or `.json`, or the folder they are in",
};

fn read_all(paths: &[PathBuf], wanted: &Wanted) -> Result<Vec<PolicyFile>, LoadErrors> {
    let mut problems = Vec::new();
    let mut files = list(paths, wanted, &mut problems);
    files.sort();
    files.dedup();
    let read = files
        .iter()
        .filter_map(|path| match read_text(path) {
            Ok(text) => Some(PolicyFile {
                name: path.display().to_string(),
                text,
            }),
            Err(problem) => {
                problems.push(problem);
                None
            }
        })
        .collect();
    LoadErrors::none_or(problems, read)
}

fn list(paths: &[PathBuf], wanted: &Wanted, problems: &mut Vec<Problem>) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for path in paths {
        match fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => match list_folder(path, wanted) {
                Ok(found) => files.extend(found),
                Err(problem) => problems.push(problem),
            },
            Ok(_) if (wanted.accepts)(path) => files.push(path.clone()),
            Ok(_) => problems.push(Problem::of_file(path, wanted.what).with_help(wanted.help)),
            Err(error) => problems.push(
                Problem::of_file(path, format!("cannot be read: {error}"))
                    .with_help("check the path and its permissions"),
            ),
        }
    }
    files
}

fn list_folder(folder: &Path, wanted: &Wanted) -> Result<Vec<PathBuf>, Problem> {
    let refused = |error: std::io::Error| {
        Problem::of_file(folder, format!("cannot be listed: {error}"))
            .with_help("check the permissions of the folder")
    };
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(refused)? {
        let path = entry.map_err(refused)?.path();
        // Through symlinks: a mounted ConfigMap is made of them.
        if (wanted.accepts)(&path) && path.is_file() {
            files.push(path);
        }
    }
    Ok(files)
}

fn file_name(path: &Path) -> &str {
    path.file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default()
}

fn is_policies(path: &Path) -> bool {
    file_name(path).ends_with(".cedar")
}

/// The name without the ending of a YAML or JSON file.
fn yaml_stem(path: &Path) -> Option<&str> {
    [".yaml", ".yml", ".json"]
        .into_iter()
        .find_map(|extension| file_name(path).strip_suffix(extension))
}

fn is_yaml(path: &Path) -> bool {
    yaml_stem(path).is_some()
}

fn is_entities(path: &Path) -> bool {
    yaml_stem(path).is_some_and(|stem| stem == "entities" || stem.ends_with(".entities"))
}

/// The text of a file, unless it is too large or not UTF-8.
fn read_text(path: &Path) -> Result<String, Problem> {
    let bytes = read_bounded(path)?;
    if bytes.len() as u64 > LARGEST_FILE {
        let message = format!("is larger than {} MiB", LARGEST_FILE / 1024 / 1024);
        return Err(Problem::of_file(path, message).with_help("split it into several files"));
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let before = error.as_bytes().get(..valid).unwrap_or_default();
        let text = String::from_utf8_lossy(before);
        Source::new(&path.display().to_string(), &text)
            .problem(valid..valid, "the file is not UTF-8 from here on")
            .with_help("save it as UTF-8")
    })
}

/// At most one byte more than is allowed.
fn read_bounded(path: &Path) -> Result<Vec<u8>, Problem> {
    let mut bytes = Vec::new();
    fs::File::open(path)
        .and_then(|file| file.take(LARGEST_FILE + 1).read_to_end(&mut bytes))
        .map_err(|error| {
            Problem::of_file(path, format!("cannot be read: {error}"))
                .with_help("check the path and its permissions")
        })?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_gives_its_policies_and_entities_sorted() {
        let folder = tempfile::tempdir().unwrap();
        for name in [
            "b.cedar",
            "a.cedar",
            "README.md",
            ".c.cedar.swp",
            "x.yaml",
            "entities.yaml",
        ] {
            fs::write(folder.path().join(name), name).unwrap();
        }
        let files = read(&[folder.path().to_owned()]).unwrap();
        let texts: Vec<_> = files.iter().map(|file| file.text.as_str()).collect();
        assert_eq!(texts, ["a.cedar", "b.cedar", "entities.yaml"]);
    }

    #[test]
    fn a_file_named_twice_is_read_once() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.cedar");
        fs::write(&file, "").unwrap();
        assert_eq!(read(&[folder.path().to_owned(), file]).unwrap().len(), 1);
    }

    #[test]
    fn all_unreadable_paths_are_told_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let text = folder.path().join("policy.txt");
        fs::write(&text, "").unwrap();
        let binary = folder.path().join("binary.cedar");
        fs::write(&binary, b"permit\n(\xff").unwrap();
        let errors = read(&[folder.path().join("missing"), text, binary]).unwrap_err();
        let told = errors.to_string();
        assert_eq!(errors.problems().len(), 3, "{told}");
        assert!(told.contains("missing: cannot be read"), "{told}");
        assert!(
            told.contains("policy.txt: this is not a policy file"),
            "{told}"
        );
        assert!(
            told.contains("binary.cedar:2:2: the file is not UTF-8"),
            "{told}"
        );
    }

    #[test]
    fn refuses_a_file_larger_than_the_limit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("big.cedar");
        fs::File::create(&path).unwrap().set_len(100 << 20).unwrap();
        let errors = read(&[path]).unwrap_err().to_string();
        assert!(errors.contains("larger than 8 MiB"), "{errors}");
    }
}
