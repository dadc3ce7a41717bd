//! Connections that iptables redirects to the sidecar, in a network namespace, by the rules of the
//! init container in examples/kubernetes.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsConnector;

use crate::support::client;
use crate::support::mesh::beside;
use crate::support::netns::{HERE, HERE_V6, Namespace, POD, THERE};
use crate::support::pki::{Ca, Credentials, Leaf, workload};
use crate::support::process::Process;
use crate::support::setup::{POLICY, Setup, message};
use crate::support::tool;
use crate::support::upstream::{Speaks, Upstream};
use crate::support::web::{Version, WebCa, WebHost};
use crate::support::within;

const MANIFEST: &str = include_str!("../../../examples/kubernetes/workload.yaml");

/// The script of the init container, as it is written in the manifest.
fn script() -> String {
    let (_, rest) = MANIFEST
        .split_once("            - -euc\n            - |\n")
        .unwrap();
    let lines = rest
        .lines()
        .take_while(|line| line.starts_with("              "));
    lines
        .map(|line| format!("{}\n", line.trim_start()))
        .collect()
}

struct Pod {
    namespace: Namespace,
    process: Process,
    setup: Setup,
}

impl Pod {
    /// A workload that is redirected, its sidecar, and what the sidecar may call.
    async fn start(destinations: &str) -> Option<Self> {
        Self::start_with(destinations, None).await
    }

    async fn start_with(destinations: &str, roots: Option<&str>) -> Option<Self> {
        let namespace = Namespace::start().await?;
        let environment =
            "PROXY_UID=0 OUTBOUND_PORT=15001 INBOUND_PORT=15006 APPLICATION_PORTS=8080";
        let environment = environment.replace(' ', "\n");
        namespace.run(&format!("{environment}\n{}", script())).await;
        let keys = format!(
            "outbound: [{{ name: out, listen: \"127.0.0.1:15001\", kind: transparent }},\
                         {{ name: out-v6, listen: \"[::1]:15001\", kind: transparent }}]\n\
             destinations: [{destinations}]"
        );
        let mut setup = beside(&Ca::new(), "frontend", &keys);
        // The authority of its own callers, too.
        let issued = setup.ca.issue(&Leaf::local(&workload("frontend")));
        Credentials::write(&setup.path("own"), &issued, &setup.ca.pem());
        setup.upstream = "127.0.0.1:8080".to_owned();
        if let Some(roots) = roots {
            std::fs::write(setup.path("roots.pem"), roots).unwrap();
        }
        let config = setup.path("wayleave.yaml");
        std::fs::write(&config, setup.config("0.0.0.0:15006")).unwrap();
        let mut command = namespace.command(env!("CARGO_BIN_EXE_wayleave"));
        let process = Process::start(command.arg("run").arg("--config").arg(config));
        let ready = |line: &Value| message(line) == Some("ready");
        process.stderr.json("readiness", ready).await;
        Some(Self {
            namespace,
            process,
            setup,
        })
    }

    /// What the workload's curl is told.
    async fn curl(&self, arguments: &[&str]) -> String {
        let mut curl = self.namespace.workload("curl");
        curl.args(["-sS", "-i", "--max-time", "20"]).args(arguments);
        tool::run(&mut curl).await.stdout()
    }

    /// What the workload is told on a connection by which it says `word`.
    async fn say(&self, address: &str, port: u16, word: &str) -> String {
        let script = format!("exec 3<>/dev/tcp/{address}/{port}; printf '{word}' >&3; cat <&3");
        let mut bash = self.namespace.workload("timeout");
        tool::run(bash.args(["20", "bash", "-c", &script]))
            .await
            .stdout()
    }

    async fn record(&self, accept: impl Fn(&Value) -> bool) -> Value {
        let decision = |line: &Value| line["kind"] == "decision" && accept(line);
        self.process
            .stdout
            .json("the decision record", decision)
            .await
    }
}

/// Answers every connection with a greeting, once it has heard so many bytes.
fn greeter(listener: TcpListener, bytes: usize) -> Arc<AtomicUsize> {
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&connections);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                let mut heard = vec![0; bytes];
                let _ = stream.read_exact(&mut heard).await;
                let _ = stream.write_all(&[b"heard ", &heard[..]].concat()).await;
                let _ = stream.shutdown().await;
            });
        }
    });
    connections
}

fn resolve(name: &str, address: &str) -> String {
    format!("{name}:80:{address}")
}

