//! SIGTERM: not ready any more, nothing lost, then exit 0.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;

use crate::support::client::{self, Http1};
use crate::support::load::{self, Target};
use crate::support::setup::{POLICY, Setup, Sidecar};
use crate::support::upstream::{Speaks, Upstream};
use crate::support::{eventually, within};

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

/// A sidecar with an outbound listener to `destination`, which the workload may call.
async fn with_outbound(upstream: SocketAddr, destination: SocketAddr, keys: &str) -> Sidecar {
    let mut setup = Setup::new(upstream);
    let outbound = format!(
        "destinations: [{{ service: billing, upstream: {{ address: \"{destination}\" }} }}]\n\
         outbound: [{{ name: billing, listen: \"127.0.0.1:0\", destination: billing }}]\n{keys}"
    );
    setup.keys.push(outbound.leak());
    let egress = r#"@id("app-calls-billing") permit (
      principal == Workload::"spiffe://test.example/ns/default/sa/app",
      action in Action::"http:read", resource in Service::"billing");"#;
    setup.write_policy(&format!("{POLICY}{egress}"));
    setup.start().await
}

fn outbound_of(sidecar: &Sidecar) -> SocketAddr {
    let lines = sidecar.process.stderr.all();
    let mut listening = lines.iter().filter_map(|line| {
        let line: serde_json::Value = serde_json::from_str(line).ok()?;
        (line["message"] == "listening" && line["listener"] == "billing").then_some(line)
    });
    let address = listening.next().unwrap()["address"]
        .as_str()
        .unwrap()
        .to_owned();
    address.parse().unwrap()
}

/// A connection of the workload's own.
async fn workload(
    outbound: SocketAddr,
) -> hyper::client::conn::http1::SendRequest<Full<bytes::Bytes>> {
    let stream = TcpStream::connect(outbound).await.unwrap();
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .unwrap();
    tokio::spawn(connection);
    sender
}

#[tokio::test]
async fn outbound_is_served_while_inbound_drains_and_until_the_workload_is_gone() {
    let (upstream, billing) = (
        Upstream::start(Speaks::Http1).await,
        Upstream::start(Speaks::Http1).await,
    );
    let mut sidecar = with_outbound(upstream.address, billing.address, "drain_timeout: 1h").await;
    let outbound = outbound_of(&sidecar);
    let mut http1 = sidecar.http1("frontend").await;
    let held = tokio::spawn(async move { http1.send(client::get("/held")).await });
    eventually("the call to be in flight", || async {
        (upstream.seen().len() == 1).then_some(())
    })
    .await;

    sidecar.process.signal("TERM").await;
    eventually("new inbound connections to be refused", || async {
        TcpStream::connect(sidecar.inbound)
            .await
            .is_err()
            .then_some(())
    })
    .await;
    let mut kept = Http1(workload(outbound).await);
    assert_eq!(
        kept.send(client::get("/while-inbound-drains")).await.status,
        200
    );
    upstream.release();
    let answer = held.await.unwrap();
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("connection"), "close");
    // Inbound has drained; the workload is still there.
    assert_eq!(kept.send(client::get("/after")).await.status, 200);
    let mut new = Http1(workload(outbound).await);
    assert_eq!(new.send(client::get("/new")).await.status, 200);
    drop(new);
    assert_eq!(kept.send(client::get("/last")).await.status, 200);
    assert_eq!(billing.seen().len(), 4);

    drop(kept);
    assert_eq!(sidecar.process.ended().await.code(), Some(0));
}

#[tokio::test]
async fn a_workload_that_does_not_go_is_cut_off_after_the_drain_timeout() {
    let (upstream, billing) = (
        Upstream::start(Speaks::Http1).await,
        Upstream::start(Speaks::Http1).await,
    );
    let mut sidecar = with_outbound(upstream.address, billing.address, "drain_timeout: 2s").await;
    let mut kept = Http1(workload(outbound_of(&sidecar)).await);
    assert_eq!(kept.send(client::get("/")).await.status, 200);
    sidecar.process.signal("TERM").await;
    assert_eq!(sidecar.process.ended().await.code(), Some(0));
    assert!(within("the close", kept.0.ready()).await.is_err());
}

