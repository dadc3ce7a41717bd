//! What the tests of the built sidecar share: certificates, processes, an upstream that
//! remembers what reached it, and clients.

pub(crate) mod agent;
pub(crate) mod application;
pub(crate) mod client;
pub(crate) mod corpus;
pub(crate) mod frames;
pub(crate) mod load;
pub(crate) mod mesh;
pub(crate) mod netns;
pub(crate) mod pki;
pub(crate) mod process;
pub(crate) mod raw_http2;
pub(crate) mod redis;
pub(crate) mod script;
pub(crate) mod service;
pub(crate) mod setup;
pub(crate) mod tcp;
pub(crate) mod tool;
pub(crate) mod upstream;
pub(crate) mod web;
pub(crate) mod websocket;

use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, sleep};

/// How long anything may take before its test fails; far beyond what a busy machine needs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Asks again and again until there is an answer, and gives up after [`PATIENCE`].
pub(crate) async fn eventually<T, F>(what: &str, mut ask: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "gave up waiting: {what}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// Fails the test where `future` takes longer than [`PATIENCE`].
pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("took longer than {PATIENCE:?}: {what}"),
    }
}
