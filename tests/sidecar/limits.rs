//! What one peer may hold or take, and the answer at each limit.

use std::net::SocketAddr;

use http::Request;
use http_body_util::Full;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::support::client::{self, raw, status_of};
use crate::support::raw_http2::{
    DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, RST_STREAM, RawHttp2, frame, get, get_head,
};
use crate::support::setup::{Setup, Sidecar};
use crate::support::upstream::{Speaks, Upstream};
use crate::support::{eventually, within};

#[tokio::test]
async fn answers_431_to_oversized_headers_over_both_protocols() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let mut setup = Setup::new(upstream.address);
    setup.limits.push("max_header_bytes: 8KiB");
    let sidecar = setup.start().await;
    let request = |uri: &str, length: usize| {
        let mut request = client::get(uri);
        request
            .headers_mut()
            .insert("x-large", "x".repeat(length).parse().unwrap());
        request
    };
    let answer = sidecar
        .http1("frontend")
        .await
        .send(request("/", 9_000))
        .await;
    assert_eq!(answer.status, 431);
    let mut http2 = sidecar.http2("frontend").await;
    assert_eq!(
        http2.send(request(&sidecar.url("/"), 9_000)).await.status,
        431
    );
    upstream.assert_untouched();
    assert_eq!(
        http2.send(request(&sidecar.url("/"), 4_000)).await.status,
        200
    );
    let answer = sidecar
        .http1("frontend")
        .await
        .send(request("/", 4_000))
        .await;
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn cuts_a_client_that_never_finishes_its_headers() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let mut setup = Setup::new(upstream.address);
    setup.limits.push("header_timeout: 300ms");
    let sidecar = setup.start().await;
    let mut stream = sidecar.stream("frontend", &["http/1.1"]).await;
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: local")
        .await
        .unwrap();
    let mut answer = Vec::new();
    let _ = within("the cut", stream.read_to_end(&mut answer)).await;
    assert!(!String::from_utf8_lossy(&answer).contains("200"));
    upstream.assert_untouched();
}

#[tokio::test]
async fn a_connection_above_the_limit_is_closed() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let mut setup = Setup::new(upstream.address);
    setup.limits.push("max_connections: 2");
    setup.limits.push("max_connections_per_peer: 2");
    let sidecar = setup.start().await;
    let mut first = sidecar.http1("frontend").await;
    let second = sidecar.http1("frontend").await;
    let caller = sidecar.setup.caller("frontend");
    assert!(sidecar.connect(Some(&caller), &["h2"]).await.is_err());
    assert_eq!(first.send(client::get("/")).await.status, 200);
    drop(second);
    eventually("a place to be free", || async {
        sidecar.connect(Some(&caller), &["h2"]).await.ok().map(drop)
    })
    .await;
}

#[tokio::test]
async fn a_handshake_that_does_not_go_on_is_cut() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let mut setup = Setup::new(upstream.address);
    setup.limits.push("handshake_timeout: 300ms");
    let sidecar = setup.start().await;
    let mut stream = tokio::net::TcpStream::connect(sidecar.inbound)
        .await
        .unwrap();
    // The head of a TLS record that announces more than ever comes.
    stream.write_all(&[22, 3, 1, 2, 0, 1]).await.unwrap();
    let mut rest = Vec::new();
    let _ = within("the cut", stream.read_to_end(&mut rest)).await;
    sidecar.process.stderr.contains("handshake_timeout").await;
}

/// One time for a head, another for the wait until the next: this one has 300 seconds.
#[tokio::test]
async fn a_connection_between_two_calls_does_not_owe_a_head() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let mut setup = Setup::new(upstream.address);
    setup.limits.push("header_timeout: 300ms");
    let sidecar = setup.start().await;
    let mut http1 = sidecar.http1("frontend").await;
    let mut http2 = sidecar.http2("frontend").await;
    let uri = sidecar.url("/");
    for _ in 0..3 {
        assert_eq!(http1.send(client::get("/")).await.status, 200);
        assert_eq!(http2.send(client::get(&uri)).await.status, 200);
        // For as long as it takes to cut somebody else for a head.
        cut_for_its_second_head(&sidecar).await;
    }
}

