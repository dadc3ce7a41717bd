//! Whole handshakes in memory: who becomes a peer, who is refused, and what each side is told.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests say what went wrong by panicking"
)]

mod support;

use std::sync::Arc;

use rustls::{AlertDescription, ClientConfig, HandshakeKind};
use support::handshake::{handshake, server};
use support::{Chain, Root, client_config, expires_in, uri};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;
use wayleave_certs::tls::{ServerTls, ServerTlsOptions};
use wayleave_certs::{Alpn, IdentityPublisher};

const CART: &str = "spiffe://shop.example/ns/web/sa/cart";

async fn refused(server: &ServerTls, chain: Option<&Chain>) -> (String, AlertDescription) {
    let (accepted, seen) = handshake(server, client_config(chain)).await;
    let code = accepted.unwrap_err().reason_code().to_owned();
    match seen {
        Some(rustls::Error::AlertReceived(alert)) => (code, alert),
        other => panic!("the client was sent no alert, but saw {other:?}"),
    }
}

#[tokio::test]
async fn a_verified_client_becomes_a_peer() {
    let root = Root::new("shop.example");
    let (server, _publisher) = server(&root, root.bundles());
    let cart = root.issue(CART);
    let mut client = client_config(Some(&cart));
    client.alpn_protocols = vec![b"http/1.1".to_vec(), b"h2".to_vec()];

    let (peer, _) = handshake(&server, client).await;

    let peer = peer.unwrap();
    assert_eq!(peer.id().as_str(), CART);
    assert_eq!(peer.subject(), "CN=leaf");
    assert_eq!(peer.not_after(), cart.svid().not_after());
    assert_eq!(peer.serial_hex(), cart.svid().serial_hex());
    let tls = peer.tls();
    assert_eq!((tls.version, tls.key_exchange), ("1.3", "X25519MLKEM768"));
    assert!(tls.post_quantum);
    assert_eq!(tls.alpn, Some(Alpn::Http2));
    assert_eq!(tls.sni.as_deref(), Some("orders.shop.example"));
}

#[tokio::test]
async fn refuses_a_client_without_certificate() {
    let root = Root::new("shop.example");
    let (server, _publisher) = server(&root, root.bundles());
    let (code, alert) = refused(&server, None).await;
    assert_eq!(code, "no_client_certificate");
    assert_eq!(alert, AlertDescription::CertificateRequired);
}

#[tokio::test]
async fn refuses_a_client_of_another_authority() {
    let root = Root::new("shop.example");
    let (server, _publisher) = server(&root, root.bundles());
    let forged = Root::new("shop.example").issue(CART);
    let (code, alert) = refused(&server, Some(&forged)).await;
    assert_eq!(code, "unknown_authority");
    assert_eq!(alert, AlertDescription::UnknownCA);
}

#[tokio::test]
async fn refuses_an_expired_client() {
    let root = Root::new("shop.example");
    let (server, _publisher) = server(&root, root.bundles());
    let expired = root.issue_with(CART, |params| expires_in(params, -1));
    let (code, alert) = refused(&server, Some(&expired)).await;
    assert_eq!(code, "expired");
    assert_eq!(alert, AlertDescription::CertificateExpired);
}

#[tokio::test]
async fn names_the_broken_rule_of_the_profile() {
    let root = Root::new("shop.example");
    let (server, _publisher) = server(&root, root.bundles());
    let two = root.issue_with(CART, |p| {
        p.subject_alt_names.push(uri("spiffe://shop.example/b"))
    });
    let (accepted, _) = handshake(&server, client_config(Some(&two))).await;
    let error = accepted.unwrap_err();
    assert_eq!(error.reason_code(), "multiple_uri_sans");
    assert_eq!(
        error.to_string(),
        "peer certificate has 2 URI SANs; exactly one is allowed (X509-SVID 2)"
    );
}

#[tokio::test]
async fn a_trusted_authority_cannot_vouch_for_another_trust_domain() {
    let shop = Root::new("shop.example");
    let partner = Root::new("partner.example");
    let both = [shop.bundle(), partner.bundle()].into_iter().collect();
    let (server, _publisher) = server(&shop, both);
    let forged = partner.issue(CART);
    let (code, _) = refused(&server, Some(&forged)).await;
    assert_eq!(code, "unknown_authority");
}

