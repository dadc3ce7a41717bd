//! The URL of a service that this program asks by itself: https, or plain http on this machine.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use http::Uri;

/// An `https` URL, or an `http` one of a loopback address; without user information.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebUrl {
    uri: Uri,
    host: String,
    port: u16,
    tls: bool,
}

/// Why a text is no such URL.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WebUrlError {
    /// It is not a URL.
    #[error("`{0}` is not a URL")]
    Malformed(String),
    /// It asks for plain HTTP beyond this machine.
    #[error("`{0}` is not an https URL; plain http is for loopback addresses alone")]
    NotHttps(String),
    /// There is a user before the host.
    #[error("`{0}` holds user information before `@`; a token goes into a file of its own")]
    UserInfo(String),
}

impl WebUrl {
    /// The host, without brackets around an IPv6 address.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    /// The port, also where it is that of the scheme.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Whether it is asked over TLS.
    pub(crate) fn is_tls(&self) -> bool {
        self.tls
    }

    /// What stands in the `Host` header.
    pub(crate) fn authority(&self) -> &str {
        self.uri
            .authority()
            .map_or("", http::uri::Authority::as_str)
    }

    /// What stands in the request line.
    pub(crate) fn path_and_query(&self) -> &str {
        self.uri
            .path_and_query()
            .map_or("/", http::uri::PathAndQuery::as_str)
    }
}

impl FromStr for WebUrl {
    type Err = WebUrlError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let malformed = || WebUrlError::Malformed(text.to_owned());
        let uri: Uri = text.parse().map_err(|_| malformed())?;
        let authority = uri.authority().ok_or_else(malformed)?.as_str();
        if authority.contains('@') {
            return Err(WebUrlError::UserInfo(text.to_owned()));
        }
        let host = uri.host().filter(|host| !host.is_empty());
        let host = host.ok_or_else(malformed)?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let tls = match uri.scheme_str() {
            Some("https") => true,
            // SECURITY: a token, and events about who may do what, cross no wire in the clear.
            Some("http") if is_loopback(host) => false,
            _ => return Err(WebUrlError::NotHttps(text.to_owned())),
        };
        let (host, default) = (host.to_owned(), if tls { 443 } else { 80 });
        let port = uri.port_u16().unwrap_or(default);
        Ok(Self {
            uri,
            host,
            port,
            tls,
        })
    }
}

/// A name could be made to lead elsewhere, so only an address counts.
fn is_loopback(host: &str) -> bool {
    host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

impl fmt::Display for WebUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.uri.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_a_url_apart() {
        let url: WebUrl = "https://idp.example:8443/poll?stream=1".parse().unwrap();
        assert_eq!((url.host(), url.port()), ("idp.example", 8443));
        assert_eq!(url.path_and_query(), "/poll?stream=1");
        let local: WebUrl = "http://[::1]/poll".parse().unwrap();
        assert_eq!((local.host(), local.port()), ("::1", 80));
        assert_eq!((local.authority(), local.is_tls()), ("[::1]", false));
    }

    #[test]
    fn refuses_what_would_go_over_a_wire_in_the_clear_and_what_is_no_url() {
        use WebUrlError as E;
        type Refusal = fn(String) -> E;
        let table: [(&str, Refusal); 7] = [
            ("", E::Malformed),
            ("idp.example", E::NotHttps),
            ("/poll", E::Malformed),
            ("http://idp.example/poll", E::NotHttps),
            ("http://localhost/poll", E::NotHttps),
            ("ftp://127.0.0.1/poll", E::NotHttps),
            ("https://user:secret@idp.example/", E::UserInfo),
        ];
        for (text, error) in table {
            assert_eq!(text.parse::<WebUrl>(), Err(error(text.to_owned())));
        }
    }
}