async fn cut_for_its_second_head(sidecar: &Sidecar) {
    let mut stream = sidecar.stream("frontend", &["http/1.1"]).await;
    let requests = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
    stream.write_all(requests.as_bytes()).await.unwrap();
    let mut answer = vec![0; 12];
    within("the answer", stream.read_exact(&mut answer))
        .await
        .unwrap();
    assert_eq!(answer, b"HTTP/1.1 200");
    stream
        .write_all(b"GET /never HTTP/1.1\r\nhos")
        .await
        .unwrap();
    let _ = within("the cut", stream.read_to_end(&mut answer)).await;
    assert_eq!(
        String::from_utf8_lossy(&answer).matches("HTTP/1.1").count(),
        1
    );
    let record = sidecar
        .record(|record| record["reason_code"] == "header_timeout")
        .await;
    assert_eq!(record["effect"], "deny");
    let principal = "spiffe://test.example/ns/default/sa/frontend";
    assert_eq!(record["principal"], principal);
}

#[tokio::test]
async fn an_http2_head_that_does_not_end_is_cut_beside_open_calls() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let mut setup = Setup::new(upstream.address);
    setup.limits.push("header_timeout: 300ms");
    let sidecar = setup.start().await;
    let mut raw = RawHttp2::begin(&sidecar, "frontend", &[]).await;
    let held = [&[0x82, 0x87, 0x04, 5][..], b"/held", &[0x41, 1], b"a"].concat();
    let open = frame(HEADERS, END_HEADERS | END_STREAM, 1, &held);
    raw.send(&open).await.unwrap();
    eventually("the open call", || async {
        (upstream.seen().len() == 1).then_some(())
    })
    .await;
    raw.send(&frame(HEADERS, END_STREAM, 3, &get_head()))
        .await
        .unwrap();
    raw.end().await;
    sidecar
        .record(|record| record["reason_code"] == "header_timeout")
        .await;
    // The open call was cut with its connection, and says so.
    let held = sidecar
        .record(|record| record["resource"]["path"] == "/held")
        .await;
    assert_eq!(held["failure"], "body_timeout");
}

#[tokio::test]
async fn an_http2_connection_without_its_preface_is_cut() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let mut setup = Setup::new(upstream.address);
    setup.limits.push("header_timeout: 300ms");
    let sidecar = setup.start().await;
    let mut stream = sidecar.stream("frontend", &["h2"]).await;
    let mut rest = Vec::new();
    let _ = within("the cut", stream.read_to_end(&mut rest)).await;
    sidecar
        .record(|record| record["reason_code"] == "header_timeout")
        .await;
}

/// An application whose answer to everything has no end, chunk after chunk, as fast as it goes.
async fn endless() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let _ = stream.read(&mut [0; 4096]).await;
                let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
                let chunk = format!("1000\r\n{}\r\n", "x".repeat(4096));
                let mut written = stream.write_all(head.as_bytes()).await;
                while written.is_ok() {
                    written = stream.write_all(chunk.as_bytes()).await;
                }
            });
        }
    });
    address
}

#[tokio::test]
async fn a_caller_that_does_not_read_its_answer_is_cut() {
    let mut setup = Setup::new(endless().await);
    setup.limits.push("body_timeout: 1s");
    let sidecar = setup.start().await;
    let mut stream = sidecar.stream("frontend", &["http/1.1"]).await;
    let request = "GET /unread HTTP/1.1\r\nhost: a\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let record = sidecar
        .record(|record| record["resource"]["path"] == "/unread")
        .await;
    assert_eq!(record["failure"], "body_timeout");
    sidecar
        .record(|record| record["reason_code"] == "body_timeout")
        .await;
}