#[tokio::test]
async fn the_next_handshake_uses_a_published_change() {
    let old = Root::new("shop.example");
    let new = Root::new("shop.example");
    let (server, mut publisher) = server(&old, old.bundles());
    let cart = new.issue(CART);
    assert_eq!(refused(&server, Some(&cart)).await.0, "unknown_authority");

    publisher.publish(Arc::new(new.issue(CART).svid()), new.bundles());

    let (peer, _) = handshake(&server, client_config(Some(&cart))).await;
    assert_eq!(peer.unwrap().id().as_str(), CART);
}

#[tokio::test]
async fn accepts_nobody_without_a_usable_svid_of_its_own() {
    let root = Root::new("shop.example");
    let (mut publisher, reader) = IdentityPublisher::new();
    let server = ServerTls::new(reader, ServerTlsOptions::default());
    let cart = root.issue(CART);
    let (accepted, _) = handshake(&server, client_config(Some(&cart))).await;
    assert_eq!(accepted.unwrap_err().reason_code(), "no_identity");

    let expired = root.issue_with(CART, |params| expires_in(params, -1));
    publisher.publish(Arc::new(expired.svid()), root.bundles());
    let (accepted, _) = handshake(&server, client_config(Some(&cart))).await;
    assert_eq!(accepted.unwrap_err().reason_code(), "no_identity");
}

#[tokio::test]
async fn never_resumes_a_session() {
    let root = Root::new("shop.example");
    let (server, _publisher) = server(&root, root.bundles());
    let client = client_config(Some(&root.issue(CART)));
    for _ in 0..3 {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let connector = TlsConnector::from(Arc::new(client.clone()));
        let name = "orders.shop.example".try_into().unwrap();
        let accept = async {
            let (mut stream, _) = server.accept(near).await.unwrap();
            stream.write_all(b"!").await.unwrap();
        };
        let connect = async {
            let mut stream = connector.connect(name, far).await.unwrap();
            // Tickets come before the first byte of data.
            stream.read_exact(&mut [0]).await.unwrap();
            stream
        };
        let ((), stream) = tokio::join!(accept, connect);
        let (_, connection) = stream.get_ref();
        assert_eq!(connection.handshake_kind(), Some(HandshakeKind::Full));
        assert_eq!(connection.tls13_tickets_received(), 0);
    }
}

#[tokio::test]
async fn refuses_a_classical_key_exchange_where_post_quantum_is_required() {
    let root = Root::new("shop.example");
    let (_server, publisher) = server(&root, root.bundles());
    let options = ServerTlsOptions {
        require_post_quantum: true,
        ..ServerTlsOptions::default()
    };
    let server = ServerTls::new(publisher.reader(), options);
    let cart = root.issue(CART);
    let (peer, _) = handshake(&server, client_config(Some(&cart))).await;
    assert!(peer.unwrap().tls().post_quantum);

    let mut classical = wayleave_certs::tls::crypto_provider().as_ref().clone();
    classical
        .kx_groups
        .retain(|group| group.name() == rustls::NamedGroup::secp256r1);
    let client = client_config_with(&cart, classical);
    let (accepted, _) = handshake(&server, client).await;
    assert_eq!(accepted.unwrap_err().reason_code(), "no_post_quantum");
}

fn client_config_with(chain: &Chain, provider: rustls::crypto::CryptoProvider) -> ClientConfig {
    let mut client = client_config(Some(chain));
    let verifier = rustls::client::WebPkiServerVerifier::builder_with_provider(
        Arc::new(rustls::RootCertStore {
            roots: vec![
                webpki::anchor_from_trusted_cert(chain.leaf())
                    .unwrap()
                    .to_owned(),
            ],
        }),
        Arc::new(provider.clone()),
    );
    client = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_webpki_verifier(verifier.build().unwrap())
        .with_client_cert_resolver(client.client_auth_cert_resolver);
    client
}

#[tokio::test]
async fn refuses_what_is_not_tls() {
    let root = Root::new("shop.example");
    let (server, _publisher) = server(&root, root.bundles());
    let (near, mut far) = tokio::io::duplex(1024);
    far.write_all(b"GET / HTTP/1.1\r\nHost: orders\r\n\r\n")
        .await
        .unwrap();
    let error = server.accept(near).await.unwrap_err();
    assert_eq!(error.reason_code(), "tls_error");
}
