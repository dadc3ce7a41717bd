//! A new configuration file: checked whole, then in force at once and without a call lost; a bad
//! one is told and changes nothing.

use std::net::SocketAddr;
use std::path::Path;

use serde_json::Value;
use tokio::net::TcpStream;

use crate::support::client;
use crate::support::load::{self, Target};
use crate::support::pki::{Credentials, Leaf, workload};
use crate::support::process::wayleave;
use crate::support::setup::{POLICY, Setup, Sidecar};
use crate::support::tool;
use crate::support::upstream::{Speaks, Upstream};
use crate::support::{eventually, within};

/// One listener of a file that these tests write.
#[derive(Clone, Copy)]
pub(super) struct Listener<'a> {
    pub(super) name: &'a str,
    pub(super) listen: SocketAddr,
    pub(super) upstream: SocketAddr,
    pub(super) service: &'a str,
    pub(super) more: &'a str,
}

pub(super) fn listener<'a>(name: &'a str, listen: SocketAddr, upstream: &Upstream) -> Listener<'a> {
    Listener {
        name,
        listen,
        upstream: upstream.address,
        service: "app",
        more: "",
    }
}

pub(super) const TOP: &str =
    "policies: { paths: [policies] }\nadmin: { listen: \"127.0.0.1:0\" }\n";

