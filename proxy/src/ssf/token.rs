//! A bearer token from a file: never shown, and compared in constant time.

use std::fmt;
use std::path::Path;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use http::HeaderValue;
use wayleave_certs::disk;

/// The token, as the value of an `Authorization` header.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Bearer(HeaderValue);

impl Bearer {
    /// Reads the token; blanks and line ends around it are no part of it.
    ///
    /// # Errors
    /// When there is none.
    pub(super) fn read(path: &Path) -> Result<Self, String> {
        let told = |why: &str| format!("the token file {}: {why}", path.display());
        let bytes = disk::read(path).map_err(|error| told(&error.to_string()))?;
        let text = std::str::from_utf8(&bytes).map_err(|_| told("it is no text"))?;
        let token = text.trim();
        let usable = !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
        if !usable {
            return Err(told("expected one token of printable ASCII characters"));
        }
        let value = HeaderValue::try_from(format!("Bearer {token}"));
        let mut value = value.map_err(|_| told("it does not fit a header"))?;
        value.set_sensitive(true);
        Ok(Self(value))
    }

    /// The header's value.
    pub(super) fn header(&self) -> &HeaderValue {
        &self.0
    }

    /// Whether a header shows this token.
    pub(super) fn is(&self, shown: Option<&HeaderValue>) -> bool {
        let Some((scheme, token)) = shown.and_then(split) else {
            return false;
        };
        let own = split(&self.0).map_or(&b""[..], |(_, token)| token);
        // SECURITY: by time nobody learns how much of a token was right.
        scheme.eq_ignore_ascii_case(b"bearer") && verify_slices_are_equal(own, token).is_ok()
    }
}

fn split(value: &HeaderValue) -> Option<(&[u8], &[u8])> {
    let bytes = value.as_bytes();
    let blank = bytes.iter().position(|byte| *byte == b' ')?;
    let (scheme, token) = bytes.split_at_checked(blank)?;
    Some((scheme, token.trim_ascii_start()))
}

impl fmt::Debug for Bearer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Bearer")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_shown_by_its_own_text_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        std::fs::write(&path, " s3cret\n").unwrap();
        let bearer = Bearer::read(&path).unwrap();
        let is = |text: &'static str| bearer.is(Some(&HeaderValue::from_static(text)));
        assert!(is("Bearer s3cret") && is("bearer  s3cret"));
        for wrong in [
            "Bearer s3cre",
            "Bearer s3crets",
            "Basic s3cret",
            "s3cret",
            "Bearer ",
            "",
        ] {
            assert!(!is(wrong), "{wrong}");
        }
        assert!(!bearer.is(None));
        for text in ["", " \n", "two tokens", "a\u{e9}"] {
            std::fs::write(&path, text).unwrap();
            assert!(Bearer::read(&path).is_err(), "{text}");
        }
    }
}
