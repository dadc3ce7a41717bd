//! Who is let in at all: each rule of the X509-SVID profile has a peer that breaks it.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::client::status_of;
use crate::support::pki::{Ca, Credentials, Leaf, workload};
use crate::support::setup::{Setup, Sidecar};
use crate::support::upstream::{Speaks, Upstream};
use crate::support::within;

async fn sidecar_and_upstream() -> (Sidecar, Upstream) {
    let upstream = Upstream::start(Speaks::Http1).await;
    (Setup::new(upstream.address).start().await, upstream)
}

/// Tries to call; fails the test unless the sidecar answers with a TLS alert, logs `reason`
/// and words that name the rule, and opens nothing towards the upstream.
async fn is_refused(
    credentials: impl FnOnce(&Sidecar) -> Option<Credentials>,
    reason: &str,
    rule: &str,
) {
    let (sidecar, upstream) = sidecar_and_upstream().await;
    let credentials = credentials(&sidecar);
    let error = match sidecar.connect(credentials.as_ref(), &["http/1.1"]).await {
        Err(error) => error,
        // In TLS 1.3 the client's side is done before the server has seen its certificate.
        Ok(mut stream) => {
            let request = b"GET /orders HTTP/1.1\r\nhost: localhost\r\n\r\n";
            let _ = stream.write_all(request).await;
            let mut answer = Vec::new();
            let read = within("the alert", stream.read_to_end(&mut answer)).await;
            assert!(
                answer.is_empty(),
                "was answered: {}",
                String::from_utf8_lossy(&answer)
            );
            read.expect_err("the connection was closed without an alert")
        }
    };
    assert!(
        error.to_string().contains("received fatal alert"),
        "{error}"
    );
    let logged = sidecar.process.stderr.contains(reason).await;
    assert!(logged.contains(rule), "`{rule}` is not in {logged}");
    upstream.assert_untouched();
}

/// Credentials from a leaf of the sidecar's own authority.
fn issued(leaf: Leaf) -> impl FnOnce(&Sidecar) -> Option<Credentials> {
    move |sidecar| Some(sidecar.setup.credentials("peer", &leaf))
}

#[tokio::test]
async fn rejects_peer_without_a_certificate() {
    is_refused(|_| None, "no_client_certificate", "certificate").await;
}

#[tokio::test]
async fn rejects_peer_of_another_authority() {
    let stranger = |sidecar: &Sidecar| {
        let issued = Ca::new().issue(&Leaf::svid(&workload("frontend")));
        let directory = sidecar.setup.path("callers/stranger");
        Some(Credentials::write(
            &directory,
            &issued,
            &sidecar.setup.ca.pem(),
        ))
    };
    is_refused(stranger, "unknown_authority", "authority").await;
}

#[tokio::test]
async fn rejects_peer_of_another_trust_domain() {
    let leaf = Leaf::svid("spiffe://other.example/ns/default/sa/frontend");
    is_refused(issued(leaf), "trust_domain", "other.example").await;
}

#[tokio::test]
async fn rejects_peer_with_an_expired_certificate() {
    let leaf = Leaf {
        expired: true,
        ..Leaf::svid(&workload("frontend"))
    };
    is_refused(issued(leaf), "expired", "expired").await;
}

#[tokio::test]
async fn rejects_peer_without_a_uri_san() {
    let leaf = Leaf {
        uris: vec![],
        local: true,
        ..Leaf::svid("")
    };
    is_refused(issued(leaf), "no_uri_san", "URI SAN").await;
}

#[tokio::test]
async fn rejects_peer_with_two_uri_sans() {
    let leaf = Leaf {
        uris: vec![workload("frontend"), workload("agent")],
        ..Leaf::svid("")
    };
    is_refused(issued(leaf), "multiple_uri_sans", "2 URI SANs").await;
}

#[tokio::test]
async fn rejects_peer_whose_uri_san_is_no_spiffe_id() {
    let leaf = Leaf::svid("https://test.example/ns/default/sa/frontend");
    is_refused(issued(leaf), "spiffe_id", "SPIFFE ID").await;
}

#[tokio::test]
async fn rejects_peer_with_a_ca_certificate() {
    let leaf = Leaf {
        is_ca: true,
        ..Leaf::svid(&workload("frontend"))
    };
    is_refused(issued(leaf), "ca_certificate", "CA").await;
}

#[tokio::test]
async fn a_refused_handshake_does_not_disturb_the_next_one() {
    let (sidecar, upstream) = sidecar_and_upstream().await;
    for _ in 0..5 {
        if let Ok(mut stream) = sidecar.connect(None, &["h2"]).await {
            let mut byte = [0];
            assert!(within("the alert", stream.read(&mut byte)).await.is_err());
        }
        let garbage = tokio::net::TcpStream::connect(sidecar.inbound).await;
        garbage
            .unwrap()
            .write_all(b"GET / HTTP/1.1\r\n\r\n")
            .await
            .unwrap();
    }
    assert_eq!(sidecar.get("frontend", "/").await.status, 200);
    assert_eq!(upstream.seen().len(), 1);
}

/// Speaks to the listener without TLS, and says what came back.
async fn said_without_tls(sidecar: &Sidecar, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(sidecar.inbound).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    let _ = within("the answer", stream.read_to_end(&mut answer)).await;
    answer
}

#[tokio::test]
async fn http_without_tls_is_told_what_is_missing_and_gets_nowhere() {
    let (sidecar, upstream) = sidecar_and_upstream().await;
    let long = "x".repeat(20_000);
    for asked in [
        "GET /orders HTTP/1.1\r\nhost: localhost\r\n\r\n".to_owned(),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
        // More than was read when it was answered.
        format!("POST /orders HTTP/1.1\r\nhost: localhost\r\ncontent-length: 20000\r\n\r\n{long}"),
        "G".to_owned(),
    ] {
        let answer = said_without_tls(&sidecar, asked.as_bytes()).await;
        let answer = String::from_utf8(answer).unwrap();
        assert_eq!(status_of(&answer), 400, "{answer}");
        let (head, document) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("content-length: {}", document.len())));
        let document: serde_json::Value = serde_json::from_str(document).unwrap();
        assert_eq!(document["reason_code"], "plaintext");
    }
    let logged = sidecar.process.stderr.contains("\"plaintext\"").await;
    assert!(logged.contains("permissive"), "{logged}");
    upstream.assert_untouched();
}

#[tokio::test]
async fn what_is_neither_tls_nor_http_gets_an_alert() {
    let (sidecar, _upstream) = sidecar_and_upstream().await;
    let answer = said_without_tls(&sidecar, b"\x00\x01\x02\x03\x04").await;
    // A fatal alert (RFC 8446 section 6).
    assert_eq!(answer.first(), Some(&21), "{answer:?}");
}
