//! What an operator says against principals: in force at once on every connection, kept over a
//! restart, and taken back.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};

use crate::support::client;
use crate::support::process::wayleave;
use crate::support::service::{Body, How, Service};
use crate::support::setup::{POLICY, Setup, Sidecar};
use crate::support::tool::{Finished, run};
use crate::support::{eventually, within};

const FRONTEND: &str = "spiffe://test.example/ns/default/sa/frontend";

/// Two callers may do what they like.
fn policy() -> String {
    let backend = POLICY
        .replace("sa/frontend", "sa/backend")
        .replace("frontend-calls-app", "backend-calls-app");
    format!("{POLICY}{backend}")
}

fn ticking() -> Response<Body> {
    let ticks = futures_util::stream::unfold((), |()| async {
        tokio::time::sleep(Duration::from_millis(5)).await;
        let tick = Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"tick\n")));
        Some((tick, ()))
    });
    Response::new(StreamBody::new(ticks).boxed_unsync())
}

struct Operated {
    sidecar: Sidecar,
    _service: Service,
}

impl Operated {
    async fn start() -> Self {
        let service = Service::start(How::http1(), |_| async { ticking() }).await;
        let mut setup = Setup::new(&service.address);
        setup.write_policy(&policy());
        setup.keys = vec!["signals: { state_dir: state }"];
        Self {
            sidecar: start(setup).await,
            _service: service,
        }
    }

    async fn operator(&self, args: &[&str]) -> Finished {
        let socket = self.sidecar.setup.path("admin.sock");
        let mut command = wayleave();
        run(command.args(args).arg("--socket").arg(socket)).await
    }

    async fn open(
        &self,
        caller: &str,
    ) -> (
        client::Http2<http_body_util::Full<Bytes>>,
        Response<Incoming>,
    ) {
        let mut http2 = self.sidecar.http2(caller).await;
        let url = self.sidecar.url("/ticks");
        let response = within("the head", http2.0.send_request(client::get(&url))).await;
        (http2, response.unwrap())
    }
}

async fn start(mut setup: Setup) -> Sidecar {
    let text = setup.config("127.0.0.1:0").replace(
        "admin: { listen: \"127.0.0.1:0\" }",
        "admin: { listen: \"127.0.0.1:0\", socket: admin.sock }",
    );
    setup.text = Some(text);
    setup.start().await
}

async fn tick(response: &mut Response<Incoming>) {
    let frame = within("a tick", response.frame()).await;
    assert!(frame.unwrap().unwrap().is_data());
}

/// Reads on until the answer is cut.
async fn cut(mut response: Response<Incoming>) {
    let reading = async { while let Some(Ok(_)) = response.frame().await {} };
    within("the cut", reading).await;
}

#[tokio::test]
async fn a_quarantine_ends_every_stream_of_its_principal_and_no_other() {
    let operated = Operated::start().await;
    let (_first, one) = operated.open("frontend").await;
    let (mut second, two) = operated.open("frontend").await;
    let (mut other, mut kept) = operated.open("backend").await;
    let args = [
        "quarantine",
        "start",
        FRONTEND,
        "--for",
        "10m",
        "--reason",
        "sweeps",
    ];
    let done = operated.operator(&args).await.successful();
    assert_eq!(done.stdout(), "done\n");
    cut(one).await;
    cut(two).await;
    let sidecar = &operated.sidecar;
    let record = sidecar
        .record(|record| record["failure"] == "lease_ended")
        .await;
    assert_eq!(record["ended_by"], "quarantine", "{record}");
    assert!(record["bytes_out"].as_u64().unwrap() >= 5, "{record}");
    // On a connection that is open already, and on a new one.
    let url = sidecar.url("/ticks");
    let denied = second.send(client::get(&url)).await;
    assert_eq!(denied.status, 403);
    assert_eq!(denied.json()["reason_code"], "quarantined");
    assert_eq!(sidecar.get("frontend", "/ticks").await.status, 403);
    for _ in 0..50 {
        tick(&mut kept).await;
    }
    let again = other.0.send_request(client::get(&url));
    assert_eq!(within("the head", again).await.unwrap().status(), 200);
    assert_eq!(sidecar.metric("wayleave_quarantines").await, 1.0);
    let ended = "wayleave_leases_ended_total{trigger=\"quarantine\"}";
    assert_eq!(sidecar.metric(ended).await, 2.0);
}

