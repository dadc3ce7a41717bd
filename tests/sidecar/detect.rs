//! Listeners that find out what a caller speaks: what could be HTTP is decided as HTTP, what is
//! clearly not as TCP, and silence as nothing.

use std::io::ErrorKind;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::client::{self, status_of};
use crate::support::setup::{Setup, Sidecar};
use crate::support::tcp::{Talks, TcpUpstream};
use crate::support::upstream::{Speaks, Upstream};
use crate::support::within;

/// Whoever connects may connect; only `frontend` may send requests.
const POLICY: &str = r#"
@id("anybody-connects")
permit (principal, action == Action::"tcp:connect", resource in Service::"app");
@id("frontend-reads")
permit (
  principal == Workload::"spiffe://test.example/ns/default/sa/frontend",
  action in Action::"http:read",
  resource in Service::"app"
);
"#;

fn setup(upstream: impl ToString) -> Setup {
    let mut setup = Setup::new(upstream);
    setup.inbound_keys.push("protocol: auto");
    setup.write_policy(POLICY);
    setup
}

async fn before_http() -> (Sidecar, Upstream) {
    let upstream = Upstream::start(Speaks::Http1).await;
    (setup(upstream.address).start().await, upstream)
}

/// Sends raw bytes, having agreed on no protocol, and says what came back.
async fn said(sidecar: &Sidecar, caller: &str, bytes: &[u8]) -> String {
    let mut stream = sidecar.stream(caller, &[]).await;
    stream.write_all(bytes).await.unwrap();
    stream.flush().await.unwrap();
    let mut answer = Vec::new();
    let what = bytes.escape_ascii().to_string();
    let _ = within(&what, stream.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn http_is_decided_as_http_whether_agreed_on_or_recognised() {
    let (sidecar, upstream) = before_http().await;
    assert_eq!(sidecar.get("frontend", "/agreed").await.status, 200);
    let mut http2 = sidecar.http2("frontend").await;
    let answer = http2.send(client::get(&sidecar.url("/agreed-2"))).await;
    assert_eq!(answer.status, 200);
    let request = b"GET /seen HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    let answer = said(&sidecar, "frontend", request).await;
    assert_eq!(status_of(&answer), 200);
    let stream = sidecar.stream("frontend", &[]).await;
    let (mut sender, connection) = hyper::client::conn::http2::handshake(
        hyper_util::rt::TokioExecutor::new(),
        hyper_util::rt::TokioIo::new(stream),
    )
    .await
    .unwrap();
    tokio::spawn(connection);
    let request = client::get(&sidecar.url("/seen-2"));
    let answer = within("the answer", sender.send_request(request)).await;
    assert_eq!(answer.unwrap().status(), 200);
    let targets: Vec<String> = upstream.seen().into_iter().map(|s| s.target).collect();
    assert_eq!(targets, ["/agreed", "/agreed-2", "/seen", "/seen-2"]);
}

/// `agent` may connect and may not send requests: nothing that an HTTP server might take for a
/// request gets past as a connection.
#[tokio::test]
async fn what_could_be_a_request_is_never_carried_as_bytes() {
    let (sidecar, upstream) = before_http().await;
    for request in [
        &b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"[..],
        b"get / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n",
        b"\r\nGET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n",
        b" GET / HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"\tGET\t/\tHTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"GET\x0b/ HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"GET\r/ HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"GET\xa0/\xa0HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"GET /\r\n\r\nand no version",
        b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n",
        b"PRI * HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n",
    ] {
        let answer = said(&sidecar, "agent", request).await;
        let told = request.escape_ascii();
        assert!(matches!(status_of(&answer), 400 | 403), "{told}: {answer}");
    }
    upstream.assert_untouched();
}

#[tokio::test]
async fn a_request_that_comes_byte_by_byte_is_a_request() {
    let (sidecar, upstream) = before_http().await;
    let mut stream = sidecar.stream("agent", &[]).await;
    let request = b"GET /slow HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    for byte in request {
        stream.write_all(&[*byte]).await.unwrap();
        stream.flush().await.unwrap();
    }
    let mut answer = Vec::new();
    let _ = within("the answer", stream.read_to_end(&mut answer)).await;
    assert_eq!(status_of(&String::from_utf8_lossy(&answer)), 403);
    upstream.assert_untouched();
}

#[tokio::test]
async fn clearly_other_bytes_are_decided_as_a_connection_and_carried_whole() {
    let upstream = TcpUpstream::start(Talks::Echoes).await;
    let sidecar = setup(upstream.address).start().await;
    let bytes = b"\x00\x00\x00\x08\x04\xd2\x16\x2f";
    let mut stream = sidecar.stream("agent", &[]).await;
    stream.write_all(bytes).await.unwrap();
    let mut back = [0; 8];
    within("the echo", stream.read_exact(&mut back))
        .await
        .unwrap();
    assert_eq!(&back, bytes);
    stream.shutdown().await.unwrap();
    let record = sidecar.record(|_| true).await;
    assert_eq!(record["action"], "tcp:connect");
    assert_eq!(record["policies"][0], "anybody-connects");
    assert_eq!(record["bytes_in"], 8);
}

#[tokio::test]
async fn other_bytes_that_policy_denies_are_reset() {
    let upstream = TcpUpstream::start(Talks::Echoes).await;
    let setup = setup(upstream.address);
    setup.write_policy(
        r#"@id("http") permit (principal, action in Action::"http:read", resource);"#,
    );
    let sidecar = setup.start().await;
    let mut stream = sidecar.stream("frontend", &[]).await;
    stream.write_all(&[0, 1, 2, 3]).await.unwrap();
    let ended = within("the end", stream.read_to_end(&mut Vec::new())).await;
    assert_eq!(ended.unwrap_err().kind(), ErrorKind::ConnectionReset);
    upstream.assert_untouched();
}

/// A server that speaks first would make of an undecided port an open one.
#[tokio::test]
async fn silence_is_closed_and_recorded_and_opens_nothing() {
    let upstream = TcpUpstream::start(Talks::Greets).await;
    let mut setup = setup(upstream.address);
    setup.limits.push("detect_timeout: 100ms");
    let sidecar = setup.start().await;
    let mut silent = sidecar.stream("frontend", &[]).await;
    let ended = within("the end", silent.read_to_end(&mut Vec::new())).await;
    assert_eq!(ended.unwrap_err().kind(), ErrorKind::ConnectionReset);
    upstream.assert_untouched();
    let record = sidecar.record(|_| true).await;
    assert_eq!(record["effect"], "deny");
    assert_eq!(record["reason_code"], "protocol_undetected");
    assert_eq!(
        record["principal"],
        "spiffe://test.example/ns/default/sa/frontend"
    );
    assert_eq!(record["protocol"], "tcp");
}
