//! WebSockets between the versions of HTTP: an upgrade or an extended CONNECT (RFC 8441) on
//! either side, decided alike.

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::ext::Protocol;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::support::client;
use crate::support::setup::{Setup, Sidecar};
use crate::support::upstream::{Speaks, Upstream};
use crate::support::websocket::{Takes, WebSocketUpstream};
use crate::support::{eventually, within};

async fn before(takes: Takes) -> (Sidecar, WebSocketUpstream) {
    let upstream = WebSocketUpstream::start(takes).await;
    let mut setup = Setup::new(upstream.address);
    if matches!(takes, Takes::Http2 | Takes::Http2Not) {
        setup.upstream_keys.push("protocol: http2");
    }
    (setup.start().await, upstream)
}

/// An extended CONNECT by `caller`, and what came back.
async fn connect(sidecar: &Sidecar, caller: &str, protocol: &'static str) -> Response<Incoming> {
    let mut http2 = sidecar.http2(caller).await;
    let request = Request::builder()
        .method("CONNECT")
        .uri(sidecar.url("/ws?room=1"))
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "the caller has none to send")
        .header("sec-websocket-protocol", "chat")
        .header("x-forwarded-client-cert", "URI=spiffe://test.example/admin")
        .extension(Protocol::from_static(protocol))
        .body(Full::<Bytes>::default())
        .unwrap();
    within("the answer", http2.0.send_request(request))
        .await
        .unwrap()
}

async fn opened(
    response: Response<Incoming>,
) -> WebSocketStream<impl AsyncRead + AsyncWrite + Unpin> {
    assert_eq!(response.status(), 200);
    let upgraded = within("the upgrade", hyper::upgrade::on(response)).await;
    WebSocketStream::from_raw_socket(TokioIo::new(upgraded.unwrap()), Role::Client, None).await
}

/// Messages of every size come back, and the socket closes as one.
async fn echoes(mut socket: WebSocketStream<impl AsyncRead + AsyncWrite + Unpin>) {
    for message in [Message::text("hello"), Message::binary(vec![7; 500_000])] {
        socket.send(message.clone()).await.unwrap();
        let echo = within("the echo", socket.next()).await.unwrap().unwrap();
        assert!(echo == message, "the message was changed");
    }
    socket.close(None).await.unwrap();
    let closed = within("the close", socket.next()).await;
    assert!(matches!(closed, Some(Ok(Message::Close(_)))), "{closed:?}");
    // It is for the server to close the connection (RFC 6455 section 7.1.1).
    let ended = within("the end", socket.next()).await;
    assert!(ended.is_none(), "{ended:?}");
}

async fn is_recorded(sidecar: &Sidecar, protocol: &str, status: u16) {
    let record = sidecar.record(|r| r["resource"]["path"] == "/ws").await;
    assert_eq!(record["action"], "http:get");
    assert_eq!(record["method"], "GET");
    assert_eq!(record["protocol"], protocol);
    assert_eq!(record["status"], status);
    assert_eq!(record["failure"], serde_json::Value::Null, "{record}");
}

#[tokio::test]
async fn http_2_to_http_1_has_a_key_of_its_own() {
    let (sidecar, upstream) = before(Takes::Http1).await;
    let response = connect(&sidecar, "frontend", "websocket").await;
    let headers = response.headers().clone();
    echoes(opened(response).await).await;
    assert_eq!(headers["sec-websocket-protocol"], "chat");
    for hop in ["sec-websocket-accept", "upgrade", "connection"] {
        assert!(!headers.contains_key(hop), "{headers:?}");
    }
    let asked = &upstream.asked()[0];
    assert_eq!(
        (asked.method.as_str(), &*asked.target),
        ("GET", "/ws?room=1")
    );
    assert_eq!(asked.headers["upgrade"], "websocket");
    assert_eq!(asked.headers["sec-websocket-version"], "13");
    assert_eq!(asked.headers.get_all("sec-websocket-key").iter().count(), 1);
    assert_eq!(asked.headers["sec-websocket-key"].len(), 24);
    let xfcc = asked.headers["x-forwarded-client-cert"].to_str().unwrap();
    assert!(xfcc.contains("/sa/frontend"), "{xfcc}");
    is_recorded(&sidecar, "2", 200).await;
}

#[tokio::test]
async fn http_2_to_http_2_is_an_extended_connect_on_both_sides() {
    let (sidecar, upstream) = before(Takes::Http2).await;
    for _ in 0..2 {
        let response = connect(&sidecar, "frontend", "websocket").await;
        echoes(opened(response).await).await;
    }
    let asked = &upstream.asked()[0];
    assert_eq!(
        (asked.method.as_str(), &*asked.target),
        ("CONNECT", "/ws?room=1")
    );
    assert_eq!(asked.protocol.as_deref(), Some("websocket"));
    assert!(!asked.headers.contains_key("sec-websocket-key"));
    is_recorded(&sidecar, "2", 200).await;
}

