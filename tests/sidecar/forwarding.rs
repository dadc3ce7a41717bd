//! What reaches the upstream, and what comes back.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Version};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Body, Frame};
use std::convert::Infallible;
use tokio::process::Command;

use crate::support::client::{self, Http2};
use crate::support::pki::workload;
use crate::support::setup::{Setup, Sidecar};
use crate::support::upstream::{Speaks, Upstream};
use crate::support::{tool, within};

async fn sidecar_and_upstream(speaks: Speaks) -> (Sidecar, Upstream) {
    let upstream = Upstream::start(speaks).await;
    let mut setup = Setup::new(upstream.address);
    if speaks == Speaks::Http2 {
        setup.upstream_keys.push("protocol: http2");
    }
    (setup.start().await, upstream)
}

#[tokio::test]
async fn forwards_the_request_as_it_was_decided() {
    let (sidecar, upstream) = sidecar_and_upstream(Speaks::Http1).await;
    let request = Request::post("/orders/7%20a?x=%2F&y=1")
        .header("host", "Orders.Example:8443")
        .header("x-many", "one")
        .header("x-many", "two")
        .body(Full::from("the body"))
        .unwrap();
    let answer = sidecar.http1("frontend").await.send(request).await;
    assert_eq!(answer.status, 200);
    let seen = upstream.only();
    assert_eq!(seen.version, Version::HTTP_11);
    assert_eq!(seen.method, "POST");
    assert_eq!(seen.target, "/orders/7%20a?x=%2F&y=1");
    assert_eq!(seen.values("host"), ["Orders.Example:8443"]);
    assert_eq!(seen.values("x-many"), ["one", "two"]);
    assert_eq!(seen.body, "the body");
}

#[tokio::test]
async fn forwards_http2_to_an_http1_upstream_with_its_authority_as_host() {
    let (sidecar, upstream) = sidecar_and_upstream(Speaks::Http1).await;
    let request = Request::put(sidecar.url("/h2"))
        .body(Full::from("abc"))
        .unwrap();
    assert_eq!(
        sidecar.http2("frontend").await.send(request).await.status,
        200
    );
    let seen = upstream.only();
    assert_eq!(
        seen.values("host"),
        [format!("localhost:{}", sidecar.inbound.port())]
    );
    assert_eq!(seen.body, "abc");
}

#[tokio::test]
async fn forwards_http1_to_an_http2_upstream() {
    let (sidecar, upstream) = sidecar_and_upstream(Speaks::Http2).await;
    assert_eq!(sidecar.get("frontend", "/up").await.status, 200);
    let seen = upstream.only();
    assert_eq!(seen.version, Version::HTTP_2);
    assert_eq!(seen.target, "/up");
}

#[tokio::test]
async fn removes_a_client_sent_xfcc_and_sets_its_own() {
    let (sidecar, upstream) = sidecar_and_upstream(Speaks::Http1).await;
    let forged = format!("URI={}", workload("admin"));
    let mut request = client::get("/");
    for _ in 0..2 {
        let value = HeaderValue::from_str(&forged).unwrap();
        request
            .headers_mut()
            .append("x-forwarded-client-cert", value);
    }
    sidecar.http1("frontend").await.send(request).await;
    let values = upstream.only().values("x-forwarded-client-cert");
    let [value] = &values[..] else {
        panic!("{values:?}")
    };
    assert!(!value.contains("admin"), "{value}");
    let pairs: Vec<_> = value
        .split(';')
        .filter_map(|pair| pair.split_once('='))
        .collect();
    assert!(pairs.contains(&("By", &workload("app"))), "{value}");
    assert!(pairs.contains(&("URI", &workload("frontend"))), "{value}");
    assert!(value.contains("Subject=\""), "{value}");
    let hash = pairs.iter().find(|(key, _)| *key == "Hash").unwrap().1;
    if let Some(expected) = fingerprint(&sidecar).await {
        assert_eq!(hash, expected);
    }
}

/// The SHA-256 of the caller's certificate as openssl tells it.
async fn fingerprint(sidecar: &Sidecar) -> Option<String> {
    let openssl = tool::find("openssl")?;
    let certificate = sidecar.setup.path("callers/frontend/svid.pem");
    let mut command = Command::new(openssl);
    command
        .args(["x509", "-noout", "-fingerprint", "-sha256", "-in"])
        .arg(certificate);
    let output = tool::run(&mut command).await.successful().stdout();
    Some(
        output
            .trim()
            .split_once('=')?
            .1
            .replace(':', "")
            .to_ascii_lowercase(),
    )
}

#[tokio::test]
async fn a_connection_header_cannot_strip_what_the_sidecar_sets() {
    let (sidecar, upstream) = sidecar_and_upstream(Speaks::Http1).await;
    let mut request = client::get("/");
    let headers = request.headers_mut();
    headers.insert(
        "connection",
        HeaderValue::from_static("x-forwarded-client-cert, x-mine"),
    );
    headers.insert("x-mine", HeaderValue::from_static("for the sidecar"));
    sidecar.http1("frontend").await.send(request).await;
    let seen = upstream.only();
    assert!(seen.values("x-forwarded-client-cert")[0].contains(&workload("frontend")));
    assert!(seen.values("x-mine").is_empty());
}

