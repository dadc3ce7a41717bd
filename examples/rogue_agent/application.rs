//! The application behind the sidecar: orders, and a stream of what changes in them. It knows
//! nothing of who calls.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Starts it, and says where it listens.
pub(crate) async fn start() -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service =
                service_fn(|request| async move { Ok::<_, Infallible>(answer(&request)) });
            tokio::spawn(
                hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service),
            );
        }
    });
    Ok(address)
}

fn answer(request: &Request<Incoming>) -> Response<Body> {
    match request.uri().path() {
        "/orders/changes" => changes(),
        path => Response::new(Full::from(format!("{{\"order\":{path:?}}}\n")).boxed_unsync()),
    }
}

/// Server-sent events without an end.
fn changes() -> Response<Body> {
    let changes = futures_util::stream::unfold(0_u64, |number| async move {
        tokio::time::sleep(Duration::from_millis(10)).await;
        let event = Bytes::from(format!("data: order {number} has changed\n\n"));
        Some((Ok(Frame::data(event)), number + 1))
    });
    let mut response = Response::new(StreamBody::new(changes).boxed_unsync());
    let kind = http::HeaderValue::from_static("text/event-stream");
    response
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, kind);
    response
}
