//! What the caller is told when an allowed call meets an upstream in trouble.

use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::support::client;
use crate::support::eventually;
use crate::support::script::Scripted;
use crate::support::setup::Setup;
use crate::support::upstream::{Speaks, Upstream};
use crate::support::within;

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

/// An answer that is cut must never look complete to the caller, whatever they speak.
async fn is_cut(answer: &'static [u8]) {
    let upstream = Scripted::start(answer).await;
    let sidecar = Setup::new(upstream.address).start().await;
    let mut http1 = sidecar.http1("frontend").await;
    let response = within("the head", http1.0.send_request(client::get("/")))
        .await
        .unwrap();
    assert_eq!(response.status(), 200);
    let body = within("the body", response.into_body().collect()).await;
    assert!(
        body.is_err(),
        "looks complete over HTTP/1.1: {:?}",
        body.unwrap().to_bytes()
    );

    let mut http2 = sidecar.http2("frontend").await;
    let request = client::get(&sidecar.url("/"));
    let response = within("the head", http2.0.send_request(request))
        .await
        .unwrap();
    let body = within("the body", response.into_body().collect()).await;
    assert!(
        body.is_err(),
        "looks complete over HTTP/2: {:?}",
        body.unwrap().to_bytes()
    );
    let record = sidecar.record(|record| record["status"] == 200).await;
    assert_eq!(record["failure"], "upstream_broke");
}

#[tokio::test]
async fn a_body_shorter_than_its_length_does_not_look_complete() {
    is_cut(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nonly this").await;
}

#[tokio::test]
async fn a_chunked_body_without_its_end_does_not_look_complete() {
    is_cut(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n9\r\nonly this\r\n").await;
}

#[tokio::test]
async fn an_answer_that_smuggles_a_second_one_is_not_taken_for_two() {
    let upstream = Scripted::start(
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nforged",
    )
    .await;
    let sidecar = Setup::new(upstream.address).start().await;
    let mut client = sidecar.http1("frontend").await;
    for _ in 0..5 {
        let answer = client.send(client::get("/")).await;
        assert_eq!(
            (answer.status.as_u16(), answer.text().as_str()),
            (200, "ok")
        );
    }
    assert_eq!(upstream.requests(), 5);
}

#[tokio::test]
async fn an_upstream_that_closes_after_each_answer_loses_no_call() {
    let upstream = Scripted::start(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
    let sidecar = Setup::new(upstream.address).start().await;
    let mut client = sidecar.http1("frontend").await;
    for number in 0..20 {
        let answer = client.send(client::get("/")).await;
        assert_eq!(answer.status, 200, "call {number}: {}", answer.text());
    }
    assert_eq!(upstream.requests(), 20);
}

#[tokio::test]
async fn an_answer_without_a_body_stays_one() {
    for (answer, status) in [
        (&b"HTTP/1.1 204 No Content\r\n\r\n"[..], 204),
        (b"HTTP/1.1 304 Not Modified\r\netag: \"a\"\r\ncontent-length: 50\r\n\r\n", 304),
        (b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", 200),
    ] {
        let upstream = Scripted::start(answer).await;
        let sidecar = Setup::new(upstream.address).start().await;
        let told = sidecar.get("frontend", "/").await;
        assert_eq!((told.status.as_u16(), told.body.len()), (status, 0));
        let mut http2 = sidecar.http2("frontend").await;
        let told = http2.send(client::get(&sidecar.url("/"))).await;
        assert_eq!((told.status.as_u16(), told.body.len()), (status, 0));
    }
}

/// A server that answers one call on a connection, takes the next one and closes instead.
async fn closes_early() -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = [0; 4096];
                assert!(stream.read(&mut head).await.unwrap() > 0);
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\na";
                stream.write_all(answer).await.unwrap();
                let _ = stream.read(&mut head).await;
            });
        }
    });
    address
}

#[tokio::test]
async fn an_upstream_that_closes_early_costs_one_call_that_may_be_sent_again() {
    let sidecar = Setup::new(closes_early().await).start().await;
    let mut caller = sidecar.http1("frontend").await;
    let mut lost = 0;
    for _ in 0..40 {
        let answer = caller.send(client::get("/")).await;
        lost += u32::from(answer.status == 502);
    }
    assert_eq!(lost, 1, "only the call that finds out is lost");
}
