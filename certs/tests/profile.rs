//! The X509-SVID profile and path validation, rule by rule, with a certificate made for each.
//!
//! The same certificates go through `openssl verify`, to show where a stock verifier is
//! content with what an X509-SVID must not be.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests say what went wrong by panicking"
)]

mod support;

use std::process::Command;
use std::time::SystemTime;

use support::corpus::{Case, WEB, corpus};
use support::{Root, expires_in, pem};
use wayleave_certs::TrustBundles;
use wayleave_certs::verify::{Role, Verified, VerifyError, verify};

fn check(case: &support::Chain, bundles: &TrustBundles) -> Result<Verified, VerifyError> {
    verify(&case.certificates, bundles, Role::Client, SystemTime::now())
}

fn code(result: Result<Verified, VerifyError>) -> &'static str {
    result.map_or_else(|error| error.reason_code(), |_| "accepted")
}

#[test]
fn refuses_every_broken_rule_by_name() {
    let root = Root::new("shop.example");
    let found: Vec<_> = corpus(&root)
        .iter()
        .map(|case| (case.name, code(check(&case.chain, &root.bundles()))))
        .collect();
    let expected: Vec<_> = corpus(&root)
        .iter()
        .map(|case| (case.name, case.code))
        .collect();
    assert_eq!(found, expected);
}

#[test]
fn accepts_every_allowed_form() {
    let root = Root::new("shop.example");
    let intermediate = root.intermediate_with(|_| {});
    let chains = [
        root.issue(WEB),
        root.issue_with(WEB, |p| p.extended_key_usages.clear()),
        root.issue_with(WEB, |p| p.is_ca = rcgen::IsCa::ExplicitNoCa),
        root.issue_with(WEB, |p| {
            p.distinguished_name = rcgen::DistinguishedName::new()
        }),
        root.issue_with(WEB, |p| {
            let dns = rcgen::SanType::DnsName("localhost".try_into().unwrap());
            p.subject_alt_names.insert(0, dns);
        }),
        root.issue_with(WEB, |p| {
            p.key_usages.push(rcgen::KeyUsagePurpose::KeyAgreement)
        }),
        intermediate.issue(WEB).below(&intermediate),
    ];
    for (place, chain) in chains.iter().enumerate() {
        let verified = check(chain, &root.bundles());
        assert_eq!(verified.unwrap().id().as_str(), WEB, "chain {place}");
    }
}

#[test]
fn refuses_a_chain_to_an_expired_authority() {
    let root = Root::with("shop.example", |p| expires_in(p, -1));
    let leaf = root.issue(WEB);
    assert_eq!(code(check(&leaf, &root.bundles())), "expired");
}

#[test]
fn trust_ends_with_the_first_certificate_of_the_chain() {
    let root = Root::with("shop.example", |p| expires_in(p, 3));
    let intermediate = root.intermediate_with(|p| expires_in(p, 2));
    let leaf = intermediate
        .issue_with(WEB, |p| expires_in(p, 5))
        .below(&intermediate);
    let verified = check(&leaf, &root.bundles()).unwrap();
    let left = verified
        .not_after()
        .duration_since(SystemTime::now())
        .unwrap();
    assert!(
        left <= 2 * support::HOUR && left > support::HOUR,
        "{left:?}"
    );

    let leaf = root.issue_with(WEB, |p| expires_in(p, 5));
    let verified = check(&leaf, &root.bundles()).unwrap();
    let left = verified
        .not_after()
        .duration_since(SystemTime::now())
        .unwrap();
    assert!(
        left <= 3 * support::HOUR && left > 2 * support::HOUR,
        "{left:?}"
    );
}

