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
    assert_eq!(config.inbound[0].tls, TlsConfig::default());
    assert_eq!(config.inbound[0].trust_domains, None);
    assert_eq!(config.probes, None);
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

fn limits(keys: &str) -> Result<LimitsConfig, ConfigErrors> {
    let service = "service: orders";
    let text = with(service, &format!("{service}\n    limits: {{ {keys} }}"));
    read(&text).map(|config| config.inbound[0].limits.clone())
}

#[test]
fn one_peer_may_hold_half_unless_told_otherwise() {
    let half = limits("max_connections: 5, max_requests: 200").unwrap();
    assert_eq!(half.max_connections_per_peer, 3);
    assert_eq!(half.max_requests_per_peer, 100);
    let told = limits("max_requests: 200, max_requests_per_peer: 200").unwrap();
    assert_eq!(told.max_requests_per_peer, 200);
    let more = limits("max_requests: 200, max_requests_per_peer: 201").unwrap_err();
    let expected = "`inbound[0].limits.max_requests_per_peer`: `201` is out of range; \
                    expected a whole number from 1 to 200";
    assert!(more.to_string().contains(expected), "{more}");
}

#[test]
fn times_that_are_off_can_be_said_to_be() {
    let off = limits("request_timeout: off, connection_age: off").unwrap();
    assert_eq!(off, LimitsConfig::default());
    let on = limits("request_timeout: 30s, connection_age: 168h").unwrap();
    assert_eq!(on.request_timeout, Some(Duration::from_secs(30)));
    assert_eq!(on.connection_age, Some(Duration::from_secs(7 * 86_400)));
    let wrong = limits("request_timeout: never, body_timeout: off").unwrap_err();
    let told = wrong.to_string();
    assert!(told.contains("`never` is not a duration"), "{told}");
    assert!(
        told.contains("such as `500ms`, `30s` or `5m`, or `off`"),
        "{told}"
    );
    assert!(told.contains("`off` is not a duration"), "{told}");
}

