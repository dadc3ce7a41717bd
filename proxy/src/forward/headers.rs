//! What changes in a message's headers on its way through, and nothing else does.
//!
//! Hop-by-hop fields are taken off and the caller's copies of what we set are removed
//! before policy is asked, so that policy sees what the upstream will.

use bytes::Bytes;
use http::header::{
    CONNECTION, COOKIE, EXPECT, HOST, HeaderName, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE,
    TRANSFER_ENCODING, UPGRADE,
};
use http::uri::{Authority, Scheme};
use http::{HeaderMap, HeaderValue, Request, Uri, Version};
use hyper::body::Body;
use wayleave_certs::{Peer, Svid};

use crate::config::{UpstreamConfig, UpstreamProtocol, UpstreamTls};
use crate::protocol::{accepts_trailers, grpc};

/// The verified caller, in Envoy's format.
pub(crate) const XFCC: HeaderName = HeaderName::from_static(XFCC_NAME);
const XFCC_NAME: &str = "x-forwarded-client-cert";

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// The fields that end at this hop.
const HOP_BY_HOP: [(Changed, HeaderName); 9] = [
    (Changed::CONNECTION, CONNECTION),
    (Changed::KEEP_ALIVE, KEEP_ALIVE),
    (Changed::PROXY_CONNECTION, PROXY_CONNECTION),
    (Changed::PROXY_AUTHENTICATE, PROXY_AUTHENTICATE),
    (Changed::PROXY_AUTHORIZATION, PROXY_AUTHORIZATION),
    (Changed::HTTP2_SETTINGS, HTTP2_SETTINGS),
    (Changed::TE, TE),
    (Changed::TRANSFER_ENCODING, TRANSFER_ENCODING),
    (Changed::UPGRADE, UPGRADE),
];

/// Which fields a message has that do not go on as they are. One pass over the names finds them all,
/// which is cheaper than looking each up by its hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Changed(u16);

impl Changed {
    const NOTHING: Self = Self(0);
    const CONNECTION: Self = Self(1);
    const KEEP_ALIVE: Self = Self(1 << 1);
    const PROXY_CONNECTION: Self = Self(1 << 2);
    const PROXY_AUTHENTICATE: Self = Self(1 << 3);
    const PROXY_AUTHORIZATION: Self = Self(1 << 4);
    const HTTP2_SETTINGS: Self = Self(1 << 5);
    const TE: Self = Self(1 << 6);
    const TRANSFER_ENCODING: Self = Self(1 << 7);
    const UPGRADE: Self = Self(1 << 8);
    const EXPECT: Self = Self(1 << 9);
    const COOKIE: Self = Self(1 << 10);
    const CALLER: Self = Self(1 << 11);

    /// All that there are in a message.
    fn among(headers: &HeaderMap) -> Self {
        let found = |found: u16, name| found | Self::by(name).0;
        Self(headers.keys().fold(0, found))
    }

    /// Which of them a name is.
    fn by(name: &HeaderName) -> Self {
        match name.as_str() {
            "connection" => Self::CONNECTION,
            "keep-alive" => Self::KEEP_ALIVE,
            "proxy-connection" => Self::PROXY_CONNECTION,
            "proxy-authenticate" => Self::PROXY_AUTHENTICATE,
            "proxy-authorization" => Self::PROXY_AUTHORIZATION,
            "http2-settings" => Self::HTTP2_SETTINGS,
            "te" => Self::TE,
            "transfer-encoding" => Self::TRANSFER_ENCODING,
            "upgrade" => Self::UPGRADE,
            "expect" => Self::EXPECT,
            "cookie" => Self::COOKIE,
            _ if names_caller(name) => Self::CALLER,
            _ => Self::NOTHING,
        }
    }

    fn has(self, field: Self) -> bool {
        self.0 & field.0 != 0
    }
}

/// The fields that mean something at the head of a request, and must not come behind it.
const HEAD_ONLY: [&str; 15] = [
    "authorization",
    "cache-control",
    "content-encoding",
    "content-length",
    "content-range",
    "content-type",
    "cookie",
    "expect",
    "host",
    "if-match",
    "if-none-match",
    "max-forwards",
    "range",
    "trailer",
    "traceparent",
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
    let found = Changed::among(headers);
    let trailers = found.has(Changed::TE) && accepts_trailers(headers);
    strip_found(headers, found, upgrade);
    if found.has(Changed::EXPECT) {
        headers.remove(EXPECT);
    }
    if found.has(Changed::CALLER) {
        remove_caller(headers);
    }
    if found.has(Changed::COOKIE) {
        join_cookies(headers);
    }
    if trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
}

/// Whether a field is read as [`XFCC`] by CGI or by what descends from it (WSGI, Rack, PHP),
/// which make no difference between `-` and `_`.
fn names_caller(name: &HeaderName) -> bool {
    let same = |(sent, ours): (u8, u8)| sent == ours || (sent == b'_' && ours == b'-');
    let sent = name.as_str();
    sent.len() == XFCC_NAME.len() && sent.bytes().zip(XFCC_NAME.bytes()).all(same)
}

