//! Permissive listeners: callers without TLS are served as anonymous ones, are counted, and gain
//! nothing by calling themselves somebody.

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::client::{self, Answer};
use crate::support::process::wayleave;
use crate::support::setup::{Setup, Sidecar};
use crate::support::tcp::{Talks, TcpUpstream};
use crate::support::tool;
use crate::support::upstream::{Speaks, Upstream};
use crate::support::within;

/// Anybody may read what is public, also without a certificate, and `frontend` all.
const POLICY: &str = r#"
@id("public")
permit (principal, action in Action::"http:read", resource in Service::"app")
when { resource.path like "/public/*" };
@id("frontend")
permit (
  principal == Workload::"spiffe://test.example/ns/default/sa/frontend",
  action in Action::"http:read",
  resource in Service::"app"
);
@id("with-tls")
permit (principal, action == Action::"http:post", resource in Service::"app")
when { context has tls };
@id("nameless")
permit (principal == Anonymous::"anonymous", action == Action::"http:put", resource);
@id("connects")
permit (principal is Anonymous, action == Action::"tcp:connect", resource);
"#;

fn setup(upstream: impl ToString) -> Setup {
    let mut setup = Setup::new(upstream);
    setup.inbound_keys.push("tls: { mode: permissive }");
    setup.write_policy(POLICY);
    setup
}

async fn before() -> (Sidecar, Upstream) {
    let upstream = Upstream::start(Speaks::Http1).await;
    (setup(upstream.address).start().await, upstream)
}

async fn plain(sidecar: &Sidecar, method: &str, path: &str) -> Answer {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "localhost")
        .header(
            "x-forwarded-client-cert",
            "URI=spiffe://test.example/ns/default/sa/frontend",
        )
        .body(Full::<Bytes>::default())
        .unwrap();
    client::plain(sidecar.inbound, request).await.unwrap()
}

#[tokio::test]
async fn one_port_serves_callers_with_a_certificate_and_without() {
    let (sidecar, upstream) = before().await;
    assert_eq!(sidecar.get("frontend", "/private").await.status, 200);
    let named = upstream.only();
    assert_eq!(named.values("x-forwarded-client-cert").len(), 1);
    assert_eq!(plain(&sidecar, "GET", "/public/a").await.status, 200);
    let anonymous = upstream.seen().remove(1);
    assert_eq!(anonymous.target, "/public/a");
    // What a caller says of itself reaches nobody.
    assert!(anonymous.values("x-forwarded-client-cert").is_empty());
    let record = sidecar
        .record(|r| r["resource"]["path"] == "/public/a")
        .await;
    assert_eq!(record["principal"], serde_json::Value::Null);
    assert_eq!(record["tls"], serde_json::Value::Null);
}

#[tokio::test]
async fn an_anonymous_caller_is_denied_what_names_and_tls_are_asked_for() {
    let (sidecar, upstream) = before().await;
    assert_eq!(plain(&sidecar, "GET", "/private").await.status, 403);
    assert_eq!(plain(&sidecar, "POST", "/public/a").await.status, 403);
    upstream.assert_untouched();
    assert_eq!(plain(&sidecar, "PUT", "/a").await.status, 200);
}

#[tokio::test]
async fn http_2_is_recognised_by_its_preface() {
    let (sidecar, upstream) = before().await;
    let stream = TcpStream::connect(sidecar.inbound).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    tokio::spawn(connection);
    let uri = format!("http://localhost:{}/public/h2", sidecar.inbound.port());
    let request = Request::get(uri).body(Full::<Bytes>::default()).unwrap();
    let answer = within("the answer", sender.send_request(request)).await;
    assert_eq!(answer.unwrap().status(), 200);
    assert_eq!(upstream.only().target, "/public/h2");
    let record = sidecar.record(|_| true).await;
    assert_eq!(record["protocol"], "2");
}

#[tokio::test]
async fn a_tls_client_without_a_certificate_stays_refused() {
    let (sidecar, upstream) = before().await;
    if let Ok(mut stream) = sidecar.connect(None, &["http/1.1"]).await {
        let request = b"GET /public/a HTTP/1.1\r\nhost: localhost\r\n\r\n";
        let _ = stream.write_all(request).await;
        let mut answer = Vec::new();
        let ended = within("the end", stream.read_to_end(&mut answer)).await;
        assert!(ended.is_err(), "{answer:?}");
    }
    sidecar
        .process
        .stderr
        .contains("no_client_certificate")
        .await;
    upstream.assert_untouched();
}

#[tokio::test]
async fn a_strict_listener_serves_no_plaintext() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let setup = Setup::new(upstream.address);
    setup.write_policy(POLICY);
    let sidecar = setup.start().await;
    let request = Request::get("/public/a").header("host", "localhost");
    let request = request.body(Full::<Bytes>::default()).unwrap();
    let answer = client::plain(sidecar.inbound, request).await.unwrap();
    assert_eq!(answer.status, 400);
    assert_eq!(answer.json()["reason_code"], "plaintext");
    upstream.assert_untouched();
}

#[tokio::test]
async fn tcp_without_tls_is_decided_as_anonymous() {
    let upstream = TcpUpstream::start(Talks::Echoes).await;
    let mut setup = setup(upstream.address);
    setup.inbound_keys.push("protocol: tcp");
    let sidecar = setup.start().await;
    let mut stream = TcpStream::connect(sidecar.inbound).await.unwrap();
    stream.write_all(b"bytes").await.unwrap();
    let mut back = [0; 5];
    within("the echo", stream.read_exact(&mut back))
        .await
        .unwrap();
    assert_eq!(&back, b"bytes");
    drop(stream);
    let record = sidecar.record(|_| true).await;
    assert_eq!(record["policies"][0], "connects");
}

#[tokio::test]
async fn plaintext_is_warned_about_and_counted() {
    let (sidecar, _upstream) = before().await;
    sidecar.process.stderr.contains("`app` is permissive").await;
    assert_eq!(plain(&sidecar, "GET", "/public/a").await.status, 200);
    assert_eq!(sidecar.get("frontend", "/").await.status, 200);
    let metrics = sidecar.admin_get("/metrics").await.unwrap().text();
    let counted = r#"wayleave_plaintext_connections_total{listener="app"} 1"#;
    assert!(metrics.contains(counted), "{metrics}");
    let status = sidecar.admin_get("/status").await.unwrap().json();
    assert_eq!(status["listeners"][0]["tls_mode"], "permissive");
    assert_eq!(status["listeners"][0]["plaintext_connections"], 1);
    let mut command = wayleave();
    command.args(["status", "--admin", &sidecar.admin.to_string()]);
    let told = tool::run(&mut command).await.successful().stdout();
    assert!(
        told.contains("PERMISSIVE: 1 connections without TLS"),
        "{told}"
    );
    let mut command = wayleave();
    let config = sidecar.setup.path("wayleave.yaml");
    command.arg("check").arg("--config").arg(config);
    let told = tool::run(&mut command).await.successful().stdout();
    assert!(told.contains("WARNING   `app` is permissive"), "{told}");
}
