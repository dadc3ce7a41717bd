//! Whole files: what a good one becomes, and what is said of a bad one.

use std::path::Path;

use proptest::prelude::*;

use super::*;

const DOCUMENT: &str = include_str!("../../../docs/configuration.md");

const MINIMAL: &str = "\
identity:
  files:
    svid: svid.pem
    key: key.pem
    bundle: bundle.pem
policies:
  paths: [policies]
inbound:
  - name: orders
    listen: 127.0.0.1:8443
    service: orders
    upstream:
      address: 127.0.0.1:8080
";

fn read(text: &str) -> Result<Config, ConfigErrors> {
    parse("w.yaml", text, Path::new("/etc/w"))
}

fn errors(text: &str) -> Vec<String> {
    read(text)
        .map(|config| panic!("accepted as {config:?}"))
        .unwrap_or_else(|errors| errors.problems().iter().map(Problem::one_line).collect())
}

fn files(config: &Config) -> &FilesConfig {
    match &config.identity.source {
        IdentitySource::Files(files) => files,
        other => panic!("{other:?}"),
    }
}

/// `MINIMAL` with one piece of text replaced by another.
fn with(from: &str, to: &str) -> String {
    assert!(MINIMAL.contains(from), "{from}");
    MINIMAL.replacen(from, to, 1)
}

#[test]
fn a_minimal_file_gets_the_documented_defaults() {
    let config = read(MINIMAL).unwrap();
    let files = files(&config);
    assert_eq!(config.identity.federation, []);
    assert_eq!(files.svid, Path::new("/etc/w/svid.pem"));
    assert_eq!(config.policies.paths, [Path::new("/etc/w/policies")]);
    assert_eq!(config.inbound[0].limits, LimitsConfig::default());
    assert_eq!(config.inbound[0].hosts, Vec::<String>::new());
    assert!(!config.inbound[0].show_reason);
    assert!(!config.inbound[0].tls.require_post_quantum);
    assert_eq!(config.admin.listen.to_string(), "127.0.0.1:15000");
    assert_eq!(config.log.level, tracing::Level::INFO);
    assert_eq!(config.log.decisions, DecisionSink::Stdout);
    assert_eq!(config.runtime.workers.get(), 1);
    assert_eq!(config.drain_timeout, Duration::from_secs(30));
}

#[test]
fn the_documented_defaults_are_the_defaults() {
    let whole = read(&yaml_blocks()[1]).unwrap();
    let minimal = read(MINIMAL).unwrap();
    assert_eq!(whole.inbound[0].limits, minimal.inbound[0].limits);
    let address = whole.inbound[0].upstream.addresses[0].clone();
    assert_eq!(whole.inbound[0].upstream, UpstreamConfig::at(address));
    let (billing, internet) = (&whole.destinations[0], &whole.destinations[1]);
    assert_eq!(whole.outbound[0].limits, LimitsConfig::default());
    assert_eq!(billing.upstream.pool_max_idle, 64);
    let allowed = internet.upstream.original;
    assert_eq!(allowed, Some(AllowedAddresses::default()));
    assert_eq!(whole.admin, minimal.admin);
    assert_eq!(whole.log, minimal.log);
    assert_eq!(whole.runtime, minimal.runtime);
    assert_eq!(whole.drain_timeout, minimal.drain_timeout);
}

#[test]
fn the_example_to_copy_loads() {
    read(include_str!("../../../examples/sidecar/wayleave.yaml")).unwrap();
    let egress = read(include_str!("../../../examples/egress/wayleave.yaml")).unwrap();
    assert_eq!(egress.outbound.len(), 2);
}

#[test]
fn every_yaml_block_of_the_outbound_guide_loads() {
    let blocks = yaml_blocks_of(include_str!("../../../docs/outbound.md"));
    assert_eq!(blocks.len(), 4);
    for block in blocks {
        if let Err(errors) = read(&completed(&block)) {
            panic!("{errors}\n{block}");
        }
    }
}

#[test]
fn every_yaml_block_of_the_document_loads() {
    let blocks = yaml_blocks();
    assert!(blocks.len() >= 6, "{}", blocks.len());
    for block in blocks {
        if let Err(errors) = read(&completed(&block)) {
            panic!("{errors}\n{block}");
        }
    }
}

