//! What HTTP/2 can say that HTTP/1.1 cannot, and would be something else there.

use super::framing::SMUGGLED;
use super::{Case, Expect, Request, arrives};
use crate::support::frames;

/// A request over HTTP/2.
fn h2(name: &str, head: &[frames::Field], expect: Expect) -> Case {
    sent(
        name,
        frames::Request {
            head: head.to_vec(),
            ..Default::default()
        },
        expect,
    )
}

fn sent(name: &str, request: frames::Request, expect: Expect) -> Case {
    Case {
        name: format!("http/2: {name}"),
        request: Request::Http2(request),
        expect,
        refused_by: &[],
    }
}

const METHOD: frames::Field = (":method", "GET");
const SCHEME: frames::Field = (":scheme", "https");
const PATH: frames::Field = (":path", "/p");
const AUTHORITY: frames::Field = (":authority", "localhost");

pub(super) fn pseudo_headers() -> Vec<Case> {
    let mut cases = Vec::new();
    let refused: [(&str, &[frames::Field]); 24] = [
        ("no method", &[SCHEME, PATH, AUTHORITY]),
        ("no scheme", &[METHOD, PATH, AUTHORITY]),
        ("no path", &[METHOD, SCHEME, AUTHORITY]),
        ("no authority and no host", &[METHOD, SCHEME, PATH]),
        ("an empty path", &[METHOD, SCHEME, (":path", ""), AUTHORITY]),
        (
            "two methods",
            &[METHOD, (":method", "POST"), SCHEME, PATH, AUTHORITY],
        ),
        (
            "two paths",
            &[METHOD, SCHEME, PATH, (":path", "/q"), AUTHORITY],
        ),
        (
            "two authorities",
            &[METHOD, SCHEME, PATH, AUTHORITY, (":authority", "evil")],
        ),
        (
            "a pseudo-header behind a field",
            &[METHOD, SCHEME, PATH, ("x-a", "1"), AUTHORITY],
        ),
        (
            "an unknown pseudo-header",
            &[METHOD, SCHEME, PATH, AUTHORITY, (":evil", "1")],
        ),
        (
            "a pseudo-header of answers",
            &[METHOD, SCHEME, PATH, AUTHORITY, (":status", "200")],
        ),
        (
            "an authority and another host",
            &[METHOD, SCHEME, PATH, AUTHORITY, ("host", "evil")],
        ),
        (
            "an authority and two hosts",
            &[
                METHOD,
                SCHEME,
                PATH,
                AUTHORITY,
                ("host", "localhost"),
                ("host", "localhost"),
            ],
        ),
        (
            "an authority with userinfo",
            &[METHOD, SCHEME, PATH, (":authority", "a@localhost")],
        ),
        (
            "an authority with a path",
            &[METHOD, SCHEME, PATH, (":authority", "localhost/evil")],
        ),
        (
            "an authority with a space",
            &[METHOD, SCHEME, PATH, (":authority", "localhost evil")],
        ),
        (
            "an empty authority",
            &[METHOD, SCHEME, PATH, (":authority", "")],
        ),
        (
            "a method with a space",
            &[(":method", "GET /evil HTTP/1.1"), SCHEME, PATH, AUTHORITY],
        ),
        (
            "a method with a line end",
            &[(":method", "GET\r\n"), SCHEME, PATH, AUTHORITY],
        ),
        (
            "a path with a line end",
            &[
                METHOD,
                SCHEME,
                (":path", "/p HTTP/1.1\r\nx-evil: 1"),
                AUTHORITY,
            ],
        ),
        (
            "a path with a space",
            &[METHOD, SCHEME, (":path", "/p q"), AUTHORITY],
        ),
        (
            "CONNECT",
            &[(":method", "CONNECT"), (":authority", "localhost:80")],
        ),
        (
            "CONNECT with a protocol",
            &[
                (":method", "CONNECT"),
                (":protocol", "connect-udp"),
                SCHEME,
                PATH,
                AUTHORITY,
            ],
        ),
        (
            "a protocol without CONNECT",
            &[METHOD, (":protocol", "websocket"), SCHEME, PATH, AUTHORITY],
        ),
    ];
    cases.extend(refused.map(|(name, head)| h2(name, head, Expect::Refused)));
    for path in [
        "/a/../b",
        "//a",
        "/a//b",
        "/a%2Fb",
        "/a%2fb",
        "/a%5Cb",
        "/a\\b",
        "/a%00b",
        "/%2e%2e/a",
        "/a;b",
        "/a%252Fb",
        "/a%FF",
        "p",
        "*",
        "http://evil/p",
        "/\u{e9}",
        "/a\tb",
        "/a\0b",
    ] {
        cases.push(h2(
            &format!("path {path:?}"),
            &[METHOD, SCHEME, (":path", path), AUTHORITY],
            Expect::Refused,
        ));
    }
    let forwarded: [(&str, &[frames::Field]); 6] = [
        ("a request", &[METHOD, SCHEME, PATH, AUTHORITY]),
        (
            "a host and no authority",
            &[METHOD, SCHEME, PATH, ("host", "localhost")],
        ),
        (
            "an authority and the same host",
            &[METHOD, SCHEME, PATH, AUTHORITY, ("host", "localhost")],
        ),
        (
            "an authority in capitals with a port",
            &[METHOD, SCHEME, PATH, (":authority", "LocalHost:8443")],
        ),
        (
            "pseudo-headers in another order",
            &[AUTHORITY, PATH, SCHEME, METHOD],
        ),
        (
            "another scheme",
            &[METHOD, (":scheme", "http"), PATH, AUTHORITY],
        ),
    ];
    cases.extend(forwarded.map(|(name, head)| h2(name, head, arrives("GET", "/p", ""))));
    cases.push(h2(
        "a query",
        &[METHOD, SCHEME, (":path", "/p?a=/../b&c=%2F"), AUTHORITY],
        arrives("GET", "/p?a=/../b&c=%2F", ""),
    ));
    cases.push(h2(
        "a fragment",
        &[METHOD, SCHEME, (":path", "/p#/../b"), AUTHORITY],
        arrives("GET", "/p", ""),
    ));
    cases.push(
        h2(
            "a method in small letters",
            &[(":method", "get"), SCHEME, PATH, AUTHORITY],
            arrives("get", "/p", ""),
        )
        .refused_by(&["nginx", "node"]),
    );
    cases.push(
        h2(
            "the asterisk with OPTIONS",
            &[(":method", "OPTIONS"), SCHEME, (":path", "*"), AUTHORITY],
            arrives("OPTIONS", "*", ""),
        )
        .refused_by(&["nginx"]),
    );
    cases
}

