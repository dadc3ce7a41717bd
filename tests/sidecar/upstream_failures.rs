//! What the caller is told when an allowed call meets an upstream in trouble.

use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use crate::support::client;
use crate::support::eventually;
use crate::support::setup::Setup;
use crate::support::upstream::{Speaks, Upstream};

/// An address that nobody listens on.
async fn nobody() -> std::net::SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap()
}

#[tokio::test]
async fn answers_502_while_the_upstream_is_down() {
    let sidecar = Setup::new(nobody().await).start().await;
    let answer = sidecar.get("frontend", "/").await;
    assert_eq!(answer.status, 502);
    assert_eq!(answer.header("content-type"), "application/problem+json");
    assert_eq!(answer.json()["reason_code"], "upstream_unreachable");
    let record = sidecar.record(|record| record["status"] == 502).await;
    assert_eq!(record["effect"], "allow");
    assert_eq!(record["failure"], "upstream_unreachable");
}

#[tokio::test]
async fn a_denied_call_is_denied_while_the_upstream_is_down() {
    let sidecar = Setup::new(nobody().await).start().await;
    assert_eq!(sidecar.get("agent", "/").await.status, 403);
}

#[tokio::test]
async fn answers_504_when_the_upstream_stays_silent() {
    let upstream = Upstream::start(Speaks::Nothing).await;
    let mut setup = Setup::new(upstream.address);
    setup.upstream_keys.push("response_timeout: 300ms");
    let sidecar = setup.start().await;
    let answer = sidecar.get("frontend", "/").await;
    assert_eq!(answer.status, 504);
    assert_eq!(answer.json()["reason_code"], "upstream_timeout");
}

#[tokio::test]
async fn tells_a_grpc_caller_unavailable_and_deadline_exceeded() {
    let upstream = Upstream::start(Speaks::Nothing).await;
    let mut silent = Setup::new(upstream.address);
    silent.upstream_keys.push("response_timeout: 300ms");
    for (setup, expected) in [(Setup::new(nobody().await), "14"), (silent, "4")] {
        let sidecar = setup.start().await;
        let mut request = client::get(&sidecar.url("/echo.Echo/Say"));
        *request.method_mut() = http::Method::POST;
        request
            .headers_mut()
            .insert("content-type", "application/grpc".parse().unwrap());
        let answer = sidecar.http2("frontend").await.send(request).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("grpc-status"), expected);
    }
}

#[tokio::test]
async fn answers_502_to_an_upstream_that_does_not_speak_http() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let sidecar = Setup::new(listener.local_addr().unwrap()).start().await;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(b"220 mail.example ESMTP\r\n").await;
        }
    });
    let answer = sidecar.get("frontend", "/").await;
    assert_eq!(answer.status, 502);
    assert_eq!(answer.json()["reason_code"], "upstream_broke");
}

#[tokio::test]
async fn an_upstream_that_comes_back_is_used_again() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let sidecar = Setup::new(upstream.address).start().await;
    assert_eq!(sidecar.get("frontend", "/").await.status, 200);
    let address = upstream.address;
    drop(upstream);
    eventually("the upstream to be down", || async {
        (sidecar.get("frontend", "/").await.status == 502).then_some(())
    })
    .await;
    let listener = eventually("the port", || async {
        let socket = tokio::net::TcpSocket::new_v4().ok()?;
        socket.set_reuseaddr(true).ok()?;
        socket.bind(address).ok()?;
        socket.listen(16).ok()
    })
    .await;
    tokio::spawn(wayleave_proxy::demo::serve(
        listener,
        std::future::pending(),
    ));
    eventually("the upstream to be back", || async {
        (sidecar.get("frontend", "/").await.status == 200).then_some(())
    })
    .await;
}
