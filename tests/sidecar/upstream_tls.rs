//! Mutual TLS towards an upstream: a kept connection is used no longer than its peer would be
//! accepted anew, and what was agreed on is what is configured.

use std::path::Path;

use crate::support::client;
use crate::support::eventually;
use crate::support::pki::{Leaf, workload};
use crate::support::service::{How, Service, say};
use crate::support::setup::{Setup, Sidecar};

const MUTUAL: &str = "tls: { peer: \"spiffe://test.example/ns/default/sa/orders\" }";

/// A sidecar whose upstream is the workload of `leaf`.
async fn before(how: How, leaf: &Leaf, alpn: &[&str], keys: &[&'static str]) -> (Sidecar, Service) {
    let mut setup = Setup::new("127.0.0.1:9");
    setup.identity = "files:\n  svid: own/svid.pem\n  key: own/key.pem\n  \
                      bundle: own/bundle.pem\n  revocation_lists: [revoked.pem]"
        .to_owned();
    replace(
        &setup.path("revoked.pem"),
        &setup.ca.revocation_list(1, &[]),
    );
    let how = how.secured(&setup.ca, leaf, alpn);
    let service = Service::start(how, |_| async { say(200, "ok") }).await;
    setup.upstream = service.address.clone();
    setup.upstream_keys.push(MUTUAL);
    setup.upstream_keys.extend(keys);
    (setup.start().await, service)
}

fn orders() -> Leaf {
    Leaf::local(&workload("orders"))
}

fn replace(path: &Path, content: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, content).unwrap();
    std::fs::rename(new, path).unwrap();
}

/// How each protocol is asked for.
fn protocols() -> [(How, [&'static str; 1], [&'static str; 1]); 2] {
    [
        (How::http1(), ["http/1.1"], ["protocol: http1"]),
        (How::http2(), ["h2"], ["protocol: http2"]),
    ]
}

async fn until_refused(sidecar: &Sidecar) -> serde_json::Value {
    eventually("the upstream to be refused", || async {
        let answer = sidecar.get("frontend", "/").await;
        (answer.status == 502).then(|| answer.json())
    })
    .await
}

#[tokio::test]
async fn a_connection_is_used_again_while_all_is_as_it_was() {
    for (how, alpn, keys) in protocols() {
        let (sidecar, service) = before(how, &orders(), &alpn, &keys).await;
        let mut client = sidecar.http1("frontend").await;
        for _ in 0..5 {
            assert_eq!(client.send(client::get("/")).await.status, 200);
        }
        assert_eq!((service.requests(), service.connections()), (5, 1));
    }
}

#[tokio::test]
async fn a_revoked_upstream_gets_no_call_over_a_kept_connection() {
    for (how, alpn, keys) in protocols() {
        let leaf = Leaf {
            serial: Some(666),
            ..orders()
        };
        let (sidecar, service) = before(how, &leaf, &alpn, &keys).await;
        assert_eq!(sidecar.get("frontend", "/").await.status, 200);
        assert_eq!(service.open(), 1);
        let list = sidecar.setup.ca.revocation_list(2, &[666]);
        replace(&sidecar.setup.path("revoked.pem"), &list);
        // Closed by itself, without a call that would find out.
        eventually("the idle connection to close", || async {
            (service.open() == 0).then_some(())
        })
        .await;
        let requests = service.requests();
        let told = until_refused(&sidecar).await;
        assert_eq!(told["reason_code"], "upstream_identity");
        assert_eq!(
            service.requests(),
            requests,
            "a revoked workload got a call"
        );
    }
}

#[tokio::test]
async fn an_upstream_whose_svid_has_expired_gets_no_call_over_a_kept_connection() {
    for (how, alpn, keys) in protocols() {
        let leaf = Leaf {
            lifetime: Some(time::Duration::seconds(4)),
            ..orders()
        };
        let (sidecar, service) = before(how, &leaf, &alpn, &keys).await;
        let mut client = sidecar.http1("frontend").await;
        assert_eq!(client.send(client::get("/")).await.status, 200);
        // Asked all the time, so the connection is never idle for long.
        until_refused(&sidecar).await;
        let requests = service.requests();
        assert_eq!(client.send(client::get("/")).await.status, 502);
        assert_eq!(service.requests(), requests);
    }
}

