//! How long trust lasts: revocation, expiry, a trust domain that leaves, and what the cache of
//! verified chains must never outlive.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests say what went wrong by panicking"
)]

mod support;

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use support::handshake::{handshake, server};
use support::{Chain, HOUR, Root, client_config, expires_in, pem};
use wayleave_certs::source::files::{FileError, FilesConfig, FilesSource};
use wayleave_certs::tls::{ServerTls, ServerTlsOptions};
use wayleave_certs::verify::{Role, verify};
use wayleave_certs::{Identity, IdentityReader, Peer, Svid, TrustBundles};

const CART: &str = "spiffe://shop.example/ns/web/sa/cart";
const ORDERS: &str = "spiffe://shop.example/ns/web/sa/orders";

/// An identity in files whose revocation list can be changed.
struct Revoking {
    dir: tempfile::TempDir,
    config: FilesConfig,
}

impl Revoking {
    fn new(root: &Root, list: &[u8]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let own = root.issue(ORDERS);
        let at = |name: &str| dir.path().join(name);
        fs::write(at("svid.pem"), pem("CERTIFICATE", &[own.leaf().as_ref()])).unwrap();
        fs::write(at("key.pem"), own.key.serialize_pem()).unwrap();
        fs::write(
            at("bundle.pem"),
            pem("CERTIFICATE", &[root.certificate.as_ref()]),
        )
        .unwrap();
        fs::write(at("list.crl"), list).unwrap();
        let mut config = FilesConfig::new(at("svid.pem"), at("key.pem"), at("bundle.pem"));
        config.revocation_lists = vec![at("list.crl")];
        Self { dir, config }
    }

    fn list(&self) -> PathBuf {
        self.dir.path().join("list.crl")
    }

    fn load(&self) -> Result<FilesSource, FileError> {
        FilesSource::load(self.config.clone(), SystemTime::now())
    }
}

fn serial(chain: &Chain) -> Vec<u8> {
    chain.svid().leaf().serial.clone()
}

fn listener(reader: IdentityReader) -> ServerTls {
    ServerTls::new(reader, ServerTlsOptions::default())
}

async fn code(server: &ServerTls, chain: &Chain) -> String {
    let (accepted, _) = handshake(server, client_config(Some(chain))).await;
    accepted.map_or_else(|e| e.reason_code().to_owned(), |_| "accepted".to_owned())
}

async fn accepted(server: &ServerTls, chain: &Chain) -> Peer {
    handshake(server, client_config(Some(chain)))
        .await
        .0
        .unwrap()
}

fn still(identity: &Identity, peer: &Peer, now: SystemTime) -> &'static str {
    identity
        .still_trusts(peer, now)
        .map_or_else(|e| e.reason_code(), |()| "trusted")
}

#[tokio::test]
async fn refuses_a_revoked_serial() {
    let root = Root::new("shop.example");
    let (revoked, good) = (root.issue(CART), root.issue(CART));
    let list = root.revoke(&[&serial(&revoked)], 1);
    for bytes in [list.clone(), pem("X509 CRL", &[&list]).into_bytes()] {
        let source = Revoking::new(&root, &bytes).load().unwrap();
        let server = listener(source.reader());
        assert_eq!(code(&server, &revoked).await, "revoked");
        assert_eq!(code(&server, &good).await, "accepted");
    }
}

#[tokio::test]
async fn refuses_whoever_comes_through_a_revoked_intermediate() {
    let root = Root::new("shop.example");
    let intermediate = root.intermediate_with(|p| p.serial_number = Some(77_u64.into()));
    let cart = intermediate.issue(CART).below(&intermediate);
    let source = Revoking::new(&root, &root.revoke(&[&[77]], 1))
        .load()
        .unwrap();
    assert_eq!(code(&listener(source.reader()), &cart).await, "revoked");
}

#[tokio::test]
async fn an_intermediates_own_list_is_checked_when_a_path_meets_it() {
    let root = Root::new("shop.example");
    let intermediate = root.intermediate_with(|_| {});
    let cart = intermediate.issue(CART).below(&intermediate);
    let list = intermediate.revoke(&[&serial(&cart)], 1);
    let source = Revoking::new(&root, &list).load().unwrap();
    assert_eq!(code(&listener(source.reader()), &cart).await, "revoked");
}

#[tokio::test]
async fn an_outdated_list_lets_nobody_of_its_issuer_in() {
    let root = Root::new("shop.example");
    let files = Revoking::new(&root, &root.revoke(&[], 1));
    let source = files.load().unwrap();
    let identity = source.reader().current().unwrap();
    let cart = root.issue(CART);
    let later = SystemTime::now() + HOUR + HOUR / 60;
    let chain = root.issue_with(CART, |p| expires_in(p, 5));
    let result = verify(&chain.certificates, identity.bundles(), Role::Client, later);
    assert_eq!(result.unwrap_err().reason_code(), "revocation_list_expired");
    assert_eq!(code(&listener(source.reader()), &cart).await, "accepted");
}

#[test]
fn refuses_a_forged_or_broken_list() {
    let root = Root::new("shop.example");
    let forged = Root::new("shop.example").revoke(&[], 1);
    let list = root.revoke(&[], 1);
    let mut bent = list.clone();
    *bent.last_mut().unwrap() ^= 1;
    let table: &[(&[u8], &str)] = &[
        (&forged, "was not signed with that authority's key"),
        (&bent, "was not signed with that authority's key"),
        (&list[..list.len() / 2], "revocation list cannot be used"),
        (
            b"hello",
            "it is not PEM; expected `-----BEGIN X509 CRL-----`",
        ),
        (b"", "it is empty"),
    ];
    for (bytes, expected) in table {
        let error = Revoking::new(&root, bytes).load().unwrap_err().to_string();
        assert!(
            error.contains(expected) && error.contains("list.crl: "),
            "{error}"
        );
    }
}

