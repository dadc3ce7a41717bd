//! An allow is a lease: what is open is decided again when the policies or the time have changed,
//! what is now denied is ended in its own protocol's words, and the rest does not notice.

use std::convert::Infallible;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures_util::StreamExt;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{Message, Role};

use crate::support::client;
use crate::support::service::{Body, How, Service};
use crate::support::setup::{POLICY, Setup, Sidecar};
use crate::support::tcp::{Talks, TcpUpstream};
use crate::support::websocket::{Takes, WebSocketUpstream};
use crate::support::{eventually, within};

/// What `frontend` may still do once the policies have changed.
const KEPT: &str = r#"
@id("frontend-keeps")
permit (
  principal == Workload::"spiffe://test.example/ns/default/sa/frontend",
  action in [Action::"http:read", Action::"http:write", Action::"grpc:call"],
  resource in Service::"app"
) when { resource.path like "/kept*" };
"#;

/// A tick every few milliseconds, for as long as somebody reads.
pub(super) fn ticking(content_type: &'static str) -> Response<Body> {
    let ticks = futures_util::stream::unfold((), |()| async {
        tokio::time::sleep(Duration::from_millis(5)).await;
        let tick = Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"\0\0\0\0\0")));
        Some((tick, ()))
    });
    Response::builder()
        .header("content-type", content_type)
        .body(StreamBody::new(ticks).boxed_unsync())
        .unwrap()
}

async fn before(how: How, protocol: &'static str) -> (Sidecar, Service) {
    let service = Service::start(how, |_| async { ticking("application/grpc") }).await;
    let mut setup = Setup::new(&service.address);
    setup.upstream_keys.push(protocol);
    (setup.start().await, service)
}

/// Reads until so many ticks have come.
pub(super) async fn ticks(response: &mut Response<Incoming>, count: usize) {
    for _ in 0..count {
        let frame = within("a tick", response.frame()).await;
        assert!(frame.unwrap().unwrap().is_data());
    }
}

/// Reads to the end of what was cut: its last frame, or the error in its place.
pub(super) async fn end(response: &mut Response<Incoming>) -> Result<Frame<Bytes>, hyper::Error> {
    let reading = async {
        loop {
            match response.frame().await {
                Some(Ok(frame)) if frame.is_data() => {}
                Some(other) => return other,
                None => panic!("the end looks like a whole answer"),
            }
        }
    };
    within("the end", reading).await
}

/// The record of the call that was ended.
pub(super) async fn ended(sidecar: &Sidecar, by: &str) -> Value {
    let record = sidecar
        .record(|record| record["failure"] == "lease_ended")
        .await;
    assert_eq!(record["ended_by"], by, "{record}");
    assert_eq!(record["effect"], "allow", "{record}");
    record
}

