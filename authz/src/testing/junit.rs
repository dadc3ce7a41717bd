//! The results as JUnit XML, which CI systems read.

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
};

use super::report::{CaseResult, Report};

impl Report {
    /// The results as a JUnit XML document, a suite for each file.
    #[must_use]
    pub fn junit_xml(&self) -> String {
        let mut suites: BTreeMap<&str, Vec<&CaseResult>> = BTreeMap::new();
        for case in &self.cases {
            suites.entry(&case.file).or_default().push(case);
        }
        let mut xml = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n".to_owned();
        for (file, cases) in suites {
            let failed = cases.iter().filter(|case| !case.passed()).count();
            let (file, tests) = (Escaped(file), cases.len());
            let _ = writeln!(
                xml,
                "  <testsuite name=\"{file}\" tests=\"{tests}\" failures=\"{failed}\">"
            );
            for case in cases {
                write_case(&mut xml, case);
            }
            xml.push_str("  </testsuite>\n");
        }
        xml.push_str("</testsuites>\n");
        xml
    }
}

fn write_case(xml: &mut String, case: &CaseResult) {
    let (name, file) = (Escaped(&case.name), Escaped(&case.file));
    let _ = write!(xml, "    <testcase name=\"{name}\" classname=\"{file}\"");
    if case.passed() {
        xml.push_str("/>\n");
        return;
    }
    let message = case.failures.join("; ");
    let explanation = case.explanation.as_ref().map(ToString::to_string);
    let (message, text) = (Escaped(&message), explanation.unwrap_or_default());
    let _ = writeln!(
        xml,
        ">\n      <failure message=\"{message}\">{}</failure>\n    </testcase>",
        Escaped(&text)
    );
}

/// Text for an element or an attribute. XML 1.0 cannot hold control characters at all.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            match character {
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '&' => f.write_str("&amp;")?,
                '"' => f.write_str("&quot;")?,
                '\n' | '\t' => f.write_char(character)?,
                control if control.is_control() => f.write_char('\u{fffd}')?,
                other => f.write_char(other)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_and_control_characters_are_escaped() {
        let escaped = Escaped("<a b=\"c\">&\u{1b}").to_string();
        assert_eq!(escaped, "&lt;a b=&quot;c&quot;&gt;&amp;\u{fffd}");
    }
}
