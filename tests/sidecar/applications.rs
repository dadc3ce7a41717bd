//! Applications that we did not write behind the sidecar: what they serve arrives unchanged.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;

use tokio::process::Command;

use crate::support::process::Process;
use crate::support::setup::{Setup, Sidecar};
use crate::support::{client, eventually, tool};

/// Some megabytes that do not compress and do not repeat, and an empty file.
fn write_files(directory: &Path) -> Vec<(&'static str, Vec<u8>)> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut noise = |length: usize| {
        let mut bytes = Vec::with_capacity(length);
        while bytes.len() < length {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            bytes.extend_from_slice(&state.to_le_bytes());
        }
        bytes.truncate(length);
        bytes
    };
    let files = vec![
        ("large.bin", noise(7_654_321)),
        ("page.html", noise(16_384)),
        ("empty.txt", vec![]),
    ];
    std::fs::create_dir_all(directory).unwrap();
    for (name, content) in &files {
        std::fs::write(directory.join(name), content).unwrap();
    }
    files
}

/// Fetches every file over both protocols and compares every byte.
async fn serves_unchanged(sidecar: &Sidecar, files: &[(&str, Vec<u8>)]) {
    let mut http1 = sidecar.http1("frontend").await;
    let mut http2 = sidecar.http2("frontend").await;
    for (name, content) in files {
        let first = http1.send(client::get(&format!("/{name}"))).await;
        let second = http2
            .send(client::get(&sidecar.url(&format!("/{name}"))))
            .await;
        for answer in [first, second] {
            assert_eq!(answer.status, 200, "{name}");
            assert_eq!(
                answer.header("content-length"),
                content.len().to_string(),
                "{name}"
            );
            assert!(answer.body == content[..], "{name} was changed on its way");
        }
    }
    assert_eq!(http1.send(client::get("/absent")).await.status, 404);
}

#[tokio::test]
async fn python_http_server_is_served_unchanged() {
    let Some(python) = tool::find("python3") else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let files = write_files(directory.path());
    let mut command = Command::new(python);
    command.args(["-u", "-m", "http.server", "0", "--bind", "127.0.0.1"]);
    let server = Process::start(command.current_dir(directory.path()));
    let port = server
        .stdout
        .find("the port", |line| {
            line.split_once(" port ")?
                .1
                .split(' ')
                .next()?
                .parse::<u16>()
                .ok()
        })
        .await;
    let sidecar = Setup::new(format!("127.0.0.1:{port}")).start().await;
    serves_unchanged(&sidecar, &files).await;
    assert_eq!(sidecar.get("agent", "/large.bin").await.status, 403);
}

#[tokio::test]
async fn nginx_is_served_unchanged() {
    let Some(nginx) = tool::find("nginx") else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let files = write_files(&directory.path().join("files"));
    let address = free_address();
    write_nginx_config(directory.path(), address);
    let mut command = Command::new(nginx);
    command
        .arg("-e")
        .arg("stderr")
        .arg("-p")
        .arg(directory.path())
        .args(["-c", "nginx.conf"]);
    let _server = Process::start(&mut command);
    eventually("nginx", || async {
        tokio::net::TcpStream::connect(address).await.ok()
    })
    .await;
    let sidecar = Setup::new(address).start().await;
    serves_unchanged(&sidecar, &files).await;
}

/// nginx cannot be asked to choose a port. Nothing else here binds a port by number, so one
/// that was free a moment ago still is.
fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
}

fn write_nginx_config(directory: &Path, address: SocketAddr) {
    let config = format!(
        "daemon off; master_process off; pid nginx.pid; error_log stderr;\n\
         events {{ worker_connections 64; }}\n\
         http {{ access_log off;\n\
           client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;\n\
           uwsgi_temp_path uwsgi; scgi_temp_path scgi;\n\
           server {{ listen {address}; root {}; }} }}\n",
        directory.join("files").display()
    );
    std::fs::write(directory.join("nginx.conf"), config).unwrap();
    // A master that is root would drop to a user who cannot read the temporary folder; one
    // process stays who it is.
}
