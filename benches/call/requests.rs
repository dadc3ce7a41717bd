//! Requests as they come out of hyper.

use http::request::{Builder, Parts};
use http::{Request, Version};

/// One request, and what it is read as: its path, or the reason code of its refusal.
pub(crate) struct Example {
    pub(crate) name: &'static str,
    pub(crate) head: Parts,
    pub(crate) expected: Result<&'static str, &'static str>,
}

/// A path with what must be escaped, and with dots that are no dot segments.
const LONG: &str = "/files/2026/Quarterly%20report%20%28final%29.v2.1.pdf/pages/.hidden/a...b/\
    orders%20by%20customer/northern%20region/x%40shop.example/100%25/revision.1.2.3/part%20one.txt";
/// The same with letters that are not ASCII.
const FOREIGN: &str = "/files/2026/Gesch%C3%A4ftsbericht%20%28endg%C3%BCltig%29.v2.1.pdf/Seiten/.x/\
    Auftr%C3%A4ge/Region%20K%C3%B6ln/%E6%97%A5%E6%9C%AC/100%25/Version.1.2.3/Teil%20eins.txt";

/// What a browser sends, its host and cookies apart.
const BROWSER: [(&str, &str); 13] = [
    (
        "user-agent",
        "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36",
    ),
    (
        "accept",
        "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",
    ),
    ("accept-encoding", "gzip, deflate, br, zstd"),
    ("accept-language", "de-DE,de;q=0.9,en;q=0.8"),
    ("cache-control", "max-age=0"),
    (
        "sec-ch-ua",
        "\"Chromium\";v=\"140\", \"Not=A?Brand\";v=\"24\"",
    ),
    ("sec-ch-ua-mobile", "?0"),
    ("sec-ch-ua-platform", "\"Linux\""),
    ("sec-fetch-dest", "document"),
    ("sec-fetch-mode", "navigate"),
    ("sec-fetch-site", "same-origin"),
    ("sec-fetch-user", "?1"),
    ("upgrade-insecure-requests", "1"),
];

/// The requests that are read.
pub(crate) fn examples() -> Vec<Example> {
    vec![
        example(
            "read/http1/short",
            http1("/orders/7").header("accept", "*/*"),
            Ok("/orders/7"),
        ),
        browser_call(),
        example("read/http1/escaped", http1(LONG), Ok(LONG)),
        example("read/http1/escaped, not ASCII", http1(FOREIGN), Ok(FOREIGN)),
        quoted(),
        example(
            "read/http1/refused, dots",
            http1("/orders/../admin"),
            Err("path_segments"),
        ),
        example(
            "read/http1/refused, two hosts",
            http1("/orders/7").header("host", "other"),
            Err("host_repeated"),
        ),
        example(
            "read/http2/short",
            http2("/orders/7").header("accept", "*/*"),
            Ok("/orders/7"),
        ),
        example(
            "read/http2/browser",
            browser(http2("/orders/7?page=2"), &["id=1", "theme=dark"]),
            Ok("/orders/7"),
        ),
        example("read/http2/escaped", http2(LONG), Ok(LONG)),
        example(
            "read/http2/refused, escape",
            http2("/orders%2fadmin"),
            Err("path_escape_not_canonical"),
        ),
        example("read/http2/gRPC", grpc(), Ok("/shop.Orders/Get")),
    ]
}

/// As a browser asks over HTTP/1.1.
pub(crate) fn browser_call() -> Example {
    let request = browser(http1("/orders/7?page=2"), &["id=1; theme=dark"]);
    let request = request.header("connection", "keep-alive");
    example("read/http1/browser", request, Ok("/orders/7"))
}

/// What must not be in a path, nor unescaped in a record.
pub(crate) fn quoted() -> Example {
    let refusal = Err("path_character");
    example("read/http1/refused, quote", http1("/orders/\"7\""), refusal)
}

fn example(
    name: &'static str,
    request: Builder,
    expected: Result<&'static str, &'static str>,
) -> Example {
    let head = request.body(()).expect("a request").into_parts().0;
    Example {
        name,
        head,
        expected,
    }
}

/// Over HTTP/1.1, where `Host` names the host.
fn http1(target: &str) -> Builder {
    Request::get(target).header("host", "orders.shop.example:8443")
}

/// Over HTTP/2, where the target does.
fn http2(target: &str) -> Builder {
    let target = format!("https://orders.shop.example:8443{target}");
    Request::get(target).version(Version::HTTP_2)
}

fn grpc() -> Builder {
    let fields = [
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        ("user-agent", "grpc-go/1.76.0"),
        ("grpc-timeout", "1S"),
    ];
    with(http2("/shop.Orders/Get").method("POST"), &fields)
}

fn browser(request: Builder, cookies: &[&str]) -> Builder {
    let request = with(request, &BROWSER);
    let cookies = cookies.iter();
    cookies.fold(request, |request, cookie| request.header("cookie", *cookie))
}

fn with(request: Builder, fields: &[(&'static str, &'static str)]) -> Builder {
    let fields = fields.iter();
    fields.fold(request, |request, (name, value)| {
        request.header(*name, *value)
    })
}