pub(super) fn file(top: &str, listeners: &[Listener<'_>]) -> String {
    let identity =
        "identity: { files: { svid: own/svid.pem, key: own/key.pem, bundle: own/bundle.pem } }\n";
    let mut yaml = match top.contains("identity:") {
        true => top.to_owned(),
        false => format!("{identity}{top}"),
    };
    yaml += "inbound:\n";
    for Listener {
        name,
        listen,
        upstream,
        service,
        more,
    } in listeners
    {
        yaml += &format!(
            "  - name: {name}\n    listen: \"{listen}\"\n    service: {service}\n    \
             upstream: {{ address: \"{upstream}\" }}\n    {more}\n"
        );
    }
    yaml
}

/// Puts a file in the place of another as a careful editor does.
pub(super) fn write(sidecar: &Sidecar, text: &str) {
    let (new, path) = (
        sidecar.setup.path("new.yaml"),
        sidecar.setup.path("wayleave.yaml"),
    );
    std::fs::write(&new, text).unwrap();
    std::fs::rename(new, path).unwrap();
}

pub(super) fn any_port() -> SocketAddr {
    ([127, 0, 0, 1], 0).into()
}

/// A port that nothing listens on; another program could take it before the test does.
pub(super) fn free_port() -> SocketAddr {
    let socket = std::net::TcpListener::bind(any_port()).unwrap();
    socket.local_addr().unwrap()
}

async fn status(sidecar: &Sidecar) -> Value {
    sidecar.admin_get("/status").await.unwrap().json()
}

/// Waits until the configuration in force is another than that of `revision`, and returns its own.
pub(super) async fn until_other_than(sidecar: &Sidecar, revision: &str) -> String {
    eventually("the new configuration", || async {
        let status = status(sidecar).await;
        let now = status["config"]["revision"].as_str().unwrap();
        (now != revision).then(|| now.to_owned())
    })
    .await
}

pub(super) async fn until_failed(sidecar: &Sidecar) -> Value {
    eventually("the failed load to be told", || async {
        let failed = status(sidecar).await["config"]["failed_load"].clone();
        (!failed.is_null()).then_some(failed)
    })
    .await
}

pub(super) async fn revision(sidecar: &Sidecar) -> String {
    status(sidecar).await["config"]["revision"]
        .as_str()
        .unwrap()
        .to_owned()
}

fn address_of(status: &Value, name: &str) -> SocketAddr {
    let listeners = status["listeners"].as_array().unwrap().iter();
    let mut named = listeners.filter(|listener| listener["name"] == name);
    let address = named.next().unwrap()["address"].as_str().unwrap().parse();
    address.unwrap()
}

/// A sidecar with a file of these tests.
pub(super) async fn start(text: String, policy: &str) -> Sidecar {
    let mut setup = Setup::new("127.0.0.1:9");
    setup.write_policy(policy);
    setup.text = Some(text);
    setup.start().await
}

pub(super) async fn under_way(upstream: &Upstream) {
    let before = upstream.seen().len();
    eventually("calls to be under way", || async {
        (upstream.seen().len() > before + 40).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_changed_listener_keeps_its_socket_and_loses_no_call() {
    let (first, second) = (
        Upstream::start(Speaks::Http1).await,
        Upstream::start(Speaks::Http1).await,
    );
    let sidecar = start(file(TOP, &[listener("app", any_port(), &first)]), POLICY).await;
    let target = Target::of(&sidecar);
    let done = load::until_with_new_connections(&target, async {
        let mut upstreams = [&second, &first].into_iter().cycle();
        for _ in 0..4 {
            let next = upstreams.next().unwrap();
            let before = revision(&sidecar).await;
            under_way(if std::ptr::eq(next, &second) {
                &first
            } else {
                &second
            })
            .await;
            write(&sidecar, &file(TOP, &[listener("app", any_port(), next)]));
            until_other_than(&sidecar, &before).await;
            under_way(next).await;
        }
    })
    .await;
    assert!(done.connections > 8, "{done:?}");
    let status = status(&sidecar).await;
    assert_eq!(address_of(&status, "app"), sidecar.inbound);
}

#[tokio::test]
async fn a_listener_that_did_not_change_keeps_its_connections() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let (one, two) = (free_port(), free_port());
    let text = file(
        TOP,
        &[
            listener("one", one, &upstream),
            listener("two", two, &upstream),
        ],
    );
    let mut setup = Setup::new("127.0.0.1:9");
    setup.text = Some(text);
    let sidecar = setup.start().await;
    let target = Target::at(&sidecar, one);
    let (mut http1, mut http2) = (target.http1().await, target.http2().await);
    let url = format!("https://localhost:{}/", one.port());
    assert_eq!(http1.send(client::get("/")).await.status, 200);
    assert_eq!(http2.send(client::get(&url)).await.status, 200);
    let held = tokio::spawn(async move {
        let answer = http1.send(client::get("/held")).await;
        (http1, answer)
    });
    eventually("the call to be in flight", || async {
        (upstream.seen().len() == 3).then_some(())
    })
    .await;

    let changed = Listener {
        more: "show_reason: true",
        ..listener("two", two, &upstream)
    };
    let before = revision(&sidecar).await;
    write(
        &sidecar,
        &file(TOP, &[listener("one", one, &upstream), changed]),
    );
    until_other_than(&sidecar, &before).await;
    let line = sidecar
        .process
        .stderr
        .json("what changed", |line| {
            line["message"] == "configuration in force"
        })
        .await;
    assert_eq!(
        (&line["unchanged"], &line["changed"]),
        (&1.into(), &1.into())
    );
    upstream.release();
    let (mut http1, answer) = held.await.unwrap();
    assert_eq!(
        (answer.status.as_u16(), answer.header("connection")),
        (200, "")
    );
    for _ in 0..3 {
        let answer = http1.send(client::get("/")).await;
        assert_eq!(
            (answer.status.as_u16(), answer.header("connection")),
            (200, "")
        );
        assert_eq!(http2.send(client::get(&url)).await.status, 200);
    }
}

#[tokio::test]
async fn a_call_in_flight_finishes_under_the_configuration_that_it_came_by() {
    let (old, new) = (
        Upstream::start(Speaks::Http1).await,
        Upstream::start(Speaks::Http1).await,
    );
    let sidecar = start(file(TOP, &[listener("app", any_port(), &old)]), POLICY).await;
    let mut http1 = sidecar.http1("frontend").await;
    let held = tokio::spawn(async move { http1.send(client::get("/held")).await });
    eventually("the call to be in flight", || async {
        (old.seen().len() == 1).then_some(())
    })
    .await;
    let before = revision(&sidecar).await;
    write(&sidecar, &file(TOP, &[listener("app", any_port(), &new)]));
    until_other_than(&sidecar, &before).await;
    assert_eq!(sidecar.get("frontend", "/").await.status, 200);
    assert_eq!((old.seen().len(), new.seen().len()), (1, 1));
    old.release();
    let answer = held.await.unwrap();
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("connection"), "close");
}

#[tokio::test]
async fn what_a_changed_listener_carries_is_cut_after_the_drain_timeout_and_recorded() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let top = format!("{TOP}drain_timeout: 1s\n");
    let sidecar = start(
        file(&top, &[listener("app", any_port(), &upstream)]),
        POLICY,
    )
    .await;
    let mut http1 = sidecar.http1("frontend").await;
    let held = tokio::spawn(async move { http1.0.send_request(client::get("/held")).await });
    eventually("the call to be in flight", || async {
        (upstream.seen().len() == 1).then_some(())
    })
    .await;
    let changed = Listener {
        more: "show_reason: true",
        ..listener("app", any_port(), &upstream)
    };
    write(&sidecar, &file(&top, &[changed]));
    assert!(within("the cut", held).await.unwrap().is_err());
    let record = sidecar
        .record(|record| record["resource"].to_string().contains("held"))
        .await;
    assert_eq!(record["failure"], "drained");
}

#[tokio::test]
async fn a_bad_file_is_told_with_its_places_and_the_old_one_stays_in_force() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let good = file(TOP, &[listener("app", any_port(), &upstream)]);
    let sidecar = start(good.clone(), POLICY).await;
    let in_force = revision(&sidecar).await;
    let bad = good
        .replace("service: app", "servce: app")
        .replace("[policies]", "[]");
    write(&sidecar, &bad);
    let failed = until_failed(&sidecar).await;
    let problems = failed["problems"].to_string();
    assert!(
        problems.contains("wayleave.yaml:7:5: unknown key `servce`"),
        "{problems}"
    );
    assert!(problems.contains("wayleave.yaml:2:"), "{problems}");
    assert_eq!(revision(&sidecar).await, in_force);
    assert_eq!(sidecar.get("frontend", "/").await.status, 200);

    sidecar
        .process
        .stderr
        .contains("unknown key `servce`")
        .await;
    let ready = sidecar.admin_get("/readyz").await.unwrap();
    assert_eq!(ready.status, 200);
    assert_eq!(
        ready.json()["warnings"],
        serde_json::json!(["config_failed"])
    );
    let metrics = sidecar.admin_get("/metrics").await.unwrap().text();
    assert!(
        metrics.contains("wayleave_config_loads_total{result=\"failed\"} 1"),
        "{metrics}"
    );
    assert!(
        metrics.contains("wayleave_config_loads_total{result=\"ok\"} 1"),
        "{metrics}"
    );
    let mut command = wayleave();
    command.args(["status", "--admin", &sidecar.admin.to_string()]);
    let told = tool::run(&mut command).await.successful().stdout();
    assert!(told.contains("FAILED"), "{told}");
    assert!(
        told.contains("unknown key `servce`") && told.contains(&in_force),
        "{told}"
    );

    write(&sidecar, &format!("# mended\n{good}"));
    until_other_than(&sidecar, &in_force).await;
    let ready = sidecar.admin_get("/readyz").await.unwrap().json();
    assert_eq!(ready["warnings"], serde_json::json!([]));
    let failed = status(&sidecar).await["config"]["failed_load"].clone();
    assert_eq!(failed, Value::Null);
}

