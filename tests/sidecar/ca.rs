//! `wayleave ca`: what it makes works for the sidecar, and for others who read certificates.

use std::path::Path;

use tokio::process::Command;

use crate::support::process::wayleave;
use crate::support::tool::{self, Finished};

const ID: &str = "spiffe://shop.example/ns/web/sa/cart";

async fn ca(directory: &Path, arguments: &[&str]) -> Finished {
    let mut command = wayleave();
    command.current_dir(directory).arg("ca").args(arguments);
    tool::run(&mut command).await
}

/// A folder with the CA `ca` and an SVID in `cart`.
async fn issued() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let init = ["init", "--dir", "ca", "--trust-domain", "shop.example"];
    ca(folder.path(), &init).await.successful();
    let issue = ["issue", "--dir", "ca", "--id", ID, "--out", "cart"];
    let names = ["--dns", "localhost", "--ip", "127.0.0.1"];
    ca(folder.path(), &[&issue[..], &names[..]].concat())
        .await
        .successful();
    folder
}

#[tokio::test]
async fn an_issued_svid_verifies_with_openssl_and_has_its_names() {
    let Some(openssl) = tool::find("openssl") else {
        return;
    };
    let folder = issued().await;
    let run = async |arguments: &[&str]| {
        let mut command = Command::new(&openssl);
        command.current_dir(folder.path().join("cart"));
        tool::run(command.args(arguments))
            .await
            .successful()
            .stdout()
    };
    run(&[
        "verify",
        "-x509_strict",
        "-CAfile",
        "bundle.pem",
        "svid.pem",
    ])
    .await;
    let text = run(&[
        "x509",
        "-in",
        "svid.pem",
        "-noout",
        "-ext",
        "subjectAltName",
    ])
    .await;
    for name in [
        &format!("URI:{ID}"),
        "DNS:localhost",
        "IP Address:127.0.0.1",
    ] {
        assert!(text.contains(name), "{text}");
    }
}

#[tokio::test]
async fn files_that_are_there_are_replaced_by_force_alone() {
    let folder = issued().await;
    let read = || std::fs::read(folder.path().join("cart/svid.pem")).unwrap();
    let first = read();
    let again = ["issue", "--dir", "ca", "--id", ID, "--out", "cart"];
    let refused = ca(folder.path(), &again).await;
    assert_eq!(refused.0.status.code(), Some(2));
    assert!(refused.stderr().contains("--force"), "{}", refused.stderr());
    assert_eq!(read(), first);
    let forced = [&again[..], &["--force"]].concat();
    ca(folder.path(), &forced).await.successful();
    assert_ne!(read(), first);
}

#[tokio::test]
async fn the_bundle_is_printed_as_pem_and_as_jwks() {
    let folder = issued().await;
    let pem = ca(folder.path(), &["bundle", "--dir", "ca"]).await;
    let written = std::fs::read_to_string(folder.path().join("cart/bundle.pem")).unwrap();
    assert_eq!(pem.successful().stdout(), written);
    let jwks = ["bundle", "--dir", "ca", "--format", "jwks"];
    let hints = ["--sequence", "7", "--refresh-hint", "5m"];
    let jwks = ca(folder.path(), &[&jwks[..], &hints[..]].concat()).await;
    let jwks: serde_json::Value = serde_json::from_str(&jwks.successful().stdout()).unwrap();
    assert_eq!(jwks["keys"][0]["use"], "x509-svid");
    assert_eq!(jwks["spiffe_sequence"], 7);
    assert_eq!(jwks["spiffe_refresh_hint"], 300);
}

#[tokio::test]
async fn mistakes_are_one_clear_line() {
    let folder = issued().await;
    for (arguments, words) in [
        (&["bundle", "--dir", "absent"][..], "wayleave ca init"),
        (
            &["init", "--dir", "ca", "--trust-domain", "shop.example"],
            "exists",
        ),
        (
            &[
                "issue",
                "--dir",
                "ca",
                "--out",
                "x",
                "--id",
                "spiffe://other.example/a",
            ],
            "not in the CA's trust domain",
        ),
        (
            &[
                "issue",
                "--dir",
                "ca",
                "--out",
                "x",
                "--id",
                "spiffe://shop.example",
            ],
            "has no path",
        ),
        (
            &[
                "init",
                "--dir",
                "x",
                "--trust-domain",
                "shop.example",
                "--lifetime",
                "999999999h",
            ],
            "year 9999",
        ),
    ] {
        let finished = ca(folder.path(), arguments).await;
        let told = finished.stderr();
        assert_eq!(finished.0.status.code(), Some(2), "{told}");
        assert_eq!(told.lines().count(), 1, "{told}");
        assert!(told.contains(words), "no `{words}` in {told}");
    }
    assert!(!folder.path().join("x").exists());
}

#[tokio::test]
async fn a_lifetime_of_nothing_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    for lifetime in ["0s", "999ms", "30"] {
        let init = ["init", "--dir", "x", "--trust-domain", "shop.example"];
        let arguments = [&init[..], &["--lifetime", lifetime]].concat();
        let finished = ca(folder.path(), &arguments).await;
        assert_eq!(finished.0.status.code(), Some(2), "{lifetime}");
    }
    assert!(!folder.path().join("x").exists());
}
