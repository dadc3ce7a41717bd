//! Where a body ends: its length, its coding, and how it is cut into chunks.

use super::{Case, Expect, arrives, lines, raw};

pub(super) const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nhost: localhost\r\nx-evil: 1\r\n\r\n";

/// Where a body ends.
pub(super) fn framing() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, headers) in [
        (
            "two lengths that differ",
            "content-length: 3\r\ncontent-length: 4",
        ),
        ("a list of lengths that differ", "content-length: 3, 4"),
        ("a signed length", "content-length: +3"),
        ("a negative length", "content-length: -3"),
        ("a length with a space inside", "content-length: 1 0"),
        ("a length with a comma behind", "content-length: 3,"),
        ("a length in hexadecimal", "content-length: 0x3"),
        ("a length that is a hexadecimal digit", "content-length: a"),
        ("a length with an underscore", "content-length: 1_0"),
        ("a length with a fraction", "content-length: 3.0"),
        ("an empty length", "content-length:"),
        (
            "a length beyond 64 bits",
            "content-length: 18446744073709551619",
        ),
        (
            "a length beyond 128 bits",
            "content-length: 340282366920938463463374607431768211459",
        ),
        ("a length in quotes", "content-length: \"3\""),
        ("a length with a NUL", "content-length: 3\0"),
        ("a length with a vertical tab", "content-length: \u{b}3"),
        ("an unknown coding", "transfer-encoding: xchunked"),
        (
            "a coding with a vertical tab",
            "transfer-encoding: \u{b}chunked",
        ),
        ("a coding twice", "transfer-encoding: chunked, chunked"),
        (
            "a coding twice, in two fields",
            "transfer-encoding: chunked\r\ntransfer-encoding: chunked",
        ),
        ("another coding first", "transfer-encoding: gzip, chunked"),
        ("another coding last", "transfer-encoding: chunked, gzip"),
        (
            "identity last",
            "transfer-encoding: chunked\r\ntransfer-encoding: identity",
        ),
        (
            "identity first",
            "transfer-encoding: identity\r\ntransfer-encoding: chunked",
        ),
        ("an empty coding", "transfer-encoding:"),
        (
            "a coding with a comma first",
            "transfer-encoding: , chunked",
        ),
        (
            "a coding with a parameter",
            "transfer-encoding: chunked;a=b",
        ),
        ("a coding in quotes", "transfer-encoding: \"chunked\""),
        (
            "a length and an unknown coding",
            "content-length: 3\r\ntransfer-encoding: x",
        ),
    ] {
        cases.push(raw(name, lines("POST", headers, "abc"), Expect::Refused));
    }
    for (name, headers, body, arrived) in [
        (
            "the same length twice",
            "content-length: 3\r\ncontent-length: 3",
            "abc",
            "abc",
        ),
        (
            "a length with zeros before it",
            "content-length: 0003",
            "abc",
            "abc",
        ),
        (
            "a length with spaces around it",
            "content-length: \t 3 \t",
            "abc",
            "abc",
        ),
        (
            "a length of zero and a request behind it",
            "content-length: 0",
            "",
            "",
        ),
        (
            "a coding in capitals",
            "transfer-encoding: CHUNKED",
            "3\r\nabc\r\n0\r\n\r\n",
            "abc",
        ),
        (
            "a coding with spaces around it",
            "transfer-encoding: \t chunked \t",
            "3\r\nabc\r\n0\r\n\r\n",
            "abc",
        ),
        (
            "a length and chunks",
            "content-length: 6\r\ntransfer-encoding: chunked",
            "0\r\n\r\n",
            "",
        ),
        (
            "chunks and a length",
            "transfer-encoding: chunked\r\ncontent-length: 3",
            "3\r\nabc\r\n0\r\n\r\n",
            "abc",
        ),
        (
            "a length nominated by Connection",
            "content-length: 3\r\nconnection: content-length",
            "abc",
            "abc",
        ),
        (
            "chunks nominated by Connection",
            "transfer-encoding: chunked\r\nconnection: transfer-encoding",
            "3\r\nabc\r\n0\r\n\r\n",
            "abc",
        ),
        (
            "expect with the body at once",
            "content-length: 3\r\nexpect: 100-continue",
            "abc",
            "abc",
        ),
        (
            "expect in capitals",
            "content-length: 3\r\nexpect: 100-CONTINUE",
            "abc",
            "abc",
        ),
        (
            "expect of something else",
            "content-length: 3\r\nexpect: 200-ok",
            "abc",
            "abc",
        ),
        (
            "expect twice",
            "content-length: 3\r\nexpect: 100-continue\r\nexpect: 100-continue",
            "abc",
            "abc",
        ),
    ] {
        let headers = format!("{headers}\r\nconnection: close");
        cases.push(raw(
            name,
            lines("POST", &headers, body),
            arrives("POST", "/p", arrived),
        ));
    }
    cases.push(raw(
        "a body on GET",
        lines("GET", "content-length: 3\r\nconnection: close", "abc"),
        arrives("GET", "/p", "abc"),
    ));
    cases.push(raw(
        "a request as a body",
        lines(
            "POST",
            &format!("content-length: {}\r\nconnection: close", SMUGGLED.len()),
            SMUGGLED,
        ),
        arrives("POST", "/p", SMUGGLED),
    ));
    cases.push(raw(
        "a request as a body of GET",
        lines(
            "GET",
            &format!("content-length: {}\r\nconnection: close", SMUGGLED.len()),
            SMUGGLED,
        ),
        arrives("GET", "/p", SMUGGLED),
    ));
    // Kept connections: what a wrong end leaves over would be read as a request.
    cases.push(raw(
        "a length and chunks, and a request behind",
        lines(
            "POST",
            "content-length: 6\r\ntransfer-encoding: chunked",
            &format!("0\r\n\r\n{SMUGGLED}"),
        ),
        arrives("POST", "/p", ""),
    ));
    cases.push(raw("chunks over HTTP/1.0", "POST /p HTTP/1.0\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", Expect::Refused));
    cases.push(raw("chunks and a length over HTTP/1.0", "POST /p HTTP/1.0\r\nhost: localhost\r\ntransfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n3\r\nabc\r\n0\r\n\r\n", Expect::Refused));
    cases.push(raw(
        "a body that is too short",
        lines("POST", "content-length: 10", "abc"),
        Expect::Cut,
    ));
    cases
}

