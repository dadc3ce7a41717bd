//! The identity from a SPIFFE Workload API: before it is there, while it changes, while the
//! agent is away, and when it is taken away.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::support::agent::{Agent, context};
use crate::support::client::{self, Http1};
use crate::support::pki::{Leaf, workload};
use crate::support::process::{Process, wayleave};
use crate::support::setup::{Setup, Sidecar};
use crate::support::upstream::{Speaks, Upstream};
use crate::support::{eventually, within};

const PERMISSION_DENIED: u16 = 7;
const UNIMPLEMENTED: u16 = 12;

/// A sidecar that will ask the socket in its folder.
fn setup(upstream: &Upstream) -> (Setup, PathBuf) {
    let mut setup = Setup::new(upstream.address);
    let socket = setup.path("agent.sock");
    setup.identity = format!(
        "workload_api: {{ endpoint: \"unix://{}\" }}",
        socket.display()
    );
    (setup, socket)
}

fn agent(setup: &Setup, socket: &Path) -> Agent {
    Agent::start(socket, context(&setup.ca, &Leaf::local(&workload("app"))))
}

async fn running() -> (Sidecar, Upstream, Agent) {
    let upstream = Upstream::start(Speaks::Http1).await;
    let (setup, socket) = setup(&upstream);
    let agent = agent(&setup, &socket);
    (setup.start().await, upstream, agent)
}

/// Whether a new handshake succeeds and its call is answered.
async fn serves(sidecar: &Sidecar) -> bool {
    let caller = sidecar.setup.caller("frontend");
    let Ok(stream) = sidecar.connect(Some(&caller), &["http/1.1"]).await else {
        return false;
    };
    let mut http1 = Http1::over(stream).await;
    let answer = within("an answer", http1.0.send_request(client::get("/"))).await;
    answer.is_ok_and(|answer| answer.status() == 200)
}

#[tokio::test]
async fn waits_for_the_first_svid_and_is_not_ready_before() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let (setup, socket) = setup(&upstream);
    let sidecar = setup.launch("waiting for the first SVID").await;
    let probe = sidecar.admin_get("/readyz").await.unwrap();
    assert_eq!(probe.status, 503);
    assert_eq!(probe.json()["reasons"][0], "no_usable_svid");
    assert!(!serves(&sidecar).await);
    upstream.assert_untouched();

    let _agent = agent(&sidecar.setup, &socket);
    sidecar.until_ready().await;
    assert!(serves(&sidecar).await);
}

#[tokio::test]
async fn ends_with_a_clear_line_when_no_svid_comes_in_time() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let (mut setup, socket) = setup(&upstream);
    let endpoint = format!("unix://{}", socket.display());
    setup.identity =
        format!("workload_api: {{ endpoint: \"{endpoint}\", first_svid_timeout: 1s }}");
    let mut sidecar = setup.launch("waiting for the first SVID").await;
    assert_eq!(sidecar.process.ended().await.code(), Some(1));
    let told = sidecar.process.stderr.text();
    for part in [
        "within 1s",
        &*endpoint,
        "cannot connect to the Workload API",
        "check that the agent runs",
    ] {
        assert!(told.contains(part), "{part} is not in {told}");
    }
}

#[tokio::test]
async fn ends_when_the_agent_does_not_know_the_call() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let (setup, socket) = setup(&upstream);
    let _agent = Agent::refuse(&socket, UNIMPLEMENTED);
    let mut process = Process::start(
        wayleave()
            .arg("run")
            .arg("--config")
            .arg(setup.write_config()),
    );
    assert_eq!(process.ended().await.code(), Some(1));
    let told = process.stderr.text();
    assert!(told.contains("will not serve this sidecar"), "{told}");
    assert!(told.contains("told by the test"), "{told}");
}

#[tokio::test]
async fn an_endpoint_that_nothing_names_is_one_clear_line() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let (mut setup, _) = setup(&upstream);
    setup.identity = "workload_api: {}".to_owned();
    for command in ["run", "check"] {
        let mut process = Process::start(
            wayleave()
                .env_remove("SPIFFE_ENDPOINT_SOCKET")
                .args([command, "--config"])
                .arg(setup.write_config()),
        );
        assert_eq!(process.ended().await.code(), Some(2), "{command}");
        let told = process.stderr.text();
        assert!(told.contains("SPIFFE_ENDPOINT_SOCKET"), "{told}");
        assert_eq!(
            told.lines().count(),
            if command == "run" { 1 } else { 2 },
            "{told}"
        );
    }
}