pub(super) fn fields() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, field) in [
        ("a name in capitals", ("X-A", "1")),
        ("Connection", ("connection", "close")),
        (
            "Connection that nominates xfcc",
            ("connection", "x-forwarded-client-cert"),
        ),
        ("Keep-Alive", ("keep-alive", "timeout=5")),
        ("Proxy-Connection", ("proxy-connection", "keep-alive")),
        ("Transfer-Encoding", ("transfer-encoding", "chunked")),
        ("Upgrade", ("upgrade", "h2c")),
        ("TE that is not trailers", ("te", "gzip")),
        ("a line end in a value", ("x-a", "1\r\nx-evil: 1")),
        ("NUL in a value", ("x-a", "\0")),
        ("a colon in a name", ("x:a", "1")),
        ("a space in a name", ("x a", "1")),
        ("a line end in a name", ("x-a: 1\r\nx-evil", "1")),
        ("an empty name", ("", "1")),
        ("a length without a body", ("content-length", "5")),
        ("a signed length", ("content-length", "+0")),
        ("a length that is no number", ("content-length", "x")),
    ] {
        cases.push(h2(
            name,
            &[METHOD, SCHEME, PATH, AUTHORITY, field],
            Expect::Refused,
        ));
    }
    for (name, field) in [
        (
            "the caller's own xfcc",
            ("x-forwarded-client-cert", "URI=spiffe://test.example/admin"),
        ),
        (
            "xfcc with underscores",
            ("x_forwarded_client_cert", "URI=spiffe://test.example/admin"),
        ),
        ("HTTP2-Settings", ("http2-settings", "AAMAAABk")),
        ("Expect", ("expect", "100-continue")),
        ("TE: trailers", ("te", "trailers")),
        ("a length of zero", ("content-length", "0")),
    ] {
        cases.push(h2(
            name,
            &[METHOD, SCHEME, PATH, AUTHORITY, field],
            arrives("GET", "/p", ""),
        ));
    }
    let cookies = [
        METHOD,
        SCHEME,
        PATH,
        AUTHORITY,
        ("cookie", "a=1"),
        ("cookie", "b=2"),
        ("x-a", "1"),
        ("cookie", "c=3"),
    ];
    cases.push(
        h2(
            "cookies in several fields",
            &cookies,
            arrives("GET", "/p", ""),
        )
        .with_header("cookie", &["a=1; b=2; c=3"]),
    );
    let bomb: &'static str = Box::leak("a".repeat(40_000).into_boxed_str());
    cases.push(h2(
        "a field of 40 kB",
        &[METHOD, SCHEME, PATH, AUTHORITY, ("x-a", bomb)],
        Expect::Refused,
    ));
    cases
}