/// How a body is cut into chunks.
pub(super) fn chunks() -> Vec<Case> {
    let chunked = |body: &str| {
        lines(
            "POST",
            "transfer-encoding: chunked\r\nconnection: close",
            body,
        )
    };
    let mut cases = Vec::new();
    for (name, body) in [
        ("a size with 0x", "0x3\r\nabc\r\n0\r\n\r\n"),
        ("a signed size", "+3\r\nabc\r\n0\r\n\r\n"),
        ("a negative size", "-3\r\nabc\r\n0\r\n\r\n"),
        ("a size with a space before it", " 3\r\nabc\r\n0\r\n\r\n"),
        ("a size with an underscore", "0_3\r\nabc\r\n0\r\n\r\n"),
        ("no size", "\r\nabc\r\n0\r\n\r\n"),
        ("a size that is no number", "g\r\nabc\r\n0\r\n\r\n"),
        (
            "a size beyond 64 bits",
            "10000000000000003\r\nabc\r\n0\r\n\r\n",
        ),
        (
            "a size of 17 digits",
            "fffffffffffffffff\r\nabc\r\n0\r\n\r\n",
        ),
        ("a chunk longer than its size", "3\r\nabcd\r\n0\r\n\r\n"),
        ("a chunk shorter than its size", "5\r\nabc\r\n0\r\n\r\n"),
        ("a size that ends in LF", "3\nabc\r\n0\r\n\r\n"),
        ("a size that ends in CR", "3\rabc\r\n0\r\n\r\n"),
        ("a chunk that ends in LF", "3\r\nabc\n0\r\n\r\n"),
        ("an extension with an LF", "3;a=\nb\r\nabc\r\n0\r\n\r\n"),
        ("an end without its last line", "3\r\nabc\r\n0\r\n"),
        ("an end without its line end", "3\r\nabc\r\n0"),
        ("no end", "3\r\nabc\r\n"),
        (
            "a trailer with a space before its colon",
            "0\r\nx-sum : 1\r\n\r\n",
        ),
        ("a trailer that is folded", "0\r\nx-sum: 1\r\n 2\r\n\r\n"),
        ("a trailer without a colon", "0\r\nx-sum\r\n\r\n"),
    ] {
        cases.push(raw(&format!("chunks: {name}"), chunked(body), Expect::Cut));
    }
    for (name, body) in [
        (
            "a size with zeros before it",
            "0000000003\r\nabc\r\n0\r\n\r\n",
        ),
        ("a size with a space behind it", "3 \r\nabc\r\n0\r\n\r\n"),
        ("an extension", "3;a=b\r\nabc\r\n0;c\r\n\r\n"),
        ("an extension in quotes", "3;a=\"\r\nabc\r\n0\r\n\r\n"),
        ("an end of many zeros", "3\r\nabc\r\n0000\r\n\r\n"),
    ] {
        cases.push(raw(
            &format!("chunks: {name}"),
            chunked(body),
            arrives("POST", "/p", "abc"),
        ));
    }
    for (size, body) in [("a", "0123456789"), ("A", "0123456789")] {
        let chunks = format!("{size}\r\n{body}\r\n0\r\n\r\n");
        let name = format!("chunks: a size of {size}");
        cases.push(raw(&name, chunked(&chunks), arrives("POST", "/p", body)));
    }
    let none = "3\r\nabc\r\n0\r\nauthorization: x\r\ncontent-length: 7\r\nhost: evil\r\nte: x\r\nx-forwarded-client-cert: URI=spiffe://x/y\r\n\r\n";
    cases.push(raw(
        "chunks: trailers that are none",
        chunked(none),
        arrives("POST", "/p", "abc"),
    ));
    let announced = "transfer-encoding: chunked\r\ntrailer: authorization, host, content-length, te, x-sum, x-forwarded-client-cert\r\nconnection: close";
    cases.push(raw(
        "chunks: announced trailers that are none",
        lines("POST", announced, none),
        arrives("POST", "/p", "abc"),
    ));
    cases.push(raw(
        "chunks: a request behind the end",
        lines(
            "POST",
            "transfer-encoding: chunked",
            "3\r\nabc\r\n0\r\n\r\nGARBAGE\r\n\r\n",
        ),
        arrives("POST", "/p", "abc"),
    ));
    cases
}
