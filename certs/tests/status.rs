//! What a source's status says about rotations and about the age of bundles.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests say what went wrong by panicking"
)]

mod support;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use support::corpus::WEB;
use support::{Root, trust_domain};
use wayleave_certs::IdentityPublisher;

#[test]
fn a_bundle_is_as_old_as_its_last_change() {
    let (root, partner) = (Root::new("shop.example"), Root::new("partner.example"));
    let (mut publisher, reader) = IdentityPublisher::new();
    let since = |name: &str| {
        let identity = reader.current().unwrap();
        identity.bundle_since(&trust_domain(name))
    };
    let svid = || Arc::new(root.issue(WEB).svid());
    publisher.publish(svid(), root.bundles());
    let first = since("shop.example").unwrap();
    assert_eq!(since("partner.example"), None);

    let both = [root.bundle(), partner.bundle()].into_iter().collect();
    publisher.publish(svid(), both);
    assert_eq!(since("shop.example"), Some(first));
    assert!(since("partner.example").unwrap() > first);

    let other = Root::new("shop.example");
    publisher.publish(Arc::new(other.issue(WEB).svid()), other.bundles());
    assert!(since("shop.example").unwrap() > first);
    assert_eq!(reader.status().updates, 3);
}

#[test]
fn the_next_rotation_is_known_where_the_source_says_it() {
    let (mut publisher, reader) = IdentityPublisher::new();
    assert_eq!(reader.status().next_rotation, None);
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    publisher.rotates_at(at);
    assert_eq!(reader.status().next_rotation, Some(at));
}
