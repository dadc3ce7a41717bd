//! Who is let in at all: each rule of the X509-SVID profile has a peer that breaks it.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

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