#[tokio::test]
async fn sighup_loads_the_file_at_once_and_ends_nothing() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let good = file(TOP, &[listener("app", any_port(), &upstream)]);
    let sidecar = start(good, POLICY).await;
    let mut kept = sidecar.http1("frontend").await;
    assert_eq!(kept.send(client::get("/")).await.status, 200);
    for loads in 2..=3 {
        sidecar.process.signal("HUP").await;
        eventually("a load of the same file", || async {
            let metrics = sidecar.admin_get("/metrics").await?.text();
            metrics
                .contains(&format!(
                    "wayleave_config_loads_total{{result=\"ok\"}} {loads}"
                ))
                .then_some(())
        })
        .await;
    }
    let answer = kept.send(client::get("/")).await;
    assert_eq!(
        (answer.status.as_u16(), answer.header("connection")),
        (200, "")
    );
}

#[tokio::test]
async fn a_listener_is_added_and_one_is_removed() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let (one, two) = (free_port(), free_port());
    let mut setup = Setup::new("127.0.0.1:9");
    setup.text = Some(file(TOP, &[listener("one", one, &upstream)]));
    let sidecar = setup.start().await;
    let removed = Target::at(&sidecar, one);
    let mut http1 = removed.http1().await;
    let held = tokio::spawn(async move { http1.send(client::get("/held")).await });
    eventually("the call to be in flight", || async {
        (upstream.seen().len() == 1).then_some(())
    })
    .await;

    let before = revision(&sidecar).await;
    write(&sidecar, &file(TOP, &[listener("two", two, &upstream)]));
    until_other_than(&sidecar, &before).await;
    assert_eq!(Target::at(&sidecar, two).call().await, 200);
    eventually("the removed listener to refuse", || async {
        TcpStream::connect(one).await.is_err().then_some(())
    })
    .await;
    upstream.release();
    assert_eq!(held.await.unwrap().status, 200);
    let listeners = status(&sidecar).await["listeners"].clone();
    assert_eq!(listeners.as_array().unwrap().len(), 1);
    assert_eq!(listeners[0]["name"], "two");
}

