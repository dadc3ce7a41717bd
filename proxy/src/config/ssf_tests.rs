//! Transmitters in whole files: what a good one becomes, and what is said of a bad one.

use std::path::Path;
use std::time::Duration;

use super::*;

const FILE: &str = "\
identity: {files: {svid: svid.pem, key: key.pem, bundle: bundle.pem}}
policies: {paths: [policies]}
inbound: [{name: orders, listen: '127.0.0.1:8443', service: orders, upstream: {address: '127.0.0.1:8080'}}]
signals:
  state_dir: state
  ssf:
    - name: idp
      issuer: https://idp.example
      audience: [urn:orders]
      jwks: jwks.json
      push: {listen: '127.0.0.1:8444', path: /ssf}
";

fn read(text: &str) -> Result<Config, ConfigErrors> {
    parse("w.yaml", text, Path::new("/etc/w"))
}

fn with(from: &str, to: &str) -> String {
    assert!(FILE.contains(from), "{from}");
    FILE.replacen(from, to, 1)
}

/// The file with further keys of its transmitter.
fn and(keys: &str) -> String {
    format!("{FILE}      {keys}\n")
}

#[test]
fn a_transmitter_gets_the_documented_defaults() {
    let config = read(FILE).unwrap();
    let one = &config.signals.ssf[0];
    assert_eq!(one.jwks, JwksSource::File("/etc/w/jwks.json".into()));
    assert_eq!(one.max_age, Duration::from_secs(7 * 86_400));
    assert_eq!(one.on_noncompliant, OnNoncompliant::Ignore);
    assert_eq!(
        (one.poll.as_ref(), one.trust_domains.as_ref()),
        (None, None)
    );
    let document = include_str!("../../../docs/configuration.md");
    let whole = document.split("```yaml\n").nth(2).unwrap();
    let whole = read(whole.split("```").next().unwrap()).unwrap();
    let documented = &whole.signals.ssf[0];
    assert_eq!(documented.max_age, one.max_age);
    assert_eq!(documented.clock_skew, one.clock_skew);
    assert_eq!(documented.algorithms, one.algorithms);
    assert_eq!(documented.on_noncompliant, one.on_noncompliant);
    let polling = and("poll: {url: 'https://idp.example/poll'}");
    let polling = read(&polling).unwrap().signals.ssf[0].poll.clone().unwrap();
    let documented = documented.poll.clone().unwrap();
    assert_eq!(
        (
            polling.interval,
            polling.timeout,
            polling.max_events,
            polling.long_poll
        ),
        (
            documented.interval,
            documented.timeout,
            documented.max_events,
            documented.long_poll
        )
    );
    let url = with("jwks: jwks.json", "jwks: https://idp.example/jwks.json");
    let JwksSource::Url {
        refresh, ca_file, ..
    } = &read(&url).unwrap().signals.ssf[0].jwks.clone()
    else {
        panic!("no URL");
    };
    assert_eq!((*refresh, ca_file), (Duration::from_secs(600), &None));
}

#[test]
fn every_yaml_block_of_the_guide_loads() {
    let guide = include_str!("../../../docs/ssf.md");
    let blocks: Vec<&str> = guide.split("```yaml\n").skip(1).collect();
    assert_eq!(blocks.len(), 2);
    let base = FILE.split("signals:").next().unwrap();
    for block in blocks {
        let block = block.split("```").next().unwrap();
        if let Err(errors) = read(&format!("{base}{block}")) {
            panic!("{errors}\n{block}");
        }
    }
}

#[test]
fn two_transmitters_may_share_an_address() {
    let second = "    - {name: edr, issuer: e, audience: [a], jwks: j, push: {listen: '127.0.0.1:8444', path: /edr}}\n";
    let config = read(&format!("{FILE}{second}")).unwrap();
    assert_eq!(config.signals.ssf.len(), 2);
}

