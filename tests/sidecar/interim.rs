//! What comes before an answer and what goes on while one is waited for: 1xx, `Expect`, HEAD,
//! ranges, and callers that have nothing more to say.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::client::TlsStream;

use crate::support::client::{self, status_of};
use crate::support::script::Scripted;
use crate::support::setup::{Setup, Sidecar};
use crate::support::upstream::{Speaks, Upstream};
use crate::support::{eventually, within};

const POST: &[u8] = b"POST /upload HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\n\
                      content-length: 4\r\nconnection: close\r\n\r\n";

/// Reads until what was read ends with `end`.
async fn read_until(stream: &mut (impl AsyncReadExt + Unpin), end: &str) -> String {
    let mut read = Vec::new();
    let mut byte = [0];
    while !read.ends_with(end.as_bytes()) {
        let count = within(end, stream.read(&mut byte)).await.unwrap();
        assert_eq!(count, 1, "ended: {}", String::from_utf8_lossy(&read));
        read.push(byte[0]);
    }
    String::from_utf8(read).unwrap()
}

/// Fails the test where something has come.
fn nothing_has_come(stream: &TcpStream) {
    let mut byte = [0];
    let read = stream.try_read(&mut byte);
    assert!(read.is_err(), "{read:?} {byte:?}");
}

/// A caller's connection with a request on it, and the upstream's with its head.
async fn expecting(
    setup: Setup,
    listener: &TcpListener,
) -> (Sidecar, TlsStream<TcpStream>, TcpStream) {
    let sidecar = setup.start().await;
    let mut caller = sidecar.stream("frontend", &["http/1.1"]).await;
    caller.write_all(POST).await.unwrap();
    caller.flush().await.unwrap();
    let (mut upstream, _) = within("a connection", listener.accept()).await.unwrap();
    let head = read_until(&mut upstream, "\r\n\r\n").await;
    assert!(head.contains("expect: 100-continue\r\n"), "{head}");
    (sidecar, caller, upstream)
}

#[tokio::test]
async fn the_upstreams_100_comes_before_the_body_is_asked_for() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let setup = Setup::new(listener.local_addr().unwrap());
    let (sidecar, mut caller, mut upstream) = expecting(setup, &listener).await;
    // Answered after whatever the sidecar had to say to the first caller by itself.
    assert_eq!(sidecar.get("agent", "/").await.status, 403);
    nothing_has_come(caller.get_ref().0);
    upstream
        .write_all(b"HTTP/1.1 100 Continue\r\n\r\n")
        .await
        .unwrap();
    let interim = read_until(&mut caller, "\r\n\r\n").await;
    assert_eq!(interim, "HTTP/1.1 100 Continue\r\n\r\n");
    nothing_has_come(&upstream);
    caller.write_all(b"body").await.unwrap();
    caller.flush().await.unwrap();
    let body = read_until(&mut upstream, "body").await;
    assert_eq!(body, "body");
    upstream
        .write_all(b"HTTP/1.1 201 Created\r\ncontent-length: 0\r\n\r\n")
        .await
        .unwrap();
    let mut answer = String::new();
    within("the answer", caller.read_to_string(&mut answer))
        .await
        .unwrap();
    assert_eq!(status_of(&answer), 201);
}

#[tokio::test]
async fn an_upstream_that_wants_no_body_is_asked_for_none() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let setup = Setup::new(listener.local_addr().unwrap());
    let (_sidecar, mut caller, mut upstream) = expecting(setup, &listener).await;
    upstream
        .write_all(b"HTTP/1.1 413 Too Large\r\ncontent-length: 3\r\n\r\nbig")
        .await
        .unwrap();
    let mut answer = String::new();
    within("the answer", caller.read_to_string(&mut answer))
        .await
        .unwrap();
    assert_eq!(status_of(&answer), 413);
    assert!(answer.ends_with("big"), "{answer}");
    // Not a byte of the body, nor a connection that hangs on it.
    let mut rest = Vec::new();
    let _ = within("the end", upstream.read_to_end(&mut rest)).await;
    assert!(rest.is_empty(), "{rest:?}");
}

/// RFC 9110 section 10.1.1: nobody waits for ever.
#[tokio::test]
async fn an_upstream_that_does_not_know_the_expectation_gets_the_body_all_the_same() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let setup = Setup::new(listener.local_addr().unwrap());
    let (_sidecar, mut caller, mut upstream) = expecting(setup, &listener).await;
    let interim = read_until(&mut caller, "\r\n\r\n").await;
    assert_eq!(interim, "HTTP/1.1 100 Continue\r\n\r\n");
    caller.write_all(b"body").await.unwrap();
    caller.flush().await.unwrap();
    assert_eq!(read_until(&mut upstream, "body").await, "body");
}

#[tokio::test]
async fn a_denied_caller_is_told_so_before_it_sends_its_body() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let sidecar = Setup::new(upstream.address).start().await;
    let stream = sidecar.stream("agent", &["http/1.1"]).await;
    let answer = client::raw(stream, String::from_utf8_lossy(POST)).await;
    assert_eq!(status_of(&answer), 403);
    upstream.assert_untouched();
}

