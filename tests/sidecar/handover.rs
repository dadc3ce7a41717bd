//! A new process takes the place of a running one: nobody who calls can tell.

use std::net::SocketAddr;

use serde_json::Value;

use crate::support::client;
use crate::support::load::{self, Target};
use crate::support::process::{Process, wayleave};
use crate::support::setup::{POLICY, Setup, Sidecar, message};
use crate::support::tool;
use crate::support::upstream::{Speaks, Upstream};
use crate::support::{eventually, within};

/// A sidecar that hands over, with the workload `app` behind it.
async fn start(upstream: &Upstream, more: &str) -> Sidecar {
    let mut setup = Setup::new(upstream.address);
    let keys =
        format!("runtime: {{ hand_over: hand-over.sock }}\nlog: {{ decisions: off }}\n{more}");
    setup.keys.push(keys.leak());
    setup.start().await
}

/// Another process with the same file.
fn successor(sidecar: &Sidecar) -> Process {
    let config = sidecar.setup.path("wayleave.yaml");
    Process::start(wayleave().arg("run").arg("--config").arg(config))
}

async fn until_it_serves(process: &Process) {
    process
        .stderr
        .json("ready", |line| message(line) == Some("ready"))
        .await;
}

/// Which process answers at the admin listener, by the moment of its start.
async fn started(sidecar: &Sidecar) -> String {
    let status = sidecar.admin_get("/status").await.unwrap().json();
    status["started"].as_str().unwrap().to_owned()
}

async fn under_way(upstream: &Upstream) {
    let before = upstream.seen().len();
    eventually("calls to be under way", || async {
        (upstream.seen().len() > before + 40).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_new_process_takes_over_and_no_connection_is_refused_or_reset() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let mut sidecar = start(&upstream, "").await;
    let target = Target::of(&sidecar);
    let first = started(&sidecar).await;
    let mut latest = None;
    let done = load::until_with_new_connections(&target, async {
        for _ in 0..4 {
            under_way(&upstream).await;
            let next = successor(&sidecar);
            until_it_serves(&next).await;
            under_way(&upstream).await;
            match latest.replace(next) {
                None => assert_eq!(sidecar.process.ended().await.code(), Some(0)),
                Some(mut before) => assert_eq!(before.ended().await.code(), Some(0)),
            }
        }
    })
    .await;
    assert!(done.connections > 20, "{done:?}");
    // The admin listener went along.
    assert_ne!(started(&sidecar).await, first);
    let mut latest: Process = latest.unwrap();
    latest.signal("TERM").await;
    assert_eq!(latest.ended().await.code(), Some(0));
    assert!(!sidecar.setup.path("hand-over.sock").exists());
}

#[tokio::test]
async fn calls_in_flight_finish_in_the_process_that_they_came_to() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let mut sidecar = start(&upstream, "drain_timeout: 1h").await;
    let mut http1 = sidecar.http1("frontend").await;
    let held = tokio::spawn(async move { http1.send(client::get("/held")).await });
    eventually("the call to be in flight", || async {
        (upstream.seen().len() == 1).then_some(())
    })
    .await;
    let next = successor(&sidecar);
    until_it_serves(&next).await;
    sidecar.process.stderr.contains("draining").await;
    assert_eq!(sidecar.get("frontend", "/").await.status, 200);
    assert_eq!(sidecar.admin_get("/readyz").await.unwrap().status, 200);
    upstream.release();
    assert_eq!(held.await.unwrap().status, 200);
    assert_eq!(sidecar.process.ended().await.code(), Some(0));
    assert_eq!(sidecar.get("frontend", "/").await.status, 200);
}

#[tokio::test]
async fn a_new_process_that_cannot_serve_changes_nothing() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let mut sidecar = start(&upstream, "").await;
    let first = started(&sidecar).await;
    sidecar.setup.write_policy("permit (principal");
    let mut broken = successor(&sidecar);
    assert_eq!(broken.ended().await.code(), Some(2));
    sidecar.process.stderr.contains("going on").await;
    assert_eq!(sidecar.get("frontend", "/").await.status, 200);
    assert_eq!(started(&sidecar).await, first);
    // The next one, with mended policies, takes over from the same process.
    sidecar.setup.write_policy(POLICY);
    let next = successor(&sidecar);
    until_it_serves(&next).await;
    assert_eq!(sidecar.process.ended().await.code(), Some(0));
    assert_eq!(sidecar.get("frontend", "/").await.status, 200);
}