#[tokio::test]
async fn a_live_peer_loses_trust_when_it_is_revoked() {
    let root = Root::new("shop.example");
    let files = Revoking::new(&root, &root.revoke(&[], 1));
    let mut source = files.load().unwrap();
    let (reader, cart) = (source.reader(), root.issue(CART));
    let server = listener(source.reader());
    let peer = accepted(&server, &cart).await;
    let now = SystemTime::now();
    assert_eq!(still(&reader.current().unwrap(), &peer, now), "trusted");

    fs::write(files.list(), root.revoke(&[&serial(&cart)], 1)).unwrap();
    source.reload(now).unwrap();

    assert_eq!(still(&reader.current().unwrap(), &peer, now), "revoked");
    assert_eq!(code(&server, &cart).await, "revoked");
}

#[tokio::test]
async fn a_live_peer_loses_trust_with_its_trust_domain_or_authority() {
    let (shop, partner) = (Root::new("shop.example"), Root::new("partner.example"));
    let both: TrustBundles = [shop.bundle(), partner.bundle()].into_iter().collect();
    let (server, mut publisher) = server(&shop, both);
    let caller = partner.issue("spiffe://partner.example/billing");
    let peer = accepted(&server, &caller).await;
    let (svid, now) = (Arc::new(shop.issue(ORDERS).svid()), SystemTime::now());
    let reader = publisher.reader();

    publisher.publish(Arc::clone(&svid), shop.bundles());
    assert_eq!(
        still(&reader.current().unwrap(), &peer, now),
        "unknown_trust_domain"
    );
    assert_eq!(code(&server, &caller).await, "unknown_trust_domain");

    let other = Root::new("partner.example");
    publisher.publish(svid, [shop.bundle(), other.bundle()].into_iter().collect());
    assert_eq!(
        still(&reader.current().unwrap(), &peer, now),
        "unknown_authority"
    );
    assert_eq!(code(&server, &caller).await, "unknown_authority");
}

#[tokio::test]
async fn a_live_peer_keeps_trust_through_a_rotation_of_our_own_svid() {
    let root = Root::new("shop.example");
    let (server, mut publisher) = server(&root, root.bundles());
    let peer = accepted(&server, &root.issue(CART)).await;
    let reader = publisher.reader();
    let svid = |chain: &Chain| -> Arc<Svid> { Arc::new(chain.svid()) };
    publisher.publish(svid(&root.issue(ORDERS)), root.bundles());
    let identity = reader.current().unwrap();
    assert_eq!((identity.generation(), identity.trust_generation()), (2, 1));
    let now = SystemTime::now();
    assert_eq!(still(&identity, &peer, now), "trusted");
    assert_eq!(still(&identity, &peer, peer.not_after() + HOUR), "expired");
}

#[tokio::test]
async fn a_clock_that_was_set_back_does_not_wedge_a_live_peer() {
    let root = Root::new("shop.example");
    let (server, publisher) = server(&root, root.bundles());
    let peer = accepted(&server, &root.issue(CART)).await;
    let identity = publisher.reader().current().unwrap();
    assert_eq!(
        still(&identity, &peer, SystemTime::now() - 24 * HOUR),
        "trusted"
    );
    assert_eq!(
        still(&identity, &peer, SystemTime::now() - 72 * HOUR),
        "not_yet_valid"
    );
}

#[tokio::test]
async fn a_remembered_chain_still_needs_the_proof_of_its_key() {
    let root = Root::new("shop.example");
    let (server, _publisher) = server(&root, root.bundles());
    let cart = root.issue(CART);
    accepted(&server, &cart).await;
    let thief = Chain {
        certificates: cart.certificates.clone(),
        key: rcgen::KeyPair::generate().unwrap(),
    };
    assert_eq!(code_of_thief(&server, &thief).await, "tls_error");
}

/// rustls refuses to build a client whose key is another's, so this one signs regardless.
async fn code_of_thief(server: &ServerTls, thief: &Chain) -> String {
    let provider = wayleave_certs::tls::crypto_provider();
    let key = provider
        .key_provider
        .load_private_key(thief.key_der())
        .unwrap();
    let certified = rustls::sign::CertifiedKey::new(thief.certificates.clone(), key);
    let mut client = client_config(None);
    client.client_auth_cert_resolver = Arc::new(rustls::sign::SingleCertAndKey::from(certified));
    let (accepted, _) = handshake(server, client).await;
    accepted.map_or_else(|e| e.reason_code().to_owned(), |_| "accepted".to_owned())
}

#[tokio::test]
async fn more_peers_than_the_cache_holds_are_all_verified() {
    let root = Root::new("shop.example");
    let (_server, publisher) = server(&root, root.bundles());
    let options = ServerTlsOptions {
        cached_chains: 2,
        ..ServerTlsOptions::default()
    };
    let server = ServerTls::new(publisher.reader(), options);
    let names: Vec<_> = (0..6)
        .map(|n| format!("spiffe://shop.example/w{n}"))
        .collect();
    let chains: Vec<_> = names.iter().map(|name| root.issue(name)).collect();
    for _ in 0..2 {
        for (name, chain) in names.iter().zip(&chains) {
            assert_eq!(accepted(&server, chain).await.id().as_str(), name);
        }
    }
}
