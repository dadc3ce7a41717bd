//! Trust that ends by time or by a revocation list, while a connection is open.

use std::time::Duration;

use crate::support::client::{self, Http1};
use crate::support::pki::{Credentials, Leaf, workload};
use crate::support::setup::{Setup, Sidecar};
use crate::support::upstream::{Speaks, Upstream};
use crate::support::{load, within};

async fn connected(sidecar: &Sidecar, credentials: &Credentials) -> Http1 {
    let stream = sidecar.connect(Some(credentials), &["http/1.1"]).await;
    let mut http1 = Http1::over(stream.unwrap()).await;
    assert_eq!(http1.send(client::get("/")).await.status, 200);
    http1
}

async fn ended(held: &Http1) {
    within("the end of the connection", async {
        while !held.0.is_closed() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

fn replace(setup: &Setup, name: &str, content: &str) {
    std::fs::write(setup.path("new"), content).unwrap();
    std::fs::rename(setup.path("new"), setup.path(name)).unwrap();
}

#[tokio::test]
async fn a_revoked_serial_ends_its_open_connection_and_no_other() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let mut setup = Setup::new(upstream.address);
    setup.identity = "files:\n  svid: own/svid.pem\n  key: own/key.pem\n  \
                      bundle: own/bundle.pem\n  revocation_lists: [revoked.pem]"
        .to_owned();
    replace(&setup, "revoked.pem", &setup.ca.revocation_list(1, &[]));
    let leaf = |serial| Leaf {
        serial: Some(serial),
        ..Leaf::svid(&workload("frontend"))
    };
    let bad = setup.credentials("bad", &leaf(666));
    let good = setup.credentials("good", &leaf(42));
    let sidecar = setup.start().await;
    let held = connected(&sidecar, &bad).await;
    let mut other = connected(&sidecar, &good).await;

    let list = sidecar.setup.ca.revocation_list(2, &[666]);
    replace(&sidecar.setup, "revoked.pem", &list);
    ended(&held).await;
    let logged = sidecar.process.stderr.contains("revoked").await;
    assert!(logged.contains(&workload("frontend")), "{logged}");
    assert_eq!(other.send(client::get("/")).await.status, 200);
    let stream = sidecar.connect(Some(&bad), &["http/1.1"]).await;
    if let Ok(stream) = stream {
        let mut http1 = Http1::over(stream).await;
        let answer = within("a refusal", http1.0.send_request(client::get("/"))).await;
        assert!(answer.is_err(), "a revoked SVID was let in");
    }
    connected(&sidecar, &good).await;
}

#[tokio::test]
async fn a_connection_does_not_outlive_its_peers_svid() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let sidecar = Setup::new(upstream.address).start().await;
    let leaf = Leaf {
        lifetime: Some(time::Duration::seconds(3)),
        ..Leaf::svid(&workload("frontend"))
    };
    let short = sidecar.setup.credentials("short", &leaf);
    let held = connected(&sidecar, &short).await;
    ended(&held).await;
    sidecar.process.stderr.contains("expired").await;
}

/// Key and certificate files are replaced one after the other, and are out of step between.
#[tokio::test]
async fn rotation_of_files_under_load_drops_no_call() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let sidecar = Setup::new(upstream.address).start().await;
    let rotating = async {
        for _ in 0..5 {
            let issued = sidecar.setup.ca.issue(&Leaf::local(&workload("app")));
            replace(&sidecar.setup, "own/key.pem", &issued.key);
            tokio::time::sleep(Duration::from_millis(150)).await;
            replace(&sidecar.setup, "own/svid.pem", &issued.certificate);
            tokio::time::sleep(Duration::from_millis(400)).await;
        }
    };
    let calls = load::until(&sidecar, rotating).await;
    assert_eq!(upstream.seen().len(), calls);
    sidecar.process.stderr.contains("identity read anew").await;
}