#[tokio::test]
async fn readiness_is_false_during_the_drain_delay_and_a_second_signal_ends_it() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let mut setup = Setup::new(upstream.address);
    setup.keys.push("drain_delay: 5m\ndrain_timeout: 1h");
    let mut sidecar = setup.start().await;
    let mut kept = sidecar.http1("frontend").await;
    assert_eq!(kept.send(client::get("/")).await.status, 200);
    sidecar.process.signal("TERM").await;
    sidecar.until_readiness_is(503).await;
    let answer = sidecar.admin_get("/readyz").await.unwrap().json();
    assert_eq!(answer["reasons"], serde_json::json!(["draining"]));
    assert_eq!(sidecar.get("frontend", "/new").await.status, 200);
    let answer = kept.send(client::get("/kept")).await;
    assert_eq!(answer.status, 200);
    assert_eq!(
        answer.header("connection"),
        "",
        "nothing closes before the delay is over"
    );
    // Neither ends it nor begins it anew.
    sidecar.process.signal("HUP").await;
    assert_eq!(sidecar.get("frontend", "/new").await.status, 200);
    sidecar.process.signal("TERM").await;
    assert_eq!(sidecar.process.ended().await.code(), Some(0));
}

async fn under_way(upstream: &Upstream) {
    eventually("calls to be under way", || async {
        (upstream.seen().len() > 40).then_some(())
    })
    .await;
}

#[tokio::test]
async fn busy_callers_lose_nothing_during_the_drain_delay_and_the_drain() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let mut setup = Setup::new(upstream.address);
    setup.keys.push("drain_delay: 2s\nlog: { decisions: off }");
    let mut sidecar = setup.start().await;
    let target = Target::of(&sidecar);
    // Those who are connected call on while the sidecar drains; those who come stop when it says
    // that it is not ready, as a load balancer sees to.
    let told = async {
        let calls = load::until_with_new_connections(&target, async {
            under_way(&upstream).await;
            sidecar.process.signal("TERM").await;
            sidecar.until_readiness_is(503).await;
        });
        calls.await
    };
    let held = async {
        let mut held = sidecar.http1("frontend").await;
        let mut calls = 0;
        loop {
            let answer = held.send(client::get("/held-on")).await;
            assert_eq!(answer.status, 200);
            calls += 1;
            if answer.header("connection") == "close" {
                return calls;
            }
        }
    };
    let (done, held) = tokio::join!(told, held);
    assert!(done.calls > 2 && done.connections > 2, "{done:?}");
    assert!(held > 1, "{held}");
    assert_eq!(sidecar.process.ended().await.code(), Some(0));
}

#[tokio::test]
async fn a_connection_that_was_accepted_is_served_although_the_drain_has_begun() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let mut sidecar = Setup::new(upstream.address).start().await;
    let mut held = sidecar.http1("frontend").await;
    let held = tokio::spawn(async move { held.send(client::get("/held")).await });
    eventually("the call to be in flight", || async {
        (upstream.seen().len() == 1).then_some(())
    })
    .await;
    // One that has not begun its handshake, one that has made it and not asked, in either version.
    let silent = TcpStream::connect(sidecar.inbound).await.unwrap();
    let mut http1 = sidecar.http1("frontend").await;
    let mut http2 = sidecar.http2("frontend").await;
    let caller = sidecar.setup.caller("frontend");
    let bundle = sidecar.setup.ca.pem().into_bytes();
    let uri = sidecar.url("/");

    sidecar.process.signal("TERM").await;
    eventually("new connections to be refused", || async {
        TcpStream::connect(sidecar.inbound)
            .await
            .is_err()
            .then_some(())
    })
    .await;
    assert_eq!(http1.send(client::get("/asked")).await.status, 200);
    assert_eq!(http2.send(client::get(&uri)).await.status, 200);
    let config = client::tls(Some(&caller), &bundle, &["http/1.1"]);
    let stream = client::handshake_over(silent, config).await.unwrap();
    let answer = Http1::over(stream).await.send(client::get("/late")).await;
    assert_eq!(answer.status, 200);
    upstream.release();
    assert_eq!(held.await.unwrap().status, 200);
    assert_eq!(sidecar.process.ended().await.code(), Some(0));
}

