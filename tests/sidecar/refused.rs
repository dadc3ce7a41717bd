//! Requests that get an answer of the sidecar's own, and never reach the upstream.

use http::{Method, Request};
use http_body_util::Full;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::client::{self, raw, status_of};
use crate::support::setup::{Setup, Sidecar};
use crate::support::upstream::{Speaks, Upstream};
use crate::support::within;

async fn sidecar_and_upstream() -> (Sidecar, Upstream) {
    let upstream = Upstream::start(Speaks::Http1).await;
    (Setup::new(upstream.address).start().await, upstream)
}

/// The status of a raw HTTP/1.1 request that the allowed caller sends.
async fn status(sidecar: &Sidecar, request: &str) -> u16 {
    let stream = sidecar.stream("frontend", &["http/1.1"]).await;
    status_of(&raw(stream, request).await)
}

#[tokio::test]
async fn rejects_paths_that_two_servers_could_read_differently() {
    let (sidecar, upstream) = sidecar_and_upstream().await;
    for path in [
        "/a%2Fb",
        "/a%2fb",
        "/a%5Cb",
        "/a\\b",
        "/a%00b",
        "/a/../b",
        "/a/%2e%2e/b",
        "/a/%2E%2E/b",
        "/./a",
        "/..",
        "//a",
        "/a//b",
        "/a;b=c",
        "/a%3Bb",
        "/a%23b",
        "/%61",
        "/a%ZZ",
        "/a%",
        "/a%FF",
        "/a%252Fb",
        "/a{b}",
        "a",
        "",
    ] {
        let request =
            format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        assert_eq!(status(&sidecar, &request).await, 400, "{path}");
    }
    upstream.assert_untouched();
}