#[tokio::test]
async fn http_1_to_http_2_proves_the_callers_key() {
    let (sidecar, upstream) = before(Takes::Http2).await;
    let stream = sidecar.stream("frontend", &["http/1.1"]).await;
    let mut request = "wss://localhost/ws".into_client_request().unwrap();
    let protocol = "chat".parse().unwrap();
    request
        .headers_mut()
        .insert("sec-websocket-protocol", protocol);
    // The client checks the proof of its key by itself.
    let connecting = tokio_tungstenite::client_async(request, stream);
    let (socket, response) = within("the upgrade", connecting).await.unwrap();
    assert_eq!(response.status(), 101);
    echoes(socket).await;
    let asked = &upstream.asked()[0];
    assert_eq!((asked.method.as_str(), &*asked.target), ("CONNECT", "/ws"));
    assert_eq!(asked.protocol.as_deref(), Some("websocket"));
    assert!(!asked.headers.contains_key("sec-websocket-key"));
    is_recorded(&sidecar, "1.1", 101).await;
}

#[tokio::test]
async fn a_denied_extended_connect_gets_403_and_reaches_nobody() {
    let (sidecar, upstream) = before(Takes::Http1).await;
    let response = connect(&sidecar, "agent", "websocket").await;
    assert_eq!(response.status(), 403);
    assert!(upstream.asked().is_empty());
    let record = sidecar.record(|_| true).await;
    assert_eq!(record["action"], "http:get");
}

#[tokio::test]
async fn any_other_protocol_and_a_plain_connect_are_refused() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let setup = Setup::new(upstream.address);
    setup.write_policy(r#"@id("all") permit (principal, action, resource);"#);
    let sidecar = setup.start().await;
    for protocol in ["connect-udp", "webtransport", "WebSocket"] {
        let response = connect(&sidecar, "frontend", protocol).await;
        assert_eq!(response.status(), 400, "{protocol}");
    }
    let record = sidecar.record(|_| true).await;
    assert_eq!(record["reason_code"], "connect_protocol");
    let mut http2 = sidecar.http2("frontend").await;
    let plain = Request::connect("localhost:443").body(Full::default());
    let response = within("the answer", http2.0.send_request(plain.unwrap())).await;
    assert_eq!(response.unwrap().status(), 400);
    upstream.assert_untouched();
}

/// Only an answer that is derived from our key shows that a WebSocket is there.
#[tokio::test]
async fn an_upgrade_without_its_proof_is_no_websocket() {
    let (sidecar, _upstream) = before(Takes::WrongProof).await;
    let response = connect(&sidecar, "frontend", "websocket").await;
    assert_eq!(response.status(), 502);
    let record = sidecar.record(|_| true).await;
    assert_eq!(record["failure"], "upstream_broke");
}

/// To a CONNECT, 200 says that the tunnel is open, and here it is not.
#[tokio::test]
async fn a_success_that_is_no_upgrade_is_not_relayed_to_a_connect() {
    let (sidecar, _upstream) = before(Takes::Ignores).await;
    let response = connect(&sidecar, "frontend", "websocket").await;
    assert_eq!(response.status(), 502);
}

#[tokio::test]
async fn what_the_application_refuses_is_told_as_it_is() {
    let (sidecar, _upstream) = before(Takes::Refuses).await;
    let response = connect(&sidecar, "frontend", "websocket").await;
    assert_eq!(response.status(), StatusCode::FORBIDDEN);
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert!(body.is_empty(), "{body:?}");
    let record = sidecar.record(|_| true).await;
    assert_eq!(
        (&record["effect"], &record["status"]),
        (&"allow".into(), &403.into())
    );
}

#[tokio::test]
async fn an_http_2_upstream_that_takes_no_websockets_is_502() {
    let (sidecar, upstream) = before(Takes::Http2Not).await;
    let response = connect(&sidecar, "frontend", "websocket").await;
    assert_eq!(response.status(), 502);
    assert!(upstream.asked().is_empty());
    // Requests are as welcome there as ever.
    let mut http2 = sidecar.http2("frontend").await;
    let answer = http2.send(client::get(&sidecar.url("/"))).await;
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn the_settings_say_that_extended_connect_is_taken() {
    let (sidecar, _upstream) = before(Takes::Http1).await;
    let stream = sidecar.stream("frontend", &["h2"]).await;
    let io = TokioIo::new(stream);
    let (_sender, mut connection) =
        hyper::client::conn::http2::handshake::<_, _, Full<Bytes>>(TokioExecutor::new(), io)
            .await
            .unwrap();
    eventually("the settings", || {
        let taken = connection.is_extended_connect_protocol_enabled();
        let _ = futures_util::FutureExt::now_or_never(&mut connection);
        async move { taken.then_some(()) }
    })
    .await;
}