#[tokio::test]
async fn ends_an_open_http1_answer_when_policy_now_denies() {
    let (sidecar, service) = before(How::http1(), "protocol: http1").await;
    let (mut cut, mut kept) = (
        sidecar.http1("frontend").await,
        sidecar.http1("frontend").await,
    );
    let mut cut = cut.0.send_request(client::get("/cut")).await.unwrap();
    let mut kept = kept.0.send_request(client::get("/kept")).await.unwrap();
    ticks(&mut cut, 2).await;
    ticks(&mut kept, 2).await;
    sidecar.setup.write_policy(KEPT);
    assert!(end(&mut cut).await.is_err());
    ticks(&mut kept, 50).await;
    let record = ended(&sidecar, "policy_change").await;
    assert_eq!(record["resource"]["path"], "/cut");
    eventually("the upstream to lose what was cut", || async {
        (service.open() == 1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn ends_one_http2_stream_and_leaves_its_neighbours() {
    let (sidecar, _service) = before(How::http1(), "protocol: http1").await;
    let mut http2 = sidecar.http2("frontend").await;
    let cut = http2.0.send_request(client::get(&sidecar.url("/cut")));
    let mut cut = within("the head", cut).await.unwrap();
    let kept = http2.0.send_request(client::get(&sidecar.url("/kept")));
    let mut kept = within("the head", kept).await.unwrap();
    ticks(&mut cut, 2).await;
    sidecar.setup.write_policy(KEPT);
    let error = end(&mut cut).await.unwrap_err();
    assert!(format!("{error:?}").contains("Reset"), "{error:?}");
    ticks(&mut kept, 50).await;
    ended(&sidecar, "policy_change").await;
}

#[tokio::test]
async fn tells_a_grpc_caller_permission_denied_in_the_middle_of_its_stream() {
    let (sidecar, _service) = before(How::http2(), "protocol: http2").await;
    let mut http2 = sidecar.http2("frontend").await;
    let request = |path: &str| {
        Request::post(sidecar.url(path))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Full::default())
            .unwrap()
    };
    let cut = http2.0.send_request(request("/cut.Watch/All"));
    let mut cut = within("the head", cut).await.unwrap();
    let kept = http2.0.send_request(request("/kept.Watch/All"));
    let mut kept = within("the head", kept).await.unwrap();
    ticks(&mut cut, 2).await;
    sidecar.setup.write_policy(KEPT);
    let trailers = end(&mut cut).await.unwrap().into_trailers().unwrap();
    assert_eq!(trailers["grpc-status"], "7");
    ticks(&mut kept, 50).await;
    ended(&sidecar, "policy_change").await;
}

#[tokio::test]
async fn answers_403_to_a_call_that_still_waits_for_its_answer() {
    let service = Service::start(How::http1(), |_| std::future::pending()).await;
    let sidecar = Setup::new(&service.address).start().await;
    let mut http1 = sidecar.http1("frontend").await;
    let call = tokio::spawn(async move { http1.send(client::get("/cut")).await });
    eventually("the call to reach the upstream", || async {
        (service.open() == 1).then_some(())
    })
    .await;
    sidecar.setup.write_policy(KEPT);
    let answer = within("the answer", call).await.unwrap();
    assert_eq!(answer.status, 403);
    assert_eq!(answer.json()["reason_code"], "lease_ended");
    ended(&sidecar, "policy_change").await;
}

#[tokio::test]
async fn closes_a_websocket_with_1008_when_policy_now_denies() {
    let upstream = WebSocketUpstream::start(Takes::Http1).await;
    let sidecar = Setup::new(upstream.address).start().await;
    let mut http1 = sidecar.http1("frontend").await;
    let request = Request::get("/cut")
        .header("host", "localhost")
        .header("connection", "upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
        .body(Full::<Bytes>::default())
        .unwrap();
    let response = http1.0.send_request(request).await.unwrap();
    assert_eq!(response.status(), 101);
    let upgraded = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    let mut socket = WebSocketStream::from_raw_socket(upgraded, Role::Client, None).await;
    futures_util::SinkExt::send(&mut socket, Message::text("hello"))
        .await
        .unwrap();
    let echo = within("the echo", socket.next()).await.unwrap().unwrap();
    assert_eq!(echo, Message::text("hello"));
    sidecar.setup.write_policy(KEPT);
    let last = within("the close", socket.next()).await.unwrap().unwrap();
    let Message::Close(Some(close)) = last else {
        panic!("not a close with a code: {last:?}");
    };
    assert_eq!(close.code, CloseCode::Policy);
    ended(&sidecar, "policy_change").await;
}

#[tokio::test]
async fn resets_a_tcp_connection_when_policy_now_denies() {
    let upstream = TcpUpstream::start(Talks::Echoes).await;
    let mut setup = Setup::new(upstream.address);
    setup.inbound_keys.push("protocol: tcp");
    let tcp = |host: &str| {
        POLICY
            .replace(
                r#"[Action::"http:read", Action::"http:write", Action::"grpc:call"]"#,
                r#"[Action::"tcp:connect"]"#,
            )
            .replace(
                r#"unless { resource.path like "/forbidden*" }"#,
                &format!("when {{ resource.host == \"{host}\" }}"),
            )
    };
    setup.write_policy(&tcp("localhost"));
    let sidecar = setup.start().await;
    let mut stream = sidecar.stream("frontend", &[]).await;
    stream.write_all(b"ping").await.unwrap();
    let mut pong = [0; 4];
    within("the echo", stream.read_exact(&mut pong))
        .await
        .unwrap();
    sidecar.setup.write_policy(&tcp("elsewhere"));
    let mut rest = Vec::new();
    let end = within("the end", stream.read_to_end(&mut rest)).await;
    assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
    let record = ended(&sidecar, "policy_change").await;
    assert_eq!(
        (&record["bytes_in"], &record["bytes_out"]),
        (&4.into(), &4.into())
    );
}

/// A moment some seconds from now, as policies write it, and those seconds.
fn soon(seconds: u64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let at = time::OffsetDateTime::UNIX_EPOCH + now + Duration::from_secs(seconds);
    let (date, time) = (at.date(), at.time());
    format!(
        "{date}T{:02}:{:02}:{:02}Z",
        time.hour(),
        time.minute(),
        time.second()
    )
}

#[tokio::test]
async fn ends_an_answer_at_the_moment_that_its_policy_says() {
    let (sidecar, _service) = before(How::http1(), "protocol: http1").await;
    let until = POLICY.replace(
        r#"resource.path like "/forbidden*""#,
        &format!("context.time >= datetime(\"{}\")", soon(4)),
    );
    sidecar.setup.write_policy(&until);
    let mut http2 = sidecar.http2("frontend").await;
    let open = http2.0.send_request(client::get(&sidecar.url("/any")));
    let mut open = within("the head", open).await.unwrap();
    assert_eq!(open.status(), 200);
    assert!(end(&mut open).await.is_err());
    ended(&sidecar, "time").await;
    assert_eq!(
        http2.send(client::get(&sidecar.url("/any"))).await.status,
        403
    );
}

#[tokio::test]
async fn a_header_that_nobody_kept_ends_the_lease_and_one_that_was_not_sent_does_not() {
    let (sidecar, _service) = before(How::http1(), "protocol: http1").await;
    let mut http2 = sidecar.http2("frontend").await;
    let mut request = client::get(&sidecar.url("/told"));
    let value = http::HeaderValue::from_static("en");
    request.headers_mut().insert("x-request-id", value);
    let told = http2.0.send_request(request);
    let mut told = within("the head", told).await.unwrap();
    let silent = http2.0.send_request(client::get(&sidecar.url("/silent")));
    let mut silent = within("the head", silent).await.unwrap();
    ticks(&mut told, 2).await;
    sidecar.setup.write_policy(&POLICY.replace(
        r#"resource.path like "/forbidden*""#,
        r#"context.headers["x-request-id"].contains("none")"#,
    ));
    assert!(end(&mut told).await.is_err());
    ticks(&mut silent, 50).await;
    let record = ended(&sidecar, "policy_change").await;
    assert_eq!(record["resource"]["path"], "/told");
}

#[tokio::test]
async fn policies_that_still_allow_cut_nothing() {
    let (sidecar, _service) = before(How::http1(), "protocol: http1").await;
    let mut http2 = sidecar.http2("frontend").await;
    let open = http2.0.send_request(client::get(&sidecar.url("/any")));
    let mut open = within("the head", open).await.unwrap();
    for round in 0..5 {
        let comment = format!("// round {round}\n{POLICY}");
        sidecar.setup.write_policy(&comment);
        let in_force = |line: &Value| line["message"] == "policies in force";
        eventually("the policies to be in force", || async {
            let lines = sidecar.process.stderr.all();
            let lines = lines
                .iter()
                .filter_map(|line| serde_json::from_str(line).ok());
            (lines.filter(in_force).count() == round + 2).then_some(())
        })
        .await;
        ticks(&mut open, 20).await;
    }
}
