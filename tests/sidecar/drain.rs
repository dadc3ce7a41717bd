//! SIGTERM: not ready any more, nothing lost, then exit 0.

use std::time::{Duration, Instant};

use crate::support::client;
use crate::support::eventually;
use crate::support::setup::Setup;
use crate::support::upstream::{Speaks, Upstream};

#[tokio::test]
async fn sigterm_finishes_calls_in_flight_and_exits_0() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let mut sidecar = Setup::new(upstream.address).start().await;
    let mut http1 = sidecar.http1("frontend").await;
    let mut http2 = sidecar.http2("frontend").await;
    let first = tokio::spawn(async move { http1.send(client::get("/held")).await });
    let uri = sidecar.url("/held");
    let second = tokio::spawn(async move { http2.send(client::get(&uri)).await });
    eventually("both calls to be in flight", || async {
        (upstream.seen().len() == 2).then_some(())
    })
    .await;

    sidecar.process.signal("TERM").await;
    eventually("readiness to be false", || async {
        (sidecar.admin_get("/readyz").await?.status == 503).then_some(())
    })
    .await;
    eventually("new connections to be refused", || async {
        tokio::net::TcpStream::connect(sidecar.inbound)
            .await
            .is_err()
            .then_some(())
    })
    .await;
    upstream.release();
    upstream.release();
    for call in [first, second] {
        let answer = call.await.unwrap();
        assert_eq!(answer.status, 200);
        assert_eq!(answer.text(), "upstream got 0 bytes\n");
    }
    assert_eq!(sidecar.process.ended().await.code(), Some(0));
    let allowed = sidecar
        .process
        .stdout
        .text()
        .matches(r#""effect":"allow""#)
        .count();
    assert_eq!(allowed, 2, "a record was lost on the way out");
}

#[tokio::test]
async fn an_idle_connection_does_not_hold_the_drain_up() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let mut sidecar = Setup::new(upstream.address).start().await;
    let mut http1 = sidecar.http1("frontend").await;
    assert_eq!(http1.send(client::get("/")).await.status, 200);
    let _unused = sidecar.stream("frontend", &["h2"]).await;
    let _half_open = tokio::net::TcpStream::connect(sidecar.inbound)
        .await
        .unwrap();
    let start = Instant::now();
    sidecar.process.signal("TERM").await;
    assert_eq!(sidecar.process.ended().await.code(), Some(0));
    assert!(
        start.elapsed() < Duration::from_secs(20),
        "took {:?}",
        start.elapsed()
    );
}

#[tokio::test]
async fn a_call_that_does_not_end_is_cut_after_the_drain_timeout() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let mut setup = Setup::new(upstream.address);
    setup.keys.push("drain_timeout: 500ms");
    let mut sidecar = setup.start().await;
    let mut http1 = sidecar.http1("frontend").await;
    let call = tokio::spawn(async move { http1.0.send_request(client::get("/held")).await });
    eventually("the call to be in flight", || async {
        (upstream.seen().len() == 1).then_some(())
    })
    .await;
    sidecar.process.signal("TERM").await;
    assert_eq!(sidecar.process.ended().await.code(), Some(0));
    assert!(
        call.await.unwrap().is_err(),
        "the caller was told that the call was complete"
    );
}
