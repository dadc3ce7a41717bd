//! Lines, their ends and what separates a name from its value; what ends at this hop.

use super::{Case, Expect, arrives, raw};

/// Lines, their ends, and what separates a field's name from its value.
pub(super) fn lines_and_fields() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, request) in [
        (
            "a folded line",
            "GET /p HTTP/1.1\r\nhost: localhost\r\nx-a: 1\r\n 2\r\nconnection: close\r\n\r\n",
        ),
        (
            "a folded line by a tab",
            "GET /p HTTP/1.1\r\nhost: localhost\r\nx-a: 1\r\n\t2\r\nconnection: close\r\n\r\n",
        ),
        (
            "a folded coding",
            "POST /p HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
        ),
        (
            "a space before the first field",
            "GET /p HTTP/1.1\r\n host: localhost\r\nconnection: close\r\n\r\n",
        ),
        (
            "a space before a colon",
            "GET /p HTTP/1.1\r\nhost: localhost\r\nx-a : 1\r\nconnection: close\r\n\r\n",
        ),
        (
            "a tab before a colon",
            "POST /p HTTP/1.1\r\nhost: localhost\r\ncontent-length\t: 3\r\n\r\nabc",
        ),
        (
            "a space before the colon of a coding",
            "POST /p HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding : chunked\r\n\r\n0\r\n\r\n",
        ),
        (
            "a bare CR in a value",
            "GET /p HTTP/1.1\r\nhost: localhost\r\nx-a: 1\r2\r\nconnection: close\r\n\r\n",
        ),
        (
            "a bare CR in a name",
            "GET /p HTTP/1.1\r\nhost: localhost\r\nx\r-a: 1\r\nconnection: close\r\n\r\n",
        ),
        (
            "a bare CR for a line end",
            "GET /p HTTP/1.1\r\nhost: localhost\rx-a: 1\r\nconnection: close\r\n\r\n",
        ),
        (
            "a bare CR for a line's end before a coding",
            "POST /p HTTP/1.1\r\nhost: localhost\r\nx-a: b\rtransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        (
            "a bare CR in the request line",
            "GET /p\r HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n",
        ),
        (
            "NUL in a value",
            "GET /p HTTP/1.1\r\nhost: localhost\r\nx-a: \0\r\nconnection: close\r\n\r\n",
        ),
        (
            "NUL in a name",
            "GET /p HTTP/1.1\r\nhost: localhost\r\nx\0a: 1\r\nconnection: close\r\n\r\n",
        ),
        (
            "a control in a value",
            "GET /p HTTP/1.1\r\nhost: localhost\r\nx-a: \u{1}\r\nconnection: close\r\n\r\n",
        ),
        (
            "DEL in a value",
            "GET /p HTTP/1.1\r\nhost: localhost\r\nx-a: \u{7f}\r\nconnection: close\r\n\r\n",
        ),
        (
            "a field without a colon",
            "GET /p HTTP/1.1\r\nhost: localhost\r\nx-a\r\nconnection: close\r\n\r\n",
        ),
        (
            "a field without a name",
            "GET /p HTTP/1.1\r\nhost: localhost\r\n: x\r\nconnection: close\r\n\r\n",
        ),
        (
            "a name with brackets",
            "GET /p HTTP/1.1\r\nhost: localhost\r\nx[a]: 1\r\nconnection: close\r\n\r\n",
        ),
        (
            "a name that is not ASCII",
            "GET /p HTTP/1.1\r\nhost: localhost\r\nx-\u{e9}: 1\r\nconnection: close\r\n\r\n",
        ),
        (
            "two spaces in the request line",
            "GET  /p HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n",
        ),
        (
            "two spaces before the version",
            "GET /p  HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n",
        ),
        (
            "a tab in the request line",
            "GET\t/p HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n",
        ),
        (
            "a space behind the version",
            "GET /p HTTP/1.1 \r\nhost: localhost\r\nconnection: close\r\n\r\n",
        ),
        (
            "words behind the version",
            "GET /p HTTP/1.1 x\r\nhost: localhost\r\nconnection: close\r\n\r\n",
        ),
        (
            "a space before the method",
            " GET /p HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n",
        ),
        (
            "no version",
            "GET /p\r\nhost: localhost\r\nconnection: close\r\n\r\n",
        ),
        (
            "HTTP/0.9",
            "GET /p HTTP/0.9\r\nhost: localhost\r\nconnection: close\r\n\r\n",
        ),
        (
            "HTTP/1.2",
            "GET /p HTTP/1.2\r\nhost: localhost\r\nconnection: close\r\n\r\n",
        ),
        (
            "HTTP/1.10",
            "GET /p HTTP/1.10\r\nhost: localhost\r\nconnection: close\r\n\r\n",
        ),
        (
            "HTTP/2.0",
            "GET /p HTTP/2.0\r\nhost: localhost\r\nconnection: close\r\n\r\n",
        ),
        (
            "http/1.1 in small letters",
            "GET /p http/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n",
        ),
    ] {
        cases.push(raw(name, request, Expect::Refused));
    }
    let large = format!(
        "GET /p HTTP/1.1\r\nhost: localhost\r\nx-a: {}\r\nconnection: close\r\n\r\n",
        "a".repeat(100_000)
    );
    cases.push(raw("a field of 100 kB", large, Expect::Refused));
    let many = format!(
        "GET /p HTTP/1.1\r\nhost: localhost\r\n{}connection: close\r\n\r\n",
        "x: 1\r\n".repeat(4_000)
    );
    cases.push(raw("4,000 fields", many, Expect::Refused));
    cases.push(raw(
        "bare LF for line ends",
        "GET /p HTTP/1.1\nhost: localhost\nconnection: close\n\n",
        arrives("GET", "/p", ""),
    ));
    cases.push(raw("bare LF before a coding", "POST /p HTTP/1.1\r\nhost: localhost\r\nx-a: b\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n3\r\nabc\r\n0\r\n\r\n", arrives("POST", "/p", "abc")));
    cases.push(raw(
        "no space behind a colon",
        "GET /p HTTP/1.1\r\nhost:localhost\r\nconnection:close\r\n\r\n",
        arrives("GET", "/p", ""),
    ));
    cases.push(raw(
        "HTTP/1.0",
        "GET /p HTTP/1.0\r\nhost: localhost\r\n\r\n",
        arrives("GET", "/p", ""),
    ));
    cases.push(raw("two requests at once", "GET /p HTTP/1.1\r\nhost: localhost\r\n\r\nGET /a/../b HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n", arrives("GET", "/p", "")));
    cases
}