fn yaml_blocks() -> Vec<String> {
    yaml_blocks_of(DOCUMENT)
}

fn yaml_blocks_of(document: &str) -> Vec<String> {
    document
        .split("```yaml\n")
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap().to_owned())
        .collect()
}

/// The block, and those top-level parts of the minimal file that it does not have.
fn completed(block: &str) -> String {
    let has = |key: &str| block.lines().any(|line| line.starts_with(key));
    let mut text = block.to_owned();
    let mut wanted = false;
    for line in MINIMAL.lines() {
        if !line.starts_with(' ') {
            wanted = !has(line);
        }
        if wanted {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

#[test]
fn a_mistake_is_told_with_its_place_and_its_remedy() {
    let table: &[(&str, &str, &str)] = &[
        (
            "name: orders",
            "nmae: orders",
            "w.yaml:9:5: unknown key `nmae` in `inbound[0]`; did you mean `name`? allowed here: name, listen, service, hosts, protocol, mode, upstream, limits, show_reason, tls",
        ),
        (
            "name: orders",
            "name: Orders!",
            "w.yaml:9:11: `inbound[0].name`: `Orders!` is not a listener name; expected 1 to 63 of `a-z`, `0-9`, `-` and `_`",
        ),
        (
            "listen: 127.0.0.1:8443",
            "listen: :8443",
            "w.yaml:10:13: `inbound[0].listen`: `:8443` is not an address to listen on; write `0.0.0.0:8443` for every interface, or `127.0.0.1:8443` for this machine only",
        ),
        (
            "listen: 127.0.0.1:8443",
            "listen: localhost:8443",
            "w.yaml:10:13: `inbound[0].listen`: `localhost:8443` is not an address to listen on; expected an IP address and a port, such as `127.0.0.1:8443` or `[::1]:8443`",
        ),
        (
            "listen: 127.0.0.1:8443",
            "listen:",
            "w.yaml:10:5: `inbound[0].listen`: has no value; expected an IP address and a port, such as `127.0.0.1:8443` or `[::1]:8443`",
        ),
        (
            "    listen: 127.0.0.1:8443\n",
            "",
            "w.yaml:9:5: the key `listen` is missing in `inbound[0]`",
        ),
        (
            "      address: 127.0.0.1:8080",
            "      protocol: http1",
            "w.yaml:12:5: the key `address` is missing in `inbound[0].upstream`",
        ),
        (
            "  files:\n    svid: svid.pem\n    key: key.pem\n    bundle: bundle.pem\n",
            "  fles: {}\n",
            "w.yaml:2:3: unknown key `fles` in `identity`; did you mean `files`? allowed here: files, workload_api, federation",
        ),
        (
            "address: 127.0.0.1:8080",
            "address: http://127.0.0.1:8080",
            "w.yaml:13:16: `inbound[0].upstream.address`: `http://127.0.0.1:8080` is not an address; leave the scheme and the path out; `protocol` says what the upstream speaks",
        ),
        (
            "address: 127.0.0.1:8080",
            "address: localhost:8443",
            "w.yaml:13:16: `inbound[0].upstream.address`: `localhost:8443` is the listener's own address, so calls would go in circles; name the address that the workload listens on",
        ),
        (
            "address: 127.0.0.1:8080",
            "address: a:1\n      protocol: htttp2",
            "w.yaml:14:17: `inbound[0].upstream.protocol`: `htttp2` is not known here; did you mean `http2`? expected one of: http1, http2",
        ),
        (
            "address: 127.0.0.1:8080",
            "address: a:1\n      connect_timeout: 30",
            "w.yaml:14:24: `inbound[0].upstream.connect_timeout`: `30` has no unit; expected a duration from 1ms to 5m, such as `500ms`, `30s` or `5m`",
        ),
        (
            "address: 127.0.0.1:8080",
            "address: a:1\n      connect_timeout: 6m",
            "w.yaml:14:24: `inbound[0].upstream.connect_timeout`: `6m` is out of range; expected a duration from 1ms to 5m, such as `500ms`, `30s` or `5m`",
        ),
        (
            "address: 127.0.0.1:8080",
            "address: a:1\n    limits: {max_header_bytes: 4KiB}",
            "w.yaml:14:32: `inbound[0].limits.max_header_bytes`: `4KiB` is out of range; expected a size from 8KiB to 1MiB, such as `32KiB` or `65536`",
        ),
        (
            "address: 127.0.0.1:8080",
            "address: a:1\n    limits: 10",
            "w.yaml:14:13: `inbound[0].limits`: expected a group of keys, found a number; its keys are: max_connections, max_header_bytes, header_timeout, handshake_timeout, max_concurrent_streams, idle_timeout, trust_grace",
        ),
        (
            "address: 127.0.0.1:8080",
            "address: a:1\n    show_reason: yes",
            "w.yaml:14:18: `inbound[0].show_reason`: expected `true` or `false`, found the text `yes`",
        ),
        (
            "address: 127.0.0.1:8080",
            "address: a:1\n    tls: { require_post_quantun: true }",
            "w.yaml:14:12: unknown key `require_post_quantun` in `inbound[0].tls`; did you mean `require_post_quantum`? allowed here: require_post_quantum",
        ),
        (
            "address: 127.0.0.1:8080",
            "address: a:1\n    hosts: [A.b, a.B]",
            "w.yaml:14:18: `inbound[0].hosts[1]`: this host is in the list already; keep one of the two",
        ),
        (
            "address: 127.0.0.1:8080",
            "address: a:1\n    hosts: ['*.b']",
            "w.yaml:14:13: `inbound[0].hosts[0]`: `*.b` is not a host name; wildcards are not supported; leave `hosts` out to serve every host",
        ),
        (
            "bundle: bundle.pem",
            "bundle: b.pem\n    federated: [{trust_domain: 'Partner!', bundle: p.pem}]",
            "w.yaml:6:32: `identity.files.federated[0].trust_domain`: `Partner!` is not a trust domain; expected a trust domain, such as `partner.example`",
        ),
        (
            "bundle: bundle.pem",
            "bundle: b.pem\n    federated: [{trust_domain: a, bundle: p}, {trust_domain: a, bundle: q}]",
            "w.yaml:6:62: `identity.files.federated[1].trust_domain`: this trust domain has a bundle already; name each trust domain once",
        ),
        (
            "paths: [policies]",
            "paths: []",
            "w.yaml:7:3: `policies.paths`: the list is empty; name at least one policy file or folder",
        ),
        (
            "paths: [policies]",
            "paths: policies",
            "w.yaml:7:10: `policies.paths`: expected a list, found text; begin each item with `- ` on a line",
        ),
        (
            "key: key.pem",
            "key: ~/key.pem",
            "w.yaml:4:10: `identity.files.key`: `~/key.pem` is not a path; `~` is not expanded; write the folder out",
        ),
        (
            "key: key.pem",
            "key: [key.pem]",
            "w.yaml:4:10: `identity.files.key`: expected a path, found a list",
        ),
        (
            "key: key.pem",
            "key: key.pem\n    key: other.pem",
            "w.yaml:5:5: key `key` is given twice; keep one of the two",
        ),
        (
            "policies:",
            "admin: {listen: 0.0.0.0:15000}\npolicies:",
            "w.yaml:6:17: `admin.listen`: `0.0.0.0:15000` is reachable from other machines; use a loopback address such as `127.0.0.1:15000`, or set `admin.allow_remote: true` and keep others out by other means",
        ),
        (
            "policies:",
            "admin: {listen: 127.0.0.1:8443}\npolicies:",
            "w.yaml:6:17: `admin.listen`: the admin listener and the listener `orders` both want port 8443; give the two different ports",
        ),
        (
            "listen: 127.0.0.1:8443",
            "listen: 0.0.0.0:15000",
            "w.yaml:10:13: `inbound[0].listen`: the admin listener and the listener `orders` both want port 15000; give the two different ports",
        ),
        (
            "policies:",
            "log: {decisions: stdot}\npolicies:",
            "w.yaml:6:18: `log.decisions`: `stdot` is not a place for decisions; expected `stdout`, `off` or `file:` and a path, such as `file:/var/log/decisions.jsonl`",
        ),
        (
            "policies:",
            "log: {level: warning}\npolicies:",
            "w.yaml:6:14: `log.level`: `warning` is not known here; expected one of: error, warn, info, debug, trace",
        ),
        (
            "policies:",
            "runtime: {workers: 0}\npolicies:",
            "w.yaml:6:20: `runtime.workers`: `0` is out of range; expected a whole number from 1 to 256",
        ),
        (
            "policies:",
            "runtime: {workers: two}\npolicies:",
            "w.yaml:6:20: `runtime.workers`: expected a whole number from 1 to 256, found the text `two`",
        ),
        (
            "policies:",
            "<<: {a: 1}\npolicies:",
            "w.yaml:6:1: merge keys (`<<`) are not supported; write the keys out, or use an anchor for a whole value",
        ),
        (
            "policies:",
            "---\npolicies:",
            "w.yaml:7:1: a second YAML document begins here; keep one document a file",
        ),
        (
            "policies:",
            "drain_timeout: [\npolicies:",
            "w.yaml:8:8: not valid YAML: ",
        ),
    ];
    for (from, to, expected) in table {
        let told = errors(&with(from, to)).join("\n");
        assert!(
            told.contains(expected),
            "expected {expected}\ntold     {told}"
        );
    }
}

#[test]
fn all_mistakes_are_told_together_and_in_order() {
    let text = "\
identity:
  files:
    svid: svid.pem
    kee: key.pem
polices: []
inbound:
  - name: a
    listen: nowhere
    service: orders
    upstream: {address: a, connect_timeout: 5}
  - name: a
    listen: 127.0.0.1:1
    service: orders
    upstream: {address: 'a:1'}
    limits: {max_connections: -1}
runtime: {workers: 1000}
drain_timeout: forever
";
    let told = errors(text);
    let places: Vec<&str> = told
        .iter()
        .map(|line| line.split(": ").next().unwrap())
        .collect();
    let expected = [
        "w.yaml:1:1", // policies is missing
        "w.yaml:2:3", // key is missing
        "w.yaml:2:3", // bundle is missing
        "w.yaml:4:5",
        "w.yaml:5:1",
        "w.yaml:8:13",
        "w.yaml:10:25",
        "w.yaml:10:45",
        "w.yaml:15:31",
        "w.yaml:16:20",
        "w.yaml:17:16",
    ];
    assert_eq!(places, expected, "{told:#?}");
}

#[test]
fn listeners_have_their_own_names_and_ports() {
    let second = [
        "  - name: orders",
        "    listen: 0.0.0.0:8443",
        "    service: other",
        "    upstream: {address: '127.0.0.1:1'}",
    ]
    .join("\n");
    let told = errors(&format!("{MINIMAL}{second}"));
    assert_eq!(
        told,
        [
            "w.yaml:14:11: `inbound[1].name`: a listener named `orders` exists already; give each listener its own name",
            "w.yaml:15:13: `inbound[1].listen`: `0.0.0.0:8443` is taken by the listener `orders`; give each listener its own port",
        ]
    );
}

/// `MINIMAL` with outbound listeners and destinations.
fn going_out(outbound: &str, destinations: &str) -> String {
    format!("{MINIMAL}outbound: [{outbound}]\ndestinations: [{destinations}]\n")
}

const SHOP: &str = "{service: shop, upstream: {address: 'shop:1', tls: {peer: 'spiffe://a/*'}}}";
const OUT: &str = "{name: out, listen: '127.0.0.1:9001', destination: shop}";

#[test]
fn outbound_listeners_lead_to_destinations() {
    let web = "{service: web, hosts: [api.example, '*.API.example', '*'], ports: [80, 443], \
               upstream: {original: true, allow_addresses: [private], \
               tls: {roots: roots.pem, server_name: A.example}}}";
    let proxy = "{name: proxy, listen: '127.0.0.1:3128', kind: forward_proxy}";
    let config = read(&going_out(
        &format!("{OUT}, {proxy}"),
        &format!("{SHOP}, {web}"),
    ))
    .unwrap();
    let OutboundKind::Explicit(shop) = &config.outbound[0].kind else {
        panic!("{:?}", config.outbound)
    };
    assert_eq!(**shop, config.destinations[0]);
    assert_eq!(shop.upstream.original, None);
    assert_eq!(config.outbound[1].kind, OutboundKind::ForwardProxy);
    let web = &config.destinations[1];
    let shown: Vec<_> = web.hosts.iter().map(ToString::to_string).collect();
    assert_eq!(shown, ["api.example", "*.api.example", "*"]);
    assert_eq!(web.ports, [80, 443]);
    let allowed = web.upstream.original.unwrap();
    assert!(allowed.private && !allowed.loopback && !allowed.link_local);
    assert_eq!(web.upstream.server_name.as_deref(), Some("a.example"));
    let roots = WebRoots::File("/etc/w/roots.pem".into());
    assert_eq!(web.upstream.tls, UpstreamTls::Web(roots));
}

#[test]
fn a_sidecar_may_have_outbound_listeners_alone() {
    let text = going_out(OUT, SHOP);
    let (head, tail) = text.split_once("inbound:").unwrap();
    let tail = tail.split_once("outbound:").unwrap().1;
    let config = read(&format!("{head}outbound:{tail}")).unwrap();
    assert_eq!(config.inbound, []);
}

#[test]
fn rejects_outbound_listeners_that_would_be_unsafe_or_of_no_use() {
    let by_host = "{name: out, listen: '127.0.0.1:9001', kind: forward_proxy}";
    let called = "{service: shop, hosts: [shop], upstream: {address: 'shop:1'}}";
    let table = [
        (
            "{name: out, listen: '0.0.0.0:9001', destination: shop}",
            SHOP,
            "`outbound[0].listen`: `0.0.0.0:9001` is reachable from other machines, whose calls would go out in this workload's name; use a loopback address such as `127.0.0.1:9001`",
        ),
        (
            "{name: out, listen: '127.0.0.1:9001', destination: shoe}",
            SHOP,
            "`outbound[0].destination`: there is no destination `shoe`; name one of the `destinations`, or add it there",
        ),
        (
            "{name: out, listen: '127.0.0.1:9001'}",
            SHOP,
            "the key `destination` is missing in `outbound[0]`",
        ),
        (
            "{name: out, listen: '127.0.0.1:9001', kind: forward_proxi}",
            called,
            "`outbound[0].kind`: `forward_proxi` is not known here; did you mean `forward_proxy`? expected one of: explicit, forward_proxy, transparent",
        ),
        (
            "{name: out, listen: '127.0.0.1:9001', kind: forward_proxy, destination: shop}",
            called,
            "`outbound[0].destination`: `destination` is for a listener of the kind `explicit`; leave it out, or leave `kind` out",
        ),
        (
            "{name: out, listen: '127.0.0.1:9001', kind: transparent, protocol: tcp}",
            called,
            "`outbound[0].protocol`: `protocol` is for a listener of the kind `explicit`; leave it out, or leave `kind` out",
        ),
        (
            by_host,
            SHOP,
            "`outbound`: the listener `out` finds destinations by their hosts, and none has any; add `hosts` to the `destinations` that it serves",
        ),
        (
            by_host,
            "{service: a, hosts: [shop, b], upstream: {address: 'shop:1'}}, {service: b, hosts: [Shop], upstream: {address: 'b:1'}}",
            "`destinations[1].hosts`: `shop` leads to the destination `a` already; give each host and port to one destination; `ports` tells two apart",
        ),
        (
            by_host,
            "{service: a, hosts: [a], upstream: {address: 'localhost:9001'}}",
            "`destinations[0].upstream`: `localhost:9001` is the outbound listener `out`, so calls would go in circles; name the address of the service itself",
        ),
        (
            by_host,
            "{service: a, hosts: ['*.*'], upstream: {address: 'a:1'}}",
            "`destinations[0].hosts[0]`: `*.*` is not a host; expected a host without a port, such as `api.example`, `*.api.example` for all below it, or `*`",
        ),
        (
            by_host,
            "{service: a, hosts: [a], ports: [0], upstream: {address: 'a:1'}}",
            "`destinations[0].ports[0]`: `0` is out of range; expected a whole number from 1 to 65535",
        ),
        (
            OUT,
            "{service: shop, upstream: {original: true}}",
            "`outbound[0].destination`: the upstream of `shop` is `original`, and a caller of this listener asks for no address; give the destination an address, or this listener the kind `forward_proxy`",
        ),
        (
            OUT,
            "{service: shop, upstream: {original: true, address: 'a:1'}}",
            "`destinations[0].upstream.address`: the upstream is `original` and has an address; keep one of the two",
        ),
        (
            OUT,
            "{service: shop, upstream: {address: 'a:1', allow_addresses: [private]}}",
            "`destinations[0].upstream.allow_addresses`: this is about the addresses of an `original` upstream; leave it out, or add `original: true`",
        ),
        (
            OUT,
            "{service: shop, upstream: {original: true, allow_addresses: [everything]}}",
            "`destinations[0].upstream.allow_addresses[0]`: `everything` is not known here; expected one of: loopback, link_local, private",
        ),
        (
            OUT,
            "{service: shop, upstream: {address: 'a:1', tls: {peer: 'spiffe://a/b', roots: system}}}",
            "`destinations[0].upstream.tls.roots`: the upstream's TLS has both `peer` and `roots`; keep `peer` for a workload, or `roots` for a host of the web",
        ),
        (
            OUT,
            "{service: shop, upstream: {address: 'a:1', tls: {server_name: a}}}",
            "the key `peer` is missing in `destinations[0].upstream.tls`",
        ),
        (
            OUT,
            "{service: shop, upstream: {address: 'unix:/run/a', tls: {peer: 'spiffe://a/b'}}}",
            "`destinations[0].upstream.tls`: a unix socket is reached without TLS; leave `tls` out, or name a host and a port",
        ),
    ];
    for (outbound, destinations, expected) in table {
        let told = errors(&going_out(outbound, destinations)).join("\n");
        assert!(
            told.contains(expected),
            "expected {expected}\ntold     {told}"
        );
    }
}

#[test]
fn an_inbound_listener_has_an_upstream_of_its_own() {
    let told = errors(&with("address: 127.0.0.1:8080", "original: true")).join("\n");
    let expected = "`inbound[0].upstream.original`: only a destination can be where the caller says; name the address that the workload listens on";
    assert!(told.contains(expected), "{told}");
}

#[test]
fn admin_may_be_remote_when_that_is_asked_for() {
    let text = format!("{MINIMAL}admin: {{listen: '0.0.0.0:15000', allow_remote: true}}\n");
    assert_eq!(read(&text).unwrap().admin.listen.port(), 15_000);
}

#[test]
fn other_trust_domains_and_revocation_lists_are_read() {
    let more = "\
bundle: bundle.pem
    federated: [{trust_domain: partner.example, bundle: partner.pem}]
    revocation_lists: [revoked.pem, /run/revoked.der]
";
    let text = with("bundle: bundle.pem\n", more);
    let config = read(&text).unwrap();
    let files = files(&config);
    let partner: wayleave_identity::TrustDomain = "partner.example".parse().unwrap();
    assert_eq!(files.federated[&partner], Path::new("/etc/w/partner.pem"));
    let lists = ["/etc/w/revoked.pem", "/run/revoked.der"].map(Path::new);
    assert_eq!(files.revocation_lists, lists);
}

/// `MINIMAL` with another `identity` section.
fn identified(section: &str) -> String {
    let rest = MINIMAL.split_once("policies:").unwrap().1;
    format!("identity:\n{section}policies:{rest}")
}

#[test]
fn the_workload_api_is_a_source() {
    let api = |section: &str| match read(&identified(section)).unwrap().identity.source {
        IdentitySource::WorkloadApi(api) => api,
        other => panic!("{other:?}"),
    };
    let plain = api("  workload_api: {}\n");
    assert_eq!(plain.endpoint, None);
    assert_eq!(plain.choice, SvidChoice::First);
    assert_eq!(plain.first_svid_timeout, Duration::from_secs(30));
    let chosen = api(
        "  workload_api:\n    endpoint: unix:///run/spire/agent.sock\n    hint: internal\n    first_svid_timeout: 2m\n",
    );
    let socket = chosen.endpoint.unwrap().to_string();
    assert_eq!(socket, "unix:///run/spire/agent.sock");
    assert_eq!(chosen.choice, SvidChoice::Hint("internal".into()));
    assert_eq!(chosen.first_svid_timeout, Duration::from_secs(120));
    let by_id = api("  workload_api: { id: spiffe://shop.example/orders }\n").choice;
    let id = "spiffe://shop.example/orders".parse().unwrap();
    assert_eq!(by_id, SvidChoice::Id(id));
}

#[test]
fn federated_trust_domains_are_read() {
    let config = read(&identified(
        "  workload_api: {}
  federation:
    - trust_domain: partner.example
      url: https://partner.example:8443/bundle.json
      profile: https_spiffe
      endpoint_id: spiffe://partner.example/bundles
      bootstrap_bundle: partner.json
      store: /var/lib/wayleave/partner.json
      timeout: 5s
    - { trust_domain: web.example, url: https://web.example/, profile: https_web, roots: roots.pem }
",
    ))
    .unwrap();
    let [partner, web] = &config.identity.federation[..] else {
        panic!("{config:?}");
    };
    assert_eq!(
        partner.profile,
        Profile::HttpsSpiffe {
            endpoint_id: "spiffe://partner.example/bundles".parse().unwrap(),
            bootstrap: Some("/etc/w/partner.json".into()),
        }
    );
    assert_eq!(partner.store, Some("/var/lib/wayleave/partner.json".into()));
    assert_eq!(partner.time_limit, Duration::from_secs(5));
    let roots = Some("/etc/w/roots.pem".into());
    assert_eq!(web.profile, Profile::HttpsWeb { roots });
    assert_eq!(web.store, None);
    assert_eq!(web.time_limit, Duration::from_secs(30));
}

#[test]
fn a_mistake_in_the_identity_is_told_with_its_remedy() {
    let spiffe = "url: https://p/, profile: https_spiffe";
    let table = [
        (
            "  federation: []\n".to_owned(),
            "w.yaml:1:1: `identity`: the identity has no source; name its `files`, or a SPIFFE `workload_api`",
        ),
        (
            "  workload_api: {}\n  files: {svid: s, key: k, bundle: b}\n".to_owned(),
            "w.yaml:2:17: `identity.workload_api`: the identity has two sources, `files` and `workload_api`; keep one of the two",
        ),
        (
            "  workload_api: { endpoint: /run/agent.sock }\n".to_owned(),
            "w.yaml:2:29: `identity.workload_api.endpoint`: `/run/agent.sock` is not a Workload API endpoint; write `unix:///absolute/path` or `tcp://IP:port`; expected",
        ),
        (
            "  workload_api: { endpoint: tcp://agent:80 }\n".to_owned(),
            "a tcp endpoint is an IP address and a port",
        ),
        (
            "  workload_api: { hint: a, id: spiffe://a/b }\n".to_owned(),
            "w.yaml:2:32: `identity.workload_api.id`: an SVID is chosen by `hint` or by `id`, not by both; keep one of the two",
        ),
        (
            "  workload_api: { id: spiffe://a }\n".to_owned(),
            "`spiffe://a` is not a workload; expected the SPIFFE ID of a workload",
        ),
        (
            "  workload_api: { first_svid_timeout: 10ms }\n".to_owned(),
            "`10ms` is out of range; expected a duration from 1s to 1h",
        ),
        (
            format!("  workload_api: {{}}\n  federation: [{{trust_domain: p, {spiffe}}}]\n"),
            "the key `endpoint_id` is missing in `identity.federation[0]`",
        ),
        (
            format!(
                "  workload_api: {{}}\n  federation: [{{trust_domain: p, {spiffe}, endpoint_id: spiffe://p/e, roots: r}}]\n"
            ),
            "`identity.federation[0].roots`: this belongs to the profile `https_web`; leave it out, or write `profile: https_web`",
        ),
        (
            "  workload_api: {}\n  federation: [{trust_domain: p, url: http://p/, profile: https_web}]\n".to_owned(),
            "`http://p/` is not an https URL; a bundle is never fetched without TLS",
        ),
        (
            "  files: {svid: s, key: k, bundle: b, federated: [{trust_domain: p, bundle: f}]}\n  federation: [{trust_domain: p, url: https://p/, profile: https_web}]\n".to_owned(),
            "`identity.federation[0].trust_domain`: this trust domain has a bundle already; name each trust domain once",
        ),
    ];
    for (section, expected) in table {
        let told = errors(&identified(&section)).join("\n");
        assert!(
            told.contains(expected),
            "expected {expected}\ntold     {told}"
        );
    }
}

#[test]
fn anchors_and_aliases_name_the_place_of_use() {
    let text = with("key: key.pem", "key: &k key.pem").replace("bundle.pem", "*k");
    let config = read(&text).unwrap();
    let files = files(&config);
    assert_eq!(files.key, files.bundle);
    let text = with("svid.pem", "&k '~'").replace("bundle.pem", "*k");
    let told = errors(&text);
    assert!(told[1].starts_with("w.yaml:5:13: "), "{told:?}");
}

#[test]
fn an_empty_file_misses_every_required_part() {
    for text in ["", "\n# nothing\n", "~"] {
        assert_eq!(errors(text).len(), 3, "{text:?}");
    }
}

#[test]
fn hostile_documents_are_refused_quickly() {
    let deep = format!("a: {}", "[".repeat(10_000));
    let bomb = "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: [*e,*e,*e,*e,*e,*e,*e,*e,*e]\n";
    let wide = "a: 1\n".repeat(100_000);
    for text in [deep.as_str(), bomb, wide.as_str(), "\u{1b}[31m: 1", "\u{0}"] {
        let told = errors(text).join("\n");
        assert!(!told.contains('\u{1b}'), "{told}");
    }
}

#[test]
fn a_missing_file_is_one_clear_line() {
    let told = load(Path::new("/nonexistent/w.yaml"))
        .unwrap_err()
        .to_string();
    assert!(told.starts_with("/nonexistent/w.yaml: cannot read the configuration: "));
    assert!(told.ends_with("; name an existing file with `--config`"));
}

#[test]
fn a_file_that_is_no_text_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.yaml");
    std::fs::write(&path, [0xff, 0xfe, 0x00]).unwrap();
    assert!(load(&path).unwrap_err().to_string().contains("UTF-8"));
    std::fs::write(&path, vec![b'#'; 2 << 20]).unwrap();
    assert!(load(&path).unwrap_err().to_string().contains("below 1 MiB"));
}

#[test]
fn relative_paths_start_at_the_folder_of_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("w.yaml");
    std::fs::write(&path, MINIMAL).unwrap();
    let config = load(&path).unwrap();
    assert_eq!(config.policies.paths, [folder.path().join("policies")]);
}

proptest! {
    #[test]
    fn arbitrary_text_never_panics(text in "\\PC{0,200}") {
        let _ = read(&text);
    }

    #[test]
    fn yaml_like_text_never_panics(text in "([a-z]{1,3}|[ \\n:\\-\\[\\]{}&*!|>'\"#?,é\\t]|inbound|limits){0,60}") {
        let _ = read(&text);
    }

    #[test]
    fn a_damaged_file_never_panics(at in 0..MINIMAL.len(), len in 0..20_usize, with in "\\PC{0,8}") {
        let mut text = MINIMAL.to_owned();
        let end = (at + len).min(text.len());
        text.replace_range(at..end, &with);
        let _ = read(&text).map_err(|errors| errors.to_string());
    }

    #[test]
    fn every_problem_of_a_damaged_file_has_a_place(at in 0..MINIMAL.len(), with in "[\\PC\\n]{1,8}") {
        let mut text = MINIMAL.to_owned();
        text.insert_str(at, &with);
        if let Err(errors) = read(&text) {
            for problem in errors.problems() {
                prop_assert!(problem.line().is_some() && problem.column().is_some(), "{problem}");
            }
        }
    }
}