#[tokio::test]
async fn a_listener_that_cannot_be_bound_refuses_the_whole_change() {
    let (upstream, other) = (
        Upstream::start(Speaks::Http1).await,
        Upstream::start(Speaks::Http1).await,
    );
    let sidecar = start(file(TOP, &[listener("app", any_port(), &upstream)]), POLICY).await;
    let mut kept = sidecar.http1("frontend").await;
    assert_eq!(kept.send(client::get("/")).await.status, 200);
    // The first listener would change, and the second wants what the upstream has.
    let listeners = [
        listener("app", any_port(), &other),
        listener("two", upstream.address, &other),
    ];
    let top = format!("{TOP}log: {{ level: debug }}\n");
    write(&sidecar, &file(&top, &listeners));
    let problems = until_failed(&sidecar).await["problems"].to_string();
    assert!(problems.contains("the port is in use"), "{problems}");
    let answer = kept.send(client::get("/")).await;
    assert_eq!(
        (answer.status.as_u16(), answer.header("connection")),
        (200, "")
    );
    assert_eq!(sidecar.get("frontend", "/").await.status, 200);
    other.assert_untouched();
    assert_eq!(upstream.seen().len(), 3);
    assert!(
        !sidecar
            .process
            .stderr
            .text()
            .contains("\"level\":\"DEBUG\"")
    );
}

#[tokio::test]
async fn keys_that_need_a_restart_are_named_and_the_rest_is_applied() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let sidecar = start(file(TOP, &[listener("app", any_port(), &upstream)]), POLICY).await;
    let before = revision(&sidecar).await;
    let top = "policies: { paths: [policies] }\nadmin: { listen: \"127.0.0.1:1\" }\n\
               runtime: { workers: 2 }\nlog: { level: debug }\n";
    write(
        &sidecar,
        &file(top, &[listener("app", any_port(), &upstream)]),
    );
    let applied = until_other_than(&sidecar, &before).await;
    let now = status(&sidecar).await;
    assert_eq!(
        now["config"]["needs_restart"],
        serde_json::json!(["admin.listen", "runtime.workers"])
    );
    let line = sidecar
        .process
        .stderr
        .contains("these keys need a restart")
        .await;
    assert!(line.contains("admin.listen, runtime.workers"), "{line}");
    let metrics = sidecar.admin_get("/metrics").await.unwrap().text();
    assert!(
        metrics.contains("wayleave_config_needs_restart 2"),
        "{metrics}"
    );
    // The level is applied.
    assert_eq!(sidecar.get("frontend", "/").await.status, 200);
    sidecar.process.stderr.contains("\"level\":\"DEBUG\"").await;

    write(
        &sidecar,
        &file(TOP, &[listener("app", any_port(), &upstream)]),
    );
    until_other_than(&sidecar, &applied).await;
    assert_eq!(
        status(&sidecar).await["config"]["needs_restart"],
        serde_json::json!([])
    );
}

#[tokio::test]
async fn records_go_to_the_new_place_and_a_rotated_file_is_opened_anew() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let sidecar = start(file(TOP, &[listener("app", any_port(), &upstream)]), POLICY).await;
    assert_eq!(sidecar.get("frontend", "/first").await.status, 200);
    sidecar
        .record(|record| record["resource"].to_string().contains("first"))
        .await;
    let before = revision(&sidecar).await;
    let top = format!("{TOP}log: {{ decisions: \"file:decisions.jsonl\" }}\n");
    write(
        &sidecar,
        &file(&top, &[listener("app", any_port(), &upstream)]),
    );
    until_other_than(&sidecar, &before).await;
    let path = sidecar.setup.path("decisions.jsonl");
    recorded(&sidecar, &path, "/second").await;
    std::fs::rename(&path, sidecar.setup.path("decisions.1")).unwrap();
    sidecar.process.signal("HUP").await;
    recorded(&sidecar, &path, "/third").await;
    let rotated = std::fs::read_to_string(sidecar.setup.path("decisions.1")).unwrap();
    assert!(rotated.contains("/second"));
    assert!(!sidecar.process.stdout.text().contains("/second"));
}

