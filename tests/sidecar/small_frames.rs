//! Many messages of a few bytes, as gRPC streams have them, that wait for a slow receiver: they
//! are held, and the connection that they share with other calls stays.

use std::convert::Infallible;

use bytes::Bytes;
use futures_util::stream;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use hyper::client::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;

use crate::support::client::{self, Http2};
use crate::support::setup::Setup;
use crate::support::within;

/// More than wait at once on any connection that is used well.
const MESSAGES: usize = 5_000;

type Body = UnsyncBoxBody<Bytes, Infallible>;

fn messages() -> Body {
    let frames = (0..MESSAGES).map(|_| Ok(Frame::data(Bytes::from_static(b"."))));
    StreamBody::new(stream::iter(frames)).boxed_unsync()
}

#[tokio::test]
async fn messages_that_an_upstream_does_not_read_leave_the_connection_to_others() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let sidecar = Setup::new(listener.local_addr().unwrap()).start().await;
    // Accepts, and reads nothing.
    let accepted = tokio::spawn(async move { listener.accept().await.unwrap() });
    let stream = sidecar.stream("frontend", &["h2"]).await;
    let client: Http2<Body> = Http2::over(stream).await;

    let mut uploading = Http2(client.0.clone());
    let upload = Request::post(sidecar.url("/upload"))
        .body(messages())
        .unwrap();
    let upload = tokio::spawn(async move { uploading.0.send_request(upload).await });
    let _held = within("the upstream connection", accepted).await.unwrap();
    let mut client = client;
    for _ in 0..20 {
        let other = Request::get(sidecar.url("/forbidden"));
        let other = other.body(Full::default().boxed_unsync()).unwrap();
        assert_eq!(client.send(other).await.status, 403);
    }
    assert!(!upload.is_finished(), "the upload was ended");
}

/// An HTTP/2 upstream whose every answer is many small messages, or short.
async fn chatty() -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let answer = service_fn(|request: Request<hyper::body::Incoming>| async move {
                let body = match request.uri().path() {
                    "/messages" => messages(),
                    _ => Full::from("short").boxed_unsync(),
                };
                Ok::<_, Infallible>(Response::new(body))
            });
            let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(server.serve_connection(TokioIo::new(stream), answer));
        }
    });
    address
}

#[tokio::test]
async fn messages_that_a_caller_does_not_read_leave_the_upstream_connection_to_others() {
    let mut setup = Setup::new(chatty().await);
    setup.upstream_keys.push("protocol: http2");
    let sidecar = setup.start().await;
    let stream = sidecar.stream("frontend", &["h2"]).await;
    let (mut slow, connection) = http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(1)
        .handshake::<_, Full<Bytes>>(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    let request = client::get(&sidecar.url("/messages"));
    let mut held = within("the head", slow.send_request(request))
        .await
        .unwrap();
    let mut other = sidecar.http2("frontend").await;
    for _ in 0..20 {
        let answer = other.send(client::get(&sidecar.url("/short"))).await;
        assert_eq!(answer.text(), "short");
    }
    let mut length = 0;
    while let Some(frame) = within("the rest", held.frame()).await {
        length += frame.unwrap().data_ref().map_or(0, Bytes::len);
    }
    assert_eq!(length, MESSAGES);
}