#[tokio::test]
async fn our_rotated_svid_is_shown_in_a_new_handshake() {
    for (how, alpn, keys) in protocols() {
        let (sidecar, service) = before(how, &orders(), &alpn, &keys).await;
        assert_eq!(sidecar.get("frontend", "/").await.status, 200);
        let new = sidecar.setup.ca.issue(&Leaf::local(&workload("app")));
        replace(&sidecar.setup.own.key, &new.key);
        replace(&sidecar.setup.own.certificate, &new.certificate);
        eventually("the connection with the old SVID to close", || async {
            (service.open() == 0).then_some(())
        })
        .await;
        assert_eq!(sidecar.get("frontend", "/").await.status, 200);
        assert_eq!(service.connections(), 2);
    }
}

#[tokio::test]
async fn a_new_bundle_that_still_vouches_for_the_upstream_closes_nothing() {
    let (how, alpn, keys) = (How::http1(), ["http/1.1"], ["protocol: http1"]);
    let (sidecar, service) = before(how, &orders(), &alpn, &keys).await;
    assert_eq!(sidecar.get("frontend", "/").await.status, 200);
    let updates = "wayleave_identity_updates_total";
    let before = sidecar.metric(updates).await;
    let list = sidecar.setup.ca.revocation_list(2, &[1]);
    replace(&sidecar.setup.path("revoked.pem"), &list);
    eventually("the update", || async {
        (sidecar.metric(updates).await > before).then_some(())
    })
    .await;
    assert_eq!(sidecar.get("frontend", "/").await.status, 200);
    assert_eq!(service.connections(), 1);
}

#[tokio::test]
async fn another_workload_than_the_one_that_is_meant_gets_no_call() {
    let leaf = Leaf::local(&workload("impostor"));
    let (sidecar, service) = before(How::http1(), &leaf, &["http/1.1"], &[]).await;
    let answer = sidecar.get("frontend", "/").await;
    assert_eq!(answer.status, 502);
    assert_eq!(answer.json()["reason_code"], "upstream_identity");
    assert_eq!(service.requests(), 0);
}

#[tokio::test]
async fn an_upstream_that_agrees_on_another_protocol_gets_no_call() {
    for (how, alpn, keys) in [
        // Refuses by an alert, and ignores what it does not know.
        (How::http1(), &["http/1.1"][..], "protocol: http2"),
        (How::http1(), &[][..], "protocol: http2"),
        (How::http2(), &["h2"][..], "protocol: http1"),
    ] {
        let (sidecar, service) = before(how, &orders(), alpn, &[keys]).await;
        let answer = sidecar.get("frontend", "/").await;
        assert_eq!(answer.status, 502, "{alpn:?} {keys}");
        assert_eq!(
            answer.json()["reason_code"],
            "upstream_protocol",
            "{alpn:?} {keys}"
        );
        let record = sidecar.record(|record| record["status"] == 502).await;
        assert_eq!(record["failure"], "upstream_protocol");
        assert_eq!(service.requests(), 0);
    }
}

#[tokio::test]
async fn an_upstream_without_alpn_is_taken_for_http_1() {
    let (sidecar, service) = before(How::http1(), &orders(), &[], &["protocol: http1"]).await;
    assert_eq!(sidecar.get("frontend", "/").await.status, 200);
    assert_eq!(service.requests(), 1);
}

#[tokio::test]
async fn a_handshake_that_does_not_go_on_ends_in_the_time_to_connect() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut setup = Setup::new(listener.local_addr().unwrap());
    setup.upstream_keys = vec![MUTUAL, "connect_timeout: 300ms"];
    let sidecar = setup.start().await;
    let answer = sidecar.get("frontend", "/").await;
    assert_eq!(answer.status, 504);
    assert_eq!(answer.json()["reason_code"], "upstream_timeout");
}

#[tokio::test]
async fn health_checks_use_the_same_mutual_tls() {
    let keys = ["health_check: { path: /healthz, interval: 100ms, unhealthy_after: 1 }"];
    let leaf = Leaf::local(&workload("impostor"));
    let (sidecar, service) = before(How::http1(), &leaf, &["http/1.1"], &keys).await;
    eventually("the check to fail", || async {
        let endpoints = sidecar.endpoints().await;
        (endpoints[0]["health"] == "unhealthy").then_some(())
    })
    .await;
    assert_eq!(
        service.requests(),
        0,
        "an impostor was asked for its health"
    );
}