/// HTTP/2: the stream that is not read is reset, its connection and the other streams stay.
#[tokio::test]
async fn a_stream_that_is_not_read_is_reset_and_its_connection_stays() {
    let mut setup = Setup::new(endless().await);
    setup.limits.push("body_timeout: 1s");
    let sidecar = setup.start().await;
    // Windows of 100 bytes: much less than there is to read.
    let mut raw = RawHttp2::begin(&sidecar, "frontend", &[(4, 100)]).await;
    raw.send(&get(1)).await.unwrap();
    let reset = raw.find(|frame| frame.kind == RST_STREAM).await.unwrap();
    assert_eq!(reset.stream, 1);
    let record = sidecar
        .record(|record| record["resource"]["path"] == "/")
        .await;
    assert_eq!(record["failure"], "body_timeout");
    raw.send(&get(3)).await.unwrap();
    let answer = raw.find(|frame| frame.kind == HEADERS).await.unwrap();
    assert_eq!(answer.stream, 3);
}

#[tokio::test]
async fn a_call_that_takes_longer_than_a_call_may_is_answered_or_cut() {
    let silent = Upstream::start(Speaks::Nothing).await;
    let mut setup = Setup::new(silent.address);
    setup.limits.push("request_timeout: 300ms");
    let sidecar = setup.start().await;
    let answer = sidecar.get("frontend", "/silent").await;
    assert_eq!(answer.status, 504);
    assert_eq!(answer.json()["reason_code"], "request_timeout");
    let head = "POST /slow HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\nabc";
    let stream = sidecar.stream("frontend", &["http/1.1"]).await;
    let answer = raw(stream, head).await;
    assert_eq!(status_of(&answer), 408, "{answer}");
    assert!(answer.contains("request_timeout"), "{answer}");
    let grpc = Request::post(sidecar.url("/a.B/C"))
        .header("content-type", "application/grpc")
        .body(Full::default())
        .unwrap();
    let answer = sidecar.http2("frontend").await.send(grpc).await;
    assert_eq!(answer.header("grpc-status"), "4");

    let mut setup = Setup::new(endless().await);
    setup.limits.push("request_timeout: 300ms");
    let sidecar = setup.start().await;
    let stream = sidecar.stream("frontend", &["http/1.1"]).await;
    let answer = raw(stream, "GET /endless HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 "));
    // Never a clean end that looks complete.
    assert!(!answer.ends_with("0\r\n\r\n"));
    let record = sidecar
        .record(|record| record["resource"]["path"] == "/endless")
        .await;
    assert_eq!(record["failure"], "request_timeout");
}

#[tokio::test]
async fn an_old_connection_finishes_its_calls_and_closes() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let mut setup = Setup::new(upstream.address);
    setup.limits.push("connection_age: 1s");
    let sidecar = setup.start().await;
    let mut raw = RawHttp2::begin(&sidecar, "frontend", &[]).await;
    let held = [&[0x82, 0x87, 0x04, 5][..], b"/held", &[0x41, 1], b"a"].concat();
    let open = frame(HEADERS, END_HEADERS | END_STREAM, 1, &held);
    raw.send(&open).await.unwrap();
    let goaway = raw.find(|frame| frame.kind == GOAWAY).await.unwrap();
    assert_eq!(goaway.error(), 0);
    upstream.release();
    let answer = raw.find(|frame| frame.kind == HEADERS).await.unwrap();
    assert_eq!(answer.stream, 1);
    let mut http1 = sidecar.stream("frontend", &["http/1.1"]).await;
    let mut rest = Vec::new();
    let closed = http1.read_to_end(&mut rest);
    within("the close", closed).await.unwrap();
}

