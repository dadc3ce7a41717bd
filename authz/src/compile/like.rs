//! Cedar's `like` as a search: a literal start, literals in between, a literal end. Linear in
//! the text, whatever the pattern.

use cedar_policy::pst::PatternElem;
use memchr::memmem::Finder;

/// A compiled pattern. Compares bytes: a literal is whole UTF-8 characters, so it is found in
/// UTF-8 text only where those characters stand.
#[derive(Debug)]
pub(crate) enum Pattern {
    /// No wildcard.
    Exact(Box<str>),
    /// `*`: everything.
    Everything,
    /// `start*`
    Prefix(Box<str>),
    /// `start*between*end`
    Parts(Box<Parts>),
}

#[derive(Debug)]
pub(crate) struct Parts {
    start: Box<str>,
    between: Box<[Finder<'static>]>,
    end: Box<str>,
}

impl Pattern {
    pub(crate) fn new(elements: &[PatternElem]) -> Self {
        let mut literals = vec![String::new()];
        for element in elements {
            match (element, literals.last_mut()) {
                (PatternElem::Char(character), Some(literal)) => literal.push(*character),
                _ => literals.push(String::new()),
            }
        }
        let mut literals = literals.into_iter();
        let start = literals.next().unwrap_or_default().into_boxed_str();
        let Some(end) = literals.next_back() else {
            return Self::Exact(start);
        };
        let between: Box<[_]> = literals
            .filter(|literal| !literal.is_empty())
            .map(|literal| Finder::new(literal.as_bytes()).into_owned())
            .collect();
        match (start.is_empty(), between.is_empty() && end.is_empty()) {
            (true, true) => Self::Everything,
            (false, true) => Self::Prefix(start),
            _ => Self::Parts(Box::new(Parts {
                start,
                between,
                end: end.into_boxed_str(),
            })),
        }
    }

    pub(crate) fn matches(&self, text: &str) -> bool {
        match self {
            Self::Exact(literal) => text == &**literal,
            Self::Everything => true,
            Self::Prefix(start) => text.as_bytes().starts_with(start.as_bytes()),
            Self::Parts(parts) => parts.match_all(text.as_bytes()).is_some(),
        }
    }
}

impl Parts {
    /// Takes the start and the end off, then each literal at its first place: if the pattern
    /// matches at all, it matches so.
    fn match_all(&self, text: &[u8]) -> Option<()> {
        let text = text.strip_prefix(self.start.as_bytes())?;
        let mut text = text.strip_suffix(self.end.as_bytes())?;
        for literal in &self.between {
            let found = literal.find(text)?;
            text = text.get(found + literal.needle().len()..)?;
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pattern(text: &str) -> Vec<PatternElem> {
        let element = |character| match character {
            '*' => PatternElem::Wildcard,
            other => PatternElem::Char(other),
        };
        text.chars().map(element).collect()
    }

    /// The definition, by recursion.
    fn defined(pattern: &[PatternElem], text: &[char]) -> bool {
        match (pattern.split_first(), text.split_first()) {
            (None, None) => true,
            (Some((PatternElem::Wildcard, rest)), None) => defined(rest, text),
            (Some((PatternElem::Wildcard, rest)), Some((_, shorter))) => {
                defined(rest, text) || defined(pattern, shorter)
            }
            (Some((PatternElem::Char(c), rest)), Some((first, shorter))) => {
                c == first && defined(rest, shorter)
            }
            _ => false,
        }
    }

    #[test]
    fn known_cases() {
        for (like, text, expected) in [
            ("", "", true),
            ("", "a", false),
            ("*", "", true),
            ("/a/*", "/a/", true),
            ("/a/*", "/a", false),
            ("*.jpg", "x.jpg", true),
            ("a*a", "a", false),
            ("*a*b*", "xbya", false),
            ("a**b", "ab", true),
        ] {
            let pattern = Pattern::new(&pattern(like));
            assert_eq!(pattern.matches(text), expected, "{text} like {like}");
        }
    }

    proptest! {
        #[test]
        fn agrees_with_the_definition(like in "[ab*é]{0,8}", text in "[abé]{0,10}") {
            let elements = pattern(&like);
            let text_chars: Vec<char> = text.chars().collect();
            prop_assert_eq!(
                Pattern::new(&elements).matches(&text),
                defined(&elements, &text_chars)
            );
        }
    }
}