#[tokio::test]
async fn removes_hop_by_hop_headers_both_ways() {
    let (sidecar, upstream) = sidecar_and_upstream(Speaks::Http1).await;
    let mut request = client::get("/hop-by-hop");
    for (name, value) in [
        ("connection", "x-named"),
        ("x-named", "1"),
        ("keep-alive", "timeout=9"),
        ("proxy-connection", "keep-alive"),
        ("proxy-authorization", "Basic c2VjcmV0"),
        ("upgrade", "h2c"),
        ("http2-settings", "AAMAAABk"),
        ("x-kept", "1"),
    ] {
        request
            .headers_mut()
            .append(name, HeaderValue::from_static(value));
    }
    let answer = sidecar.http1("frontend").await.send(request).await;
    let seen = upstream.only();
    for gone in [
        "x-named",
        "keep-alive",
        "proxy-connection",
        "proxy-authorization",
        "upgrade",
    ] {
        assert!(
            seen.values(gone).is_empty(),
            "{gone} was forwarded: {seen:?}"
        );
    }
    assert_eq!(seen.values("x-kept"), ["1"]);
    for gone in ["x-private", "keep-alive"] {
        assert!(
            !answer.headers.contains_key(gone),
            "{gone} was returned: {answer:?}"
        );
    }
    assert_eq!(answer.header("x-public"), "for everybody");
}

#[tokio::test]
async fn returns_trailers_over_http1_to_a_caller_that_accepts_them() {
    let (sidecar, _upstream) = sidecar_and_upstream(Speaks::Http1).await;
    let mut request = client::get("/trailers");
    request
        .headers_mut()
        .insert("te", HeaderValue::from_static("trailers"));
    let answer = sidecar.http1("frontend").await.send(request).await;
    assert_eq!(answer.trailers.unwrap()["x-checksum"], "abc");
}

/// What a gRPC client sends, with trailers of its own to see them pass.
fn grpc(uri: &str, message: &'static [u8]) -> Request<UnsyncBoxBody<Bytes, Infallible>> {
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sent-after", HeaderValue::from_static("the message"));
    let frames = [
        Ok(Frame::data(Bytes::from_static(message))),
        Ok(Frame::trailers(trailers)),
    ];
    let body = StreamBody::new(futures_util::stream::iter(frames));
    Request::post(uri)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(body.boxed_unsync())
        .unwrap()
}

#[tokio::test]
async fn a_grpc_call_passes_with_its_trailers() {
    let (sidecar, upstream) = sidecar_and_upstream(Speaks::Http2).await;
    let mut client = Http2::over(sidecar.stream("frontend", &["h2"]).await).await;
    let answer = client
        .send(grpc(&sidecar.url("/echo.Echo/Say"), b"\0\0\0\0\x02hi"))
        .await;
    assert_eq!(answer.status, 200);
    assert_eq!(&answer.body[..], b"\0\0\0\0\x02hi");
    assert_eq!(answer.trailers.unwrap()["grpc-status"], "0");
    let seen = upstream.only();
    assert_eq!(seen.version, Version::HTTP_2);
    assert_eq!(seen.values("te"), ["trailers"]);
    assert_eq!(seen.trailers.unwrap()["x-sent-after"], "the message");
}

#[tokio::test]
async fn a_denied_grpc_call_gets_status_7_in_trailers_only() {
    let (sidecar, upstream) = sidecar_and_upstream(Speaks::Http2).await;
    let mut client = Http2::over(sidecar.stream("frontend", &["h2"]).await).await;
    within("the connection", client.0.ready()).await.unwrap();
    let request = grpc(&sidecar.url("/forbidden.Echo/Say"), b"\0\0\0\0\x02hi");
    let response = within("the answer", client.0.send_request(request))
        .await
        .unwrap();
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "application/grpc");
    assert_eq!(response.headers()["grpc-status"], "7");
    let message = response.headers()["grpc-message"].to_str().unwrap();
    let record = sidecar.record(|record| record["effect"] == "deny").await;
    assert!(
        message.contains(record["decision_id"].as_str().unwrap()),
        "{message}"
    );
    assert_eq!(record["action"], "grpc:call");
    assert!(
        response.body().is_end_stream(),
        "the refusal is more than one HEADERS frame"
    );
    upstream.assert_untouched();
}

#[tokio::test]
async fn many_streams_of_one_connection_get_their_own_answers() {
    let (sidecar, upstream) = sidecar_and_upstream(Speaks::Http1).await;
    let client = sidecar.http2("frontend").await;
    let mut calls = tokio::task::JoinSet::new();
    for number in 0..64_usize {
        let mut client = Http2(client.0.clone());
        let request = Request::post(sidecar.url(&format!("/{number}")));
        let request = request
            .body(Full::from(vec![b'x'; number * 1_000]))
            .unwrap();
        calls.spawn(async move { (number, client.send(request).await) });
    }
    while let Some(call) = calls.join_next().await {
        let (number, answer) = call.unwrap();
        assert_eq!(
            answer.text(),
            format!("upstream got {} bytes\n", number * 1_000)
        );
    }
    assert_eq!(upstream.seen().len(), 64);
}

#[tokio::test]
async fn reuses_upstream_connections() {
    let (sidecar, upstream) = sidecar_and_upstream(Speaks::Http1).await;
    let mut client = sidecar.http1("frontend").await;
    for _ in 0..10 {
        assert_eq!(client.send(client::get("/")).await.status, 200);
    }
    assert_eq!(upstream.seen().len(), 10);
    assert!(
        upstream.connections() <= 2,
        "{} connections",
        upstream.connections()
    );
}
