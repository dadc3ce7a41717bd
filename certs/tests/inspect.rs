//! Inspection finds in a certificate what a handshake refuses it for, and nothing else.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests say what went wrong by panicking"
)]

mod support;

use std::time::{Duration, SystemTime};

use support::corpus::{WEB, corpus};
use support::{Chain, Root, pem, trust_domain};
use wayleave_certs::TrustBundles;
use wayleave_certs::bundle::BundleDocument;
use wayleave_certs::inspect::{self, BundleReport, Check, Kind, Outcome, ReadError};
use wayleave_certs::profile::Leaf;
use wayleave_certs::verify::Role;

/// The rules that a chain breaks: of its certificates first, then of the whole.
fn broken(chain: &Chain, bundles: &TrustBundles) -> Vec<Check> {
    let (chain, now) = (&chain.certificates, SystemTime::now());
    let certificates = inspect::chain(chain, now);
    let mut checks: Vec<_> = certificates.into_iter().flat_map(|c| c.checks).collect();
    checks.push(inspect::path(chain, Some(bundles), Role::Client, now));
    checks.push(inspect::order(chain));
    checks.retain(Check::is_broken);
    checks
}

fn words(check: &Check) -> &str {
    match &check.outcome {
        Outcome::Broken(words) | Outcome::NotChecked(words) => words,
        Outcome::Kept => "",
    }
}

#[test]
fn finds_a_broken_rule_in_everything_that_a_handshake_refuses() {
    let root = Root::new("shop.example");
    for case in corpus(&root) {
        let found = broken(&case.chain, &root.bundles());
        assert!(!found.is_empty(), "{}: all rules kept", case.name);
    }
}

#[test]
fn says_of_a_leaf_what_the_handshake_says() {
    let root = Root::new("shop.example");
    for case in corpus(&root) {
        let Err(error) = Leaf::from_der(case.chain.leaf()) else {
            continue;
        };
        let found = broken(&case.chain, &root.bundles());
        assert_eq!(words(&found[0]), error.to_string(), "{}", case.name);
    }
}

#[test]
fn finds_nothing_wrong_with_a_good_chain() {
    let root = Root::new("shop.example");
    let intermediate = root.intermediate_with(|_| {});
    for chain in [
        root.issue(WEB),
        root.issue_with(WEB, |p| p.extended_key_usages.clear()),
        intermediate.issue(WEB).below(&intermediate),
    ] {
        assert_eq!(broken(&chain, &root.bundles()), []);
    }
}

#[test]
fn says_the_same_thing_once() {
    let root = Root::new("shop.example");
    let chain = root.issue_with(WEB, |p| p.subject_alt_names.clear());
    let report = inspect::chain(&chain.certificates, SystemTime::now());
    let of = |rule: &str| {
        let checks = report[0].checks.iter();
        let check = checks.clone().find(|check| check.rule.contains(rule));
        check.unwrap().outcome.clone()
    };
    assert!(matches!(of("exactly one URI SAN"), Outcome::Broken(_)));
    assert!(matches!(of("with a path"), Outcome::NotChecked(_)));
}

#[test]
fn tells_a_key_that_is_another() {
    let root = Root::new("shop.example");
    let (chain, other) = (root.issue(WEB), root.issue(WEB));
    let own = inspect::key(chain.certificates.clone(), chain.key_der());
    assert_eq!(own.outcome, Outcome::Kept);
    assert!(inspect::key(chain.certificates, other.key_der()).is_broken());
}

#[test]
fn tells_an_authority_of_another_trust_domain_and_one_that_cannot_sign() {
    let (root, partner) = (Root::new("shop.example"), Root::new("partner.example"));
    let leaf = root.issue(WEB).certificates[0].clone();
    let certificates = [root.certificate.clone(), partner.certificate.clone(), leaf];
    let report = BundleReport::new(&certificates, None, SystemTime::now());
    assert_eq!(report.trust_domain, Some(trust_domain("shop.example")));
    let broken = |place: usize| {
        report.authorities[place]
            .checks
            .iter()
            .any(Check::is_broken)
    };
    assert_eq!([broken(0), broken(1), broken(2)], [false, true, true]);
}

#[test]
fn tells_a_jwk_set_from_its_parts() {
    let root = Root::new("shop.example");
    let document = BundleDocument {
        bundle: root.bundle().with_sequence(Some(7)),
        refresh_hint: Some(Duration::from_secs(60)),
    };
    let text = document.to_jwks();
    assert_eq!(inspect::kind_of(text.as_bytes()), Ok(Kind::Jwks));
    let now = SystemTime::now();
    let [report] = &BundleReport::of_jwks(text.as_bytes(), None, now)[..] else {
        panic!("one bundle is expected");
    };
    assert_eq!((report.sequence, report.authorities.len()), (Some(7), 1));
    assert_eq!(report.trust_domain, Some(trust_domain("shop.example")));

    let other = text.replace("\"x\"", "\"crv2\"");
    let damaged = BundleReport::of_jwks(other.as_bytes(), None, now);
    assert!(damaged[0].checks.iter().any(Check::is_broken));
}

#[test]
fn reads_pem_and_der_and_refuses_the_rest() {
    let root = Root::new("shop.example");
    let chain = root.issue(WEB);
    let leaf: &[u8] = chain.leaf();
    let ders = [leaf, &root.certificate].concat();
    assert_eq!(inspect::certificates(&ders).unwrap().len(), 2);
    let text = pem("CERTIFICATE", &[leaf, &root.certificate]);
    let read = inspect::certificates(text.as_bytes()).unwrap();
    assert_eq!(read[0].as_ref(), leaf);
    assert_eq!(inspect::kind_of(text.as_bytes()), Ok(Kind::Svid));
    assert_eq!(inspect::kind_of(&root.certificate), Ok(Kind::Bundle));

    assert_eq!(inspect::kind_of(b"hello"), Err(ReadError::Unknown));
    let key = pem("PRIVATE KEY", &[b"secret"]);
    assert!(matches!(
        inspect::kind_of(key.as_bytes()),
        Err(ReadError::Pem(_))
    ));
}

#[test]
fn cut_off_der_is_malformed_and_nothing_worse() {
    let root = Root::new("shop.example");
    let leaf = root.issue(WEB).leaf().to_vec();
    for length in 1..leaf.len() {
        let certificates = inspect::certificates(&leaf[..length]).unwrap();
        let report = inspect::chain(&certificates, SystemTime::now());
        assert!(report[0].checks[0].is_broken(), "{length}");
        assert!(report[0].facts.is_none(), "{length}");
    }
}