#[tokio::test]
async fn what_was_said_outlives_a_restart_and_is_taken_back() {
    let operated = Operated::start().await;
    let start = [
        "quarantine",
        "start",
        FRONTEND,
        "--for",
        "1h",
        "--reason",
        "sweeps",
    ];
    operated.operator(&start).await.successful();
    let Operated { sidecar, _service } = operated;
    let Sidecar { setup, process, .. } = sidecar;
    drop(process);
    let sidecar = setup.start().await;
    let operated = Operated { sidecar, _service };
    let denied = operated.sidecar.get("frontend", "/ticks").await;
    assert_eq!(denied.json()["reason_code"], "quarantined");
    let listed = operated
        .operator(&["quarantine", "list"])
        .await
        .successful();
    let listed = listed.stdout();
    assert!(
        listed.contains(FRONTEND) && listed.contains("operator:uid="),
        "{listed}"
    );
    assert!(listed.contains(": sweeps"), "{listed}");
    operated
        .operator(&["quarantine", "lift", FRONTEND])
        .await
        .successful();
    let (_http2, mut response) = operated.open("frontend").await;
    tick(&mut response).await;
    let listed = operated
        .operator(&["quarantine", "list"])
        .await
        .successful();
    assert_eq!(listed.stdout(), "nobody is in quarantine\n");
    let again = operated
        .operator(&["quarantine", "lift", FRONTEND])
        .await
        .successful();
    assert_eq!(again.stdout(), "nothing to do: it is so already\n");
}

#[tokio::test]
async fn a_quarantine_is_over_when_its_time_is() {
    let operated = Operated::start().await;
    let start = ["quarantine", "start", FRONTEND, "--for", "1s"];
    operated.operator(&start).await.successful();
    eventually("the caller to be let in again", || async {
        let mut http2 = operated.sidecar.http2("frontend").await;
        let url = operated.sidecar.url("/ticks");
        let response = http2.0.send_request(client::get(&url)).await.unwrap();
        (response.status() == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_revoked_serial_ends_the_calls_of_that_svid_alone() {
    let operated = Operated::start().await;
    let (_http2, one) = operated.open("frontend").await;
    let (_other, mut kept) = operated.open("backend").await;
    let svid = operated.sidecar.setup.path("callers/frontend/svid.pem");
    let mut inspect = wayleave();
    let told = run(inspect
        .arg("inspect")
        .arg("--format")
        .arg("json")
        .arg(&svid))
    .await;
    let told: serde_json::Value = serde_json::from_str(&told.stdout()).unwrap();
    let serial = serial_in(&told).unwrap_or_else(|| panic!("{told}"));
    operated
        .operator(&["revoke", "serial", &serial])
        .await
        .successful();
    cut(one).await;
    let record = operated
        .sidecar
        .record(|record| record["failure"] == "lease_ended")
        .await;
    assert_eq!(record["ended_by"], "revocation", "{record}");
    for _ in 0..50 {
        tick(&mut kept).await;
    }
    operated
        .operator(&["revoke", "principal", FRONTEND])
        .await
        .successful();
    operated
        .operator(&["revoke", "lift", &serial])
        .await
        .successful();
    let denied = operated.sidecar.get("frontend", "/ticks").await;
    assert_eq!(denied.json()["reason_code"], "revoked");
    let listed = operated
        .operator(&["revoke", "list"])
        .await
        .successful()
        .stdout();
    assert!(
        listed.starts_with(FRONTEND) && !listed.contains("serial"),
        "{listed}"
    );
}

/// The first serial number in a document.
fn serial_in(document: &serde_json::Value) -> Option<String> {
    match document {
        serde_json::Value::Object(members) => members.iter().find_map(|(key, value)| {
            let found = (key == "serial").then(|| value.as_str().map(str::to_owned));
            found.flatten().or_else(|| serial_in(value))
        }),
        serde_json::Value::Array(values) => values.iter().find_map(serial_in),
        _ => None,
    }
}

#[tokio::test]
async fn a_mistake_is_told_with_its_remedy_and_changes_nothing() {
    let operated = Operated::start().await;
    for (args, told) in [
        (
            &["quarantine", "start", "frontend", "--for", "1m"][..],
            "give a SPIFFE ID",
        ),
        (
            &["quarantine", "start", FRONTEND, "--for", "721h"],
            "1 s to 720 h",
        ),
        (&["revoke", "serial", "xyz"], "hexadecimal digits"),
    ] {
        let refused = operated.operator(args).await;
        assert_eq!(refused.0.status.code(), Some(2), "{}", refused.stderr());
        assert!(refused.stderr().contains(told), "{}", refused.stderr());
    }
    let mut command = wayleave();
    let nowhere = operated.sidecar.setup.path("nowhere.sock");
    let refused = run(command.args(["revoke", "list", "--socket"]).arg(nowhere)).await;
    assert_eq!(refused.0.status.code(), Some(1));
    assert!(
        refused.stderr().contains("admin.socket"),
        "{}",
        refused.stderr()
    );
    let (_http2, mut response) = operated.open("frontend").await;
    tick(&mut response).await;
}
