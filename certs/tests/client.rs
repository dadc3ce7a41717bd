//! Calling another workload: who is accepted as the one that was meant.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests say what went wrong by panicking"
)]

mod support;

use std::sync::Arc;
use std::time::SystemTime;

use support::handshake::server;
use support::{HOUR, Root, expires_in};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use wayleave_certs::tls::{ClientTls, ClientTlsOptions, HandshakeError, ServerTls};
use wayleave_certs::{Alpn, IdentityPublisher, Peer, TrustBundles};

const ORDERS: &str = "spiffe://shop.example/ns/web/sa/orders";
const CART: &str = "spiffe://shop.example/ns/web/sa/cart";

/// A client with the SVID of `cart` that means `expected`.
fn client(root: &Root, bundles: TrustBundles, expected: &str) -> (ClientTls, IdentityPublisher) {
    let (mut publisher, reader) = IdentityPublisher::new();
    publisher.publish(Arc::new(root.issue(CART).svid()), bundles);
    let options = ClientTlsOptions::new(expected.parse().unwrap());
    (ClientTls::new(reader, options), publisher)
}

/// What each side made of one handshake: the server's peer, and the client's.
async fn meet(
    client: &ClientTls,
    server: &ServerTls,
) -> (Result<Peer, HandshakeError>, Result<Peer, HandshakeError>) {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let name = "orders.shop.example".try_into().unwrap();
    let connect = async {
        let (mut stream, peer) = client.connect(name, far).await?;
        stream
            .write_all(b"hello")
            .await
            .map_err(HandshakeError::Io)?;
        Ok(peer)
    };
    let accept = async {
        let (mut stream, peer) = server.accept(near).await?;
        let read = stream.read_exact(&mut [0; 5]).await;
        read.map(|_| peer).map_err(HandshakeError::Io)
    };
    tokio::join!(accept, connect)
}

async fn code(client: &ClientTls, server: &ServerTls) -> &'static str {
    let (_, connected) = meet(client, server).await;
    connected.map_or_else(|error| error.reason_code(), |_| "connected")
}

#[tokio::test]
async fn both_sides_know_each_other() {
    let root = Root::new("shop.example");
    let (server, _server) = server(&root, root.bundles());
    let (client, _client) = client(&root, root.bundles(), ORDERS);
    for _ in 0..2 {
        let (caller, called) = meet(&client, &server).await;
        assert_eq!(caller.unwrap().id().as_str(), CART);
        let called = called.unwrap();
        assert_eq!(called.id().as_str(), ORDERS);
        assert_eq!(called.tls().alpn, Some(Alpn::Http2));
        assert!(called.tls().post_quantum);
    }
}

#[tokio::test]
async fn accepts_whom_a_pattern_means_and_nobody_else() {
    let root = Root::new("shop.example");
    let (server, _server) = server(&root, root.bundles());
    let table = [
        ("spiffe://shop.example/ns/web/*", "connected"),
        ("spiffe://shop.example/*", "connected"),
        (
            "spiffe://shop.example/ns/web/sa/other",
            "unexpected_identity",
        ),
        ("spiffe://shop.example/ns/pay/*", "unexpected_identity"),
        ("spiffe://partner.example/*", "unexpected_identity"),
    ];
    for (expected, outcome) in table {
        let (client, _client) = client(&root, root.bundles(), expected);
        assert_eq!(code(&client, &server).await, outcome, "{expected}");
    }
}

#[tokio::test]
async fn refuses_a_server_of_another_authority() {
    let (root, forged) = (Root::new("shop.example"), Root::new("shop.example"));
    let both = |first: &Root| first.bundles();
    let (server, _server) = server(&forged, both(&root));
    let (client, _client) = client(&root, both(&root), ORDERS);
    let (accepted, connected) = meet(&client, &server).await;
    let error = connected.unwrap_err();
    assert_eq!(error.reason_code(), "unknown_authority");
    assert!(error.to_string().contains(ORDERS), "{error}");
    assert_eq!(accepted.unwrap_err().reason_code(), "peer_alert");
}

#[tokio::test]
async fn calls_nobody_without_a_usable_svid_of_its_own() {
    let root = Root::new("shop.example");
    let (server, _server) = server(&root, root.bundles());
    let (client, mut publisher) = client(&root, root.bundles(), ORDERS);
    let expired = root.issue_with(CART, |params| expires_in(params, -1));
    publisher.publish(Arc::new(expired.svid()), root.bundles());
    let name = "orders.shop.example".try_into().unwrap();
    let (_near, far) = tokio::io::duplex(1024);
    let error = client.connect(name, far).await.unwrap_err();
    assert_eq!(error.reason_code(), "no_identity");
    drop(server);
}

#[tokio::test]
async fn a_called_peer_loses_trust_with_its_authority() {
    let root = Root::new("shop.example");
    let (server, _server) = server(&root, root.bundles());
    let (client, mut publisher) = client(&root, root.bundles(), ORDERS);
    let (_, called) = meet(&client, &server).await;
    let (called, now) = (called.unwrap(), SystemTime::now());
    let reader = publisher.reader();
    let trusts = || reader.current().unwrap().still_trusts(&called, now);
    assert_eq!(trusts(), Ok(()));
    let identity = reader.current().unwrap();
    assert!(identity.still_trusts(&called, now + 2 * HOUR).is_err());

    let other = Root::new("shop.example");
    publisher.publish(Arc::new(other.issue(CART).svid()), other.bundles());
    assert_eq!(trusts().unwrap_err().reason_code(), "unknown_authority");
    assert_eq!(code(&client, &server).await, "unknown_authority");
}
