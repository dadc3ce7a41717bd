//! Certificates that each break one rule, signed by an authority that is trusted.

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, ExtendedKeyUsagePurpose, IsCa,
    KeyUsagePurpose, SanType,
};

use super::{Chain, Root, distinguished_name, expires_in, uri};

pub const WEB: &str = "spiffe://shop.example/ns/web";

const SUBJECT_ALT_NAME: &[u64] = &[2, 5, 29, 17];
const KEY_USAGE: &[u64] = &[2, 5, 29, 15];
const BASIC_CONSTRAINTS: &[u64] = &[2, 5, 29, 19];

/// A chain, the reason code that it must be refused with, and what stock verifiers say.
pub struct Case {
    pub name: &'static str,
    pub chain: Chain,
    pub code: &'static str,
    /// Whether `openssl verify -purpose sslclient` (3.x) accepts it.
    pub openssl_accepts: bool,
}

type Bend = fn(&mut CertificateParams);

/// Every case is issued by `root`, which is trusted.
pub fn corpus(root: &Root) -> Vec<Case> {
    let mut cases: Vec<Case> = LEAVES
        .iter()
        .map(|(name, code, openssl_accepts, bend)| Case {
            name,
            chain: root.issue_with(WEB, bend),
            code,
            openssl_accepts: *openssl_accepts,
        })
        .collect();
    cases.extend(chains(root));
    cases
}

/// Leaves that break a rule: name, reason code, accepted by OpenSSL, how they are bent.
const LEAVES: &[(&str, &str, bool, Bend)] = &[
    ("no SAN at all", "no_uri_san", true, |p| {
        p.subject_alt_names.clear();
    }),
    ("a DNS SAN alone", "no_uri_san", true, |p| {
        p.subject_alt_names = vec![dns("cart.shop.example")];
    }),
    ("two SPIFFE IDs", "multiple_uri_sans", true, |p| {
        p.subject_alt_names.push(uri("spiffe://shop.example/admin"));
    }),
    (
        "a SPIFFE ID and another URI",
        "multiple_uri_sans",
        true,
        |p| {
            p.subject_alt_names.push(uri("https://shop.example/"));
        },
    ),
    ("the same SPIFFE ID twice", "multiple_uri_sans", true, |p| {
        p.subject_alt_names.push(uri(WEB));
    }),
    (
        "a second URI hidden behind bytes that are not text",
        "multiple_uri_sans",
        true,
        |p| {
            p.subject_alt_names.clear();
            let mut names = general_name(6, WEB.as_bytes());
            names.extend(general_name(6, b"spiffe://shop.example/\xff"));
            add(p, SUBJECT_ALT_NAME, false, &sequence(&names));
        },
    ),
    ("a second SAN extension", "bad_extension", false, |p| {
        let names = general_name(6, b"spiffe://shop.example/admin");
        add(p, SUBJECT_ALT_NAME, false, &sequence(&names));
    }),
    (
        "a URI that is no SPIFFE ID",
        "invalid_spiffe_id",
        true,
        |p| {
            p.subject_alt_names = vec![uri("https://shop.example/ns/web")];
        },
    ),
    ("a SPIFFE ID with a NUL", "invalid_spiffe_id", true, |p| {
        p.subject_alt_names.clear();
        let names = general_name(6, b"spiffe://shop.example/ns/web\0.evil.example");
        add(p, SUBJECT_ALT_NAME, false, &sequence(&names));
    }),
    (
        "a SPIFFE ID with percent-encoding",
        "invalid_spiffe_id",
        true,
        |p| {
            p.subject_alt_names = vec![uri("spiffe://shop.example/ns%2fweb")];
        },
    ),
    (
        "a SPIFFE ID with a dot segment",
        "invalid_spiffe_id",
        true,
        |p| {
            p.subject_alt_names = vec![uri("spiffe://shop.example/ns/../admin")];
        },
    ),
    (
        "a SPIFFE ID with a trailing slash",
        "invalid_spiffe_id",
        true,
        |p| {
            p.subject_alt_names = vec![uri("spiffe://shop.example/ns/web/")];
        },
    ),
    ("a URI that is not text", "bad_extension", true, |p| {
        p.subject_alt_names.clear();
        let names = general_name(6, b"spiffe://shop.example/\xff");
        add(p, SUBJECT_ALT_NAME, false, &sequence(&names));
    }),
    (
        "the SPIFFE ID of the trust domain itself",
        "root_spiffe_id",
        true,
        |p| {
            p.subject_alt_names = vec![uri("spiffe://shop.example")];
        },
    ),
    ("cA is true", "ca_certificate", true, |p| {
        p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    }),
    ("cA is true and it may sign", "ca_certificate", true, |p| {
        p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        p.key_usages.push(KeyUsagePurpose::KeyCertSign);
    }),
    ("basic constraints twice", "bad_extension", false, |p| {
        p.is_ca = IsCa::ExplicitNoCa;
        add(p, BASIC_CONSTRAINTS, true, &[0x30, 0x03, 0x01, 0x01, 0xff]);
    }),
    ("no key usage", "no_key_usage", true, |p| {
        p.key_usages.clear()
    }),
    (
        "key usage that is not critical",
        "key_usage_not_critical",
        true,
        |p| {
            p.key_usages.clear();
            add(p, KEY_USAGE, false, &[0x03, 0x02, 0x07, 0x80]);
        },
    ),
    (
        "key usage without digitalSignature",
        "no_digital_signature",
        false,
        |p| {
            p.key_usages = vec![KeyUsagePurpose::KeyEncipherment];
        },
    ),
    ("key usage with keyCertSign", "key_cert_sign", true, |p| {
        p.key_usages.push(KeyUsagePurpose::KeyCertSign);
    }),
    ("key usage with cRLSign", "crl_sign", true, |p| {
        p.key_usages.push(KeyUsagePurpose::CrlSign);
    }),
    (
        "extended key usage for servers alone",
        "extended_key_usage",
        false,
        |p| {
            p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        },
    ),
    (
        "extended key usage for clients alone",
        "extended_key_usage",
        true,
        |p| {
            p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        },
    ),
    (
        "extended key usage for anything",
        "extended_key_usage",
        false,
        |p| {
            p.extended_key_usages = vec![ExtendedKeyUsagePurpose::Any];
        },
    ),
    (
        "extended key usage for something else",
        "extended_key_usage",
        false,
        |p| {
            p.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
        },
    ),
    ("expired", "expired", false, |p| expires_in(p, -1)),
    ("not valid yet", "not_yet_valid", false, |p| {
        expires_in(p, 3);
        p.not_before = p.not_after - time::Duration::hours(1);
    }),
    (
        "an unknown critical extension",
        "invalid_path",
        false,
        |p| {
            add(p, &[1, 3, 6, 1, 4, 1, 99999, 1], true, &[0x05, 0x00]);
        },
    ),
];

