//! Health probes without a certificate: only what is declared, and only the status.

use std::net::SocketAddr;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::client::{self, Answer, status_of};
use crate::support::script::Scripted;
use crate::support::setup::{Setup, Sidecar, message};
use crate::support::upstream::{Speaks, Upstream};
use crate::support::{eventually, within};

const PROBES: &str = "probes: { listen: \"127.0.0.1:0\", timeout: 500ms, paths: [\
                      { path: /healthz }, { path: \"/readyz?full=1\", upstream_path: /ready } ] }";

async fn started(upstream: impl ToString, probes: &'static str) -> (Sidecar, SocketAddr) {
    let mut setup = Setup::new(upstream);
    setup.keys.push(probes);
    let sidecar = setup.start().await;
    let line = sidecar.process.stderr.json("the probes' address", |line| {
        let field = |name: &str| {
            line[name]
                .as_str()
                .or(line["fields"][name].as_str())
                .map(str::to_owned)
        };
        message(line) == Some("listening") && field("listener").as_deref() == Some("probes")
    });
    let line = line.await;
    let address = line["address"]
        .as_str()
        .or(line["fields"]["address"].as_str());
    let address = address.unwrap().parse().unwrap();
    (sidecar, address)
}

async fn probe(address: SocketAddr, method: &str, path: &str) -> Answer {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("host", "10.0.0.1")
        .header("x-forwarded-client-cert", "URI=spiffe://test.example/admin")
        .header("authorization", "Bearer x")
        .body(Full::<Bytes>::from(if method == "POST" {
            "body"
        } else {
            ""
        }))
        .unwrap();
    client::plain(address, request).await.unwrap()
}

#[tokio::test]
async fn a_declared_path_is_answered_with_the_status_of_the_application_alone() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let (_sidecar, probes) = started(upstream.address, PROBES).await;
    let answer = probe(probes, "GET", "/healthz").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.text(), "");
    assert_eq!(answer.header("content-type"), "");
    assert_eq!(probe(probes, "HEAD", "/readyz?full=1").await.status, 200);
    let seen = upstream.seen();
    assert_eq!(seen[0].target, "/healthz");
    assert_eq!(seen[1].target, "/ready");
    assert_eq!(seen[1].method, "HEAD");
    // Nothing that the prober sent goes on.
    let names: Vec<_> = seen[0].headers.keys().map(|name| name.as_str()).collect();
    assert_eq!(names, ["user-agent", "host", "connection"]);
}

#[tokio::test]
async fn whatever_is_not_declared_is_404_and_never_reaches_the_application() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let (_sidecar, probes) = started(upstream.address, PROBES).await;
    for (method, path) in [
        ("GET", "/"),
        ("GET", "/healthz/"),
        ("GET", "/healthz?a=b"),
        ("GET", "/healthz/../admin"),
        ("GET", "/readyz"),
        ("GET", "/ready"),
        ("POST", "/healthz"),
        ("DELETE", "/healthz"),
        ("OPTIONS", "/healthz"),
    ] {
        assert_eq!(
            probe(probes, method, path).await.status,
            404,
            "{method} {path}"
        );
    }
    upstream.assert_untouched();
}

/// What an application answers may be anything; a status is all that is taken of it.
#[tokio::test]
async fn headers_and_body_of_the_application_are_not_relayed() {
    let upstream = Scripted::start(
        b"HTTP/1.1 500 Oops\r\nset-cookie: a=b\r\nlocation: /x\r\ncontent-length: 6\r\n\r\nsecret",
    )
    .await;
    let (_sidecar, probes) = started(upstream.address, PROBES).await;
    let mut stream = TcpStream::connect(probes).await.unwrap();
    stream
        .write_all(b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n")
        .await
        .unwrap();
    let mut answer = String::new();
    within("the answer", stream.read_to_string(&mut answer))
        .await
        .unwrap();
    assert_eq!(status_of(&answer), 500);
    for leaked in ["secret", "cookie", "location", "Oops"] {
        assert!(!answer.contains(leaked), "{answer}");
    }
}

#[tokio::test]
async fn an_application_that_is_down_or_silent_is_503() {
    let (sidecar, probes) = started("127.0.0.1:9", PROBES).await;
    assert_eq!(probe(probes, "GET", "/healthz").await.status, 503);
    drop(sidecar);
    let silent = Upstream::start(Speaks::Nothing).await;
    let (sidecar, probes) = started(silent.address, PROBES).await;
    assert_eq!(probe(probes, "GET", "/healthz").await.status, 503);
    let metrics = sidecar.admin_get("/metrics").await.unwrap().text();
    let counted = r#"wayleave_probes_total{result="unreachable"} 1"#;
    assert!(metrics.contains(counted), "{metrics}");
}

#[tokio::test]
async fn a_probe_may_lead_elsewhere_and_to_http_2() {
    let upstream = Upstream::start(Speaks::Http2).await;
    let other = Upstream::start(Speaks::Http1).await;
    let mut setup = Setup::new(upstream.address);
    setup.upstream_keys.push("protocol: http2");
    let keys = format!(
        "probes: {{ listen: \"127.0.0.1:0\", paths: [{{ path: /a }}, \
         {{ path: /b, upstream: \"{}\" }}] }}",
        other.address
    );
    setup.keys.push(keys.leak());
    let sidecar = setup.start().await;
    let line = sidecar
        .process
        .stderr
        .contains("\"listener\":\"probes\"")
        .await;
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    let address = line["address"]
        .as_str()
        .or(line["fields"]["address"].as_str());
    let probes = address.unwrap().parse().unwrap();
    assert_eq!(probe(probes, "GET", "/a").await.status, 200);
    assert_eq!(upstream.only().version, http::Version::HTTP_2);
    assert_eq!(probe(probes, "GET", "/b").await.status, 200);
    assert_eq!(other.only().target, "/b");
}

#[tokio::test]
async fn probers_that_say_nothing_are_closed_and_others_are_answered() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let (_sidecar, probes) = started(upstream.address, PROBES).await;
    let mut silent = Vec::new();
    for _ in 0..200 {
        silent.push(TcpStream::connect(probes).await.unwrap());
    }
    eventually("a probe to be answered", || async {
        let request = client::get("/healthz");
        let answer = client::plain(probes, request).await?;
        (answer.status == 200).then_some(())
    })
    .await;
    for mut stream in silent {
        let _ = within("the end", stream.read_to_end(&mut Vec::new())).await;
    }
}
