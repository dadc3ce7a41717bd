//! `wayleave dev`: from nothing to a first allowed and a first denied call.

use std::fs::{read, write};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio_rustls::client::TlsStream;

use crate::support::client::{self, Answer, Http1};
use crate::support::pki::Credentials;
use crate::support::process::{Process, wayleave};
use crate::support::{eventually, tool};

/// A running `wayleave dev` and what its banner said.
pub(super) struct Dev {
    pub(super) process: Process,
    /// The two curl commands, in their order.
    curls: Vec<String>,
    directory: PathBuf,
}

pub(super) fn command(directory: &Path, arguments: &[&str]) -> Command {
    let mut command = wayleave();
    command.args([
        "dev",
        "--listen",
        "127.0.0.1:0",
        "--admin",
        "127.0.0.1:0",
        "--dir",
    ]);
    command.arg(directory).args(arguments);
    command
}

impl Dev {
    pub(super) async fn start(directory: &Path, arguments: &[&str]) -> Self {
        let process = Process::start(&mut command(directory, arguments));
        // Where standard output is JSON the banner is kept out of it.
        let json = arguments.contains(&"json");
        let banner = if json {
            &process.stderr
        } else {
            &process.stdout
        };
        let curls = eventually("both curl commands", || async {
            let lines = banner.all();
            let curls = lines
                .iter()
                .map(|line| line.trim())
                .filter(|line| line.starts_with("curl "));
            let curls: Vec<_> = curls.map(str::to_owned).collect();
            (curls.len() == 2).then_some(curls)
        })
        .await;
        Self {
            curls,
            directory: directory.to_owned(),
            process,
        }
    }

    pub(super) fn address(&self) -> SocketAddr {
        let url = self.curls[0].split("https://localhost:").nth(1).unwrap();
        let port: String = url.chars().take_while(char::is_ascii_digit).collect();
        format!("127.0.0.1:{port}").parse().unwrap()
    }

    async fn stream(&self, caller: &str) -> TlsStream<TcpStream> {
        let svid = self.directory.join("svids").join(caller);
        let credentials = Credentials {
            certificate: svid.join("svid.pem"),
            key: svid.join("key.pem"),
            bundle: svid.join("bundle.pem"),
        };
        let bundle = read(&credentials.bundle).unwrap();
        let config = client::tls(Some(&credentials), &bundle, &["http/1.1"]);
        client::handshake(self.address(), config).await.unwrap()
    }

    pub(super) async fn get(&self, caller: &str, path: &str) -> Answer {
        Http1::over(self.stream(caller).await)
            .await
            .send(client::get(path))
            .await
    }

    pub(super) async fn stop(mut self) {
        self.process.signal("TERM").await;
        assert_eq!(self.process.ended().await.code(), Some(0));
    }
}

pub(super) fn directory() -> TempDir {
    tempfile::Builder::new()
        .prefix("wayleave-dev-")
        .tempdir()
        .unwrap()
}

#[tokio::test]
async fn the_two_pasted_curl_commands_are_allowed_and_denied() {
    if tool::find("curl").is_none() {
        return;
    }
    let parent = directory();
    let dev = Dev::start(&parent.path().join("dev"), &[]).await;
    for (curl, expected) in dev.curls.iter().zip(["200", "403"]) {
        let script = format!("{curl} --silent --output /dev/null --write-out '\\n%{{http_code}}'");
        let output = tool::run(Command::new("sh").arg("-c").arg(script))
            .await
            .successful()
            .stdout();
        assert_eq!(output.lines().last(), Some(expected), "{curl}\n{output}");
    }
    let pasted = tool::run(Command::new("sh").arg("-c").arg(&dev.curls[0]))
        .await
        .successful();
    assert!(
        pasted.stdout().contains("\"method\""),
        "{}",
        pasted.stdout()
    );
    dev.process
        .stdout
        .find("a line for the denied call", |line| {
            (line.contains("deny") && line.contains("403") && line.contains("agent")).then_some(())
        })
        .await;
    dev.stop().await;
}

#[tokio::test]
async fn decisions_are_json_where_asked_for() {
    let parent = directory();
    let dev = Dev::start(&parent.path().join("dev"), &["--log", "json"]).await;
    assert_eq!(dev.get("agent", "/").await.status, 403);
    let record = dev
        .process
        .stdout
        .json("the record", |line| line["effect"] == "deny")
        .await;
    assert_eq!(
        record["principal"],
        "spiffe://dev.wayleave/ns/default/sa/agent"
    );
    dev.stop().await;
}

#[tokio::test]
async fn an_edit_of_the_starter_policy_is_picked_up() {
    let parent = directory();
    let dev = Dev::start(&parent.path().join("dev"), &[]).await;
    assert_eq!(dev.get("agent", "/").await.status, 403);
    let policy = r#"@id("all") permit (principal, action, resource);"#;
    write(dev.directory.join("policies/mine.cedar"), policy).unwrap();
    eventually("the agent to be allowed", || async {
        (dev.get("agent", "/anything").await.status == 200).then_some(())
    })
    .await;
    dev.stop().await;
}

