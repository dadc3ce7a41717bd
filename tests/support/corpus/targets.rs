//! Whose resource is asked for, which, and what is to be done with it.

use super::{Case, Expect, arrives, get, raw};

/// Whose request it is.
pub(super) fn hosts() -> Vec<Case> {
    let host = |host: &str| format!("GET /p HTTP/1.1\r\n{host}\r\nconnection: close\r\n\r\n");
    let mut cases = Vec::new();
    for (name, fields) in [
        ("no host", "x-a: 1"),
        ("two hosts", "host: localhost\r\nhost: evil"),
        ("the same host twice", "host: localhost\r\nhost: localhost"),
        ("a list of hosts", "host: localhost, evil"),
        ("an empty host", "host:"),
        ("userinfo", "host: localhost@evil"),
        ("userinfo with a password", "host: a:b@localhost"),
        ("a space in a host", "host: localhost evil"),
        ("a tab in a host", "host: localhost\tevil"),
        ("a path in a host", "host: localhost/evil"),
        ("a query in a host", "host: localhost?evil"),
        ("a fragment in a host", "host: localhost#evil"),
        ("a backslash in a host", "host: localhost\\evil"),
        ("a percent in a host", "host: local%68ost"),
        ("a scheme in a host", "host: http://localhost"),
        ("a port that is no number", "host: localhost:http"),
        ("a port beyond 16 bits", "host: localhost:65536"),
        ("an empty port", "host: localhost:"),
        ("two ports", "host: localhost:80:80"),
        ("a signed port", "host: localhost:+80"),
        ("a host that is not ASCII", "host: l\u{f6}calhost"),
        ("a host that is only a dot", "host: ."),
        ("a host with two dots behind it", "host: localhost.."),
        ("a host with an empty label", "host: local..host"),
        ("a host that begins with a dot", "host: .localhost"),
        ("a host in quotes", "host: \"localhost\""),
        ("a bracket that does not close", "host: [::1"),
        ("brackets without an address", "host: [localhost]"),
        ("words behind a bracket", "host: [::1]evil"),
        ("a host with a star", "host: *"),
        ("a host with NUL", "host: localhost\0"),
    ] {
        cases.push(raw(name, host(fields), Expect::Refused));
    }
    for (name, sent) in [
        ("a host in capitals", "LocalHost"),
        ("a host with a port", "localhost:8443"),
        ("a host with a dot behind it", "localhost."),
        ("a host in capitals with all of that", "LOCALHOST.:443"),
        ("an IPv4 address", "127.0.0.1:80"),
        ("an underscore in a host", "local_host"),
    ] {
        cases.push(
            raw(
                name,
                host(&format!("host: {sent}")),
                arrives("GET", "/p", ""),
            )
            .with_header("host", Box::leak(Box::new([sent]))),
        );
    }
    for (name, target, fields) in [
        (
            "an absolute target of another host",
            "http://evil/p",
            "host: localhost",
        ),
        (
            "an absolute target with another port",
            "http://localhost:1/p",
            "host: localhost",
        ),
        (
            "an absolute target with userinfo",
            "http://a@localhost/p",
            "host: localhost",
        ),
        (
            "an absolute target with userinfo and the same in Host",
            "http://a@localhost/p",
            "host: a@localhost",
        ),
        (
            "an absolute target without a host",
            "http:///p",
            "host: localhost",
        ),
        (
            "an absolute target and two hosts",
            "http://localhost/p",
            "host: localhost\r\nhost: localhost",
        ),
        (
            "an absolute target with dot segments",
            "http://localhost/a/../p",
            "host: localhost",
        ),
        (
            "a target that is an authority",
            "localhost:80",
            "host: localhost",
        ),
        ("a target that is a name", "localhost", "host: localhost"),
    ] {
        cases.push(raw(
            name,
            format!("GET {target} HTTP/1.1\r\n{fields}\r\nconnection: close\r\n\r\n"),
            Expect::Refused,
        ));
    }
    for (name, target, fields) in [
        (
            "an absolute target",
            "http://localhost/p",
            "host: localhost",
        ),
        (
            "an absolute target in capitals",
            "http://LOCALHOST/p",
            "host: localhost",
        ),
        (
            "an absolute target with https",
            "https://localhost/p",
            "host: localhost",
        ),
        (
            "an absolute target without Host",
            "http://localhost/p",
            "x-a: 1",
        ),
        (
            "Host nominated by Connection",
            "/p",
            "host: localhost\r\nconnection: host",
        ),
    ] {
        cases.push(raw(
            name,
            format!("GET {target} HTTP/1.1\r\n{fields}\r\nconnection: close\r\n\r\n"),
            arrives("GET", "/p", ""),
        ));
    }
    cases
}

