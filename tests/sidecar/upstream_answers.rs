//! What an upstream may answer, and that no answer spoils the connection it came on.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use tokio::sync::mpsc;

use crate::support::client::{self, Http2};
use crate::support::script::Scripted;
use crate::support::service::{How, Service, say};
use crate::support::setup::{Setup, Sidecar};
use crate::support::within;

async fn before(service: &Service, keys: &[&'static str]) -> Sidecar {
    let mut setup = Setup::new(&service.address);
    setup.upstream_keys.extend(keys);
    setup.start().await
}

/// Both protocols of an upstream.
fn both() -> [(How, &'static str); 2] {
    [
        (How::http1(), "protocol: http1"),
        (How::http2(), "protocol: http2"),
    ]
}

#[tokio::test]
async fn an_answer_with_too_large_a_head_is_502() {
    for (how, protocol) in both() {
        let service = Service::start(how, |asked| async move {
            let mut response = say(200, "ok");
            let size = if asked.path == "/large" { 3_000 } else { 300 };
            for number in 0..4 {
                let name = HeaderName::try_from(format!("x-large-{number}")).unwrap();
                let value = HeaderValue::try_from("x".repeat(size)).unwrap();
                response.headers_mut().insert(name, value);
            }
            response
        })
        .await;
        let sidecar = before(&service, &[protocol, "max_response_header_bytes: 8KiB"]).await;
        assert_eq!(
            sidecar.get("frontend", "/large").await.status,
            502,
            "{protocol}"
        );
        let answer = sidecar.get("frontend", "/small").await;
        assert_eq!(answer.status, 200, "{protocol}");
        assert_eq!(answer.header("x-large-3").len(), 300);
    }
}

#[tokio::test]
async fn an_answer_with_too_many_fields_is_502() {
    let service = Service::start(How::http1(), |asked| async move {
        let mut response = say(200, "ok");
        let count = if asked.path == "/many" { 60 } else { 10 };
        for number in 0..count {
            let name = HeaderName::try_from(format!("x-{number}")).unwrap();
            response
                .headers_mut()
                .insert(name, HeaderValue::from_static("1"));
        }
        response
    })
    .await;
    let sidecar = before(&service, &["max_response_headers: 50"]).await;
    assert_eq!(sidecar.get("frontend", "/many").await.status, 502);
    assert_eq!(sidecar.get("frontend", "/few").await.status, 200);
}

/// A body that goes on for as long as its sender is there.
fn endless() -> (
    mpsc::Sender<Bytes>,
    impl http_body::Body<Data = Bytes, Error = std::convert::Infallible> + Send + Unpin + 'static,
) {
    let (sender, mut receiver) = mpsc::channel::<Bytes>(1);
    let frames = futures_util::stream::poll_fn(move |cx| {
        receiver
            .poll_recv(cx)
            .map(|bytes| bytes.map(|b| Ok(Frame::data(b))))
    });
    (sender, StreamBody::new(frames).boxed_unsync())
}

#[tokio::test]
async fn an_answer_that_comes_before_the_body_was_sent_is_relayed_and_spoils_nothing() {
    for (how, protocol) in both() {
        let service = Service::start(how.early(), |asked| async move {
            let status = if asked.method == Method::PUT {
                413
            } else {
                200
            };
            say(status, "early")
        })
        .await;
        let sidecar = before(&service, &[protocol]).await;
        for _ in 0..3 {
            let stream = sidecar.stream("frontend", &["h2"]).await;
            let mut client = Http2::over(stream).await;
            let (sender, body) = endless();
            let request = Request::put(sidecar.url("/upload")).body(body).unwrap();
            let sending = tokio::spawn(async move {
                for _ in 0..1_000 {
                    if sender
                        .send(Bytes::from(vec![b'x'; 16 << 10]))
                        .await
                        .is_err()
                    {
                        return;
                    }
                }
                // Held open until the test drops it.
                std::future::pending::<()>().await;
            });
            let answer = within("the early answer", client.send(request)).await;
            assert_eq!(
                (answer.status.as_u16(), answer.text().as_str()),
                (413, "early")
            );
            sending.abort();
            for _ in 0..3 {
                let answer = sidecar.get("frontend", "/after").await;
                assert_eq!(
                    (answer.status.as_u16(), answer.text().as_str()),
                    (200, "early")
                );
            }
        }
    }
}

#[tokio::test]
async fn an_answer_to_head_has_a_length_and_no_body() {
    for (how, protocol) in both() {
        let service = Service::saying(how, 200, "twelve bytes").await;
        let sidecar = before(&service, &[protocol]).await;
        let mut client = sidecar.http1("frontend").await;
        for _ in 0..3 {
            let request = Request::head("/").header("host", "localhost");
            let answer = client.send(request.body(Full::default()).unwrap()).await;
            assert_eq!(answer.status, 200);
            assert_eq!(answer.body.len(), 0);
            assert_eq!(client.send(client::get("/")).await.text(), "twelve bytes");
        }
        assert_eq!(service.connections(), 1, "{protocol}");
    }
}

#[tokio::test]
async fn a_connection_that_the_upstream_wants_closed_is_not_used_again() {
    let service = Service::start(How::http1(), |_| async {
        let mut response = say(200, "ok");
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert("connection", close);
        response
    })
    .await;
    let sidecar = before(&service, &[]).await;
    let mut client = sidecar.http1("frontend").await;
    for _ in 0..5 {
        let answer = client.send(client::get("/")).await;
        assert_eq!(answer.status, 200);
        assert_eq!(
            answer.header("connection"),
            "",
            "the caller's connection stays open"
        );
    }
    assert_eq!((service.requests(), service.connections()), (5, 5));
}

#[tokio::test]
async fn a_body_that_the_caller_does_not_want_does_not_spoil_the_next_answer() {
    let service = Service::start(How::http1(), |asked| async move {
        if asked.path != "/long" {
            return say(200, "short");
        }
        let (sender, body) = endless();
        tokio::spawn(async move {
            while sender
                .send(Bytes::from_static(b"HTTP/1.1 200 forged\r\n\r\n"))
                .await
                .is_ok()
            {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
        http::Response::new(body.boxed_unsync())
    })
    .await;
    let sidecar = before(&service, &[]).await;
    for _ in 0..3 {
        let mut client = sidecar.http1("frontend").await;
        let response = within("the head", client.0.send_request(client::get("/long"))).await;
        let mut body = response.unwrap().into_body();
        within("a piece", body.frame()).await.unwrap().unwrap();
        drop((body, client));
        assert_eq!(sidecar.get("frontend", "/").await.text(), "short");
    }
}

#[tokio::test]
async fn hints_before_the_answer_are_not_taken_for_it() {
    let answer = b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n\
        HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    let upstream = Scripted::start(answer).await;
    let sidecar = Setup::new(upstream.address).start().await;
    let answer = sidecar.get("frontend", "/").await;
    assert_eq!(
        (answer.status.as_u16(), answer.text().as_str()),
        (200, "ok")
    );
}