/// Every path below a folder with its mode.
fn modes(directory: &Path) -> Vec<(PathBuf, bool, u32)> {
    let mut found = Vec::new();
    let mut open = vec![directory.to_owned()];
    while let Some(directory) = open.pop() {
        let mode = directory.metadata().unwrap().permissions().mode() & 0o777;
        found.push((directory.clone(), true, mode));
        for entry in std::fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if path.is_file() {
                let mode = path.metadata().unwrap().permissions().mode() & 0o777;
                found.push((path, false, mode));
            }
        }
    }
    found
}

#[tokio::test]
async fn the_folder_and_its_keys_are_for_their_owner_only() {
    let parent = directory();
    let dev = Dev::start(&parent.path().join("dev"), &[]).await;
    let found = modes(&dev.directory);
    let keys: Vec<_> = found
        .iter()
        .filter(|(path, folder, _)| {
            !folder && read(path).unwrap().windows(11).any(|w| w == b"PRIVATE KEY")
        })
        .collect();
    assert!(keys.len() >= 3, "{found:?}");
    for (path, _, mode) in keys {
        assert_eq!(*mode, 0o600, "{}", path.display());
    }
    assert_eq!(found[0], (dev.directory.clone(), true, 0o700));
    dev.stop().await;
}

#[tokio::test]
async fn a_second_start_keeps_what_is_still_valid() {
    let parent = directory();
    let path = parent.path().join("dev");
    let kept = [
        "bundle.pem",
        "svids/frontend/svid.pem",
        "svids/agent/key.pem",
    ];
    let contents = || kept.map(|name| read(path.join(name)).unwrap());
    Dev::start(&path, &[]).await.stop().await;
    let first = contents();
    write(
        path.join("policies/mine.cedar"),
        r#"@id("m") forbid (principal, action, resource);"#,
    )
    .unwrap();
    let dev = Dev::start(&path, &[]).await;
    assert!(contents() == first, "certificates were made again");
    assert_eq!(
        dev.get("frontend", "/").await.status,
        403,
        "the user's policy was not read"
    );
    dev.stop().await;
}

#[tokio::test]
async fn never_overwrites_a_file_that_it_did_not_make() {
    for name in [
        "bundle.pem",
        "svids/frontend/svid.pem",
        "svids/frontend/key.pem",
    ] {
        let parent = directory();
        let path = parent.path().join("dev");
        let foreign = path.join(name);
        std::fs::create_dir_all(foreign.parent().unwrap()).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o700)).unwrap();
        write(&foreign, "somebody else's\n").unwrap();
        let finished = tool::run(&mut command(&path, &[])).await;
        assert_eq!(
            finished.0.status.code(),
            Some(2),
            "{name}: {}",
            finished.stderr()
        );
        let told = finished.stderr();
        assert!(told.contains(name.rsplit('/').next().unwrap()), "{told}");
        assert_eq!(read(&foreign).unwrap(), b"somebody else's\n", "{name}");
    }
}

#[tokio::test]
async fn a_folder_that_cannot_be_made_is_one_clear_line() {
    let parent = directory();
    let file = parent.path().join("file");
    write(&file, "").unwrap();
    let finished = tool::run(&mut command(&file.join("dev"), &[])).await;
    assert_eq!(finished.0.status.code(), Some(2), "{}", finished.stderr());
    assert_eq!(
        finished.stderr().trim().lines().count(),
        1,
        "{}",
        finished.stderr()
    );
}

#[tokio::test]
async fn forwards_to_the_upstream_that_it_is_given() {
    use crate::support::upstream::{Speaks, Upstream};
    let upstream = Upstream::start(Speaks::Http1).await;
    let parent = directory();
    let address = upstream.address.to_string();
    let dev = Dev::start(&parent.path().join("dev"), &["--upstream", &address]).await;
    assert_eq!(
        dev.get("frontend", "/").await.text(),
        "upstream got 0 bytes\n"
    );
    assert_eq!(dev.get("agent", "/").await.status, 403);
    assert_eq!(upstream.seen().len(), 1);
    dev.stop().await;
}

/// What a peer sends must not steer the terminal of whoever reads the log; and colours are for
/// terminals, which a pipe is not.
#[tokio::test]
async fn a_decision_line_holds_no_control_character() {
    let parent = directory();
    let dev = Dev::start(&parent.path().join("dev"), &[]).await;
    for path in [
        "/\u{9b}31mred",
        "/a\u{202e}b",
        "/\u{1b}[31mred",
        "/%1B[31mred",
        "/a/../b",
    ] {
        let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
        let answer = client::raw(dev.stream("agent").await, request).await;
        assert_eq!(client::status_of(&answer), 400, "{path:?}");
    }
    assert_eq!(dev.get("agent", "/last").await.status, 403);
    dev.process.stdout.contains("/last").await;
    let written = dev.process.stdout.text() + &dev.process.stderr.text();
    let steers = |c: &char| (c.is_control() && *c != '\n') || *c == '\u{202e}';
    assert_eq!(written.chars().find(steers), None, "{written:?}");
    dev.stop().await;
}
