//! What changes in a message's headers on its way through, and nothing else does.
//!
//! Hop-by-hop fields are taken off and the caller's copies of what we set are removed
//! before policy is asked, so that policy sees what the upstream will.

use http::header::{
    CONNECTION, COOKIE, EXPECT, HOST, HeaderName, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE,
    TRANSFER_ENCODING, UPGRADE,
};
use http::uri::{Authority, Scheme};
use http::{HeaderMap, HeaderValue, Request, Uri, Version};
use wayleave_certs::{Peer, Svid};

use crate::config::{UpstreamConfig, UpstreamProtocol, UpstreamTls};
use crate::protocol::accepts_trailers;

/// The verified caller, in Envoy's format.
pub(crate) const XFCC: HeaderName = HeaderName::from_static("x-forwarded-client-cert");

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// The fields that end at this hop.
const HOP_BY_HOP: [HeaderName; 9] = [
    CONNECTION,
    KEEP_ALIVE,
    PROXY_CONNECTION,
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    HTTP2_SETTINGS,
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// Whether an `Upgrade` is part of what is carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Upgrade {
    /// A WebSocket handshake: `Connection: upgrade` and `Upgrade: websocket` go on.
    WebSocket,
    /// No upgrade goes through; `h2c` in particular never does.
    Strip,
}

/// Makes a request's headers those that will be forwarded, but for the caller's identity.
pub(crate) fn clean_request(headers: &mut HeaderMap, upgrade: Upgrade) {
    let trailers = accepts_trailers(headers);
    strip_hop_by_hop(headers, upgrade);
    headers.remove(EXPECT);
    headers.remove(XFCC);
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
}

/// Removes the fields that end at this hop (RFC 9110 section 7.6.1). `Trailer` stays: it
/// is what makes an HTTP/1.1 server send the trailers that we carry.
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap, upgrade: Upgrade) {
    // Most messages have none: comparing names is cheaper than looking each up by its hash.
    if headers.keys().any(|name| HOP_BY_HOP.contains(name)) {
        strip_nominated(headers);
        for name in &HOP_BY_HOP {
            headers.remove(name);
        }
    }
    if upgrade == Upgrade::WebSocket {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    }
}

/// Removes what `Connection` names, but never the host: a request without it has no reading.
fn strip_nominated(headers: &mut HeaderMap) {
    if !headers.contains_key(CONNECTION) {
        return;
    }
    let nominated: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| HeaderName::try_from(name.trim()).ok())
        .filter(|name| *name != HOST)
        .collect();
    for name in nominated {
        headers.remove(name);
    }
}

/// Names the verified caller to the upstream, in place of whatever the caller said.
pub(crate) fn set_caller(headers: &mut HeaderMap, xfcc: &HeaderValue) {
    headers.insert(XFCC, xfcc.clone());
}

/// The `x-forwarded-client-cert` of a peer: `By`, `Hash`, `Subject` and `URI`, one element.
pub(crate) fn xfcc(own: Option<&Svid>, peer: &Peer) -> Option<HeaderValue> {
    use std::fmt::Write;
    let mut value = String::with_capacity(256);
    if let Some(own) = own {
        let _ = write!(value, "By={};", own.id());
    }
    value.push_str("Hash=");
    for byte in peer.leaf_sha256() {
        let _ = write!(value, "{byte:02x}");
    }
    let subject: String = peer.subject().chars().map(printable).collect();
    let subject = subject.replace('\\', "\\\\").replace('"', "\\\"");
    let _ = write!(value, ";Subject=\"{subject}\";URI={}", peer.id());
    HeaderValue::try_from(value).ok()
}

/// A subject may hold any text; a header value may not.
fn printable(character: char) -> char {
    if matches!(character, ' '..='~') {
        character
    } else {
        '?'
    }
}

/// Writes the request's target and host in the form that the upstream's protocol wants.
pub(super) fn address<B>(request: &mut Request<B>, upstream: &UpstreamConfig) {
    let authority = request.uri().authority().cloned();
    match upstream.protocol {
        UpstreamProtocol::Http1 => to_http1(request, authority),
        UpstreamProtocol::Http2 => to_http2(request, authority, scheme(upstream)),
    }
}

fn to_http1<B>(request: &mut Request<B>, authority: Option<Authority>) {
    *request.version_mut() = Version::HTTP_11;
    if let Some(authority) = authority {
        if let Ok(host) = HeaderValue::from_str(authority.as_str()) {
            request.headers_mut().insert(HOST, host);
        }
        let mut parts = std::mem::take(request.uri_mut()).into_parts();
        parts.scheme = None;
        parts.authority = None;
        *request.uri_mut() = Uri::from_parts(parts).unwrap_or_default();
    }
    join_cookies(request.headers_mut());
}