#[tokio::test]
async fn redirected_http_goes_where_its_host_says_and_nowhere_else() {
    let shop = format!(
        "{{ service: shop, hosts: [shop.example], upstream: {{ address: \"{HERE}:80\" }} }}"
    );
    let Some(pod) = Pod::start(&shop).await else {
        return;
    };
    let here = pod.namespace.listen(HERE, 80);
    let there = pod.namespace.listen(THERE, 80);
    let (here, there) = (
        Upstream::on(here, Speaks::Http1),
        Upstream::on(there, Speaks::Http1),
    );

    let told = pod
        .curl(&[
            "--resolve",
            &resolve("shop.example", HERE),
            "http://shop.example/a",
        ])
        .await;
    assert!(told.starts_with("HTTP/1.1 200"), "{told}");
    let record = pod.record(|_| true).await;
    assert_eq!(record["principal"], workload("frontend"));
    assert_eq!(record["direction"], "outbound");
    assert_eq!(record["resource"]["service"], "shop");
    assert_eq!(record["resource"]["host"], "shop.example");
    assert_eq!(record["resource"]["port"], 80);

    // A name that is allowed does not open the way to an address that is not its own.
    let host = "Host: shop.example";
    let told = pod.curl(&["-H", host, &format!("http://{THERE}/b")]).await;
    assert!(told.starts_with("HTTP/1.1 200"), "{told}");
    let told = pod
        .curl(&[
            "--http2-prior-knowledge",
            "-H",
            host,
            &format!("http://{THERE}/c"),
        ])
        .await;
    assert!(told.starts_with("HTTP/2 200"), "{told}");
    let told = pod
        .curl(&["-H", host, &format!("http://{THERE}/forbidden")])
        .await;
    assert!(told.contains("policy_deny"), "{told}");
    let told = pod.curl(&[&format!("http://{THERE}/d")]).await;
    assert!(told.starts_with("HTTP/1.1 403"), "{told}");
    assert!(told.contains("destination_unknown"), "{told}");
    let targets: Vec<_> = here.seen().into_iter().map(|seen| seen.target).collect();
    assert_eq!(targets, ["/a", "/b", "/c"]);
    there.assert_untouched();
}

#[tokio::test]
async fn redirected_bytes_are_decided_by_the_address_that_they_were_going_to() {
    let destinations = format!(
        "{{ service: shop, hosts: [shop.example], upstream: {{ addresses: [\"{HERE}:5432\", \"{HERE}:25\"] }} }},\
         {{ service: vault, upstream: {{ address: \"{HERE}:9999\" }} }}"
    );
    let Some(pod) = Pod::start(&destinations).await else {
        return;
    };
    let database = greeter(pod.namespace.listen(HERE, 5432), 5);
    let vault = greeter(pod.namespace.listen(HERE, 9999), 5);
    let stranger = greeter(pod.namespace.listen(THERE, 5432), 5);

    assert_eq!(pod.say(HERE, 5432, "query").await, "heard query");
    let record = pod.record(|line| line["resource"]["port"] == 5432).await;
    assert_eq!(record["action"], "tcp:connect");
    assert_eq!(record["resource"]["service"], "shop");
    assert_eq!(record["resource"]["host"], HERE);
    assert_eq!(record["failure"], Value::Null);
    // Known and not permitted; not known at all.
    assert_eq!(pod.say(HERE, 9999, "query").await, "");
    let record = pod.record(|line| line["resource"]["port"] == 9999).await;
    assert_eq!(record["reason_code"], "no_matching_policy");
    assert_eq!(pod.say(THERE, 5432, "query").await, "");
    let record = pod.record(|line| line["resource"]["host"] == THERE).await;
    assert_eq!(record["reason_code"], "destination_unknown");
    assert_eq!(record["effect"], "deny");
    assert_eq!(database.load(Ordering::SeqCst), 1);
    assert_eq!(
        vault.load(Ordering::SeqCst) + stranger.load(Ordering::SeqCst),
        0
    );
}

#[tokio::test]
async fn a_server_that_speaks_first_is_reached_too() {
    let mail =
        format!("{{ service: shop, hosts: [mail], upstream: {{ address: \"{HERE}:25\" }} }}");
    let Some(pod) = Pod::start(&mail).await else {
        return;
    };
    greeter(pod.namespace.listen(HERE, 25), 0);
    assert_eq!(pod.say(HERE, 25, "").await, "heard ");
}

