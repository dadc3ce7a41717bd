//! Key exchange: the post-quantum hybrid is preferred, and where a listener requires it nobody
//! is let in with less.

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use tokio::process::Command;

use crate::support::client::{self, Http1};
use crate::support::setup::{Setup, Sidecar};
use crate::support::tool;
use crate::support::upstream::{Speaks, Upstream};

/// The cryptography of a client from before there were hybrids.
fn classical() -> CryptoProvider {
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups = vec![aws_lc_rs::kx_group::X25519];
    provider
}

async fn sidecar(required: bool) -> (Sidecar, Upstream) {
    let upstream = Upstream::start(Speaks::Http1).await;
    let mut setup = Setup::new(upstream.address);
    if required {
        setup
            .inbound_keys
            .push("tls: { require_post_quantum: true }");
    }
    (setup.start().await, upstream)
}

async fn classical_get(sidecar: &Sidecar) -> std::io::Result<http::StatusCode> {
    let credentials = sidecar.setup.caller("frontend");
    let bundle = sidecar.setup.ca.pem().into_bytes();
    let config = client::tls_by(classical(), Some(&credentials), &bundle, &["http/1.1"]);
    let stream = client::handshake(sidecar.inbound, config).await?;
    let answer = Http1::over(stream).await.send(client::get("/")).await;
    Ok(answer.status)
}

#[tokio::test]
async fn a_classical_client_is_let_in_unless_the_listener_says_otherwise() {
    let (sidecar, _upstream) = sidecar(false).await;
    assert_eq!(classical_get(&sidecar).await.unwrap(), 200);
    let record = sidecar.record(|_| true).await;
    assert_eq!(record["tls"]["key_exchange"], "X25519");
    assert_eq!(record["tls"]["post_quantum"], false);
}

#[tokio::test]
async fn rejects_peer_without_a_post_quantum_key_exchange_where_it_is_required() {
    let (sidecar, upstream) = sidecar(true).await;
    let error = classical_get(&sidecar).await.unwrap_err();
    assert!(error.to_string().contains("HandshakeFailure"), "{error}");
    let logged = sidecar.process.stderr.contains("no_post_quantum").await;
    assert!(logged.contains("X25519MLKEM768"), "{logged}");
    upstream.assert_untouched();

    assert_eq!(sidecar.get("frontend", "/").await.status, 200);
    let record = sidecar.record(|_| true).await;
    assert_eq!(record["tls"]["key_exchange"], "X25519MLKEM768");
    assert_eq!(record["tls"]["post_quantum"], true);
}

#[tokio::test]
async fn openssl_with_a_classical_group_alone_is_refused_where_more_is_required() {
    let Some(openssl) = tool::find("openssl") else {
        return;
    };
    let (sidecar, upstream) = sidecar(true).await;
    let caller = sidecar.setup.caller("frontend");
    let finished = tool::run(
        Command::new(openssl)
            .args(["s_client", "-groups", "X25519", "-connect"])
            .arg(sidecar.inbound.to_string())
            .arg("-cert")
            .arg(&caller.certificate)
            .arg("-key")
            .arg(&caller.key),
    )
    .await;
    assert!(!finished.0.status.success(), "{}", finished.stdout());
    assert!(
        finished.stderr().contains("alert handshake failure"),
        "{}",
        finished.stderr()
    );
    sidecar.process.stderr.contains("no_post_quantum").await;
    upstream.assert_untouched();
}