/// Which resource it asks for.
pub(super) fn targets() -> Vec<Case> {
    let mut cases = Vec::new();
    for target in [
        "/a/../b",
        "/..",
        "/../",
        "/a/..",
        "/./a",
        "/a/.",
        "//a",
        "/a//b",
        "/a//",
        "//",
        "/%2e%2e/a",
        "/a/%2E%2E/b",
        "/a/.%2e/b",
        "/a%2Fb",
        "/a%2fb",
        "/a%5Cb",
        "/a\\b",
        "/a%00b",
        "/a%0Ab",
        "/a%0D%0Ab",
        "/a%20%2F",
        "/a;b",
        "/a;b=c/d",
        "/a%3Bb",
        "/a%23b",
        "/a%3Fb",
        "/a%252Fb",
        "/a%252e%252e/b",
        "/%61",
        "/a%",
        "/a%4",
        "/a%zz",
        "/a%u002f",
        "/a%FF",
        "/a%C0%AF",
        "/a{b}",
        "/a|b",
        "/a^b",
        "/a`b",
        "/a\"b",
        "/a<b>",
        "/\u{e9}",
        "/a\u{7f}",
        "/a\u{1}b",
        "*",
        "a",
        "?a",
        "/a\u{2028}b",
    ] {
        cases.push(raw(
            &format!("target {target:?}"),
            get(target),
            Expect::Refused,
        ));
    }
    for target in [
        "/",
        "/a/",
        "/a/b.c",
        "/...",
        "/.a",
        "/a..",
        "/a%20b",
        "/caf%C3%A9",
        "/a:b@c!$&'()*+,=-_~",
        "/a?",
        "/a??b",
        "/a?b=/../c",
        "/a?b=//c",
        "/a?b=%2F&c=%00&d=%2e",
        "/a?b;c",
        "/a?b=c?d=e",
        "/a?b=%",
        "/a?b=\\",
        "/a?b={c}|d^e`f",
        "/a?b='c'",
        "/?a",
        "/a?b=http://evil/",
    ] {
        cases.push(raw(
            &format!("target {target:?}"),
            get(target),
            arrives("GET", target, ""),
        ));
    }
    // RFC 9112 section 3.2: a fragment is no part of a target. It is gone before the decision.
    cases.push(raw("a fragment", get("/a#/../b"), arrives("GET", "/a", "")));
    cases.push(raw(
        "a fragment behind a query",
        get("/a?b#c?d"),
        arrives("GET", "/a?b", ""),
    ));
    cases.push(
        raw(
            "a query that is not ASCII",
            get("/a?b=\u{e9}"),
            arrives("GET", &latin1("/a?b=\u{e9}"), ""),
        )
        .refused_by(&["node"]),
    );
    let long = format!("/{}", "a".repeat(20_000));
    cases.push(
        raw("a target of 20 kB", get(&long), arrives("GET", &long, ""))
            .refused_by(&["node", "hyper over HTTP/2"]),
    );
    cases.push(raw(
        "a target of 100 kB",
        get(&format!("/{}", "a".repeat(100_000))),
        Expect::Refused,
    ));
    cases.push(
        raw(
            "the asterisk with OPTIONS",
            "OPTIONS * HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n",
            arrives("OPTIONS", "*", ""),
        )
        .refused_by(&["nginx"]),
    );
    cases.push(raw(
        "the asterisk with GET",
        "GET * HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n",
        Expect::Refused,
    ));
    cases
}

/// One character for each byte, as applications tell what they saw.
fn latin1(text: &str) -> String {
    text.bytes().map(char::from).collect()
}

/// What it asks to be done.
pub(super) fn methods() -> Vec<Case> {
    let ask = |method: &str, target: &str| {
        format!("{method} {target} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
    };
    let mut cases = Vec::new();
    for (method, target) in [
        ("CONNECT", "localhost:80"),
        ("CONNECT", "/p"),
        ("G(T", "/p"),
        ("G\u{e9}T", "/p"),
        ("G,T", "/p"),
        ("", "/p"),
    ] {
        cases.push(raw(
            &format!("method {method:?} for {target}"),
            ask(method, target),
            Expect::Refused,
        ));
    }
    for (method, refused_by) in [
        ("get", &["nginx", "node"] as &[_]),
        ("Get", &["nginx", "node"]),
        ("PURGE", &[]),
        ("PROPFIND", &[]),
        ("TRACE", &["nginx"]),
        ("BREW", &["node"]),
        ("X-ANY.METHOD", &["nginx", "node"]),
        ("DELETE", &[]),
        ("PATCH", &[]),
    ] {
        cases.push(
            raw(
                &format!("method {method}"),
                ask(method, "/p"),
                arrives(method, "/p", ""),
            )
            .refused_by(refused_by),
        );
    }
    cases.push(raw("a method that is overridden", "POST /p HTTP/1.1\r\nhost: localhost\r\nx-http-method-override: DELETE\r\ncontent-length: 0\r\nconnection: close\r\n\r\n", arrives("POST", "/p", "")));
    cases
}
