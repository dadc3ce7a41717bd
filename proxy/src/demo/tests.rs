//! The demo application as a client meets it, over real sockets.

use std::net::SocketAddr;

use futures_util::{SinkExt, StreamExt};
use hyper::client::conn::{http1, http2};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use super::*;

struct Demo {
    address: SocketAddr,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

async fn demo() -> Demo {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let task = tokio::spawn(serve(listener, async { drop(stopped.await) }));
    Demo {
        address,
        stop,
        task,
    }
}

async fn over_http1(demo: &Demo, request: Request<Full<Bytes>>) -> Response<Incoming> {
    let stream = TcpStream::connect(demo.address).await.unwrap();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender.send_request(request).await.unwrap()
}

async fn over_http2(demo: &Demo, request: Request<Full<Bytes>>) -> Response<Incoming> {
    let stream = TcpStream::connect(demo.address).await.unwrap();
    let io = TokioIo::new(stream);
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    sender.send_request(request).await.unwrap()
}

async fn json(response: Response<Incoming>) -> serde_json::Value {
    let body = response.into_body().collect().await.unwrap().to_bytes();
    serde_json::from_slice(&body).unwrap()
}

fn post(uri: &str, body: Vec<u8>) -> Request<Full<Bytes>> {
    let request = Request::post(uri)
        .header("x-many", "one")
        .header("x-many", "two");
    request.body(Full::from(body)).unwrap()
}

#[tokio::test]
async fn echoes_method_path_headers_and_body_size_over_both_protocols() {
    let demo = demo().await;
    let body = vec![7; 300_000];
    let first = json(over_http1(&demo, post("/orders/1?a=b", body.clone())).await).await;
    let uri = format!("http://{}/orders/1?a=b", demo.address);
    let second = json(over_http2(&demo, post(&uri, body)).await).await;
    for echo in [first, second] {
        assert_eq!(echo["method"], "POST");
        assert_eq!(echo["path"], "/orders/1?a=b");
        assert_eq!(echo["headers"]["x-many"], serde_json::json!(["one", "two"]));
        assert_eq!(echo["body_bytes"], 300_000);
    }
}

#[tokio::test]
async fn streams_a_download_over_both_protocols() {
    let demo = demo().await;
    let uri = format!("http://{}/bytes?n=1000003", demo.address);
    let request = || Request::get(&uri).body(Full::default()).unwrap();
    for response in [
        over_http1(&demo, request()).await,
        over_http2(&demo, request()).await,
    ] {
        assert_eq!(response.headers()["content-length"], "1000003");
        assert_eq!(
            response
                .into_body()
                .collect()
                .await
                .unwrap()
                .to_bytes()
                .len(),
            1_000_003
        );
    }
}

#[tokio::test]
async fn events_are_an_event_stream() {
    let demo = demo().await;
    let request = Request::get("/events").body(Full::default()).unwrap();
    let mut response = over_http1(&demo, request).await;
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let first = response
        .frame()
        .await
        .unwrap()
        .unwrap()
        .into_data()
        .unwrap();
    assert!(first.starts_with(b"id: 1\n"));
}

#[tokio::test]
async fn a_plain_request_for_the_socket_is_told_to_upgrade() {
    let demo = demo().await;
    let response = over_http1(&demo, Request::get("/ws").body(Full::default()).unwrap()).await;
    assert_eq!(response.status(), StatusCode::UPGRADE_REQUIRED);
    assert_eq!(response.headers()["upgrade"], "websocket");
}

#[tokio::test]
async fn the_socket_echoes_text_binary_ping_and_close() {
    let demo = demo().await;
    let stream = TcpStream::connect(demo.address).await.unwrap();
    let (mut socket, _) = tokio_tungstenite::client_async("ws://demo/ws", stream)
        .await
        .unwrap();
    for message in [Message::text("hello"), Message::binary(vec![0, 255, 7])] {
        socket.send(message.clone()).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), message);
    }
    socket
        .send(Message::Ping(Bytes::from_static(b"are you there")))
        .await
        .unwrap();
    let pong = socket.next().await.unwrap().unwrap();
    assert_eq!(pong, Message::Pong(Bytes::from_static(b"are you there")));
    socket.close(None).await.unwrap();
    assert!(matches!(socket.next().await, Some(Ok(Message::Close(_)))));
    assert!(socket.next().await.is_none());
}

#[tokio::test]
async fn the_socket_refuses_a_message_over_the_limit() {
    let demo = demo().await;
    let stream = TcpStream::connect(demo.address).await.unwrap();
    let (mut socket, _) = tokio_tungstenite::client_async("ws://demo/ws", stream)
        .await
        .unwrap();
    let whole = Message::binary(vec![1; socket::MAX_MESSAGE_BYTES]);
    socket.send(whole.clone()).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), whole);
    // The server closes while this is still being written, so sending may fail as well.
    let _ = socket
        .send(Message::binary(vec![1; socket::MAX_MESSAGE_BYTES + 1]))
        .await;
    match socket.next().await {
        Some(Ok(Message::Close(Some(frame)))) => assert_eq!(frame.code, CloseCode::Size),
        Some(Err(_)) => {}
        other => panic!("expected a close, got {other:?}"),
    }
}

#[tokio::test]
async fn shutdown_ends_idle_connections_and_the_task() {
    let demo = demo().await;
    let mut idle = TcpStream::connect(demo.address).await.unwrap();
    idle.write_all(b"GET / HTTP/1.1\r\nhost: demo\r\n\r\n")
        .await
        .unwrap();
    let mut byte = [0; 1];
    idle.read_exact(&mut byte).await.unwrap();
    demo.stop.send(()).unwrap();
    timeout(Duration::from_secs(10), demo.task)
        .await
        .unwrap()
        .unwrap();
    let mut rest = Vec::new();
    idle.read_to_end(&mut rest).await.unwrap();
    assert!(TcpStream::connect(demo.address).await.is_err());
}