fn remove_caller(headers: &mut HeaderMap) {
    while let Some(name) = headers.keys().find(|name| names_caller(name)).cloned() {
        headers.remove(name);
    }
}

/// Removes the fields that end at this hop (RFC 9110 section 7.6.1). `Trailer` stays: it
/// is what makes an HTTP/1.1 server send the trailers that we carry.
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap, upgrade: Upgrade) {
    strip_found(headers, Changed::among(headers), upgrade);
}

fn strip_found(headers: &mut HeaderMap, found: Changed, upgrade: Upgrade) {
    if found == Changed::NOTHING && upgrade == Upgrade::Strip {
        return;
    }
    if found.has(Changed::CONNECTION) {
        strip_nominated(headers);
    }
    for (field, name) in &HOP_BY_HOP {
        if found.has(*field) {
            headers.remove(name);
        }
    }
    if upgrade == Upgrade::WebSocket {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    }
}

/// Removes from a request's trailers what a message may say in its head alone (RFC 9110 section
/// 6.5.1): how it is framed, whom it is for, who sends it, and what policy decided on.
pub(super) fn clean_trailers(trailers: &mut HeaderMap) {
    let unfit = |name: &HeaderName| {
        is_hop_by_hop(name) || names_caller(name) || HEAD_ONLY.contains(&name.as_str())
    };
    while let Some(name) = trailers.keys().find(|name| unfit(name)).cloned() {
        trailers.remove(name);
    }
}

fn is_hop_by_hop(name: &HeaderName) -> bool {
    let field = Changed::by(name);
    HOP_BY_HOP.iter().any(|(hop, _)| *hop == field)
}

