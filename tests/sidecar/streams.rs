//! Streams and sockets through the sidecar, and how little of them it holds.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::Request;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame};
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep};
use tokio_tungstenite::tungstenite::Message;

use crate::support::client::{self, Http2};
use crate::support::setup::{Setup, Sidecar};
use crate::support::within;

/// What a transfer may add to the peak memory of the sidecar, whatever its size.
const FLAT_KIB: u64 = 24 * 1024;

async fn before_the_demo() -> Sidecar {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(wayleave_proxy::demo::serve(
        listener,
        std::future::pending(),
    ));
    Setup::new(address).start().await
}

/// An address that accepts connections and never reads from them.
async fn stalled() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            held.push(stream);
        }
    });
    address
}

#[tokio::test]
async fn events_arrive_as_they_are_sent() {
    let sidecar = before_the_demo().await;
    let mut client = sidecar.http2("frontend").await;
    let request = client::get(&sidecar.url("/events"));
    let mut response = within("the head", client.0.send_request(request))
        .await
        .unwrap();
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    for number in 1..=2 {
        let frame = within("an event", response.frame()).await.unwrap().unwrap();
        let event = frame.into_data().unwrap();
        assert!(
            event.starts_with(format!("id: {number}\n").as_bytes()),
            "{event:?}"
        );
    }
}

#[tokio::test]
async fn a_websocket_echoes_through_the_sidecar() {
    let sidecar = before_the_demo().await;
    let stream = sidecar.stream("frontend", &["http/1.1"]).await;
    let connecting = tokio_tungstenite::client_async("wss://localhost/ws", stream);
    let (mut socket, response) = within("the upgrade", connecting).await.unwrap();
    assert_eq!(response.status(), 101);
    for message in [Message::text("hello"), Message::binary(vec![7; 200_000])] {
        socket.send(message.clone()).await.unwrap();
        let echo = within("the echo", socket.next()).await.unwrap().unwrap();
        assert!(echo == message, "the message was changed");
    }
    socket.close(None).await.unwrap();
    assert!(matches!(
        within("the close", socket.next()).await,
        Some(Ok(Message::Close(_)))
    ));
    drop(socket);
    let record = sidecar
        .record(|record| record["resource"]["path"] == "/ws")
        .await;
    assert_eq!(record["status"], 101);
}

#[tokio::test]
async fn a_denied_websocket_gets_403_and_no_upgrade() {
    let sidecar = before_the_demo().await;
    let stream = sidecar.stream("agent", &["http/1.1"]).await;
    let error = tokio_tungstenite::client_async("wss://localhost/ws", stream)
        .await
        .unwrap_err();
    let tokio_tungstenite::tungstenite::Error::Http(response) = error else {
        panic!("{error}")
    };
    assert_eq!(response.status(), 403);
}

/// Reads a body to its end without keeping it.
async fn drained(mut body: hyper::body::Incoming) -> u64 {
    let mut length = 0;
    while let Some(frame) = within("the next frame", body.frame()).await {
        length += frame
            .unwrap()
            .data_ref()
            .map_or(0, |data| data.len() as u64);
    }
    length
}

#[tokio::test]
async fn a_large_download_leaves_memory_flat() {
    let sidecar = before_the_demo().await;
    let before = sidecar.process.memory_kib("VmHWM");
    let mut http1 = sidecar.http1("frontend").await;
    let mut http2 = sidecar.http2("frontend").await;
    let length = 64 << 20;
    let path = format!("/bytes?n={length}");
    let response = http1.0.send_request(client::get(&path)).await.unwrap();
    assert_eq!(drained(response.into_body()).await, length);
    let response = http2
        .0
        .send_request(client::get(&sidecar.url(&path)))
        .await
        .unwrap();
    assert_eq!(drained(response.into_body()).await, length);
    let grown = sidecar.process.memory_kib("VmHWM") - before;
    assert!(grown < FLAT_KIB, "grew by {grown} KiB");
}

#[tokio::test]
async fn a_caller_that_does_not_read_holds_the_upstream_back() {
    let sidecar = before_the_demo().await;
    let before = sidecar.process.memory_kib("VmHWM");
    let mut responses = Vec::new();
    let mut http2 = sidecar.http2("frontend").await;
    let mut http1 = sidecar.http1("frontend").await;
    let path = "/bytes?n=1000000000";
    responses.push(http1.0.send_request(client::get(path)).await.unwrap());
    for _ in 0..4 {
        let request = client::get(&sidecar.url(path));
        responses.push(http2.0.send_request(request).await.unwrap());
    }
    stays_flat(&sidecar, before).await;
}

/// Watches the peak for a second in which an unbounded buffer would take hundreds of
/// megabytes.
async fn stays_flat(sidecar: &Sidecar, before: u64) {
    let until = Instant::now() + Duration::from_secs(1);
    while Instant::now() < until {
        let grown = sidecar.process.memory_kib("VmHWM") - before;
        assert!(grown < FLAT_KIB, "grew by {grown} KiB");
        sleep(Duration::from_millis(50)).await;
    }
}

/// A body without end that counts how much of it was taken.
struct Endless(Arc<AtomicU64>, u64);

impl Body for Endless {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        static CHUNK: [u8; 32_768] = [b'x'; 32_768];
        if self.1 == 0 {
            return Poll::Ready(None);
        }
        self.1 = self.1.saturating_sub(CHUNK.len() as u64);
        self.0.fetch_add(CHUNK.len() as u64, Ordering::Relaxed);
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&CHUNK)))))
    }
}

async fn uploader(sidecar: &Sidecar) -> Http2<Endless> {
    Http2::over(sidecar.stream("frontend", &["h2"]).await).await
}

fn upload(sidecar: &Sidecar, taken: &Arc<AtomicU64>, length: u64) -> Request<Endless> {
    let body = Endless(Arc::clone(taken), length);
    Request::post(sidecar.url("/upload")).body(body).unwrap()
}

#[tokio::test]
async fn a_large_upload_leaves_memory_flat() {
    let sidecar = before_the_demo().await;
    let before = sidecar.process.memory_kib("VmHWM");
    let length = 64 << 20;
    let request = upload(&sidecar, &Arc::default(), length);
    let answer = uploader(&sidecar).await.send(request).await;
    assert_eq!(answer.json()["body_bytes"], length);
    let grown = sidecar.process.memory_kib("VmHWM") - before;
    assert!(grown < FLAT_KIB, "grew by {grown} KiB");
}

#[tokio::test]
async fn an_upstream_that_does_not_read_holds_the_caller_back() {
    let sidecar = Setup::new(stalled().await).start().await;
    let before = sidecar.process.memory_kib("VmHWM");
    let taken = Arc::new(AtomicU64::new(0));
    let mut client = uploader(&sidecar).await;
    let request = upload(&sidecar, &taken, 1 << 30);
    let sending = tokio::spawn(async move { client.0.send_request(request).await.map(drop) });
    stays_flat(&sidecar, before).await;
    let taken = taken.load(Ordering::Relaxed);
    assert!(taken < 32 << 20, "{taken} bytes were taken from the caller");
    sending.abort();
}
