//! The sidecar's own SVID and its trust, while it runs: rotation drops nothing, and trust
//! that is taken away ends what it had earned.

use std::path::Path;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::support::pki::{Ca, Credentials, Leaf, workload};
use crate::support::setup::{Setup, Sidecar};
use crate::support::upstream::{Speaks, Upstream};
use crate::support::{client, eventually};

async fn sidecar_and_upstream() -> (Sidecar, Upstream) {
    let upstream = Upstream::start(Speaks::Http1).await;
    (Setup::new(upstream.address).start().await, upstream)
}

/// Puts a file in place as careful writers do, so that nobody reads half of it.
fn replace(path: &Path, content: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, content).unwrap();
    std::fs::rename(new, path).unwrap();
}

/// The certificate that the sidecar presents to a new connection.
async fn presented(sidecar: &Sidecar) -> Option<Vec<u8>> {
    let caller = sidecar.setup.caller("frontend");
    let stream = sidecar.connect(Some(&caller), &["h2"]).await.ok()?;
    Some(stream.get_ref().1.peer_certificates()?.first()?.to_vec())
}

#[tokio::test]
async fn a_rotated_svid_is_used_and_no_call_is_lost() {
    let (sidecar, upstream) = sidecar_and_upstream().await;
    let mut open = sidecar.http1("frontend").await;
    let leaf = Leaf {
        local: true,
        ..Leaf::svid(&workload("app"))
    };
    let new = sidecar.setup.ca.issue(&leaf);
    replace(&sidecar.setup.own.key, &new.key);
    replace(&sidecar.setup.own.certificate, &new.certificate);
    let expected = CertificateDer::from_pem_slice(new.certificate.as_bytes())
        .unwrap()
        .to_vec();
    let mut calls = 0;
    while presented(&sidecar).await.as_ref() != Some(&expected) {
        assert_eq!(open.send(client::get("/rotating")).await.status, 200);
        assert_eq!(sidecar.get("frontend", "/rotating").await.status, 200);
        calls += 2;
        assert!(calls < 10_000, "the new SVID is not used");
    }
    assert_eq!(open.send(client::get("/rotated")).await.status, 200);
    assert_eq!(upstream.seen().len(), calls + 1);
}

#[tokio::test]
async fn a_broken_svid_file_keeps_the_last_good_one_and_is_told() {
    let (sidecar, _upstream) = sidecar_and_upstream().await;
    let before = presented(&sidecar).await.unwrap();
    let stranger = sidecar.setup.ca.issue(&Leaf::svid(&workload("app")));
    replace(&sidecar.setup.own.key, &stranger.key);
    sidecar.process.stderr.contains("key.pem").await;
    assert_eq!(presented(&sidecar).await.unwrap(), before);
    assert_eq!(sidecar.admin_get("/readyz").await.unwrap().status, 200);
}

/// An authority taken out of the bundle: new handshakes fail, and what its peers hold open
/// ends, a call in the middle of its answer included.
#[tokio::test]
async fn ends_connections_of_an_authority_that_is_no_longer_trusted() {
    let (sidecar, upstream) = sidecar_and_upstream().await;
    let other = Ca::new();
    let both = sidecar.setup.ca.pem() + &other.pem();
    replace(&sidecar.setup.own.bundle, &both);
    let issued = other.issue(&Leaf::svid(&workload("frontend")));
    let peer = Credentials::write(&sidecar.setup.path("callers/other"), &issued, &both);
    let stream = eventually("the added authority to be trusted", || async {
        let stream = sidecar.connect(Some(&peer), &["http/1.1"]).await.ok()?;
        let mut http1 = client::Http1::over(stream).await;
        let response = http1.0.send_request(client::get("/trusted")).await.ok()?;
        (response.status() == 200).then_some(())?;
        sidecar.connect(Some(&peer), &["http/1.1"]).await.ok()
    })
    .await;
    let mut held = client::Http1::over(stream).await;
    let call = tokio::spawn(async move { held.0.send_request(client::get("/held")).await });
    eventually("the call to be in flight", || async {
        upstream
            .seen()
            .iter()
            .any(|seen| seen.target == "/held")
            .then_some(())
    })
    .await;

    replace(&sidecar.setup.own.bundle, &sidecar.setup.ca.pem());
    let ended = crate::support::within("the end of the call", call)
        .await
        .unwrap();
    assert!(ended.is_err(), "the call was answered: {ended:?}");
    let record = sidecar
        .record(|record| record["failure"] == "trust_ended")
        .await;
    assert_eq!(record["resource"]["path"], "/held");
    assert_eq!(sidecar.get("frontend", "/").await.status, 200);
}
