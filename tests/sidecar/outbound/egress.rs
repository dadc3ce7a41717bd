//! Destinations that are hosts of the web: the workload speaks plain HTTP to its sidecar, which
//! decides on every request and originates TLS.

use http::Request;
use http_body_util::Full;
use time::Duration;
use tokio::process::Command;

use crate::support::client::{Answer, plain};
use crate::support::eventually;
use crate::support::mesh::{beside, outbound, proxy, to_shop};
use crate::support::pki::Ca;
use crate::support::process::wayleave;
use crate::support::setup::{Setup, Sidecar};
use crate::support::tool;
use crate::support::upstream::{Speaks, Upstream};
use crate::support::web::{Version, WebCa, WebHost};

const VALID: Duration = Duration::hours(-1);

/// A sidecar whose destination is `localhost`, proved by the authority in `roots.pem`.
fn setup(host: &WebHost, roots: &WebCa, more: &str, protocol: &str) -> Setup {
    let upstream = format!(
        "{{ address: \"localhost:{}\", protocol: {protocol}, tls: {{ roots: roots.pem{more} }} }}",
        host.address.port()
    );
    let setup = beside(&Ca::new(), "frontend", &to_shop("", &upstream));
    std::fs::write(setup.path("roots.pem"), roots.pem()).unwrap();
    setup
}

async fn call(caller: &Sidecar, path: &str) -> Answer {
    let request = Request::post(path).header("host", "api.example");
    let request = request.body(Full::from("prompt")).unwrap();
    plain(outbound(caller, "out").await, request).await.unwrap()
}

#[tokio::test]
async fn policy_sees_what_goes_out_by_tls() {
    let (app, ca) = (Upstream::start(Speaks::Http1).await, WebCa::new());
    for version in [Version::Tls13, Version::Tls12] {
        let host = WebHost::start(ca.server("localhost", VALID, version), app.address).await;
        let caller = setup(&host, &ca, "", "http1").start().await;
        assert_eq!(
            call(&caller, "/v1/models?a=b").await.status,
            200,
            "{version:?}"
        );
        let denied = call(&caller, "/forbidden/files").await;
        assert_eq!(denied.json()["reason_code"], "policy_deny");
        let hellos = host.hellos();
        assert_eq!(hellos.len(), 1, "{hellos:?}");
        assert_eq!(hellos[0].name.as_deref(), Some("localhost"));
        assert_eq!(hellos[0].alpn, ["http/1.1"]);
        let record = caller.record(|line| line["effect"] == "allow").await;
        assert_eq!(record["action"], "http:post");
        assert_eq!(record["resource"]["path"], "/v1/models");
        assert_eq!(record["resource"]["port"], host.address.port());
    }
    let seen = app.seen();
    assert_eq!(seen.len(), 2);
    assert_eq!(seen[0].target, "/v1/models?a=b");
    assert_eq!(seen[0].body, "prompt");
    assert_eq!(seen[0].values("host"), ["api.example"]);
}

#[tokio::test]
async fn http_2_is_spoken_where_the_configuration_says_so() {
    let (app, ca) = (Upstream::start(Speaks::Http2).await, WebCa::new());
    let config = ca.server("localhost", VALID, Version::Tls13);
    let host = WebHost::start(config, app.address).await;
    let caller = setup(&host, &ca, "", "http2").start().await;
    assert_eq!(call(&caller, "/v1").await.status, 200);
    assert_eq!(host.hellos()[0].alpn, ["h2"]);
    assert_eq!(app.only().version, http::Version::HTTP_2);
}

#[tokio::test]
async fn a_server_name_of_its_own_is_sent_and_verified() {
    let (app, ca) = (Upstream::start(Speaks::Http1).await, WebCa::new());
    let config = ca.server("api.example", VALID, Version::Tls13);
    let host = WebHost::start(config, app.address).await;
    let caller = setup(&host, &ca, ", server_name: Api.Example", "http1")
        .start()
        .await;
    assert_eq!(call(&caller, "/v1").await.status, 200);
    assert_eq!(host.hellos()[0].name.as_deref(), Some("api.example"));
}

