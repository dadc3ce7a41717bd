//! The admin listener: what it tells, and to whom it does not.

use bytes::Bytes;
use http::Request;
use http_body_util::Full;

use crate::support::client;
use crate::support::process::wayleave;
use crate::support::setup::{Setup, Sidecar};
use crate::support::upstream::{Speaks, Upstream};
use crate::support::{eventually, tool};

async fn sidecar_after_two_calls() -> (Sidecar, Upstream) {
    let upstream = Upstream::start(Speaks::Http1).await;
    let sidecar = Setup::new(upstream.address).start().await;
    assert_eq!(sidecar.get("frontend", "/first").await.status, 200);
    assert_eq!(sidecar.get("agent", "/second").await.status, 403);
    (sidecar, upstream)
}

#[tokio::test]
async fn tells_health_readiness_and_version() {
    let (sidecar, _upstream) = sidecar_after_two_calls().await;
    assert_eq!(sidecar.admin_get("/healthz").await.unwrap().status, 200);
    assert_eq!(sidecar.admin_get("/readyz").await.unwrap().status, 200);
    let version = sidecar.admin_get("/version").await.unwrap().json();
    assert_eq!(version["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(
        sidecar.admin_get("/nothing-here").await.unwrap().status,
        404
    );
}

#[tokio::test]
async fn lists_the_latest_decisions() {
    let (sidecar, _upstream) = sidecar_after_two_calls().await;
    let decisions = eventually("two decisions", || async {
        let answer = sidecar.admin_get("/decisions").await?;
        assert_eq!(answer.header("content-type"), "application/json");
        let json = answer.json();
        let list = json
            .as_array()
            .or_else(|| json["decisions"].as_array())?
            .clone();
        (list.len() == 2).then_some(list)
    })
    .await;
    let mut told: Vec<_> = decisions
        .iter()
        .map(|decision| {
            (
                decision["resource"]["path"].as_str(),
                decision["effect"].as_str(),
            )
        })
        .collect();
    told.sort_unstable();
    assert_eq!(
        told,
        [
            (Some("/first"), Some("allow")),
            (Some("/second"), Some("deny"))
        ]
    );
}

/// Reads the Prometheus text format: every line is a comment or `name{labels} value`.
fn parse_metrics(text: &str) -> Vec<(String, f64)> {
    let samples = text
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty());
    let parse = |line: &str| {
        let (name, value) = line
            .rsplit_once(' ')
            .unwrap_or_else(|| panic!("not a sample: {line}"));
        let value = value
            .parse()
            .unwrap_or_else(|_| panic!("not a number: {line}"));
        (name.to_owned(), value)
    };
    samples.map(parse).collect()
}

#[tokio::test]
async fn metrics_count_what_happened_and_name_no_caller() {
    let (sidecar, _upstream) = sidecar_after_two_calls().await;
    let text = eventually("both calls to be counted", || async {
        let answer = sidecar.admin_get("/metrics").await?;
        assert!(answer.header("content-type").contains("text"), "{answer:?}");
        let text = answer.text();
        let counted = |effect: &str| {
            let label = format!("effect=\"{effect}\"");
            let of = |(name, value): &(String, f64)| {
                (name.starts_with("wayleave_decisions_total") && name.contains(&label))
                    .then_some(*value)
            };
            parse_metrics(&text).iter().find_map(of)
        };
        (counted("allow") == Some(1.0) && counted("deny") == Some(1.0)).then_some(text)
    })
    .await;
    assert!(
        text.contains("http_server_request_duration_seconds_bucket"),
        "{text}"
    );
    for secret in ["spiffe://", "/first", "/second", "frontend"] {
        assert!(!text.contains(secret), "{secret} is in the metrics");
    }
}

async fn ask(sidecar: &Sidecar, method: &str, host: &str, extra: Option<(&str, &str)>) -> u16 {
    let mut request = Request::builder()
        .method(method)
        .uri("/decisions")
        .header("host", host);
    if let Some((name, value)) = extra {
        request = request.header(name, value);
    }
    let request = request.body(Full::<Bytes>::default()).unwrap();
    client::plain(sidecar.admin, request)
        .await
        .unwrap()
        .status
        .as_u16()
}

#[tokio::test]
async fn refuses_a_browser_that_was_led_here_by_another_site() {
    let (sidecar, _upstream) = sidecar_after_two_calls().await;
    let own = sidecar.admin.to_string();
    let port = sidecar.admin.port();
    for host in [
        own.clone(),
        format!("localhost:{port}"),
        format!("127.0.0.1:{port}"),
    ] {
        assert_eq!(ask(&sidecar, "GET", &host, None).await, 200, "{host}");
    }
    for host in [
        "attacker.example",
        &format!("attacker.example:{port}"),
        "localhost.attacker.example",
    ] {
        let status = ask(&sidecar, "GET", host, None).await;
        assert!((400..500).contains(&status), "Host {host} got {status}");
    }
    let origin = Some(("origin", "https://attacker.example"));
    let status = ask(&sidecar, "GET", &own, origin).await;
    assert!(
        (400..500).contains(&status),
        "a foreign Origin got {status}"
    );
}

#[tokio::test]
async fn is_read_only() {
    let (sidecar, _upstream) = sidecar_after_two_calls().await;
    let own = sidecar.admin.to_string();
    for method in ["POST", "PUT", "DELETE"] {
        assert_eq!(ask(&sidecar, method, &own, None).await, 405, "{method}");
    }
}

#[tokio::test]
async fn the_ready_command_tells_by_its_exit_status() {
    let (mut sidecar, _upstream) = sidecar_after_two_calls().await;
    let admin = sidecar.admin.to_string();
    let ask = || async {
        tool::run(wayleave().args(["ready", "--admin", &admin]))
            .await
            .0
            .status
            .code()
    };
    assert_eq!(ask().await, Some(0));
    sidecar.process.signal("TERM").await;
    sidecar.process.ended().await;
    assert_eq!(ask().await, Some(1));
}