#[tokio::test]
async fn an_old_connection_has_its_grace_and_no_more() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let mut setup = Setup::new(upstream.address);
    setup.limits.push("connection_age: 1s");
    setup.limits.push("connection_grace: 0s");
    let sidecar = setup.start().await;
    let stream = sidecar.stream("frontend", &["http/1.1"]).await;
    let answer = raw(stream, "GET /held HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert_eq!(answer, "");
    let record = sidecar
        .record(|record| record["resource"]["path"] == "/held")
        .await;
    assert_eq!(record["failure"], "connection_age");
}

/// What HTTP's implementation answers by itself is on record like every other refusal.
#[tokio::test]
async fn heads_that_cannot_be_read_leave_a_record() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let sidecar = Setup::new(upstream.address).start().await;
    let large = format!(
        "GET / HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n",
        "x".repeat(40_000)
    );
    for (request, status, reason_code) in [
        ("GET / HTTP/1.1\r\nhost : a\r\n\r\n", 400, "malformed_http"),
        (large.as_str(), 431, "headers_too_large"),
    ] {
        let stream = sidecar.stream("agent", &["http/1.1"]).await;
        let source = stream.get_ref().0.local_addr().unwrap().to_string();
        assert_eq!(status_of(&raw(stream, request).await), status);
        let record = sidecar
            .record(|record| record["reason_code"] == reason_code)
            .await;
        assert_eq!(record["effect"], "deny");
        assert_eq!(record["status"], status);
        assert_eq!(record["source"], source);
        let principal = "spiffe://test.example/ns/default/sa/agent";
        assert_eq!(record["principal"], principal);
    }
    let mut http2 = RawHttp2::begin(&sidecar, "agent", &[]).await;
    // DATA on a stream that was never opened.
    http2.send(&frame(DATA, 0, 1, b"x")).await.unwrap();
    assert_eq!(http2.end().await, Some(1));
    sidecar
        .record(|record| record["reason_code"] == "malformed_http2")
        .await;
    upstream.assert_untouched();
}

#[tokio::test]
async fn an_idle_connection_is_closed() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let mut setup = Setup::new(upstream.address);
    setup.limits.push("idle_timeout: 1s");
    let sidecar = setup.start().await;
    for alpn in ["http/1.1", "h2"] {
        let mut stream = sidecar.stream("frontend", &[alpn]).await;
        let mut rest = Vec::new();
        let _ = within("the close", stream.read_to_end(&mut rest)).await;
    }
}

/// What an idle connection holds of the sidecar's memory, after one call. The figures are
/// printed; the bound is far above them, and below what a forgotten buffer of 100 KB would be.
#[tokio::test]
async fn an_idle_connection_holds_little_memory() {
    const CONNECTIONS: usize = 150;
    const AT_MOST_KIB: u64 = 96;
    let upstream = Upstream::start(Speaks::Http1).await;
    let sidecar = Setup::new(upstream.address).start().await;
    for _ in 0..20 {
        assert_eq!(sidecar.get("frontend", "/").await.status, 200);
    }
    let uri = sidecar.url("/");
    let (mut http1, mut http2) = (Vec::new(), Vec::new());
    let resident = || sidecar.process.memory_kib("VmRSS");
    let mut before = resident();
    let mut each = |what: &str| {
        let grown = resident().saturating_sub(before) / u64::try_from(CONNECTIONS).unwrap();
        println!("an idle {what} connection: {grown} KiB");
        assert!(grown <= AT_MOST_KIB, "{what}: {grown} KiB");
        before = resident();
    };
    for _ in 0..CONNECTIONS {
        let mut client = sidecar.http1("frontend").await;
        assert_eq!(client.send(client::get("/")).await.status, 200);
        http1.push(client);
    }
    each("HTTP/1.1");
    for _ in 0..CONNECTIONS {
        let mut client = sidecar.http2("frontend").await;
        assert_eq!(client.send(client::get(&uri)).await.status, 200);
        http2.push(client);
    }
    each("HTTP/2");
}