#[test]
fn memory_is_limited_by_the_control_group_by_itself_or_not_at_all() {
    let memory = |limit: &str| {
        let text = with(
            "policies:",
            &format!("runtime: {{max_memory: {limit}}}\npolicies:"),
        );
        read(&text).unwrap().runtime.max_memory
    };
    assert_eq!(read(MINIMAL).unwrap().runtime.max_memory, MaxMemory::Auto);
    assert_eq!(memory("auto"), MaxMemory::Auto);
    assert_eq!(memory("off"), MaxMemory::Off);
    assert_eq!(memory("512MiB"), MaxMemory::Bytes(512 << 20));
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
fn the_yaml_block_about_the_store_of_a_fleet_loads_and_what_it_leaves_out_has_a_default() {
    let blocks = yaml_blocks_of(include_str!("../../../docs/signals-store.md"));
    let [block] = blocks.as_slice() else {
        panic!("{blocks:?}");
    };
    let store = read(&completed(block)).unwrap().signals.store.unwrap();
    assert_eq!(store.prefix, "wayleave:");
    assert_eq!(store.timeout, Duration::from_secs(2));
    assert_eq!(store.reconcile_every, Duration::from_secs(1));
    let names: Vec<_> = store
        .fleet_wide
        .iter()
        .map(|signal| signal.name())
        .collect();
    assert_eq!(names, ["calls_per_minute", "denials_per_minute"]);
    assert_eq!(read(MINIMAL).unwrap().signals.store, None);
    let whole = read(&yaml_blocks()[1]).unwrap();
    let (told, default) = (whole.signals, SignalsConfig::default());
    assert_eq!(
        (told.max_principals, told.store),
        (default.max_principals, default.store)
    );
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
            "w.yaml:9:5: unknown key `nmae` in `inbound[0]`; did you mean `name`? allowed here: name, listen, service, hosts, protocol, mode, upstream, limits, show_reason, tls, trust_domains",
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
            "w.yaml:14:13: `inbound[0].limits`: expected a group of keys, found a number; its keys are: max_connections, max_header_bytes, header_timeout, handshake_timeout, max_concurrent_streams, idle_timeout, trust_grace, tcp_idle_timeout, detect_timeout, body_timeout, request_timeout, connection_age, connection_grace, max_handshakes, max_requests, max_requests_per_peer, max_connections_per_peer",
        ),
        (
            "address: 127.0.0.1:8080",
            "address: a:1\n    show_reason: yes",
            "w.yaml:14:18: `inbound[0].show_reason`: expected `true` or `false`, found the text `yes`",
        ),
        (
            "address: 127.0.0.1:8080",
            "address: a:1\n    tls: { require_post_quantun: true }",
            "w.yaml:14:12: unknown key `require_post_quantun` in `inbound[0].tls`; did you mean `require_post_quantum`? allowed here: require_post_quantum, mode",
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
            "runtime: {max_memory: lots}\npolicies:",
            "w.yaml:6:23: `runtime.max_memory`: `lots` is not a size; expected a size from 16MiB to 1024GiB, such as `32KiB` or `65536`, or `auto` or `off`",
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
fn keys_that_do_nothing_for_a_protocol_are_refused() {
    let tcp = "\
address: a:1
      protocol: http2
      response_timeout: 1s
    protocol: tcp
    show_reason: false
    limits: {idle_timeout: 1m, max_header_bytes: 8KiB, tcp_idle_timeout: 1m, detect_timeout: 1s}
";
    let about_http = "this is about HTTP, which a `tcp` listener does not read; remove it, or set `protocol: http` or `auto`";
    let expected = [
        format!("w.yaml:14:17: `inbound[0].upstream.protocol`: {about_http}"),
        format!("w.yaml:15:25: `inbound[0].upstream.response_timeout`: {about_http}"),
        format!("w.yaml:17:18: `inbound[0].show_reason`: {about_http}"),
        format!("w.yaml:18:28: `inbound[0].limits.idle_timeout`: {about_http}"),
        format!("w.yaml:18:50: `inbound[0].limits.max_header_bytes`: {about_http}"),
        "w.yaml:18:94: `inbound[0].limits.detect_timeout`: the protocol is declared, so nothing is detected; remove it, or set `protocol: auto`".to_owned(),
    ];
    assert_eq!(errors(&with("address: 127.0.0.1:8080\n", tcp)), expected);
    let http = "address: a:1\n    limits: {tcp_idle_timeout: 1m}\n";
    let told = errors(&with("address: 127.0.0.1:8080\n", http));
    assert_eq!(
        told,
        [
            "w.yaml:14:32: `inbound[0].limits.tcp_idle_timeout`: an `http` listener has no connections that are plain TCP; remove it, set `idle_timeout`, or set `protocol: tcp` or `auto`"
        ]
    );
    let auto = tcp.replace("protocol: tcp", "protocol: auto");
    let config = read(&with("address: 127.0.0.1:8080\n", &auto)).unwrap();
    assert_eq!(config.inbound[0].protocol, ListenerProtocol::Auto);
}

#[test]
fn post_quantum_only_and_permissive_exclude_each_other() {
    let both = "address: a:1\n    tls: {require_post_quantum: true, mode: permissive}\n";
    let told = errors(&with("address: 127.0.0.1:8080\n", both));
    assert_eq!(
        told,
        [
            "w.yaml:14:45: `inbound[0].tls.mode`: a caller without TLS has no key exchange at all; set `mode: strict`, or `require_post_quantum: false` until everybody calls with TLS"
        ]
    );
}

#[test]
fn trust_domains_are_listed_or_left_out() {
    let listed = |list: &str| {
        let key = format!("address: a:1\n    trust_domains: {list}\n");
        with("address: 127.0.0.1:8080\n", &key)
    };
    let config = read(&listed("[shop.example, partner.example]")).unwrap();
    let domains = config.inbound[0].trust_domains.as_deref().unwrap();
    assert_eq!(domains.len(), 2);
    for (list, expected) in [
        ("[]", "the list is empty; name at least one trust domain"),
        (
            "[a, a]",
            "this trust domain is in the list already; keep one of the two",
        ),
        (
            "['A!']",
            "`A!` is not a trust domain; expected a trust domain, such as `partner.example`",
        ),
    ] {
        let told = errors(&listed(list)).join("\n");
        assert!(told.contains(expected), "{told}");
    }
}

#[test]
fn probes_lead_to_the_first_listener_unless_told_otherwise() {
    let probes = "\
probes:
  listen: 0.0.0.0:15021
  paths:
    - {path: /healthz}
    - {path: '/ready?a=b', upstream: 'unix:app.sock', upstream_path: /r}
";
    let config = read(&format!("{MINIMAL}{probes}")).unwrap();
    let probes = config.probes.unwrap();
    assert_eq!(probes.timeout, Duration::from_secs(5));
    assert_eq!(
        probes.paths[0].addresses,
        config.inbound[0].upstream.addresses
    );
    assert_eq!(probes.paths[0].upstream_path, "/healthz");
    let socket = Address::Unix("/etc/w/app.sock".into());
    assert_eq!(probes.paths[1].addresses, [socket]);
    assert_eq!(probes.paths[1].upstream_path, "/r");
}

#[test]
fn mistakes_in_probes_are_told() {
    let told = |probes: &str| errors(&format!("{MINIMAL}probes: {probes}\n")).join("\n");
    for (probes, expected) in [
        (
            "{paths: [{path: /a}]}",
            "the key `listen` is missing in `probes`",
        ),
        (
            "{listen: '0.0.0.0:1'}",
            "the key `paths` is missing in `probes`",
        ),
        (
            "{listen: '0.0.0.0:1', paths: []}",
            "the list is empty; name at least one path",
        ),
        (
            "{listen: '0.0.0.0:1', paths: [{}]}",
            "the key `path` is missing in `probes.paths[0]`",
        ),
        (
            "{listen: '0.0.0.0:1', paths: [{path: healthz}]}",
            "`healthz` is not a path; expected a path, such as `/healthz`",
        ),
        (
            "{listen: '0.0.0.0:1', paths: [{path: /a/../b}]}",
            "`/a/../b` is not a path; expected a path, such as `/healthz`: the path has an empty or dot segment",
        ),
        (
            "{listen: '0.0.0.0:1', paths: [{path: /a}, {path: /a}]}",
            "`/a` is probed already; name each path once",
        ),
        (
            "{listen: '0.0.0.0:8443', paths: [{path: /a}]}",
            "`0.0.0.0:8443` is taken by the listener `orders`; give the probes their own port",
        ),
        (
            "{listen: '127.0.0.1:15000', paths: [{path: /a}]}",
            "`127.0.0.1:15000` is taken by the listener `admin`; give the probes their own port",
        ),
    ] {
        let told = told(probes);
        assert!(
            told.contains(expected),
            "expected {expected}\ntold     {told}"
        );
    }
    let tcp = MINIMAL.replace(
        "    service: orders\n",
        "    service: orders\n    protocol: tcp\n",
    );
    let text = format!("{tcp}probes: {{listen: '0.0.0.0:1', paths: [{{path: /a}}]}}\n");
    let told = errors(&text).join("\n");
    let expected = "the first listener's upstream cannot be probed; name the address of an HTTP endpoint as `upstream`";
    assert!(told.contains(expected), "{told}");
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

/// `MINIMAL` with more keys of its upstream.
fn upstream_with(keys: &str) -> String {
    let address = "address: 127.0.0.1:8080";
    with(address, &format!("{address}\n      {keys}"))
}

#[test]
fn what_an_upstream_does_in_trouble_is_read() {
    let keys = "\
dns_refresh: 5s
      balance: round_robin
      outlier: {consecutive_failures: 2, ejection_time: 1s, max_ejected_percent: 100}
      health_check: {path: '/healthz?full=1', healthy_after: 1}
      circuit: {max_connections: 10, max_requests: 100}
      retries: {attempts: 4, on: [reset, 502, grpc_unavailable], per_try_timeout: 2s, buffer: 4KiB}";
    let config = read(&upstream_with(keys)).unwrap();
    let upstream = &config.inbound[0].upstream;
    assert_eq!(upstream.balance, Balance::RoundRobin);
    assert_eq!(upstream.outlier.max_ejected_percent, 100);
    let check = upstream.health_check.clone().unwrap();
    assert_eq!(
        (check.path.as_str(), check.healthy_after),
        ("/healthz?full=1", 1)
    );
    assert_eq!(
        (check.unhealthy_after, check.timeout),
        (3, Duration::from_secs(2))
    );
    let expected = CircuitConfig {
        max_connections: Some(10),
        max_pending: Some(1024),
        max_requests: Some(100),
    };
    assert_eq!(upstream.circuit, expected);
    let expected = RetryConfig {
        attempts: 4,
        on: vec![
            RetryOn::Reset,
            RetryOn::Status(502),
            RetryOn::GrpcUnavailable,
        ],
        per_try_timeout: Some(Duration::from_secs(2)),
        budget_percent: 20,
        min_per_second: 10,
        buffer: 4096,
    };
    assert_eq!(upstream.retries, Some(expected));
}

#[test]
fn retries_and_limits_are_off_unless_asked_for() {
    let upstream = read(MINIMAL).unwrap().inbound.remove(0).upstream;
    assert_eq!(upstream.retries, None);
    assert_eq!(upstream.circuit, CircuitConfig::default());
    assert_eq!(upstream.health_check, None);
    let retries = read(&upstream_with("retries: {}"))
        .unwrap()
        .inbound
        .remove(0);
    let on = retries.upstream.retries.unwrap().on;
    assert_eq!(on, [RetryOn::Connect, RetryOn::Reset, RetryOn::Status(503)]);
}

#[test]
fn a_mistake_in_what_an_upstream_does_in_trouble_is_told_with_its_remedy() {
    let table = [
        (
            "keepalive: 10s",
            "w.yaml:14:18: `inbound[0].upstream.keepalive`: only HTTP/2 connections can be pinged; set `protocol: http2`, or leave `keepalive` out",
        ),
        (
            "circuit: {max_pending: 1}",
            "w.yaml:14:30: `inbound[0].upstream.circuit.max_pending`: nothing waits where connections are not limited; add `max_connections`, or leave `max_pending` out",
        ),
        (
            "circuit: {max_requests: 0}",
            "w.yaml:14:31: `inbound[0].upstream.circuit.max_requests`: `0` is out of range; expected a whole number from 1 to 1000000",
        ),
        (
            "retries: {attempts: 1}",
            "w.yaml:14:27: `inbound[0].upstream.retries.attempts`: `1` is out of range; expected a whole number from 2 to 10",
        ),
        (
            "retries: {on: [500]}",
            "w.yaml:14:22: `inbound[0].upstream.retries.on[0]`: `500` is not known here; ",
        ),
        (
            "retries: {on: []}",
            "w.yaml:14:17: `inbound[0].upstream.retries.on`: the list is empty; name at least one condition",
        ),
        (
            "retries: {on: [502, 502]}",
            "w.yaml:14:27: `inbound[0].upstream.retries.on[1]`: this condition is in the list already; keep one of the two",
        ),
        (
            "retries: {buffer: 2MiB}",
            "w.yaml:14:25: `inbound[0].upstream.retries.buffer`: `2MiB` is out of range; ",
        ),
        (
            "health_check: {}",
            "w.yaml:14:7: the key `path` is missing in `inbound[0].upstream.health_check`",
        ),
        (
            "health_check: {path: healthz}",
            "w.yaml:14:28: `inbound[0].upstream.health_check.path`: `healthz` is not a path; expected a path, such as `/healthz`",
        ),
        (
            "balance: random",
            "w.yaml:14:16: `inbound[0].upstream.balance`: `random` is not known here; expected one of: round_robin, least_requests",
        ),
        (
            "outlier: {max_ejected_percent: 101}",
            "w.yaml:14:38: `inbound[0].upstream.outlier.max_ejected_percent`: `101` is out of range; expected a whole number from 0 to 100",
        ),
    ];
    for (keys, expected) in table {
        let told = errors(&upstream_with(keys)).join("\n");
        assert!(
            told.contains(expected),
            "expected {expected}\ntold     {told}"
        );
    }
}
