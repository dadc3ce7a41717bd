//! Which port a request is for, and what `CONNECT` asks for.

use http::header::HOST;
use http::request::Parts;
use http::uri::{Authority, Scheme};
use http::{Uri, Version};

use super::canonical::{self, Ambiguity};

const HTTP: u16 = 80;
const HTTPS: u16 = 443;

/// The port that a request names, in its target or its `Host`; that of its scheme where it names
/// none. To be asked once the head has been read: what is no port is refused there.
pub(crate) fn port(head: &Parts) -> u16 {
    let named = match head.uri.authority() {
        Some(authority) => authority.port_u16(),
        None => head.headers.get(HOST).and_then(|host| {
            let host = Authority::try_from(host.as_bytes()).ok()?;
            host.port_u16()
        }),
    };
    named.unwrap_or(match head.uri.scheme() {
        Some(scheme) if *scheme == Scheme::HTTPS => HTTPS,
        _ => HTTP,
    })
}

/// Whether a request is one that a forward proxy carries: in HTTP/1 an absolute target says by its
/// scheme how it is to be protected, and we may not do with less.
///
/// # Errors
/// When the scheme is not `http`.
pub(crate) fn check_scheme(head: &Parts) -> Result<(), Ambiguity> {
    match head.uri.scheme() {
        Some(scheme) if head.version < Version::HTTP_2 && *scheme != Scheme::HTTP => {
            Err(Ambiguity::SchemeRefused)
        }
        _ => Ok(()),
    }
}

/// The host, in its canonical form, and the port of a `CONNECT`. `Host` is not looked at: it goes
/// nowhere from here, and some clients write the proxy's own name there.
///
/// # Errors
/// When the target is not a host and a port (RFC 9110 section 9.3.6).
pub(crate) fn of_connect(target: &Uri) -> Result<(Box<str>, u16), Ambiguity> {
    let authority = target.authority().ok_or(Ambiguity::HostMissing)?;
    let host = canonical::canonical_host(authority.as_str())?;
    let port = authority.port_u16().filter(|port| *port != 0);
    let host = host.to_ascii_lowercase().into();
    Ok((host, port.ok_or(Ambiguity::ConnectPort)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn head(method: &str, uri: &str, hosts: &[&str]) -> Parts {
        let mut request = Request::builder().method(method).uri(uri);
        for host in hosts {
            request = request.header("host", *host);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn a_port_is_named_or_that_of_the_scheme() {
        let rows = [
            (head("GET", "/", &["a:81"]), 81),
            (head("GET", "/", &["a"]), 80),
            (head("GET", "/", &["[::1]:82"]), 82),
            (head("GET", "http://a:83/", &["a:83"]), 83),
            (head("GET", "http://a/", &["a"]), 80),
            (head("GET", "https://a/", &["a"]), 443),
        ];
        for (head, expected) in rows {
            assert_eq!(port(&head), expected, "{head:?}");
        }
    }

    #[test]
    fn connect_asks_for_a_host_and_a_port() {
        let ask = |uri: &'static str| of_connect(&Uri::from_static(uri));
        let asked = |uri| {
            let (host, port) = ask(uri).unwrap();
            format!("{host} {port}")
        };
        assert_eq!(asked("Api.Example.:443"), "api.example 443");
        assert_eq!(asked("[::1]:22"), "[::1] 22");
        for (uri, expected) in [
            ("api.example", Ambiguity::ConnectPort),
            ("api.example:0", Ambiguity::ConnectPort),
            ("user@api.example:443", Ambiguity::HostInvalid),
            ("127.1:443", Ambiguity::HostInvalid),
        ] {
            assert_eq!(ask(uri).unwrap_err(), expected, "{uri}");
        }
    }
}