pub(super) fn bodies() -> Vec<Case> {
    let post = |fields: &[frames::Field], data, trailers: &[frames::Field]| frames::Request {
        head: [&[(":method", "POST"), SCHEME, PATH, AUTHORITY], fields].concat(),
        data,
        trailers: trailers.to_vec(),
    };
    let mut cases = vec![
        sent(
            "a body",
            post(&[], Some("abc"), &[]),
            arrives("POST", "/p", "abc"),
        ),
        sent(
            "a body with its length",
            post(&[("content-length", "3")], Some("abc"), &[]),
            arrives("POST", "/p", "abc"),
        ),
        sent(
            "a request as a body",
            post(&[], Some(SMUGGLED), &[]),
            arrives("POST", "/p", SMUGGLED),
        ),
        sent(
            "a request as a body that looks chunked",
            post(
                &[],
                Some("0\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: localhost\r\n\r\n"),
                &[],
            ),
            arrives(
                "POST",
                "/p",
                "0\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: localhost\r\n\r\n",
            ),
        ),
        sent(
            "a body longer than its length",
            post(&[("content-length", "2")], Some("abc"), &[]),
            Expect::Cut,
        ),
        sent(
            "a body longer than its length of zero",
            post(&[("content-length", "0")], Some(SMUGGLED), &[]),
            Expect::Cut,
        ),
        sent(
            "a body shorter than its length",
            post(&[("content-length", "4")], Some("abc"), &[]),
            Expect::Cut,
        ),
        sent(
            "two lengths",
            post(
                &[("content-length", "3"), ("content-length", "4")],
                Some("abc"),
                &[],
            ),
            Expect::Cut,
        ),
        sent(
            "trailers",
            post(&[], Some("abc"), &[("x-sum", "1")]),
            arrives("POST", "/p", "abc"),
        ),
        sent(
            "a pseudo-header among trailers",
            post(&[], Some("abc"), &[(":path", "/evil")]),
            arrives("POST", "/p", "abc"),
        ),
        sent(
            "trailers with a name in capitals",
            post(&[], Some("abc"), &[("X-Sum", "1")]),
            Expect::Cut,
        ),
    ];
    let get = frames::Request {
        head: vec![METHOD, SCHEME, PATH, AUTHORITY],
        data: Some("abc"),
        trailers: Vec::new(),
    };
    cases.push(sent("a body on GET", get, arrives("GET", "/p", "abc")));
    for (name, expect) in [
        ("authorization", arrives("POST", "/p", "abc")),
        ("host", arrives("POST", "/p", "abc")),
        ("content-length", arrives("POST", "/p", "abc")),
        ("te", Expect::Cut),
        ("transfer-encoding", Expect::Cut),
    ] {
        let trailing = post(&[("trailer", name)], Some("abc"), &[(name, "1")]);
        cases.push(sent(&format!("a trailer that is {name}"), trailing, expect));
    }
    cases
}
