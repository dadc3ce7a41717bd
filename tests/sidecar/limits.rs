//! What one peer may hold or take, and the answer at each limit.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::client;
use crate::support::setup::Setup;
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