#[test]
fn a_mistake_in_a_transmitter_is_told_with_its_remedy() {
    let second = |push: &str| {
        format!("{FILE}    - {{name: idp, issuer: e, audience: [a], jwks: j, push: {push}}}\n")
    };
    let push = "push: {listen: '127.0.0.1:8444', path: /ssf}";
    let table = [
        (
            with("  state_dir: state\n", ""),
            "name a folder that outlives a restart as `signals.state_dir`",
        ),
        (
            with(push, "clock_skew: 1s"),
            "no event can come from this transmitter; say where it pushes events to (`push`), or where they are fetched (`poll`)",
        ),
        (
            with("127.0.0.1:8444", "0.0.0.0:8444"),
            "`0.0.0.0:8444` would be served without TLS; name `tls.certificate` and `tls.key`",
        ),
        (
            with("127.0.0.1:8444", "127.0.0.1:8443"),
            "`127.0.0.1:8443` is taken by `orders`; give the transmitters their own port",
        ),
        (
            with("127.0.0.1:8444", "127.0.0.1:15000"),
            "`127.0.0.1:15000` is taken by `admin`",
        ),
        (with("path: /ssf", "path: ssf"), "`ssf` is not a path"),
        (
            with("      issuer: https://idp.example\n", ""),
            "the key `issuer` is missing in `signals.ssf[0]`",
        ),
        (
            with("[urn:orders]", "[]"),
            "the list is empty; name at least one audience",
        ),
        (
            with("jwks: jwks.json", "jwks: http://idp.example/jwks.json"),
            "is not an https URL; plain http is for loopback addresses alone",
        ),
        (
            with("jwks: jwks.json", "jwks: https://me@idp.example/"),
            "a token goes into a file of its own",
        ),
        (
            and("jwks_refresh: 5m"),
            "the keys come from a file, which is watched; leave it out",
        ),
        (
            and("algorithms: [none]"),
            "`none` is not known here; expected one of: RS256, PS256, ES256, ES384, EdDSA",
        ),
        (and("algorithms: [HS256]"), "`HS256` is not known here"),
        (and("algorithms: []"), "name at least one algorithm"),
        (and("max_age: 31s"), "`31s` is out of range"),
        (
            and("on_noncompliant: deny"),
            "expected one of: ignore, high_risk, revoke",
        ),
        (
            and("subjects: [{opaque: a}]"),
            "the key `spiffe_ids` is missing",
        ),
        (
            and("subjects: [{iss: a, spiffe_ids: ['spiffe://a.example/b']}]"),
            "name it by `opaque`, by `uri`, or by `iss` and `sub` together",
        ),
        (
            and("subjects: [{opaque: a, spiffe_ids: ['spiffe://a.example']}]"),
            "is not a workload",
        ),
        (
            and("subjects: [{uri: 'SPIFFE://a.example/b', spiffe_ids: ['spiffe://a.example/b']}]"),
            "a SPIFFE ID means itself",
        ),
        (
            and(
                "subjects: [{opaque: a, spiffe_ids: ['spiffe://a.example/b']}, {opaque: a, spiffe_ids: ['spiffe://a.example/c']}]",
            ),
            "this subject is mapped already",
        ),
        (
            and(
                "subjects: [{opaque: a, spiffe_ids: ['spiffe://b.example/b']}]\n      trust_domains: [a.example]",
            ),
            "the transmitter may not speak of `b.example`; add the trust domain to its `trust_domains`",
        ),
        (
            and("poll: {url: 'http://idp.example/poll'}"),
            "plain http is for loopback addresses alone",
        ),
        (
            and("poll: {url: 'https://idp.example/poll', max_events: 0}"),
            "expected a whole number from 1 to 256",
        ),
        (
            and("plush: 1"),
            "unknown key `plush` in `signals.ssf[0]`; did you mean `push`?",
        ),
        (
            second("{listen: '127.0.0.1:8445', path: /ssf}"),
            "`idp` is another one's name; give each transmitter its own name",
        ),
        (
            second("{listen: '127.0.0.1:8444', path: /ssf}"),
            "another transmitter pushes to `/ssf` of `127.0.0.1:8444`",
        ),
        (
            second("{listen: '127.0.0.1:8444', path: /b, tls: {certificate: c, key: k}}"),
            "`127.0.0.1:8444` has another certificate",
        ),
    ];
    for (text, told) in table {
        let errors = read(&text).map(|_| text.clone()).unwrap_err().to_string();
        assert!(errors.contains(told), "no `{told}` in {errors}");
        assert!(errors.starts_with("w.yaml:"), "{errors}");
    }
}
