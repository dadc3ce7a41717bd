//! The command line: mistakes are one clear line and exit 2, help is complete.

use std::path::Path;

use tokio::net::TcpListener;

use crate::support::pki::{Ca, Leaf, workload};
use crate::support::process::wayleave;
use crate::support::setup::Setup;
use crate::support::tool::{self, Finished};

async fn run(config: &Path) -> Finished {
    tool::run(wayleave().arg("run").arg("--config").arg(config)).await
}

/// Fails the test unless the sidecar ended with exit 2 and one line that has all `words`.
async fn refuses_to_start(setup: &Setup, config: &str, words: &[&str]) {
    let path = setup.path("wayleave.yaml");
    std::fs::write(&path, config).unwrap();
    let finished = run(&path).await;
    let told = finished.stderr();
    assert_eq!(finished.0.status.code(), Some(2), "{told}");
    assert!(!told.contains("panicked"), "{told}");
    let line = one_line(&told);
    for word in words {
        assert!(line.contains(word), "no `{word}` in {line}");
    }
}

/// The one line that is not a log record.
fn one_line(told: &str) -> String {
    let lines: Vec<_> = told
        .lines()
        .filter(|line| !line.starts_with("{\"timestamp\""))
        .collect();
    let [line] = &lines[..] else {
        panic!("not one line:\n{told}")
    };
    (*line).to_owned()
}

fn setup() -> Setup {
    Setup::new("127.0.0.1:9")
}

#[tokio::test]
async fn a_port_in_use_is_one_clear_line() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let setup = setup();
    refuses_to_start(&setup, &setup.config(&address), &[&address, "in use"]).await;
}

#[tokio::test]
async fn a_key_that_does_not_match_its_certificate_is_one_clear_line() {
    let setup = setup();
    let other = setup.ca.issue(&Leaf::svid(&workload("app")));
    std::fs::write(&setup.own.key, other.key).unwrap();
    let config = setup.config("127.0.0.1:0");
    refuses_to_start(&setup, &config, &["key.pem", "svid.pem", "does not belong"]).await;
}

#[tokio::test]
async fn an_unreadable_key_is_one_clear_line() {
    let setup = setup();
    // A folder in the file's place cannot be read by any user, root included.
    std::fs::remove_file(&setup.own.key).unwrap();
    std::fs::create_dir(&setup.own.key).unwrap();
    refuses_to_start(&setup, &setup.config("127.0.0.1:0"), &["key.pem"]).await;
}

#[tokio::test]
async fn a_missing_certificate_is_one_clear_line() {
    let setup = setup();
    std::fs::remove_file(&setup.own.certificate).unwrap();
    refuses_to_start(&setup, &setup.config("127.0.0.1:0"), &["svid.pem"]).await;
}

#[tokio::test]
async fn a_file_that_is_no_pem_is_one_clear_line() {
    let setup = setup();
    std::fs::write(&setup.own.bundle, "hello").unwrap();
    refuses_to_start(&setup, &setup.config("127.0.0.1:0"), &["bundle.pem", "PEM"]).await;
}

#[tokio::test]
async fn an_expired_certificate_is_one_clear_line() {
    let setup = setup();
    let expired = setup.ca.issue(&Leaf {
        expired: true,
        ..Leaf::svid(&workload("app"))
    });
    std::fs::write(&setup.own.certificate, expired.certificate).unwrap();
    std::fs::write(&setup.own.key, expired.key).unwrap();
    refuses_to_start(
        &setup,
        &setup.config("127.0.0.1:0"),
        &["svid.pem", "expired"],
    )
    .await;
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_refused() {
    let setup = setup();
    std::fs::write(&setup.own.bundle, Ca::new().pem()).unwrap();
    refuses_to_start(&setup, &setup.config("127.0.0.1:0"), &["bundle.pem"]).await;
}

#[tokio::test]
async fn a_missing_policy_folder_is_one_clear_line() {
    let setup = setup();
    std::fs::remove_dir_all(setup.path("policies")).unwrap();
    refuses_to_start(&setup, &setup.config("127.0.0.1:0"), &["policies"]).await;
}

#[tokio::test]
async fn a_missing_config_file_is_one_clear_line() {
    let directory = tempfile::tempdir().unwrap();
    let finished = run(&directory.path().join("absent.yaml")).await;
    assert_eq!(finished.0.status.code(), Some(2));
    let line = one_line(&finished.stderr());
    assert!(line.contains("absent.yaml"), "{line}");
}

#[tokio::test]
async fn config_mistakes_are_told_together_with_their_places() {
    let setup = setup();
    let config = setup
        .config("127.0.0.1:0")
        .replace("service: app", "servce: app");
    let config = format!("{config}drain_timeout: soon\n");
    let path = setup.path("wayleave.yaml");
    std::fs::write(&path, &config).unwrap();
    let place = |text: &str| {
        let line = config.lines().position(|line| line.contains(text)).unwrap();
        let column = config.lines().nth(line).unwrap().find(text).unwrap();
        format!("wayleave.yaml:{}:{}", line + 1, column + 1)
    };
    for command in ["run", "check"] {
        let finished = tool::run(wayleave().arg(command).arg("--config").arg(&path)).await;
        assert_eq!(finished.0.status.code(), Some(2));
        let told = finished.stdout() + &finished.stderr();
        for expected in [&place("servce"), &place("soon"), "service", "30s"] {
            assert!(
                told.contains(expected),
                "{command}: no `{expected}` in\n{told}"
            );
        }
    }
}

#[tokio::test]
async fn check_agrees_to_a_good_config_and_names_the_place_of_a_bad_policy() {
    let setup = setup();
    let config = setup.write_config();
    let good = tool::run(wayleave().arg("check").arg("--config").arg(&config)).await;
    good.successful();
    setup.write_policy(
        "@id(\"typo\")\npermit (principal, action == Action::\"http:gett\", resource);\n",
    );
    for command in ["check", "run"] {
        let finished = tool::run(wayleave().arg(command).arg("--config").arg(&config)).await;
        assert_eq!(finished.0.status.code(), Some(2));
        let told = finished.stdout() + &finished.stderr();
        assert!(told.contains("main.cedar:2:"), "{command}: {told}");
        assert!(told.contains("http:gett"), "{command}: {told}");
    }
}

#[tokio::test]
async fn usage_mistakes_exit_2() {
    for arguments in [
        &["run"][..],
        &["no-such-command"],
        &["dev", "--no-such-option"],
        &["check"],
    ] {
        let finished = tool::run(wayleave().args(arguments)).await;
        assert_eq!(finished.0.status.code(), Some(2), "{arguments:?}");
        assert!(
            finished.stderr().contains("Usage"),
            "{arguments:?}: {}",
            finished.stderr()
        );
    }
}

#[tokio::test]
async fn the_help_of_every_command_has_examples() {
    let top = tool::run(wayleave().arg("--help"))
        .await
        .successful()
        .stdout();
    for command in ["dev", "run", "check", "ready", "ca", "inspect", "status"] {
        assert!(top.contains(command), "{top}");
        let help = tool::run(wayleave().args([command, "--help"]))
            .await
            .successful()
            .stdout();
        assert!(help.contains("Examples:"), "{help}");
        assert!(help.contains(&format!("wayleave {command}")), "{help}");
    }
}
