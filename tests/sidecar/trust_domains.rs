//! Listeners that let in workloads of some trust domains only.

use tokio::io::AsyncReadExt;

use crate::support::client::{self, Http1};
use crate::support::pki::{Ca, Credentials, Leaf, workload};
use crate::support::process::wayleave;
use crate::support::setup::{Setup, Sidecar};
use crate::support::upstream::{Speaks, Upstream};
use crate::support::{tool, within};

const POLICY: &str = r#"@id("all") permit (principal, action, resource);"#;
const PARTNER: &str = "spiffe://partner.example/caller";

/// A sidecar that has the bundles of two trust domains, and a caller of the second.
fn setup(upstream: impl ToString, allowed: &'static str) -> (Setup, Credentials) {
    let mut setup = Setup::new(upstream);
    let partner = Ca::of("partner.example");
    std::fs::write(setup.path("partner.pem"), partner.pem()).unwrap();
    setup.identity =
        "files:\n  svid: own/svid.pem\n  key: own/key.pem\n  bundle: own/bundle.pem\n  \
                      federated: [{ trust_domain: partner.example, bundle: partner.pem }]"
            .to_owned();
    setup.inbound_keys.push(allowed);
    setup.write_policy(POLICY);
    let issued = partner.issue(&Leaf::svid(PARTNER));
    let caller = Credentials::write(&setup.path("callers/partner"), &issued, &setup.ca.pem());
    (setup, caller)
}

async fn is_served(sidecar: &Sidecar, caller: &Credentials) -> bool {
    let Ok(stream) = sidecar.connect(Some(caller), &["http/1.1"]).await else {
        return false;
    };
    let mut http1 = Http1::over(stream).await;
    let answer = within("an answer", http1.0.send_request(client::get("/"))).await;
    answer.is_ok_and(|answer| answer.status() == 200)
}

#[tokio::test]
async fn a_peer_of_a_trust_domain_that_is_not_listed_fails_the_handshake() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let (setup, partner) = setup(upstream.address, "trust_domains: [test.example]");
    let sidecar = setup.start().await;
    assert!(!is_served(&sidecar, &partner).await);
    upstream.assert_untouched();
    let line = sidecar
        .process
        .stderr
        .contains("trust_domain_not_allowed")
        .await;
    assert!(line.contains(PARTNER), "{line}");
    let metrics = sidecar.admin_get("/metrics").await.unwrap().text();
    let counted = r#"wayleave_handshakes_total{result="trust_domain_not_allowed"} 1"#;
    assert!(metrics.contains(counted), "{metrics}");
    // Again, as what was verified before is remembered.
    assert!(!is_served(&sidecar, &partner).await);
    let own = sidecar
        .setup
        .credentials("own", &Leaf::svid(&workload("other")));
    assert!(is_served(&sidecar, &own).await);
}

#[tokio::test]
async fn the_refused_peer_is_told_that_it_has_no_access() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let (setup, partner) = setup(upstream.address, "trust_domains: [test.example]");
    let sidecar = setup.start().await;
    let refused = match sidecar.connect(Some(&partner), &["http/1.1"]).await {
        Ok(mut stream) => within("the end", stream.read_to_end(&mut Vec::new()))
            .await
            .unwrap_err(),
        Err(error) => error,
    };
    assert!(refused.to_string().contains("AccessDenied"), "{refused}");
}

#[tokio::test]
async fn every_trust_domain_with_a_bundle_is_let_in_where_none_is_listed() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let (setup, partner) = setup(upstream.address, "show_reason: false");
    let sidecar = setup.start().await;
    assert!(is_served(&sidecar, &partner).await);
}

#[tokio::test]
async fn check_names_a_listed_trust_domain_that_has_no_bundle() {
    let (setup, _) = setup(
        "127.0.0.1:9",
        "trust_domains: [partner.example, other.example]",
    );
    let config = setup.write_config();
    let mut command = wayleave();
    command.arg("check").arg("--config").arg(config);
    let told = tool::run(&mut command).await.successful().stdout();
    assert!(
        told.contains("`other.example`, of which there is no bundle"),
        "{told}"
    );
    assert!(!told.contains("`partner.example`"), "{told}");
}