/// What ends at this hop, and what the sidecar sets.
pub(super) fn hop_by_hop() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, fields) in [
        (
            "the caller's own xfcc",
            "x-forwarded-client-cert: URI=spiffe://test.example/admin",
        ),
        (
            "xfcc twice",
            "x-forwarded-client-cert: URI=spiffe://test.example/admin\r\nX-Forwarded-Client-Cert: admin",
        ),
        (
            "xfcc with underscores",
            "x_forwarded_client_cert: URI=spiffe://test.example/admin",
        ),
        (
            "xfcc with one underscore",
            "X-Forwarded_Client-Cert: URI=spiffe://test.example/admin",
        ),
        (
            "xfcc nominated by Connection",
            "connection: x-forwarded-client-cert",
        ),
        (
            "xfcc nominated by Connection, twice",
            "connection: close, x-forwarded-client-cert\r\nconnection: x-forwarded-client-cert",
        ),
        (
            "an upgrade to h2c",
            "connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__",
        ),
        ("an upgrade to h2c that is not nominated", "upgrade: h2c"),
        (
            "an upgrade to something else",
            "connection: upgrade\r\nupgrade: tls/1.3",
        ),
        (
            "an upgrade to two things",
            "connection: upgrade\r\nupgrade: websocket, h2c",
        ),
        ("Keep-Alive", "keep-alive: timeout=1000"),
        ("Proxy-Connection", "proxy-connection: keep-alive"),
        ("TE", "te: trailers, chunked"),
        (
            "Connection: close and keep-alive",
            "connection: close, keep-alive",
        ),
        (
            "Connection with bad names",
            "connection: ,,\"x\", , (, close",
        ),
    ] {
        let request =
            format!("GET /p HTTP/1.1\r\nhost: localhost\r\n{fields}\r\nconnection: close\r\n\r\n");
        cases.push(raw(name, request, arrives("GET", "/p", "")));
    }
    let nominated = |field: &str, value: &str| {
        format!(
            "GET /p HTTP/1.1\r\nhost: localhost\r\n{field}: {value}\r\nconnection: close, {field}\r\n\r\n"
        )
    };
    cases.push(
        raw(
            "Authorization nominated by Connection",
            nominated("authorization", "x"),
            arrives("GET", "/p", ""),
        )
        .with_header("authorization", &[]),
    );
    cases.push(
        raw(
            "Cookie nominated by Connection",
            nominated("cookie", "x"),
            arrives("GET", "/p", ""),
        )
        .with_header("cookie", &[]),
    );
    cases
}
