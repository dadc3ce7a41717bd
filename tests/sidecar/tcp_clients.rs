//! TCP listeners met by clients that we did not write, and their records decided again.

use std::io::Write;
use std::process::Stdio;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

use crate::support::eventually;
use crate::support::process::{Process, wayleave};
use crate::support::setup::{Setup, Sidecar};
use crate::support::tcp::{GREETING, Talks, TcpUpstream};
use crate::support::{tool, within};

const POLICY: &str = r#"
@id("frontend-connects")
permit (
  principal == Workload::"spiffe://test.example/ns/default/sa/frontend",
  action == Action::"tcp:connect",
  resource in Service::"app"
) when { resource.host == "localhost" };
"#;

async fn before(upstream: impl ToString) -> Sidecar {
    let mut setup = Setup::new(upstream);
    setup.inbound_keys.push("protocol: tcp");
    setup.write_policy(POLICY);
    setup.start().await
}

#[tokio::test]
async fn openssl_s_client_talks_to_a_server_that_speaks_first() {
    if tool::find("openssl").is_none() {
        return;
    }
    let upstream = TcpUpstream::start(Talks::Greets).await;
    let sidecar = before(upstream.address).await;
    let caller = sidecar.setup.caller("frontend");
    let mut client = Command::new("openssl")
        .args(["s_client", "-quiet", "-servername", "localhost", "-connect"])
        .arg(sidecar.inbound.to_string())
        .arg("-cert")
        .arg(&caller.certificate)
        .arg("-key")
        .arg(&caller.key)
        .arg("-CAfile")
        .arg(&caller.bundle)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut stdin = client.stdin.take().unwrap();
    let mut stdout = client.stdout.take().unwrap();
    stdin.write_all(b"a line\n").await.unwrap();
    let mut told = vec![0; GREETING.len() + 7];
    within("the echo", stdout.read_exact(&mut told))
        .await
        .unwrap();
    assert_eq!(told, [GREETING, b"a line\n"].concat());
    client.kill().await.unwrap();
}

/// A client of the standard library that half-closes, and waits for the answer.
const PYTHON: &str = r#"
import socket, ssl, sys
port, cert, key, bundle = sys.argv[1:]
context = ssl.create_default_context(cafile=bundle)
context.load_cert_chain(cert, key)
with socket.create_connection(("localhost", int(port))) as plain:
    with context.wrap_socket(plain, server_hostname="localhost") as tls:
        tls.sendall(b"binary \x00\xff")
        got = b""
        while len(got) < 9:
            got += tls.recv(100)
        tls.unwrap()
print(got)
"#;

#[tokio::test]
async fn python_sends_and_gets_bytes_and_ends_cleanly() {
    if tool::find("python3").is_none() {
        return;
    }
    let upstream = TcpUpstream::start(Talks::Echoes).await;
    let sidecar = before(upstream.address).await;
    let caller = sidecar.setup.caller("frontend");
    let mut python = Command::new("python3");
    python
        .args(["-c", PYTHON])
        .arg(sidecar.inbound.port().to_string())
        .arg(&caller.certificate)
        .arg(&caller.key)
        .arg(&caller.bundle);
    let told = tool::run(&mut python).await.successful().stdout();
    assert_eq!(told.trim(), r"b'binary \x00\xff'");
    assert_eq!(upstream.ended().await, Ok(()));
    let record = sidecar.record(|_| true).await;
    assert_eq!(record["failure"], serde_json::Value::Null);
    assert_eq!(
        (&record["bytes_in"], &record["bytes_out"]),
        (&9.into(), &9.into())
    );
}

/// A real database on a port of its own.
async fn redis(directory: &std::path::Path) -> Option<(Process, std::net::SocketAddr)> {
    let program = tool::find("redis-server")?;
    tool::find("redis-cli")?;
    let port = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap()
    };
    let process = Process::start(
        Command::new(program)
            .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
            .arg("--port")
            .arg(port.port().to_string())
            .arg("--dir")
            .arg(directory),
    );
    eventually("redis to accept", || async {
        tokio::net::TcpStream::connect(port).await.ok()
    })
    .await;
    Some((process, port))
}

async fn redis_cli(sidecar: &Sidecar, name: &str, arguments: &[&str]) -> String {
    let caller = sidecar.setup.caller(name);
    let mut client = Command::new("redis-cli");
    client
        .args(["--tls", "--sni", "localhost", "-h", "127.0.0.1", "-p"])
        .arg(sidecar.inbound.port().to_string())
        .arg("--cert")
        .arg(&caller.certificate)
        .arg("--key")
        .arg(&caller.key)
        .arg("--cacert")
        .arg(&caller.bundle)
        .args(arguments);
    let finished = tool::run(&mut client).await;
    finished.stdout() + &finished.stderr()
}

#[tokio::test]
async fn redis_serves_whom_policy_lets_connect_and_nobody_else() {
    let directory = tempfile::tempdir().unwrap();
    let Some((_redis, address)) = redis(directory.path()).await else {
        return;
    };
    let sidecar = before(address).await;
    let big = "x".repeat(100_000);
    assert_eq!(
        redis_cli(&sidecar, "frontend", &["SET", "key", &big]).await,
        "OK\n"
    );
    let got = redis_cli(&sidecar, "frontend", &["GET", "key"]).await;
    assert_eq!(got.trim_matches(['"', '\n']), big);
    let denied = redis_cli(&sidecar, "agent", &["GET", "key"]).await;
    assert!(!denied.contains(&big), "{denied}");
    let record = sidecar.record(|record| record["effect"] == "deny").await;
    assert_eq!(record["action"], "tcp:connect");
}

#[tokio::test]
async fn a_record_of_tcp_is_decided_again_and_so_is_a_connection_by_hand() {
    let upstream = TcpUpstream::start(Talks::Echoes).await;
    let sidecar = before(upstream.address).await;
    for caller in ["frontend", "agent"] {
        let mut stream = sidecar.stream(caller, &[]).await;
        let _ = stream.shutdown().await;
        let _ = stream.read_to_end(&mut Vec::new()).await;
    }
    let allowed = sidecar.record(|record| record["effect"] == "allow").await;
    let denied = sidecar.record(|record| record["effect"] == "deny").await;
    let path = sidecar.setup.path("records.jsonl");
    let mut file = std::fs::File::create(&path).unwrap();
    writeln!(file, "{allowed}\n{denied}").unwrap();
    let config = sidecar.setup.path("wayleave.yaml");
    let explain = |arguments: &[&str]| {
        let mut command = wayleave();
        command.arg("explain").arg("--config").arg(&config);
        command.args(arguments);
        command
    };
    let mut again = explain(&["--from-record", path.to_str().unwrap()]);
    let told = tool::run(&mut again).await.successful().stdout();
    assert_eq!(told.matches("\nas recorded").count(), 2, "{told}");

    let frontend = "spiffe://test.example/ns/default/sa/frontend";
    let by_hand = ["--tcp", "--principal", frontend, "--host"];
    for (host, decision) in [("Localhost", "allow"), ("db.example", "deny")] {
        let mut command = explain(&by_hand);
        let told = tool::run(command.arg(host)).await.successful().stdout();
        assert!(told.starts_with(decision), "{told}");
    }
}
