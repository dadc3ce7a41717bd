//! The list of what was written into the development directory, in the form of `sha256sum`.
//!
//! It is how a file of ours is told from one that somebody else put there. While a file is
//! being replaced both its old and its new digest are listed, so that a crash in between
//! leaves a file that is still known.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::svid::hex;
use crate::verify::sha256;

/// Digests by file name, relative to the directory.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Manifest {
    digests: BTreeMap<String, Vec<String>>,
}

impl Manifest {
    /// Reads the list; the error is the number of the first line that is not an entry.
    pub(super) fn parse(text: &str) -> Result<Self, usize> {
        let mut manifest = Self::default();
        for (number, line) in (1..).zip(text.lines()) {
            let (digest, name) = line.split_once("  ").ok_or(number)?;
            let is_hex = digest.bytes().all(|b| b.is_ascii_hexdigit());
            if digest.len() != 64 || !is_hex || name.is_empty() {
                return Err(number);
            }
            let digests = manifest.digests.entry(name.to_owned()).or_default();
            digests.push(digest.to_owned());
        }
        Ok(manifest)
    }

    pub(super) fn to_text(&self) -> String {
        let mut text = String::new();
        for (name, digests) in &self.digests {
            for digest in digests {
                // Writing to a string cannot fail.
                let _ = writeln!(text, "{digest}  {name}");
            }
        }
        text
    }

    /// Whether these bytes are what was written under this name.
    pub(super) fn knows(&self, name: &str, bytes: &[u8]) -> bool {
        let digest = hex(&sha256(bytes));
        self.digests.get(name).is_some_and(|d| d.contains(&digest))
    }

    /// Lists bytes that are about to be written, beside what stands there now.
    pub(super) fn announce(&mut self, name: &str, bytes: &[u8]) {
        let digests = self.digests.entry(name.to_owned()).or_default();
        digests.push(hex(&sha256(bytes)));
    }

    /// Lists only these bytes: they have been written.
    pub(super) fn settle(&mut self, name: &str, bytes: &[u8]) {
        let digests = vec![hex(&sha256(bytes))];
        self.digests.insert(name.to_owned(), digests);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_the_old_and_the_new_bytes_until_settled() {
        let mut manifest = Manifest::default();
        manifest.settle("a", b"old");
        manifest.announce("a", b"new");
        assert!(manifest.knows("a", b"old") && manifest.knows("a", b"new"));
        assert_eq!(Manifest::parse(&manifest.to_text()), Ok(manifest.clone()));
        manifest.settle("a", b"new");
        assert!(!manifest.knows("a", b"old"));
        assert!(!manifest.knows("b", b"new"));
    }

    #[test]
    fn refuses_a_list_that_is_not_its_own() {
        let digest = "0".repeat(64);
        let table = [
            ("hello\n".to_owned(), 1),
            (format!("{digest}  a\n{digest} b\n"), 2),
            (format!("{digest}  a\n\n"), 2),
            (format!("{}  a\n", "g".repeat(64)), 1),
        ];
        for (text, line) in table {
            assert_eq!(Manifest::parse(&text), Err(line), "{text}");
        }
    }
}