#[tokio::test]
async fn what_is_for_no_destination_goes_where_it_was_going_where_that_is_allowed() {
    let all = "{ service: shop, hosts: [\"*\"], upstream: { original: true } }";
    let Some(pod) = Pod::start(all).await else {
        return;
    };
    let web = pod.namespace.listen(THERE, 80);
    let web = Upstream::on(web, Speaks::Http1);
    greeter(pod.namespace.listen(THERE, 7000), 5);
    let told = pod.curl(&[&format!("http://{THERE}/a")]).await;
    assert!(told.starts_with("HTTP/1.1 200"), "{told}");
    assert_eq!(web.only().target, "/a");
    assert_eq!(pod.say(THERE, 7000, "hello").await, "heard hello");
    let record = pod.record(|line| line["resource"]["port"] == 7000).await;
    assert_eq!(record["resource"]["host"], THERE);
    // By its Host it would be on loopback, wherever the connection was going.
    let told = pod
        .curl(&["-H", "Host: localhost", &format!("http://{THERE}/b")])
        .await;
    assert!(told.contains("address_refused"), "{told}");
}

#[tokio::test]
async fn closes_what_would_come_back_to_the_sidecar_itself() {
    let all = "{ service: shop, hosts: [\"*\"], upstream: { original: true, allow_addresses: [loopback] } }";
    let Some(pod) = Pod::start(all).await else {
        return;
    };
    // Not redirected at all: the listener itself was called.
    assert_eq!(pod.curl(&["http://127.0.0.1:15001/"]).await, "");
    let record = pod.record(|_| true).await;
    let reason = record["reason_code"].as_str().unwrap().to_owned();
    assert!(
        ["not_redirected", "redirect_loop"].contains(&&*reason),
        "{record}"
    );
    // Redirected on its way to the sidecar's inbound listener, by rules that spare too little.
    let rule =
        format!("iptables -w -t nat -I WAYLEAVE_OUT -p tcp -d {POD} -j REDIRECT --to-ports 15001");
    pod.namespace.run(&rule).await;
    assert_eq!(pod.curl(&[&format!("http://{POD}:15006/")]).await, "");
    pod.process
        .stdout
        .json("the second record", |line| {
            line["kind"] == "decision"
                && line["reason_code"] == "redirect_loop"
                && line["effect"] == "deny"
        })
        .await;
    pod.process.stderr.contains("redirect_loop").await;
}

#[tokio::test]
async fn tls_goes_where_its_server_name_leads_and_nowhere_else() {
    let destinations = format!(
        "{{ service: shop, hosts: [api.example], upstream: {{ address: \"{HERE}:443\", tls: {{ roots: roots.pem }} }} }},\
         {{ service: vault, hosts: [vault.example], upstream: {{ address: \"{HERE}:443\" }} }}"
    );
    let ca = WebCa::new();
    let roots = ca.pem();
    let Some(pod) = Pod::start_with(&destinations, Some(&roots)).await else {
        return;
    };
    let app = Upstream::start(Speaks::Http1).await;
    let config = || {
        let mut config = ca.server("api.example", time::Duration::hours(-1), Version::Tls13);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config
    };
    let here = WebHost::on(pod.namespace.listen(HERE, 443), config(), app.address);
    let there = WebHost::on(pod.namespace.listen(THERE, 443), config(), app.address);
    std::fs::set_permissions(pod.setup.directory.path(), Permissions::from_mode(0o755)).unwrap();
    let roots = pod.setup.path("roots.pem");
    let curl = async |name: &str, address: &str| {
        let resolve = format!("{name}:443:{address}");
        let url = format!("https://{name}/a");
        pod.curl(&[
            "--cacert",
            roots.to_str().unwrap(),
            "--resolve",
            &resolve,
            &url,
        ])
        .await
    };
    let told = curl("api.example", HERE).await;
    assert!(told.starts_with("HTTP/1.1 200"), "{told}");
    let record = pod.record(|_| true).await;
    assert_eq!(record["action"], "tcp:connect");
    assert_eq!(record["resource"]["service"], "shop");
    assert_eq!(record["resource"]["host"], "api.example");
    assert_eq!(record["resource"]["port"], 443);
    // A name that is allowed does not open the way to an address that is not its own.
    let told = curl("api.example", THERE).await;
    assert!(told.starts_with("HTTP/1.1 200"), "{told}");
    // Known and not permitted; not known.
    assert_eq!(curl("vault.example", HERE).await, "");
    assert_eq!(curl("other.example", THERE).await, "");
    let record = pod
        .record(|line| line["reason_code"] == "destination_unknown")
        .await;
    assert_eq!(record["resource"]["host"], THERE);
    assert_eq!(here.hellos().len(), 2);
    assert_eq!(there.hellos(), []);
}

