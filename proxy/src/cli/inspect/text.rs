//! The report as people read it.

use std::fmt::Write;
use std::time::SystemTime;

use super::findings::{
    Bundle, Certificate, Check, ClientCertificate, Facts, Findings, Kind, Tls, Verdict,
};
use crate::cli::report::{count, harmless};
use crate::moment::moment_from;

/// Width of the column of rules.
const RULE: usize = 61;

/// The whole report.
pub(super) fn render(findings: &Findings) -> String {
    let what = match findings.kind {
        Kind::Svid => "SVID",
        Kind::Bundle => "trust bundle",
        Kind::Peer => "live peer",
    };
    let mut text = format!("{}: {what}\n", harmless(&findings.target));
    if let Some(tls) = &findings.tls {
        render_tls(&mut text, tls);
    }
    for certificate in &findings.chain {
        render_certificate(&mut text, certificate);
    }
    for bundle in &findings.bundles {
        render_bundle(&mut text, bundle);
    }
    if !findings.checks.is_empty() {
        text.push_str("\nchain\n");
        findings
            .checks
            .iter()
            .for_each(|c| render_check(&mut text, c));
    }
    let verdict = match findings.broken {
        0 => "every rule that was checked is kept".to_owned(),
        broken => format!("{} broken", count(broken, "rule", "rules")),
    };
    let _ = writeln!(text, "\n{verdict}");
    text
}

fn render_tls(text: &mut String, tls: &Tls) {
    let post_quantum = match tls.post_quantum {
        true => "post-quantum",
        false => "not post-quantum",
    };
    let client = match &tls.client_certificate {
        ClientCertificate::NotRequested => "not asked for".to_owned(),
        ClientCertificate::Optional => "asked for, and not insisted on".to_owned(),
        ClientCertificate::Required => "asked for, and insisted on".to_owned(),
        ClientCertificate::NotRefused => "asked for, and not refused".to_owned(),
        ClientCertificate::Refused(alert) => format!("asked for, and refused: {alert}"),
    };
    text.push_str("\nTLS\n");
    field(text, "version", tls.version);
    field(
        text,
        "key exch.",
        &format!("{} ({post_quantum})", tls.key_exchange),
    );
    field(text, "cipher", &tls.cipher_suite);
    field(text, "alpn", tls.alpn.as_deref().unwrap_or("none"));
    field(text, "client", &format!("certificate {client}"));
}

fn render_bundle(text: &mut String, bundle: &Bundle) {
    let whose = bundle.trust_domain.as_deref();
    let whose = whose.unwrap_or("of an unnamed trust domain (say it with --trust-domain)");
    let authorities = count(bundle.authorities.len(), "authority", "authorities");
    let _ = writeln!(text, "\nbundle  {whose}, {authorities}");
    if let Some(sequence) = bundle.sequence {
        field(text, "sequence", &sequence.to_string());
    }
    if let Some(seconds) = bundle.refresh_hint_seconds {
        field(text, "refresh", &format!("every {seconds} s"));
    }
    bundle.checks.iter().for_each(|c| render_check(text, c));
    for authority in &bundle.authorities {
        render_certificate(text, authority);
    }
}

fn render_certificate(text: &mut String, certificate: &Certificate) {
    let id = certificate.facts.as_ref().and_then(|f| f.id.as_deref());
    let _ = writeln!(
        text,
        "\n{}  {}",
        certificate.place,
        id.unwrap_or("without a SPIFFE ID")
    );
    if let Some(facts) = &certificate.facts {
        render_facts(text, facts);
    }
    certificate
        .checks
        .iter()
        .for_each(|c| render_check(text, c));
}

fn render_facts(text: &mut String, facts: &Facts) {
    if facts.id.is_none() {
        facts.uris.iter().for_each(|uri| field(text, "URI", uri));
    }
    let names = facts.dns_names.iter().chain(&facts.ip_addresses);
    let names: Vec<_> = names.map(String::as_str).collect();
    if !names.is_empty() {
        field(text, "also", &names.join(", "));
    }
    field(text, "subject", &facts.subject);
    field(text, "issuer", &facts.issuer);
    field(text, "serial", &facts.serial);
    field(text, "from", &facts.not_before);
    field(text, "until", &moment_from(facts.ends, SystemTime::now()));
    field(text, "key", &facts.key);
    field(text, "sha256", &facts.sha256);
}

fn field(text: &mut String, name: &str, value: &str) {
    if !value.is_empty() {
        let _ = writeln!(text, "  {name:<9} {value}");
    }
}

fn render_check(text: &mut String, check: &Check) {
    let mark = match check.result {
        Verdict::Ok => "ok",
        Verdict::Failed => "FAILED",
        Verdict::NotChecked => "--",
    };
    let (rule, section) = (check.rule, check.section);
    let _ = writeln!(text, "  {mark:<6}  {rule:<RULE$} {section}");
    if let Some(detail) = &check.detail {
        let not = match check.result {
            Verdict::NotChecked => "not checked: ",
            _ => "",
        };
        let _ = writeln!(text, "          {not}{}", harmless(detail));
    }
}
