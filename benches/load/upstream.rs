//! The upstream: answers every request with the same 200 bytes, over plain HTTP/1.1, or
//! HTTP/2 with prior knowledge.

use std::convert::Infallible;
use std::net::Ipv4Addr;

use anyhow::Result;
use bytes::Bytes;
use http::Response;
use http_body_util::Full;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};

pub(crate) const BODY: &[u8; 200] = &[b'w'; 200];

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
    let service = service_fn(|_| async { Ok::<_, Infallible>(answer()) });
    // A connection that ends is one whose client is done.
    let _ = http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn over_http2(stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let service = service_fn(|_| async { Ok::<_, Infallible>(answer()) });
    let server = http2::Builder::new(TokioExecutor::new());
    let _ = server.serve_connection(TokioIo::new(stream), service).await;
}

fn answer() -> Response<Full<Bytes>> {
    Response::new(Full::new(Bytes::from_static(BODY)))
}