/// A host that must not be believed: refused, on record, and nothing is sent to it.
async fn refuses(host: WebHost, roots: &WebCa, app: &Upstream, words: &str) {
    let caller = setup(&host, roots, "", "http1").start().await;
    let answer = call(&caller, "/v1").await;
    assert_eq!(answer.status, 502);
    assert_eq!(answer.json()["reason_code"], "upstream_identity");
    let record = caller.record(|_| true).await;
    assert_eq!(record["failure"], "upstream_identity");
    eventually("the end of the handshake", || async {
        let hellos = host.hellos();
        (hellos.len() == 1 && !hellos[0].finished).then_some(())
    })
    .await;
    app.assert_untouched();
    let told = caller.process.stderr.contains("upstream refused").await;
    assert!(told.contains(words), "no `{words}` in {told}");
}

#[tokio::test]
async fn rejects_a_host_with_the_certificate_of_another() {
    let (app, ca) = (Upstream::start(Speaks::Http1).await, WebCa::new());
    let config = ca.server("other.example", VALID, Version::Tls13);
    let host = WebHost::start(config, app.address).await;
    refuses(host, &ca, &app, "other.example").await;
}

#[tokio::test]
async fn rejects_a_host_whose_certificate_has_expired() {
    let (app, ca) = (Upstream::start(Speaks::Http1).await, WebCa::new());
    let config = ca.server("localhost", Duration::hours(1), Version::Tls13);
    let host = WebHost::start(config, app.address).await;
    refuses(host, &ca, &app, "expired").await;
}

#[tokio::test]
async fn rejects_a_host_of_an_authority_that_is_not_configured() {
    let (app, ca) = (Upstream::start(Speaks::Http1).await, WebCa::new());
    let config = WebCa::new().server("localhost", VALID, Version::Tls12);
    let host = WebHost::start(config, app.address).await;
    refuses(host, &ca, &app, "invalid peer certificate").await;
}

#[tokio::test]
async fn curl_speaks_its_own_tls_through_connect() {
    let (app, ca) = (Upstream::start(Speaks::Http1).await, WebCa::new());
    let mut config = ca.server("api.example", VALID, Version::Tls13);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let host = WebHost::start(config, app.address).await;
    let destination = format!(
        "{{ service: shop, hosts: [api.example], ports: [443], \
           upstream: {{ address: \"{}\", tls: {{ roots: roots.pem, server_name: api.example }} }} }}",
        host.address
    );
    let setup = beside(&Ca::new(), "frontend", &proxy(&destination));
    let roots = setup.path("roots.pem");
    std::fs::write(&roots, ca.pem()).unwrap();
    let caller = setup.start().await;
    let out = format!("http://{}", outbound(&caller, "proxy").await);
    let curl = || {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "-i", "-x", &out, "--noproxy", "", "--cacert"])
            .arg(&roots);
        curl
    };
    let told = tool::run(curl().arg("https://api.example/a"))
        .await
        .successful();
    assert!(
        told.stdout().contains("HTTP/1.1 200 OK"),
        "{}",
        told.stdout()
    );
    let tunnel = caller.record(|_| true).await;
    assert_eq!(tunnel["action"], "tcp:connect");
    assert_eq!(tunnel["resource"]["port"], 443);
    // Port 80 is no port of this destination, so it is not called without TLS either.
    let told = tool::run(curl().arg("http://api.example/b"))
        .await
        .successful();
    assert!(
        told.stdout().contains("destination_unknown"),
        "{}",
        told.stdout()
    );
    let targets: Vec<_> = app.seen().into_iter().map(|seen| seen.target).collect();
    assert_eq!(targets, ["/a"]);
}

#[tokio::test]
async fn authorities_that_cannot_be_read_are_told_before_anything_runs() {
    let upstream = "{ address: \"a:443\", tls: { roots: nowhere.pem } }";
    let setup = beside(&Ca::new(), "frontend", &to_shop("", upstream));
    let config = setup.write_config();
    for command in ["check", "run"] {
        let told = tool::run(wayleave().arg(command).arg("--config").arg(&config)).await;
        assert_eq!(told.0.status.code(), Some(2), "{command}");
        assert!(
            told.stderr().contains("nowhere.pem"),
            "{command}: {}",
            told.stderr()
        );
    }
    std::fs::write(setup.path("nowhere.pem"), "no certificate").unwrap();
    let told = tool::run(wayleave().arg("check").arg("--config").arg(&config)).await;
    assert_eq!(told.0.status.code(), Some(2));
    assert!(
        told.stderr().contains("`tls.roots` cannot be used"),
        "{}",
        told.stderr()
    );
}
