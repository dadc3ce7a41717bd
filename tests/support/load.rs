//! Calls without a pause, by every way of connecting, while something happens to the sidecar.

use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::client;
use super::setup::Sidecar;

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
