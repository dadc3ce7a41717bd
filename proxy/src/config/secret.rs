//! Passwords: where they are in a text, so that it can be shown without them.

use std::fmt;

/// A password. It is shown to nobody.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub(crate) fn new(password: String) -> Self {
        Self(password)
    }

    /// The password, for whom it is meant.
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// `text` with a `*` for each byte of the passwords in its URLs, so that places in it stay what
/// they are.
///
/// SECURITY: a mistake elsewhere in the line shows the line. What may belong to a password is
/// left out too: up to the last `@` before a blank or a quote.
pub(super) fn masked(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, url) = rest.split_at(at + 3);
        shown.push_str(before);
        let end = url.find(|c: char| c.is_whitespace() || matches!(c, '"' | '\''));
        let (url, after) = url.split_at(end.unwrap_or(url.len()));
        match url.rfind('@').zip(url.find(':')) {
            Some((at, colon)) if colon < at => {
                let (user, password) = url.split_at(colon + 1);
                let length = at - colon - 1;
                shown.push_str(user);
                shown.extend(std::iter::repeat_n('*', length));
                shown.push_str(password.get(length..).unwrap_or_default());
            }
            _ => shown.push_str(url),
        }
        rest = after;
    }
    shown.push_str(rest);
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_password_is_shown_and_every_place_stays_what_it_is() {
        for (text, shown) in [
            ("redis://u:pw@h:1/0", "redis://u:**@h:1/0"),
            ("a: redis://:p:@/w@h\nb: x@y", "a: redis://:*****@h\nb: x@y"),
            ("url: \"rediss://u:é@h\"", "url: \"rediss://u:**@h\""),
            ("https://shop.example:443/x", "https://shop.example:443/x"),
            ("spiffe://a/b https://u:p@h", "spiffe://a/b https://u:*@h"),
            ("http://", "http://"),
        ] {
            assert_eq!(masked(text), shown);
            assert_eq!(masked(text).len(), text.len());
        }
        assert!(!format!("{:?}", Secret::new("hunter2".into())).contains("hunter2"));
    }
}