#[tokio::test]
async fn ipv6_is_redirected_like_ipv4() {
    let shop = format!(
        "{{ service: shop, hosts: [shop.example], upstream: {{ address: \"[{HERE_V6}]:80\" }} }}"
    );
    let Some(pod) = Pod::start(&shop).await else {
        return;
    };
    let app = Upstream::on(pod.namespace.listen(HERE_V6, 80), Speaks::Http1);
    let told = pod
        .curl(&["-H", "Host: shop.example", &format!("http://[{HERE_V6}]/a")])
        .await;
    assert!(told.starts_with("HTTP/1.1 200"), "{told}");
    let told = pod.curl(&[&format!("http://[{HERE_V6}]/b")]).await;
    assert!(told.contains("destination_unknown"), "{told}");
    assert_eq!(app.only().target, "/a");
}

#[tokio::test]
async fn callers_of_the_applications_port_meet_mutual_tls() {
    let shop = "{ service: shop, hosts: [shop], upstream: { address: \"shop:1\" } }";
    let Some(pod) = Pod::start(shop).await else {
        return;
    };
    pod.setup.write_policy(POLICY);
    let reloaded =
        |line: &Value| message(line) == Some("policies in force") && line["policies"] == 1;
    pod.process.stderr.json("the policy", reloaded).await;
    let app = pod
        .namespace
        .listen_in_pod("127.0.0.1:8080".parse().unwrap());
    let app = Upstream::on(app, Speaks::Http1);
    let address = format!("{POD}:8080").parse().unwrap();

    let mut plain = pod.namespace.connect(address);
    let request = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    plain.write_all(request).await.unwrap();
    let mut told = Vec::new();
    let _ = within("the end", plain.read_to_end(&mut told)).await;
    let told = String::from_utf8_lossy(&told);
    assert!(told.contains("\"reason_code\":\"plaintext\""), "{told}");
    app.assert_untouched();

    let (credentials, bundle) = (pod.setup.caller("frontend"), pod.setup.ca.pem());
    let config = client::tls(Some(&credentials), bundle.as_bytes(), &["http/1.1"]);
    let name = "localhost".try_into().unwrap();
    let stream = pod.namespace.connect(address);
    let stream = TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
        .unwrap();
    let answer = client::Http1::over(stream)
        .await
        .send(client::get("/a"))
        .await;
    assert_eq!(answer.status, 200);
    assert_eq!(app.only().target, "/a");
}

#[test]
fn the_manifest_has_a_native_sidecar_and_a_configuration_that_loads() {
    let parts: Vec<&str> = MANIFEST.split("\n---\n").collect();
    assert_eq!(parts.len(), 2);
    let parse = |text: &str| -> Value { serde_saphyr::from_str(text).unwrap() };
    let (config, deployment) = (parse(parts[0]), parse(parts[1]));
    let text = config["data"]["wayleave.yaml"].as_str().unwrap();
    let path = std::path::Path::new("/etc/wayleave");
    let parsed = wayleave_proxy::config::parse("workload.yaml", text, path).unwrap();
    assert_eq!(parsed.outbound.len(), 2);
    let policies = wayleave_authz::PolicyFile {
        name: "policies.cedar".to_owned(),
        text: config["data"]["policies.cedar"]
            .as_str()
            .unwrap()
            .to_owned(),
    };
    let inputs = wayleave_authz::Inputs {
        policies: vec![policies],
    };
    wayleave_authz::Engine::load(&inputs).unwrap();
    let containers = &deployment["spec"]["template"]["spec"]["initContainers"];
    assert_eq!(containers[0]["env"][0]["value"], "65532");
    let sidecar = &containers[1];
    assert_eq!(sidecar["restartPolicy"], "Always");
    assert_eq!(sidecar["securityContext"]["runAsUser"], 65532);
    assert_eq!(sidecar["startupProbe"]["httpGet"]["path"], "/readyz");
}