#[tokio::test]
async fn an_http_2_upstream_gets_the_body_of_an_expecting_caller() {
    let upstream = Upstream::start(Speaks::Http2).await;
    let mut setup = Setup::new(upstream.address);
    setup.upstream_keys.push("protocol: http2");
    let sidecar = setup.start().await;
    let mut caller = sidecar.stream("frontend", &["http/1.1"]).await;
    caller.write_all(POST).await.unwrap();
    caller.flush().await.unwrap();
    read_until(&mut caller, "100 Continue\r\n\r\n").await;
    caller.write_all(b"body").await.unwrap();
    caller.flush().await.unwrap();
    let mut answer = String::new();
    within("the answer", caller.read_to_string(&mut answer))
        .await
        .unwrap();
    assert_eq!(status_of(&answer), 200);
    let seen = upstream.only();
    assert_eq!(&seen.body[..], b"body");
    assert!(seen.values("expect").is_empty());
}

#[tokio::test]
async fn early_hints_are_passed_over_and_the_answer_behind_them_comes() {
    let upstream = Scripted::start(
        b"HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\n\r\n\
          HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nlate",
    )
    .await;
    let sidecar = Setup::new(upstream.address).start().await;
    let answer = sidecar.get("frontend", "/").await;
    assert_eq!((answer.status.as_u16(), &*answer.text()), (200, "late"));
    assert_eq!(answer.header("link"), "");
    let mut http2 = sidecar.http2("frontend").await;
    let answer = http2.send(client::get(&sidecar.url("/"))).await;
    assert_eq!((answer.status.as_u16(), &*answer.text()), (200, "late"));
}

#[tokio::test]
async fn the_length_of_what_head_asks_about_is_told_without_a_body() {
    let upstream = Scripted::start(b"HTTP/1.1 200 OK\r\ncontent-length: 12345\r\n\r\n").await;
    let sidecar = Setup::new(upstream.address).start().await;
    let head = |uri: &str| {
        let mut request = client::get(uri);
        *request.method_mut() = http::Method::HEAD;
        request
    };
    let mut http1 = sidecar.http1("frontend").await;
    let mut http2 = sidecar.http2("frontend").await;
    for answer in [
        http1.send(head("/file")).await,
        http1.send(head("/again")).await,
        http2.send(head(&sidecar.url("/file"))).await,
    ] {
        assert_eq!(answer.header("content-length"), "12345");
        assert!(answer.body.is_empty());
    }
    let record = sidecar.record(|record| record["method"] == "HEAD").await;
    assert_eq!(record["failure"], serde_json::Value::Null);
}

#[tokio::test]
async fn a_part_that_is_asked_for_comes_as_a_part() {
    let upstream = Scripted::start(
        b"HTTP/1.1 206 Partial Content\r\ncontent-range: bytes 2-5/10\r\n\
          content-length: 4\r\n\r\n2345",
    )
    .await;
    let sidecar = Setup::new(upstream.address).start().await;
    let mut request = client::get("/file");
    let range = "bytes=2-5".parse().unwrap();
    request.headers_mut().insert("range", range);
    let answer = sidecar.http1("frontend").await.send(request).await;
    assert_eq!(answer.status, 206);
    assert_eq!(answer.header("content-range"), "bytes 2-5/10");
    assert_eq!(answer.text(), "2345");
}

/// A request whose answer the upstream holds back.
async fn held(sidecar: &Sidecar, upstream: &Upstream) -> TlsStream<TcpStream> {
    let mut caller = sidecar.stream("frontend", &["http/1.1"]).await;
    caller
        .write_all(b"GET /held HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .await
        .unwrap();
    caller.flush().await.unwrap();
    eventually("the call to be in flight", || async {
        (upstream.seen().len() == 1).then_some(())
    })
    .await;
    caller
}

/// TLS's own end says that a caller has nothing more to say, not that it went away.
#[tokio::test]
async fn a_caller_that_half_closes_gets_its_answer() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let sidecar = Setup::new(upstream.address).start().await;
    let mut caller = held(&sidecar, &upstream).await;
    caller.get_mut().1.send_close_notify();
    caller.flush().await.unwrap();
    // Served after the sidecar has read the end above.
    assert_eq!(sidecar.get("frontend", "/").await.status, 200);
    upstream.release();
    let mut answer = String::new();
    within("the answer", caller.read_to_string(&mut answer))
        .await
        .unwrap();
    assert_eq!(status_of(&answer), 200);
    let record = sidecar.record(|r| r["resource"]["path"] == "/held").await;
    assert_eq!(record["failure"], serde_json::Value::Null);
}

#[tokio::test]
async fn a_caller_that_closes_its_connection_as_well_has_gone() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let sidecar = Setup::new(upstream.address).start().await;
    let mut caller = held(&sidecar, &upstream).await;
    // The end of TLS and that of TCP.
    caller.shutdown().await.unwrap();
    let record = sidecar.record(|r| r["resource"]["path"] == "/held").await;
    assert_eq!(record["failure"], "caller_gone");
}

#[tokio::test]
async fn an_idle_caller_that_says_its_end_is_closed() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let sidecar = Setup::new(upstream.address).start().await;
    let mut caller = sidecar.stream("frontend", &["http/1.1"]).await;
    caller
        .write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .await
        .unwrap();
    read_until(&mut caller, "bytes\n").await;
    caller.get_mut().1.send_close_notify();
    caller.flush().await.unwrap();
    let mut rest = String::new();
    within("the end", caller.read_to_string(&mut rest))
        .await
        .unwrap();
    assert_eq!(rest, "");
}
