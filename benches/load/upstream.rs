//! The upstream, over plain HTTP/1.1, or HTTP/2 with prior knowledge: 200 bytes for every
//! request, but for the paths of the measurements of memory and of long bodies.

use std::convert::Infallible;
use std::net::Ipv4Addr;

use anyhow::Result;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};

use crate::body::Body;

pub(crate) const BODY: &[u8; 200] = &[b'w'; 200];

/// Answered with one piece and no end.
pub(crate) const EVENTS: &str = "/api/events";
/// GET answers with as many bytes as its query says; POST reads all, and tells how many.
pub(crate) const BULK: &str = "/api/bulk";

/// Serves until it is ended. The addresses are told on standard output: HTTP/1.1, HTTP/2.
pub(crate) async fn serve() -> Result<()> {
    let first = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let second = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    println!("{} {}", first.local_addr()?, second.local_addr()?);
    loop {
        tokio::select! {
            accepted = first.accept() => { tokio::spawn(over_http1(accepted?.0)); }
            accepted = second.accept() => { tokio::spawn(over_http2(accepted?.0)); }
        }
    }
}

async fn over_http1(stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    // A connection that ends is one whose client is done.
    let _ = http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service_fn(answer))
        .await;
}

async fn over_http2(stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let server = http2::Builder::new(TokioExecutor::new());
    let _ = server
        .serve_connection(TokioIo::new(stream), service_fn(answer))
        .await;
}

async fn answer(request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let mut response = Response::new(Body::Whole(Bytes::from_static(BODY)));
    match (request.method(), request.uri().path()) {
        (_, EVENTS) => {
            let headers = response.headers_mut();
            let events = http::HeaderValue::from_static("text/event-stream");
            headers.insert(http::header::CONTENT_TYPE, events);
            // nginx holds an answer back until it has a buffer full of it.
            let unbuffered = http::HeaderValue::from_static("no");
            headers.insert("x-accel-buffering", unbuffered);
            *response.body_mut() = Body::endless();
        }
        (&Method::POST, BULK) => *response.body_mut() = counted(request.into_body()).await,
        (_, BULK) => match request.uri().query().and_then(|query| query.parse().ok()) {
            Some(length) => *response.body_mut() = Body::Long(length),
            None => *response.status_mut() = StatusCode::BAD_REQUEST,
        },
        _ => {}
    }
    Ok(response)
}

/// Reads a body and says how long it was.
async fn counted(mut body: Incoming) -> Body {
    let mut length = 0;
    while let Some(Ok(frame)) = body.frame().await {
        length += frame.data_ref().map_or(0, Bytes::len);
    }
    Body::Whole(length.to_string().into())
}