#[test]
fn looks_only_at_the_bundle_of_the_claimed_trust_domain() {
    let shop = Root::new("shop.example");
    let partner = Root::new("partner.example");
    let both: TrustBundles = [shop.bundle(), partner.bundle()].into_iter().collect();
    let table = [
        (shop.issue(WEB), &both, "accepted"),
        (
            partner.issue("spiffe://partner.example/a"),
            &both,
            "accepted",
        ),
        (partner.issue(WEB), &both, "unknown_authority"),
        (
            shop.issue("spiffe://partner.example/a"),
            &both,
            "unknown_authority",
        ),
        (
            shop.issue("spiffe://other.example/a"),
            &both,
            "unknown_trust_domain",
        ),
        (
            partner.issue("spiffe://partner.example/a"),
            &shop.bundles(),
            "unknown_trust_domain",
        ),
    ];
    for (chain, bundles, expected) in table {
        assert_eq!(code(check(&chain, bundles)), expected);
    }
}

#[test]
fn an_empty_bundle_trusts_nobody() {
    let root = Root::new("shop.example");
    let empty = wayleave_certs::TrustBundle::from_der(root.trust_domain.clone(), vec![]);
    let bundles = [empty.unwrap()].into_iter().collect();
    assert_eq!(code(check(&root.issue(WEB), &bundles)), "unknown_authority");
}

#[test]
fn a_signing_certificate_of_the_bundle_does_not_authenticate() {
    let root = Root::new("shop.example");
    let result = verify(
        std::slice::from_ref(&root.certificate),
        &root.bundles(),
        Role::Client,
        SystemTime::now(),
    );
    assert_eq!(code(result), "root_spiffe_id");
}

#[test]
fn refuses_a_chain_of_too_many_certificates() {
    let root = Root::new("shop.example");
    let leaf = root.issue(WEB);
    let mut many = leaf.certificates.clone();
    many.resize(11, root.certificate.clone());
    let result = verify(&many, &root.bundles(), Role::Client, SystemTime::now());
    assert_eq!(code(result), "chain_too_long");
}

#[test]
fn refuses_bytes_that_are_not_one_certificate() {
    let root = Root::new("shop.example");
    let leaf = root.issue(WEB).leaf().to_vec();
    let longer = [&leaf[..], b"\0"].concat();
    for der in [&leaf[..leaf.len() - 1], &longer, b"", b"\x30\x80"] {
        let result = verify(
            &[der.into()],
            &root.bundles(),
            Role::Client,
            SystemTime::now(),
        );
        assert_eq!(code(result), "malformed_certificate");
    }
}

/// Where OpenSSL and we differ, we are the stricter: it knows no X509-SVID.
#[test]
fn is_never_more_lenient_than_openssl() {
    if Command::new("openssl").arg("version").output().is_err() {
        eprintln!("SKIPPED: openssl is not installed");
        return;
    }
    let root = Root::new("shop.example");
    let found: Vec<_> = corpus(&root)
        .iter()
        .map(|case| (case.name, openssl_accepts(&root, case)))
        .collect();
    let expected: Vec<_> = corpus(&root)
        .iter()
        .map(|case| (case.name, case.openssl_accepts))
        .collect();
    assert_eq!(found, expected);
}

fn openssl_accepts(root: &Root, case: &Case) -> bool {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, ders: &[rustls::pki_types::CertificateDer<'_>]| {
        let path = dir.path().join(name);
        let ders: Vec<&[u8]> = ders.iter().map(AsRef::as_ref).collect();
        std::fs::write(&path, pem("CERTIFICATE", &ders)).unwrap();
        path
    };
    let roots = write("roots.pem", std::slice::from_ref(&root.certificate));
    let leaf = write("leaf.pem", &case.chain.certificates[..1]);
    let mut command = Command::new("openssl");
    command
        .args(["verify", "-purpose", "sslclient", "-CAfile"])
        .arg(roots);
    if case.chain.certificates.len() > 1 {
        let rest = write("rest.pem", &case.chain.certificates[1..]);
        command.arg("-untrusted").arg(rest);
    }
    command.arg(leaf).output().unwrap().status.success()
}
