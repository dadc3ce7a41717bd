//! Finds where policies and their annotations stand in a file, so that problems and
//! explanations can point at them. Knows only comments, strings, `;`, `@` and `(`; what the
//! text means is for Cedar's own parser.

use std::ops::Range;

/// Where one annotation stands in the text of its policy.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct AnnotationSpan {
    /// The name, without its `@`.
    pub(super) name: Range<usize>,
    /// From `@` to the closing parenthesis.
    pub(super) whole: Range<usize>,
}

/// One lexical piece that matters here.
enum Piece {
    Blank,
    Text,
    Mark(u8),
}

/// Steps over comments and strings. Works on bytes: every byte it looks for is ASCII, and no
/// byte of a longer UTF-8 sequence is.
struct Scanner<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Scanner<'a> {
    fn new(text: &'a str) -> Self {
        Self {
            bytes: text.as_bytes(),
            at: 0,
        }
    }

    fn peek(&self, ahead: usize) -> Option<u8> {
        self.bytes.get(self.at + ahead).copied()
    }

    /// The next piece and where it stands.
    fn next(&mut self) -> Option<(Piece, Range<usize>)> {
        let start = self.at;
        let piece = match self.peek(0)? {
            b'/' if self.peek(1) == Some(b'/') => {
                self.skip_line();
                Piece::Blank
            }
            b'"' => {
                self.skip_string();
                Piece::Text
            }
            byte if byte.is_ascii_whitespace() => {
                self.at += 1;
                Piece::Blank
            }
            byte @ (b';' | b'@' | b'(' | b')') => {
                self.at += 1;
                Piece::Mark(byte)
            }
            _ => {
                self.at += 1;
                Piece::Text
            }
        };
        Some((piece, start..self.at))
    }

    fn skip_line(&mut self) {
        while self.peek(0).is_some_and(|byte| byte != b'\n') {
            self.at += 1;
        }
    }

    fn skip_string(&mut self) {
        self.at += 1;
        while let Some(byte) = self.peek(0) {
            self.at += if byte == b'\\' { 2 } else { 1 };
            if byte == b'"' {
                break;
            }
        }
        self.at = self.at.min(self.bytes.len());
    }

    fn skip_blank(&mut self) {
        let mut before = self.at;
        while let Some((Piece::Blank, _)) = self.next() {
            before = self.at;
        }
        self.at = before;
    }

    fn word(&mut self) -> Range<usize> {
        let start = self.at;
        while self
            .peek(0)
            .is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        {
            self.at += 1;
        }
        start..self.at
    }
}

/// The byte ranges of the policies in a file: each from its first token to its `;`. What
/// stands after the last `;` and is not blank is a piece of its own, for the parser to refuse.
pub(super) fn policies(text: &str) -> Vec<Range<usize>> {
    let mut scanner = Scanner::new(text);
    let mut found = Vec::new();
    let mut start = None;
    let mut end = 0;
    while let Some((piece, span)) = scanner.next() {
        match piece {
            Piece::Blank => continue,
            Piece::Mark(b';') => {
                found.push(start.take().unwrap_or(span.start)..span.end);
                continue;
            }
            Piece::Text | Piece::Mark(_) => {
                start.get_or_insert(span.start);
            }
        }
        end = span.end;
    }
    found.extend(start.map(|start| start..end));
    found
}

/// Deepest nesting of brackets in a policy.
pub(super) const DEEPEST: usize = 100;
/// Most operators in a policy; commas do not count.
pub(super) const MOST_OPERATORS: usize = 5000;

/// What is too much in a policy for parsers that recurse.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum TooMuch {
    /// Brackets nested too deeply, from here on.
    Nesting(usize),
    /// Too many operators, from here on.
    Operators(usize),
}