/// The environment names the socket of the one caller; the sidecar beside it serves as that.
#[tokio::test]
async fn gets_its_identity_from_the_socket_of_a_dev_proxy() {
    let directory = tempfile::Builder::new()
        .prefix("wayleave-")
        .tempdir()
        .unwrap();
    let dev_directory = directory.path().join("dev");
    let mut command = wayleave();
    command.args([
        "dev",
        "--listen",
        "127.0.0.1:0",
        "--admin",
        "127.0.0.1:0",
        "--dir",
    ]);
    let mut dev = Process::start(command.arg(&dev_directory));
    let banner = dev.stdout.contains("workload API").await;
    let shown = format!("unix://{}/workload.sock", dev_directory.display());
    assert!(banner.contains(&shown), "{banner}");

    let upstream = Upstream::start(Speaks::Http1).await;
    let mut setup = Setup::new(upstream.address);
    setup.identity = "workload_api: {}".to_owned();
    let socket = dev_directory.join("svids/agent/workload.sock");
    let mut command = wayleave();
    command.env(
        "SPIFFE_ENDPOINT_SOCKET",
        format!("unix://{}", socket.display()),
    );
    command.args(["run", "--config"]).arg(setup.write_config());
    let sidecar = Process::start(&mut command);
    let received = sidecar.stderr.contains("identity received").await;
    let id = "spiffe://dev.wayleave/ns/default/sa/agent";
    assert!(received.contains(id), "{received}");
    sidecar.stderr.contains(r#""ready""#).await;

    dev.signal("TERM").await;
    assert_eq!(dev.ended().await.code(), Some(0));
    assert!(!socket.exists(), "the socket is left behind");
}

/// New SVIDs ten times a second, under calls on held and on new connections.
#[tokio::test]
async fn rotation_under_load_drops_no_call() {
    let (sidecar, upstream, agent) = running().await;
    let leaf = Leaf::local(&workload("app"));
    let rotating = async {
        for _ in 0..20 {
            agent.send(context(&sidecar.setup.ca, &leaf));
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let calls = crate::support::load::until(&sidecar, rotating).await;
    assert!(calls > 20, "only {calls} calls were made");
    assert_eq!(upstream.seen().len(), calls);
    let rotations = sidecar.process.stderr.text();
    assert!(rotations.matches("identity received").count() >= 10);
}

#[tokio::test]
async fn serves_on_while_the_agent_is_away_and_follows_it_again() {
    let (sidecar, _upstream, agent) = running().await;
    let socket = agent.socket.clone();
    let mut held = sidecar.http1("frontend").await;
    assert_eq!(held.send(client::get("/")).await.status, 200);
    agent.stop().await;
    sidecar
        .process
        .stderr
        .contains("last good identity stays")
        .await;
    assert_eq!(held.send(client::get("/")).await.status, 200);
    assert!(serves(&sidecar).await);
    assert_eq!(sidecar.admin_get("/readyz").await.unwrap().status, 200);

    let leaf = Leaf {
        serial: Some(0x00c0_ffee),
        ..Leaf::local(&workload("app"))
    };
    let _agent = Agent::start(&socket, context(&sidecar.setup.ca, &leaf));
    eventually("the new SVID", || async {
        let caller = sidecar.setup.caller("frontend");
        let stream = sidecar.connect(Some(&caller), &["h2"]).await.ok()?;
        let chain = stream.get_ref().1.peer_certificates()?.first()?.to_vec();
        let serial = [0x00, 0xc0, 0xff, 0xee];
        chain.windows(4).any(|bytes| bytes == serial).then_some(())
    })
    .await;
    assert_eq!(held.send(client::get("/")).await.status, 200);
}

#[tokio::test]
async fn refuses_to_serve_once_its_svid_has_expired() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let (setup, socket) = setup(&upstream);
    let leaf = Leaf {
        lifetime: Some(time::Duration::seconds(4)),
        ..Leaf::local(&workload("app"))
    };
    let agent = Agent::start(&socket, context(&setup.ca, &leaf));
    let sidecar = setup.start().await;
    assert!(serves(&sidecar).await);
    agent.stop().await;
    sidecar.until_readiness_is(503).await;
    assert!(!serves(&sidecar).await);
}

#[tokio::test]
async fn a_withdrawn_identity_ends_connections_and_readiness_until_it_is_back() {
    let (sidecar, _upstream, first) = running().await;
    let socket = first.socket.clone();
    let mut held = sidecar.http1("frontend").await;
    assert_eq!(held.send(client::get("/")).await.status, 200);
    first.stop().await;
    let refusing = Agent::refuse(&socket, PERMISSION_DENIED);
    sidecar.until_readiness_is(503).await;
    within("the end of the connection", async {
        while !held.0.is_closed() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert!(!serves(&sidecar).await);
    sidecar
        .process
        .stderr
        .contains("the identity was withdrawn")
        .await;

    refusing.stop().await;
    let _agent = agent(&sidecar.setup, &socket);
    sidecar.until_ready().await;
    assert!(serves(&sidecar).await);
}

#[tokio::test]
async fn of_several_svids_the_configured_one_is_used() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let (mut setup, socket) = setup(&upstream);
    let mut all = context(&setup.ca, &Leaf::local(&workload("first")));
    let second = context(&setup.ca, &Leaf::local(&workload("second")));
    all.svids.extend(second.svids);
    let _agent = Agent::start(&socket, all);
    setup.identity = format!(
        "workload_api: {{ endpoint: \"unix://{}\", id: \"{}\" }}",
        socket.display(),
        workload("second"),
    );
    let sidecar = setup.start().await;
    let received = sidecar.process.stderr.contains("identity received").await;
    assert!(received.contains(&workload("second")), "{received}");
}
