//! The URL of a bundle endpoint (SPIFFE Federation §5.2.1.1, §5.2.2.1).

use std::fmt;
use std::str::FromStr;

use http::Uri;

/// An `https` URL without user information.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointUrl {
    uri: Uri,
    host: String,
    port: u16,
}

/// Why a text is not the URL of a bundle endpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EndpointUrlError {
    /// It is not a URL.
    #[error("`{0}` is not a URL; write for example `https://partner.example/bundle.json`")]
    Malformed(String),
    /// Its scheme is not `https`.
    #[error(
        "`{0}` is not an https URL; a bundle is never fetched without TLS (SPIFFE Federation 5.2)"
    )]
    NotHttps(String),
    /// There is a user before the host.
    #[error(
        "`{0}` holds user information before `@`, which is not allowed (SPIFFE Federation 5.2)"
    )]
    UserInfo(String),
}

impl EndpointUrl {
    /// The host, without brackets around an IPv6 address.
    pub(super) fn host(&self) -> &str {
        &self.host
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// What stands in the `Host` header.
    pub(super) fn authority(&self) -> &str {
        self.uri
            .authority()
            .map_or("", http::uri::Authority::as_str)
    }

    pub(super) fn path_and_query(&self) -> &str {
        self.uri
            .path_and_query()
            .map_or("/", http::uri::PathAndQuery::as_str)
    }

    /// Where a redirect leads: another URL, or another path of the same host.
    pub(super) fn redirected(&self, location: &str) -> Result<Self, EndpointUrlError> {
        if location.starts_with('/') && !location.starts_with("//") {
            return format!("https://{}{location}", self.authority()).parse();
        }
        location.parse()
    }
}

impl FromStr for EndpointUrl {
    type Err = EndpointUrlError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let malformed = || EndpointUrlError::Malformed(text.to_owned());
        let uri: Uri = text.parse().map_err(|_| malformed())?;
        let authority = uri.authority().ok_or_else(malformed)?.as_str();
        if uri.scheme() != Some(&http::uri::Scheme::HTTPS) {
            return Err(EndpointUrlError::NotHttps(text.to_owned()));
        }
        if authority.contains('@') {
            return Err(EndpointUrlError::UserInfo(text.to_owned()));
        }
        let host = uri
            .host()
            .filter(|host| !host.is_empty())
            .ok_or_else(malformed)?;
        let host = host
            .trim_start_matches('[')
            .trim_end_matches(']')
            .to_owned();
        let port = uri.port_u16().unwrap_or(443);
        Ok(Self { uri, host, port })
    }
}

impl fmt::Display for EndpointUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.uri.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> EndpointUrl {
        text.parse().unwrap()
    }

    #[test]
    fn takes_a_url_apart() {
        let bundle = url("https://partner.example/spiffe/bundle.json?a=b");
        assert_eq!((bundle.host(), bundle.port()), ("partner.example", 443));
        assert_eq!(bundle.path_and_query(), "/spiffe/bundle.json?a=b");
        let local = url("https://[::1]:8443");
        assert_eq!((local.host(), local.port()), ("::1", 8443));
        assert_eq!(
            (local.authority(), local.path_and_query()),
            ("[::1]:8443", "/")
        );
    }

    #[test]
    fn follows_a_redirect_to_https_alone() {
        let first = url("https://partner.example:8443/a");
        let path = first.redirected("/b?c").unwrap();
        assert_eq!(path.to_string(), "https://partner.example:8443/b?c");
        let other = first.redirected("https://cdn.example/b").unwrap();
        assert_eq!(other.to_string(), "https://cdn.example/b");
        assert!(first.redirected("http://cdn.example/b").is_err());
        assert!(first.redirected("//cdn.example/b").is_err());
        assert!(first.redirected("b").is_err());
    }

    #[test]
    fn refuses_what_is_not_an_endpoint() {
        use EndpointUrlError as E;
        type Refusal = fn(String) -> E;
        let table: [(&str, Refusal); 6] = [
            ("", E::Malformed),
            ("partner.example", E::NotHttps),
            ("/bundle.json", E::Malformed),
            ("http://partner.example/", E::NotHttps),
            ("https://user@partner.example/", E::UserInfo),
            ("https:///bundle.json", E::Malformed),
        ];
        for (text, error) in table {
            assert_eq!(text.parse::<EndpointUrl>(), Err(error(text.to_owned())));
        }
    }
}
