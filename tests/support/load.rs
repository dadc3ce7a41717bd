//! Calls without a pause, by every way of connecting, while something happens to the sidecar.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bytes::Bytes;
use http::StatusCode;
use http_body_util::{BodyExt, Full};
use rustls::ClientConfig;

use super::client::{self, Http1, Http2};
use super::setup::Sidecar;
use super::within;

/// Calls on a held HTTP/1.1 connection, on a held HTTP/2 connection and on new ones until
/// `event` has happened. Every call must be answered with 200; returns how many there were.
pub(crate) async fn until(sidecar: &Sidecar, event: impl Future<Output = ()>) -> usize {
    let over = AtomicBool::new(false);
    let calls = AtomicUsize::new(0);
    let counts = || {
        calls.fetch_add(1, Ordering::Relaxed);
        !over.load(Ordering::Relaxed)
    };
    let event = async {
        event.await;
        over.store(true, Ordering::Relaxed);
    };
    let held_http1 = async {
        let mut http1 = sidecar.http1("frontend").await;
        loop {
            assert_eq!(http1.send(client::get("/kept/1")).await.status, 200);
            if !counts() {
                break;
            }
        }
    };
    let held_http2 = async {
        let mut http2 = sidecar.http2("frontend").await;
        let uri = sidecar.url("/kept/2");
        loop {
            assert_eq!(http2.send(client::get(&uri)).await.status, 200);
            if !counts() {
                break;
            }
        }
    };
    let new = async {
        loop {
            assert_eq!(sidecar.get("frontend", "/new").await.status, 200);
            if !counts() {
                break;
            }
        }
    };
    tokio::join!(event, held_http1, held_http2, new);
    calls.into_inner()
}

/// Who calls where: a sidecar may be replaced by another process, and the address stays.
#[derive(Clone)]
pub(crate) struct Target {
    address: SocketAddr,
    url: String,
    http1: ClientConfig,
    http2: ClientConfig,
}

impl Target {
    /// `frontend`, calling the sidecar's listener.
    pub(crate) fn of(sidecar: &Sidecar) -> Self {
        Self::at(sidecar, sidecar.inbound)
    }

    /// `frontend`, calling another of its listeners.
    pub(crate) fn at(sidecar: &Sidecar, address: SocketAddr) -> Self {
        let caller = sidecar.setup.caller("frontend");
        let bundle = sidecar.setup.ca.pem().into_bytes();
        Self {
            address,
            url: format!("https://localhost:{}/", address.port()),
            http1: client::tls(Some(&caller), &bundle, &["http/1.1"]),
            http2: client::tls(Some(&caller), &bundle, &["h2"]),
        }
    }

    pub(crate) async fn http1(&self) -> Http1 {
        let stream = client::handshake(self.address, self.http1.clone()).await;
        Http1::over(stream.expect("a new HTTP/1.1 connection was refused")).await
    }

    pub(crate) async fn http2(&self) -> Http2<Full<Bytes>> {
        let stream = client::handshake(self.address, self.http2.clone()).await;
        Http2::over(stream.expect("a new HTTP/2 connection was refused")).await
    }

    /// A call on a connection of its own.
    pub(crate) async fn call(&self) -> StatusCode {
        self.http1().await.send(client::get("/new")).await.status
    }
}

/// What a client did until it was over.
#[derive(Debug, Default)]
pub(crate) struct Done {
    pub(crate) calls: usize,
    pub(crate) connections: usize,
}

/// Calls without a pause until `event` has happened, as clients do that keep their connections
/// as long as the server does: on held HTTP/1.1 and HTTP/2 connections, and on new ones. Every
/// call must be answered with 200, and every new connection be taken.
pub(crate) async fn until_with_new_connections(
    target: &Target,
    event: impl Future<Output = ()>,
) -> Done {
    let over = AtomicBool::new(false);
    let (calls, connections) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let go_on = |counter: &AtomicUsize| {
        counter.fetch_add(1, Ordering::Relaxed);
        !over.load(Ordering::Relaxed)
    };
    let event = async {
        event.await;
        over.store(true, Ordering::Relaxed);
    };
    let held_http1 = async {
        let mut held = target.http1().await;
        while go_on(&calls) {
            while !called_http1(&mut held).await {
                connections.fetch_add(1, Ordering::Relaxed);
                held = target.http1().await;
            }
        }
    };
    let held_http2 = async {
        let mut held = target.http2().await;
        while go_on(&calls) {
            while !called_http2(&mut held, &target.url).await {
                connections.fetch_add(1, Ordering::Relaxed);
                held = target.http2().await;
            }
        }
    };
    let new = async {
        while go_on(&connections) {
            assert_eq!(target.call().await, 200);
        }
    };
    let new_http2 = async {
        while go_on(&connections) {
            let mut http2 = target.http2().await;
            assert_eq!(http2.send(client::get(&target.url)).await.status, 200);
        }
    };
    tokio::join!(event, held_http1, held_http2, new, new_http2);
    Done {
        calls: calls.into_inner(),
        connections: connections.into_inner(),
    }
}

/// Whether a held connection took a call. One that the server has ended in good order takes
/// none; a call that was sent and not answered is lost.
async fn called_http1(held: &mut Http1) -> bool {
    if held.0.ready().await.is_err() {
        return false;
    }
    let sent = within(
        "the answer",
        held.0.try_send_request(client::get("/kept/1")),
    )
    .await;
    match sent {
        Ok(response) => {
            assert_eq!(response.status(), 200);
            within("the body", response.into_body().collect())
                .await
                .expect("an answer was cut");
            true
        }
        Err(mut error) => {
            assert!(error.take_message().is_some(), "a call was lost: {error:?}");
            false
        }
    }
}

/// The same for HTTP/2, where GOAWAY says which calls were not looked at.
async fn called_http2(held: &mut Http2<Full<Bytes>>, url: &str) -> bool {
    if held.0.ready().await.is_err() {
        return false;
    }
    let sent = within("the answer", held.0.try_send_request(client::get(url))).await;
    match sent {
        Ok(response) => {
            assert_eq!(response.status(), 200);
            within("the body", response.into_body().collect())
                .await
                .expect("an answer was cut");
            true
        }
        Err(mut error) => {
            let unsent = error.take_message().is_some();
            assert!(
                unsent || not_looked_at(error.error()),
                "a call was lost: {error:?}"
            );
            false
        }
    }
}

/// A stream above the last one of a GOAWAY without an error may be sent again (RFC 9113 6.8).
fn not_looked_at(error: &hyper::Error) -> bool {
    let words = format!("{error:?}");
    words.contains("GoAway") && words.contains("NO_ERROR")
}
