//! A new configuration file changes where calls go out to, and what is never called.

use std::net::{SocketAddr, TcpListener};

use serde_json::Value;

use super::forward_proxy::{anywhere, get, reason, started};
use crate::support::client::status_of;
use crate::support::eventually;
use crate::support::mesh::outbound;
use crate::support::setup::Sidecar;
use crate::support::upstream::{Speaks, Upstream};

/// Puts a file in the place of the one in force, with `old` replaced in it.
fn replace(sidecar: &Sidecar, old: &str, new: &str) {
    let path = sidecar.setup.path("wayleave.yaml");
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains(old), "no `{old}` in {text}");
    let next = sidecar.setup.path("new.yaml");
    std::fs::write(&next, text.replace(old, new)).unwrap();
    std::fs::rename(next, path).unwrap();
}

async fn config(sidecar: &Sidecar) -> Value {
    let status = sidecar.admin_get("/status").await.unwrap();
    status.json()["config"].clone()
}

/// Replaces something in the file, and waits until that is in force.
async fn reload(sidecar: &Sidecar, old: &str, new: &str) {
    let before = config(sidecar).await["revision"].clone();
    replace(sidecar, old, new);
    eventually("the new configuration", || async {
        (config(sidecar).await["revision"] != before).then_some(())
    })
    .await;
}

fn free_port() -> SocketAddr {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    socket.local_addr().unwrap()
}

#[tokio::test]
async fn a_changed_destination_is_found_by_its_new_host_alone() {
    let (old, new) = (
        Upstream::start(Speaks::Http1).await,
        Upstream::start(Speaks::Http1).await,
    );
    let shop = |host: &str, at: SocketAddr| {
        format!("{{ service: shop, hosts: [{host}], upstream: {{ address: \"{at}\" }} }}")
    };
    let before = shop("old.example", old.address);
    let (caller, out) = started(&before).await;
    assert_eq!(status_of(&get(out, "http://old.example/").await), 200);
    reload(&caller, &before, &shop("new.example", new.address)).await;
    assert_eq!(status_of(&get(out, "http://new.example/").await), 200);
    let gone = get(out, "http://old.example/").await;
    assert_eq!(reason(&gone), "destination_unknown");
    assert_eq!((old.seen().len(), new.seen().len()), (1, 1));
    let status = caller.admin_get("/status").await.unwrap().json();
    assert_eq!(status["destinations"][0]["hosts"][0], "new.example");
    let endpoints = status["listeners"].as_array().unwrap().iter();
    let mut endpoints = endpoints.flat_map(|one| one["endpoints"].as_array().unwrap());
    assert!(endpoints.any(|one| one["address"] == new.address.to_string()));
}

#[tokio::test]
async fn never_calls_a_listener_that_a_reload_has_opened() {
    let (caller, out) = anywhere("loopback").await;
    let port = free_port();
    let url = format!("http://{port}/");
    assert_eq!(reason(&get(out, &url).await), "upstream_unreachable");
    let (one, two) = (
        "outbound: [",
        format!("outbound: [{{ name: late, listen: \"{port}\", kind: forward_proxy }}, "),
    );
    reload(&caller, one, &two).await;
    assert_eq!(outbound(&caller, "proxy").await, out);
    assert_eq!(reason(&get(out, &url).await), "address_refused");
    assert_eq!(status_of(&get(port, &url).await), 403);
    reload(&caller, &two, one).await;
    eventually(
        "the listener to be gone, and its address anybody's",
        || async { (reason(&get(out, &url).await) == "upstream_unreachable").then_some(()) },
    )
    .await;
}

#[tokio::test]
async fn authorities_that_cannot_be_read_refuse_the_whole_change() {
    let app = Upstream::start(Speaks::Http1).await;
    let upstream = format!("upstream: {{ address: \"{}\" }}", app.address);
    let shop = format!("{{ service: shop, hosts: [shop.example], {upstream} }}");
    let (caller, out) = started(&shop).await;
    let secured = upstream.replace(" }", ", tls: { roots: nowhere.pem } }");
    replace(&caller, &upstream, &secured);
    let failed = eventually("the failed load to be told", || async {
        let failed = config(&caller).await["failed_load"].clone();
        (!failed.is_null()).then_some(failed)
    })
    .await;
    let problem = failed["problems"][0].as_str().unwrap();
    assert!(problem.contains("`proxy`"), "{problem}");
    assert!(problem.contains("nowhere.pem"), "{problem}");
    assert_eq!(status_of(&get(out, "http://shop.example/").await), 200);
}
