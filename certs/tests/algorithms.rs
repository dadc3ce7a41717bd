//! Which kinds of keys authenticate: the classical ones, and ML-DSA (FIPS 204).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests say what went wrong by panicking"
)]

mod support;

use rcgen::{KeyPair, SignatureAlgorithm};
use support::handshake::{handshake, server};
use support::{Root, client_config};

const CART: &str = "spiffe://shop.example/ns/web/sa/cart";

/// A whole handshake in which root, server and client have keys of one kind.
async fn authenticates(algorithm: &'static SignatureAlgorithm) {
    let key = || KeyPair::generate_for(algorithm).unwrap();
    let root = Root::with_key("shop.example", key(), |_| {});
    let (server, mut publisher) = server(&root, root.bundles());
    let own = root.issue_for("spiffe://shop.example/orders", key(), |_| {});
    publisher.publish(std::sync::Arc::new(own.svid()), root.bundles());
    let cart = root.issue_for(CART, key(), |_| {});
    let (peer, _) = handshake(&server, client_config(Some(&cart))).await;
    assert_eq!(peer.unwrap().id().as_str(), CART, "{algorithm:?}");
}

#[tokio::test]
async fn classical_keys_authenticate() {
    authenticates(&rcgen::PKCS_ECDSA_P256_SHA256).await;
    authenticates(&rcgen::PKCS_ECDSA_P384_SHA384).await;
    authenticates(&rcgen::PKCS_ECDSA_P521_SHA512).await;
    authenticates(&rcgen::PKCS_ED25519).await;
    authenticates(&rcgen::PKCS_RSA_SHA256).await;
}

#[tokio::test]
async fn post_quantum_keys_authenticate() {
    authenticates(&rcgen::PKCS_ML_DSA_44).await;
    authenticates(&rcgen::PKCS_ML_DSA_65).await;
    authenticates(&rcgen::PKCS_ML_DSA_87).await;
}