/// What is said over TLS says so (RFC 9113 section 8.3.1); some hosts insist.
fn scheme(upstream: &UpstreamConfig) -> Scheme {
    match upstream.tls {
        UpstreamTls::Off => Scheme::HTTP,
        UpstreamTls::Mutual(_) | UpstreamTls::Web(_) => Scheme::HTTPS,
    }
}

fn to_http2<B>(request: &mut Request<B>, authority: Option<Authority>, scheme: Scheme) {
    *request.version_mut() = Version::HTTP_2;
    let host = request.headers_mut().remove(HOST);
    let host = host.and_then(|host| {
        Authority::from_maybe_shared(bytes::Bytes::copy_from_slice(host.as_bytes())).ok()
    });
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    parts.scheme = Some(scheme);
    parts.authority = authority.or(host);
    *request.uri_mut() = Uri::from_parts(parts).unwrap_or_default();
}

/// HTTP/2 may split cookies into several fields; HTTP/1.1 has one (RFC 9113 section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let mut values = headers.get_all(COOKIE).iter();
    let (Some(first), Some(_)) = (values.next(), values.next()) else {
        return;
    };
    let mut joined = first.as_bytes().to_vec();
    for value in headers.get_all(COOKIE).iter().skip(1) {
        joined.extend_from_slice(b"; ");
        joined.extend_from_slice(value.as_bytes());
    }
    if let Ok(joined) = HeaderValue::from_bytes(&joined) {
        headers.insert(COOKIE, joined);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn removes_hop_by_hop_fields_and_what_connection_names() {
        let mut headers = headers(&[
            ("connection", "close, X-Private"),
            ("connection", "x-second"),
            ("keep-alive", "5"),
            ("proxy-connection", "close"),
            ("proxy-authorization", "x"),
            ("te", "gzip"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("http2-settings", "x"),
            ("x-private", "1"),
            ("x-second", "1"),
            ("x-kept", "1"),
        ]);
        clean_request(&mut headers, Upgrade::Strip);
        let left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        assert_eq!(left, ["x-kept"]);
    }

    #[test]
    fn a_client_cannot_name_itself_nor_strip_the_host() {
        let mut headers = headers(&[
            ("connection", "host, x-forwarded-client-cert"),
            ("host", "orders"),
            ("x-forwarded-client-cert", "URI=spiffe://shop/admin"),
        ]);
        clean_request(&mut headers, Upgrade::Strip);
        set_caller(&mut headers, &HeaderValue::from_static("ours"));
        assert_eq!(headers.get_all(XFCC).iter().collect::<Vec<_>>(), ["ours"]);
        assert_eq!(headers[HOST], "orders");
    }

    #[test]
    fn keeps_what_trailers_need() {
        let mut headers = headers(&[("te", "trailers, deflate"), ("trailer", "x-sum")]);
        clean_request(&mut headers, Upgrade::Strip);
        assert_eq!(headers[TE], "trailers");
        assert_eq!(headers["trailer"], "x-sum");
    }

    #[test]
    fn a_websocket_handshake_goes_on_and_nothing_else_upgrades() {
        let mut headers = headers(&[("connection", "Upgrade"), ("upgrade", "WebSocket")]);
        clean_request(&mut headers, Upgrade::WebSocket);
        assert_eq!(headers[UPGRADE], "websocket");
        assert_eq!(headers[CONNECTION], "upgrade");
    }

    #[test]
    fn http_2_becomes_http_1_with_its_host_and_one_cookie() {
        let mut request = Request::get("https://Orders:8443/a?b=c")
            .version(Version::HTTP_2)
            .header("cookie", "a=1")
            .header("cookie", "b=2")
            .body(())
            .unwrap();
        let authority = request.uri().authority().cloned();
        to_http1(&mut request, authority);
        assert_eq!(request.uri(), "/a?b=c");
        assert_eq!(request.headers()[HOST], "Orders:8443");
        assert_eq!(request.headers()[COOKIE], "a=1; b=2");
        assert_eq!(request.version(), Version::HTTP_11);
    }

    #[test]
    fn http_1_becomes_http_2_with_its_authority() {
        let mut request = Request::get("/a")
            .header("host", "orders:1")
            .body(())
            .unwrap();
        to_http2(&mut request, None, Scheme::HTTP);
        assert_eq!(request.uri(), "http://orders:1/a");
        assert!(!request.headers().contains_key(HOST));
    }
}