/// Calls until a call is recorded there: which of them is the first there is not said.
async fn recorded(sidecar: &Sidecar, path: &Path, call: &str) {
    eventually("the record", || async {
        assert_eq!(sidecar.get("frontend", call).await.status, 200);
        std::fs::read_to_string(path)
            .ok()?
            .contains(call)
            .then_some(())
    })
    .await;
}

#[tokio::test]
async fn another_identity_takes_over_and_drops_no_call() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let sidecar = start(file(TOP, &[listener("app", any_port(), &upstream)]), POLICY).await;
    let setup = &sidecar.setup;
    let leaf = Leaf::local(&workload("app"));
    Credentials::write(
        &setup.path("other"),
        &setup.ca.issue(&leaf),
        &setup.ca.pem(),
    );
    let serial = status(&sidecar).await["identity"]["svid"]["serial"].clone();
    let target = Target::of(&sidecar);
    let calls = load::until(&sidecar, async {
        let before = revision(&sidecar).await;
        let top = "identity: { files: { svid: other/svid.pem, key: other/key.pem, bundle: other/bundle.pem } }\n".to_owned() + TOP;
        write(&sidecar, &file(&top, &[listener("app", any_port(), &upstream)]));
        until_other_than(&sidecar, &before).await;
        eventually("the other SVID", || async {
            (status(&sidecar).await["identity"]["svid"]["serial"] != serial).then_some(())
        })
        .await;
    })
    .await;
    assert!(calls > 2);
    // The new source is followed: rotating its files rotates the SVID.
    let serial = status(&sidecar).await["identity"]["svid"]["serial"].clone();
    Credentials::write(
        &sidecar.setup.path("other"),
        &sidecar.setup.ca.issue(&leaf),
        &sidecar.setup.ca.pem(),
    );
    eventually("the rotated SVID", || async {
        (status(&sidecar).await["identity"]["svid"]["serial"] != serial).then_some(())
    })
    .await;
    assert_eq!(target.call().await, 200);
}

#[tokio::test]
async fn an_identity_that_cannot_be_opened_refuses_the_change() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let sidecar = start(file(TOP, &[listener("app", any_port(), &upstream)]), POLICY).await;
    let top =
        "identity: { files: { svid: nowhere.pem, key: nowhere.key, bundle: own/bundle.pem } }\n"
            .to_owned()
            + TOP;
    write(
        &sidecar,
        &file(&top, &[listener("app", any_port(), &upstream)]),
    );
    let problems = until_failed(&sidecar).await["problems"].to_string();
    assert!(problems.contains("nowhere.pem"), "{problems}");
    assert_eq!(sidecar.get("frontend", "/").await.status, 200);
}

#[tokio::test]
async fn a_file_behind_a_swapped_symlink_is_followed() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let text = |reason| {
        let more = if reason { "show_reason: true" } else { "" };
        file(
            TOP,
            &[Listener {
                more,
                ..listener("app", any_port(), &upstream)
            }],
        )
    };
    // As a ConfigMap is mounted: files are links into `..data`, which is a link itself.
    let mut setup = Setup::new("127.0.0.1:9");
    setup.text = Some(text(false));
    for (version, reason) in [("..1", false), ("..2", true)] {
        let folder = setup.path(version);
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("wayleave.yaml"), text(reason)).unwrap();
    }
    std::os::unix::fs::symlink("..1", setup.path("..data")).unwrap();
    setup.linked = true;
    let sidecar = setup.start().await;
    let before = revision(&sidecar).await;
    std::os::unix::fs::symlink("..2", sidecar.setup.path("..tmp")).unwrap();
    std::fs::rename(sidecar.setup.path("..tmp"), sidecar.setup.path("..data")).unwrap();
    until_other_than(&sidecar, &before).await;
}