/// A fragment is not part of a target (RFC 9112 section 3.2); it is refused, or is gone
/// before the decision.
#[tokio::test]
async fn a_fragment_never_reaches_the_upstream() {
    let (sidecar, upstream) = sidecar_and_upstream().await;
    let request = "GET /a#/../b HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    match status(&sidecar, request).await {
        400 => upstream.assert_untouched(),
        200 => {
            assert_eq!(upstream.only().target, "/a");
            let record = sidecar.record(|_| true).await;
            assert_eq!(record["resource"]["path"], "/a");
        }
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn rejects_ambiguous_paths_over_http2() {
    let (sidecar, upstream) = sidecar_and_upstream().await;
    let mut client = sidecar.http2("frontend").await;
    for path in ["/a/../b", "//a", "/a%2Fb", "/a;b", "/%2e%2e/a"] {
        let answer = client.send(client::get(&sidecar.url(path))).await;
        assert_eq!(answer.status, 400, "{path}");
        assert_eq!(answer.header("content-type"), "application/problem+json");
        assert_eq!(answer.header("cache-control"), "no-store");
    }
    upstream.assert_untouched();
}

#[tokio::test]
async fn rejects_malformed_http() {
    let (sidecar, upstream) = sidecar_and_upstream().await;
    for (what, request) in [
        ("no request line", "hello\r\n\r\n"),
        ("no version", "GET /\r\nhost: a\r\n\r\n"),
        ("no host", "GET / HTTP/1.1\r\nconnection: close\r\n\r\n"),
        (
            "two hosts",
            "GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\nconnection: close\r\n\r\n",
        ),
        (
            "the same host twice",
            "GET / HTTP/1.1\r\nhost: a\r\nhost: a\r\nconnection: close\r\n\r\n",
        ),
        (
            "userinfo",
            "GET / HTTP/1.1\r\nhost: user@a\r\nconnection: close\r\n\r\n",
        ),
        (
            "two hosts in one",
            "GET / HTTP/1.1\r\nhost: a, b\r\nconnection: close\r\n\r\n",
        ),
        (
            "disagreeing hosts",
            "GET http://a/ HTTP/1.1\r\nhost: b\r\nconnection: close\r\n\r\n",
        ),
        (
            "a folded line",
            "GET / HTTP/1.1\r\nhost: a\r\nx: 1\r\n 2\r\nconnection: close\r\n\r\n",
        ),
        (
            "a bare CR",
            "GET / HTTP/1.1\r\nhost: a\r\nx: 1\r2\r\nconnection: close\r\n\r\n",
        ),
        (
            "NUL in a header",
            "GET / HTTP/1.1\r\nhost: a\r\nx: \0\r\nconnection: close\r\n\r\n",
        ),
        (
            "space before a colon",
            "GET / HTTP/1.1\r\nhost : a\r\nconnection: close\r\n\r\n",
        ),
        (
            "a signed length",
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: +3\r\n\r\nabc",
        ),
        (
            "two lengths",
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabc",
        ),
        (
            "an unknown coding",
            "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip, chunked\r\n\
             connection: close\r\n\r\n0\r\n\r\n",
        ),
        (
            "CONNECT",
            "CONNECT a:1 HTTP/1.1\r\nhost: a:1\r\nconnection: close\r\n\r\n",
        ),
    ] {
        assert_eq!(status(&sidecar, request).await, 400, "{what}");
    }
    upstream.assert_untouched();
}

/// RFC 9112 section 6.3: the length is dropped and the connection closed after the answer,
/// so that what follows is never read as a request.
#[tokio::test]
async fn a_request_with_a_length_and_chunks_smuggles_nothing() {
    let (sidecar, upstream) = sidecar_and_upstream().await;
    let request = "POST /a HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5\r\n\
                   transfer-encoding: chunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\n\
                   host: localhost\r\n\r\n";
    let stream = sidecar.stream("frontend", &["http/1.1"]).await;
    let answers = raw(stream, request).await;
    assert_eq!(answers.matches("HTTP/1.1 ").count(), 1, "{answers}");
    for seen in upstream.seen() {
        assert_eq!((seen.target.as_str(), seen.body.len()), ("/a", 0));
        let lengths = seen.values("content-length");
        assert!(lengths.iter().all(|length| length == "0"), "{seen:?}");
    }
}

#[tokio::test]
async fn an_unknown_method_is_denied_unless_a_policy_allows_it() {
    let (sidecar, upstream) = sidecar_and_upstream().await;
    for method in ["PURGE", "get", "TRACK"] {
        let request = Request::builder().method(Method::from_bytes(method.as_bytes()).unwrap());
        let request = request
            .uri("/")
            .header("host", "a")
            .body(Full::default())
            .unwrap();
        let answer = sidecar.http1("frontend").await.send(request).await;
        assert_eq!(answer.status, 403, "{method}");
        let record = sidecar.record(|record| record["method"] == method).await;
        assert_eq!(record["action"], "http:other");
    }
    upstream.assert_untouched();

    let setup = Setup::new(upstream.address);
    setup.write_policy(
        r#"@id("purge") permit (principal, action == Action::"http:other", resource)
           when { context.method == "PURGE" };"#,
    );
    let sidecar = setup.start().await;
    for (method, expected) in [("PURGE", 200), ("TRACK", 403), ("GET", 403)] {
        let request = Request::builder()
            .method(method)
            .uri("/")
            .header("host", "a");
        let request = request.body(Full::default()).unwrap();
        let answer = sidecar.http1("agent").await.send(request).await;
        assert_eq!(answer.status, expected, "{method}");
    }
    assert_eq!(upstream.only().method, "PURGE");
}

#[tokio::test]
async fn answers_421_to_a_host_that_is_not_served() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let mut setup = Setup::new(upstream.address);
    setup.inbound_keys.push("hosts: [orders.example]");
    let sidecar = setup.start().await;
    let request = |host: &str| {
        Request::get("/")
            .header("host", host)
            .body(Full::default())
            .unwrap()
    };
    let mut client = sidecar.http1("frontend").await;
    assert_eq!(client.send(request("payments.example")).await.status, 421);
    upstream.assert_untouched();
    assert_eq!(
        client.send(request("Orders.Example.:8443")).await.status,
        200
    );
}

#[tokio::test]
async fn a_denied_upload_is_answered_before_its_body_is_sent() {
    let (sidecar, upstream) = sidecar_and_upstream().await;
    let mut stream = sidecar.stream("agent", &["http/1.1"]).await;
    let head = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1000\r\nexpect: 100-continue\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    within("the answer", stream.read_exact(&mut answer))
        .await
        .unwrap();
    assert_eq!(&answer, b"HTTP/1.1 403");
    upstream.assert_untouched();
}

#[tokio::test]
async fn two_pipelined_requests_are_decided_one_by_one() {
    let (sidecar, upstream) = sidecar_and_upstream().await;
    let requests = "GET /forbidden HTTP/1.1\r\nhost: a\r\n\r\n\
                    GET /allowed HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    let stream = sidecar.stream("frontend", &["http/1.1"]).await;
    let answers = raw(stream, requests).await;
    assert_eq!(status_of(&answers), 403);
    assert!(answers.contains("HTTP/1.1 200 OK"), "{answers}");
    assert_eq!(upstream.only().target, "/allowed");
}