/// Chains whose fault is not in the leaf.
fn chains(root: &Root) -> Vec<Case> {
    let below = |name, code, openssl_accepts, bend: Bend| {
        let intermediate = root.intermediate_with(bend);
        Case {
            name,
            chain: intermediate.issue(WEB).below(&intermediate),
            code,
            openssl_accepts,
        }
    };
    let no_ca = |p: &mut CertificateParams| p.is_ca = IsCa::ExplicitNoCa;
    let cannot_sign = |p: &mut CertificateParams| p.key_usages = vec![KeyUsagePurpose::CrlSign];
    let no_usage = |p: &mut CertificateParams| p.key_usages.clear();
    let foreign = |p: &mut CertificateParams| {
        p.subject_alt_names = vec![uri("spiffe://partner.example")];
    };
    let named = |p: &mut CertificateParams| p.distinguished_name = distinguished_name("x");
    let too_deep = {
        let first = root.intermediate_with(|p| {
            p.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        });
        let second = first.intermediate_with(named);
        second.issue(WEB).below(&second).below(&first)
    };
    let missing = root.intermediate_with(named).issue(WEB);
    vec![
        below("issued by a leaf", "invalid_path", false, no_ca),
        below(
            "an intermediate that may not sign",
            "intermediate_cannot_sign",
            false,
            cannot_sign,
        ),
        below(
            "an intermediate without key usage",
            "intermediate_cannot_sign",
            true,
            no_usage,
        ),
        below("an expired intermediate", "expired", false, |p| {
            expires_in(p, -1)
        }),
        below(
            "an intermediate of another trust domain",
            "intermediate_of_other_trust_domain",
            true,
            foreign,
        ),
        Case {
            name: "a longer path than the issuer allows",
            chain: too_deep,
            code: "invalid_path",
            openssl_accepts: false,
        },
        Case {
            name: "without its intermediate",
            chain: missing,
            code: "unknown_authority",
            openssl_accepts: false,
        },
    ]
}

fn dns(name: &str) -> SanType {
    SanType::DnsName(name.try_into().unwrap())
}

fn add(params: &mut CertificateParams, oid: &[u64], critical: bool, der: &[u8]) {
    let mut extension = CustomExtension::from_oid_content(oid, der.to_vec());
    extension.set_criticality(critical);
    params.custom_extensions.push(extension);
}

/// One general name of less than 128 bytes.
fn general_name(tag: u8, bytes: &[u8]) -> Vec<u8> {
    [&[0x80 | tag, bytes.len() as u8], bytes].concat()
}

/// A sequence of less than 128 bytes.
fn sequence(content: &[u8]) -> Vec<u8> {
    [&[0x30, content.len() as u8], content].concat()
}