#[tokio::test]
async fn the_place_of_a_process_that_was_killed_is_taken_without_it() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let mut sidecar = start(&upstream, "").await;
    sidecar.process.signal("KILL").await;
    sidecar.process.ended().await;
    assert!(sidecar.setup.path("hand-over.sock").exists());
    let next = successor(&sidecar);
    let ready = next
        .stderr
        .json("ready", |line| message(line) == Some("ready"))
        .await;
    let address: SocketAddr = ready["inbound"].as_str().unwrap().parse().unwrap();
    assert_eq!(Target::at(&sidecar, address).call().await, 200);
}

#[tokio::test]
async fn who_does_not_keep_to_the_protocol_gets_no_socket_and_stops_nothing() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let sidecar = start(&upstream, "").await;
    let path = sidecar.setup.path("hand-over.sock");
    for words in [
        &b"\"serving\"\n"[..],
        b"GET / HTTP/1.1\r\n\r\n",
        b"",
        b"\"sockets_v1\"\n\"serving",
    ] {
        let mut stream = tokio::net::UnixStream::connect(&path).await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut stream, words)
            .await
            .unwrap();
        tokio::io::AsyncWriteExt::shutdown(&mut stream)
            .await
            .unwrap();
        let mut answer = Vec::new();
        let read = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut answer);
        // What it may have been sent is lost with the stream.
        let _ = within("the end of the answer", read).await;
        assert_eq!(sidecar.get("frontend", "/").await.status, 200);
    }
    let next = successor(&sidecar);
    until_it_serves(&next).await;
    assert_eq!(sidecar.get("frontend", "/").await.status, 200);
}

#[tokio::test]
async fn with_reuse_port_a_second_process_binds_beside_the_first() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let mut setup = Setup::new(upstream.address);
    setup
        .keys
        .push("runtime: { reuse_port: true }\nlog: { decisions: off }");
    let mut sidecar = setup.start().await;
    // The second process is told the ports that the first was given.
    let text = sidecar.setup.config(&sidecar.inbound.to_string());
    let text = text.replace(
        "admin: { listen: \"127.0.0.1:0\" }",
        &format!("admin: {{ listen: \"{}\" }}", sidecar.admin),
    );
    std::fs::write(sidecar.setup.path("second.yaml"), text).unwrap();
    let config = sidecar.setup.path("second.yaml");
    let target = Target::of(&sidecar);
    let mut next = None;
    let done = load::until_with_new_connections(&target, async {
        under_way(&upstream).await;
        let second = Process::start(wayleave().arg("run").arg("--config").arg(&config));
        until_it_serves(&second).await;
        under_way(&upstream).await;
        next = Some(second);
    })
    .await;
    assert!(done.connections > 4, "{done:?}");
    sidecar.process.signal("TERM").await;
    assert_eq!(sidecar.process.ended().await.code(), Some(0));
    assert_eq!(target.call().await, 200);
}

#[tokio::test]
async fn without_reuse_port_a_second_process_is_refused() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let sidecar = Setup::new(upstream.address).start().await;
    let text = sidecar.setup.config(&sidecar.inbound.to_string());
    std::fs::write(sidecar.setup.path("second.yaml"), text).unwrap();
    let mut command = wayleave();
    command
        .arg("run")
        .arg("--config")
        .arg(sidecar.setup.path("second.yaml"));
    let refused = tool::run(&mut command).await;
    assert_eq!(refused.0.status.code(), Some(2));
    assert!(
        refused.stderr().contains("the port is in use"),
        "{}",
        refused.stderr()
    );
}

#[tokio::test]
async fn a_successor_may_have_other_listeners() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let mut sidecar = start(&upstream, "").await;
    let text = sidecar.setup.config(&sidecar.inbound.to_string());
    let text = text.replace("  - name: app\n", "  - name: renamed\n")
        + &format!(
            "  - name: more\n    listen: \"127.0.0.1:0\"\n    service: app\n    upstream: {{ address: \"{}\" }}\n",
            upstream.address
        );
    std::fs::write(sidecar.setup.path("wayleave.yaml"), text).unwrap();
    let next = successor(&sidecar);
    until_it_serves(&next).await;
    assert_eq!(sidecar.process.ended().await.code(), Some(0));
    assert_eq!(sidecar.get("frontend", "/").await.status, 200);
    let status = sidecar.admin_get("/status").await.unwrap().json();
    let names: Vec<&Value> = status["listeners"]
        .as_array()
        .unwrap()
        .iter()
        .map(|l| &l["name"])
        .collect();
    assert_eq!(names, ["renamed", "more"]);
}