/// Whether the policy is within the limits on nesting and length. Cedar's parser and validator
/// recurse over expressions; this must be known before they see one.
pub(super) fn within_limits(policy: &str) -> Result<(), TooMuch> {
    let mut scanner = Scanner::new(policy);
    let (mut depth, mut operators) = (0_usize, 0_usize);
    let mut in_word = false;
    while let Some((_, span)) = scanner.next() {
        let first = policy.as_bytes().get(span.start).copied();
        let was_in_word = std::mem::replace(
            &mut in_word,
            first.is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_'),
        );
        match first {
            Some(b'(' | b'[' | b'{') => depth += 1,
            Some(b')' | b']' | b'}') => depth = depth.saturating_sub(1),
            Some(b'&' | b'|' | b'+' | b'-' | b'*' | b'!' | b'.' | b'=' | b'<' | b'>') => {
                operators += 1;
            }
            Some(b'i' | b'h' | b'l') if !was_in_word => {
                operators += word_operator(policy, span.start)
            }
            _ => {}
        }
        if depth > DEEPEST {
            return Err(TooMuch::Nesting(span.start));
        }
        if operators > MOST_OPERATORS {
            return Err(TooMuch::Operators(span.start));
        }
    }
    Ok(())
}

/// One for `if`, `in`, `is`, `has` and `like`.
fn word_operator(policy: &str, start: usize) -> usize {
    let rest = policy.get(start..).unwrap_or_default();
    let end = rest
        .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .unwrap_or(rest.len());
    let word = rest.get(..end).unwrap_or_default();
    usize::from(["if", "in", "is", "has", "like"].contains(&word))
}

/// The annotations at the head of a policy.
pub(super) fn annotations(policy: &str) -> Vec<AnnotationSpan> {
    let mut scanner = Scanner::new(policy);
    let mut found = Vec::new();
    loop {
        scanner.skip_blank();
        let start = scanner.at;
        let Some((Piece::Mark(b'@'), _)) = scanner.next() else {
            return found;
        };
        scanner.skip_blank();
        let name = scanner.word();
        let mut end = name.end;
        scanner.skip_blank();
        if scanner.peek(0) == Some(b'(') {
            skip_parentheses(&mut scanner);
            end = scanner.at;
        }
        found.push(AnnotationSpan {
            whole: start..end,
            name,
        });
    }
}

fn skip_parentheses(scanner: &mut Scanner<'_>) {
    while let Some((piece, _)) = scanner.next() {
        if matches!(piece, Piece::Mark(b')')) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(text: &str) -> Vec<&str> {
        policies(text).into_iter().map(|span| &text[span]).collect()
    }

    #[test]
    fn a_semicolon_in_a_string_or_a_comment_ends_nothing() {
        let text = "// first; second\n@id(\"a;\\\";\") permit(principal, action, resource); \n\
                    forbid(principal, action, resource) // x;\n;  // end";
        assert_eq!(
            pieces(text),
            [
                "@id(\"a;\\\";\") permit(principal, action, resource);",
                "forbid(principal, action, resource) // x;\n;"
            ]
        );
    }

    #[test]
    fn what_follows_the_last_semicolon_is_a_piece() {
        assert_eq!(pieces("permit(a); forbid( "), ["permit(a);", "forbid("]);
        assert_eq!(pieces("  // nothing\n"), Vec::<&str>::new());
        assert_eq!(pieces("\"open"), ["\"open"]);
        assert_eq!(pieces("\"open\\"), ["\"open\\"]);
    }

    #[test]
    fn nesting_and_operators_are_counted_outside_strings() {
        let nested = |depth: usize| format!("{}1{}", "(".repeat(depth), ")".repeat(depth));
        assert_eq!(within_limits(&nested(DEEPEST)), Ok(()));
        assert_eq!(
            within_limits(&nested(DEEPEST + 1)),
            Err(TooMuch::Nesting(DEEPEST))
        );
        let chain = |count: usize| "a in ".repeat(count);
        assert_eq!(within_limits(&chain(MOST_OPERATORS)), Ok(()));
        assert!(within_limits(&chain(MOST_OPERATORS + 1)).is_err());
        assert_eq!(within_limits(&format!("\"{}\"", "(".repeat(500))), Ok(()));
        assert_eq!(within_limits(&"inner ".repeat(5000)), Ok(()));
    }

    #[test]
    fn annotations_are_found_with_their_values() {
        let text = "@id(\"a(b)\") // why\n @ mode ( \"audit\" ) @shadow permit(x);";
        let found: Vec<_> = annotations(text)
            .into_iter()
            .map(|span| (&text[span.name], &text[span.whole]))
            .collect();
        assert_eq!(
            found,
            [
                ("id", "@id(\"a(b)\")"),
                ("mode", "@ mode ( \"audit\" )"),
                ("shadow", "@shadow"),
            ]
        );
    }
}