#[tokio::test]
async fn a_connection_without_its_http2_preface_does_not_hold_the_drain_up() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let mut setup = Setup::new(upstream.address);
    setup.keys.push("drain_timeout: 1h");
    let mut sidecar = setup.start().await;
    let _silent = sidecar.stream("frontend", &["h2"]).await;
    eventually("the connection to be accepted", || async {
        let metrics = sidecar.admin_get("/metrics").await?.text();
        metrics.contains("wayleave_connections 1\n").then_some(())
    })
    .await;
    sidecar.process.signal("TERM").await;
    assert_eq!(sidecar.process.ended().await.code(), Some(0));
}

/// An application that begins an answer and never ends it, in HTTP/2.
async fn endless() -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = hyper::service::service_fn(async |request: http::Request<_>| {
                let _: http::Request<hyper::body::Incoming> = request;
                let first = futures_util::stream::iter([Ok::<_, std::convert::Infallible>(
                    Frame::data(bytes::Bytes::from_static(b"\0\0\0\0\0")),
                )]);
                let body = StreamBody::new(first.chain(futures_util::stream::pending()));
                let response = http::Response::builder().header("content-type", "application/grpc");
                response.body(body)
            });
            let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(server.serve_connection(TokioIo::new(stream), service));
        }
    });
    address
}

async fn before_the_endless() -> Sidecar {
    let mut setup = Setup::new(endless().await);
    setup.upstream_keys.push("protocol: http2");
    setup.keys.push("drain_timeout: 1s");
    setup.start().await
}

/// Waits for the cut of a stream: its last frame, or none when it was reset.
async fn cut(
    sidecar: &mut Sidecar,
    request: http::Request<Full<bytes::Bytes>>,
) -> Option<Frame<bytes::Bytes>> {
    let mut http2 = sidecar.http2("frontend").await;
    let sent = within("the head", http2.0.send_request(request)).await;
    let mut response = sent.unwrap();
    assert_eq!(response.status(), 200);
    assert!(
        within("data", response.frame())
            .await
            .unwrap()
            .unwrap()
            .is_data()
    );
    sidecar.process.signal("TERM").await;
    let last = within("the end", response.frame()).await.unwrap();
    let last = match last {
        Ok(frame) => Some(frame),
        Err(error) => {
            let words = format!("{error:?}");
            assert!(
                words.contains("Reset"),
                "not a reset of the stream: {words}"
            );
            None
        }
    };
    assert_eq!(sidecar.process.ended().await.code(), Some(0));
    let record = sidecar.record(|record| record["effect"] == "allow").await;
    assert_eq!(record["failure"], "drained");
    last
}

#[tokio::test]
async fn a_grpc_stream_is_cut_with_trailers_after_the_drain_timeout() {
    let mut sidecar = before_the_endless().await;
    let request = http::Request::post(sidecar.url("/endless.Endless/Watch"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::default())
        .unwrap();
    let last = cut(&mut sidecar, request)
        .await
        .expect("the stream was reset");
    let trailers = last.into_trailers().unwrap();
    assert_eq!(trailers["grpc-status"], "14");
    assert_eq!(trailers["grpc-message"], "the sidecar is stopping");
}

#[tokio::test]
async fn an_http_2_stream_is_reset_after_the_drain_timeout() {
    let mut sidecar = before_the_endless().await;
    let request = client::get(&sidecar.url("/watch"));
    assert!(cut(&mut sidecar, request).await.is_none());
}

#[tokio::test]
async fn a_websocket_is_told_that_the_sidecar_goes_away_after_the_drain_timeout() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(wayleave_proxy::demo::serve(
        listener,
        std::future::pending(),
    ));
    let mut setup = Setup::new(address);
    setup.keys.push("drain_timeout: 1s");
    let mut sidecar = setup.start().await;
    let stream = sidecar.stream("frontend", &["http/1.1"]).await;
    let opening = tokio_tungstenite::client_async("ws://localhost/ws", stream);
    let (mut socket, _) = within("the upgrade", opening).await.unwrap();
    socket.send(Message::text("hello")).await.unwrap();
    assert_eq!(
        within("an echo", socket.next()).await.unwrap().unwrap(),
        Message::text("hello")
    );
    sidecar.process.signal("TERM").await;
    match within("the close", socket.next()).await.unwrap().unwrap() {
        Message::Close(Some(frame)) => assert_eq!(u16::from(frame.code), 1001),
        other => panic!("{other:?}"),
    }
    assert_eq!(sidecar.process.ended().await.code(), Some(0));
    let record = sidecar.record(|record| record["effect"] == "allow").await;
    assert_eq!(record["failure"], "drained");
}