/// Removes what `Connection` names, but never the host: a request without it has no reading.
fn strip_nominated(headers: &mut HeaderMap) {
    let mut values = headers.get_all(CONNECTION).iter().cloned();
    // Mostly there is one: then nothing is allocated.
    let (first, others) = (values.next(), values.collect::<Vec<_>>());
    for value in first.iter().chain(&others) {
        for name in value.to_str().unwrap_or_default().split(',').map(str::trim) {
            // `Keep-Alive` is named by those that do not send it, and goes in any case.
            let stays = ["host", "keep-alive"];
            if !stays.iter().any(|field| name.eq_ignore_ascii_case(field)) {
                headers.remove(name);
            }
        }
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
pub(super) fn address<B: Body>(request: &mut Request<B>, upstream: &UpstreamConfig) {
    let authority = request.uri().authority().cloned();
    match upstream.protocol {
        UpstreamProtocol::Http1 => to_http1(request, authority),
        UpstreamProtocol::Http2 => to_http2(request, authority, scheme(upstream)),
    }
}

fn to_http1<B: Body>(request: &mut Request<B>, authority: Option<Authority>) {
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
    announce_chunks(request);
}

/// Says that a body of unknown length comes in chunks.
///
/// SECURITY: unless told, hyper takes GET and HEAD for requests without a body and drops it:
/// the upstream would see another request than the caller made.
fn announce_chunks<B: Body>(request: &mut Request<B>) {
    let body = request.body();
    if !body.is_end_stream() && body.size_hint().exact().is_none() {
        let chunked = HeaderValue::from_static("chunked");
        request.headers_mut().insert(TRANSFER_ENCODING, chunked);
    }
}

/// What is said over TLS says so (RFC 9113 section 8.3.1); some hosts insist.
pub(super) fn scheme(upstream: &UpstreamConfig) -> Scheme {
    match upstream.tls {
        UpstreamTls::Off => Scheme::HTTP,
        UpstreamTls::Mutual(_) | UpstreamTls::Web(_) => Scheme::HTTPS,
    }
}

fn to_http2<B>(request: &mut Request<B>, authority: Option<Authority>, scheme: Scheme) {
    *request.version_mut() = Version::HTTP_2;
    // SECURITY: gRPC's C core serves a call of any content type, if only its TE allows trailers,
    // but policy has seen it as plain HTTP. Other servers send trailers over HTTP/2 unasked.
    if !grpc::is_grpc(request.headers()) {
        request.headers_mut().remove(TE);
    }
    let host = request.headers_mut().remove(HOST);
    let host = host.and_then(|host| {
        Authority::from_maybe_shared(Bytes::copy_from_slice(host.as_bytes())).ok()
    });
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    parts.scheme = Some(scheme);
    parts.authority = authority.or(host);
    *request.uri_mut() = Uri::from_parts(parts).unwrap_or_default();
}

/// HTTP/2 may split cookies into several fields; a server reads one (RFC 9113 section 8.2.3),
/// and so does policy.
fn join_cookies(headers: &mut HeaderMap) {
    let mut values = headers.get_all(COOKIE).iter();
    let (Some(first), Some(_)) = (values.next(), values.next()) else {
        return;
    };
    let length = headers.get_all(COOKIE).iter();
    let length = length.map(|value| value.len() + 2).sum::<usize>() - 2;
    let mut joined = Vec::with_capacity(length);
    joined.extend_from_slice(first.as_bytes());
    for value in headers.get_all(COOKIE).iter().skip(1) {
        joined.extend_from_slice(b"; ");
        joined.extend_from_slice(value.as_bytes());
    }
    if let Ok(joined) = HeaderValue::from_maybe_shared(Bytes::from(joined)) {
        headers.insert(COOKIE, joined);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::StreamExt;
    use http::Method;
    use http_body_util::{BodyExt, Empty, Full};
    use hyper::body::Frame;

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
    fn every_field_that_ends_here_is_found_by_its_name() {
        for (field, name) in &HOP_BY_HOP {
            assert_eq!(Changed::by(name), *field, "{name}");
            let mut headers = headers(&[("x-kept", "1")]);
            headers.insert(name.clone(), HeaderValue::from_static("x"));
            strip_hop_by_hop(&mut headers, Upgrade::Strip);
            assert_eq!(headers.len(), 1, "{name}");
        }
    }

    #[test]
    fn connection_names_fields_in_all_of_its_values_even_itself() {
        let mut headers = headers(&[
            ("connection", "Connection, KEEP-ALIVE"),
            ("connection", "not a name, ,X-Second"),
            ("connection", "Host"),
            ("connection", "x-last"),
            ("keep-alive", "timeout=5"),
            ("x-second", "1"),
            ("x-second", "2"),
            ("x-last", "1"),
            ("host", "orders"),
        ]);
        strip_hop_by_hop(&mut headers, Upgrade::Strip);
        let left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        assert_eq!(left, ["host"]);
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
    fn a_client_cannot_name_itself_by_another_spelling() {
        for spelling in [
            "x-forwarded-client-cert",
            "x_forwarded_client_cert",
            "x-forwarded_client-cert",
            "X_Forwarded-Client-Cert",
        ] {
            let mut headers = headers(&[("x-forwarded-client-certs", "1"), ("x_kept", "1")]);
            let name = HeaderName::from_bytes(spelling.as_bytes()).unwrap();
            headers.append(name, HeaderValue::from_static("URI=spiffe://shop/admin"));
            clean_request(&mut headers, Upgrade::Strip);
            let left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
            assert_eq!(left, ["x-forwarded-client-certs", "x_kept"], "{spelling}");
        }
    }

    #[test]
    fn cookies_are_one_field_before_policy_is_asked() {
        let mut headers = headers(&[("cookie", "a=1"), ("x-a", "1"), ("cookie", "b=2")]);
        clean_request(&mut headers, Upgrade::Strip);
        let cookies: Vec<_> = headers.get_all(COOKIE).iter().collect();
        assert_eq!(cookies, ["a=1; b=2"]);
    }

    #[test]
    fn a_trailer_says_nothing_that_belongs_into_the_head() {
        let mut trailers = headers(&[
            ("x-forwarded-client-cert", "URI=spiffe://shop/admin"),
            ("x_forwarded-client_cert", "URI=spiffe://shop/admin"),
            ("authorization", "Bearer x"),
            ("content-length", "5"),
            ("host", "elsewhere"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("x-sum", "1"),
            ("grpc-status", "0"),
        ]);
        clean_trailers(&mut trailers);
        let mut left: Vec<_> = trailers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["grpc-status", "x-sum"]);
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
    fn http_2_becomes_http_1_with_its_host() {
        let mut request = Request::get("https://Orders:8443/a?b=c")
            .version(Version::HTTP_2)
            .body(Empty::<Bytes>::new())
            .unwrap();
        let authority = request.uri().authority().cloned();
        to_http1(&mut request, authority);
        assert_eq!(request.uri(), "/a?b=c");
        assert_eq!(request.headers()[HOST], "Orders:8443");
        assert_eq!(request.version(), Version::HTTP_11);
    }

    #[test]
    fn a_body_of_unknown_length_is_announced_whatever_the_method() {
        let known = Full::from("abc").boxed();
        let unknown = known_only_to_end(Full::from("abc")).boxed();
        let none = Empty::<Bytes>::new().boxed();
        for (body, announced) in [(known, false), (unknown, true), (none, false)] {
            let mut request = Request::new(body);
            *request.method_mut() = Method::GET;
            to_http1(&mut request, None);
            assert_eq!(request.headers().contains_key(TRANSFER_ENCODING), announced);
        }
    }

    /// The same body, as one whose length nobody has told.
    fn known_only_to_end(
        body: Full<Bytes>,
    ) -> impl Body<Data = Bytes, Error = std::convert::Infallible> {
        http_body_util::StreamBody::new(body.into_data_stream().map(|data| data.map(Frame::data)))
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

    #[test]
    fn only_grpc_takes_its_te_to_an_http_2_upstream() {
        for (content, kept) in [("application/grpc", true), ("application/json", false)] {
            let mut request = Request::post("/pkg.Service/Method")
                .header("host", "orders")
                .header("content-type", content)
                .header("te", "trailers")
                .body(())
                .unwrap();
            to_http2(&mut request, None, Scheme::HTTP);
            assert_eq!(request.headers().contains_key(TE), kept, "{content}");
        }
    }
}
