//! What is left of one request is never taken for the next, towards the caller and towards the
//! upstream; and a tunnel carries nothing before the upstream has agreed to it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::client::raw;
use crate::support::setup::{Setup, Sidecar};
use crate::support::upstream::{Speaks, Upstream};
use crate::support::{client, eventually, within};

const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n";

async fn sidecar_and_upstream() -> (Sidecar, Upstream) {
    let upstream = Upstream::start(Speaks::Http1).await;
    (Setup::new(upstream.address).start().await, upstream)
}

/// The statuses of all answers.
fn statuses(answers: &str) -> Vec<&str> {
    let heads = answers.split("HTTP/1.1 ").skip(1);
    heads.filter_map(|head| head.get(..3)).collect()
}

#[tokio::test]
async fn the_body_of_a_denied_request_is_never_a_request() {
    let last = "GET /last HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    let length = SMUGGLED.len();
    let long = format!("{}{SMUGGLED}", "x".repeat(100_000));
    for (what, fields, body, served) in [
        (
            "short",
            format!("content-length: {length}"),
            SMUGGLED.to_owned(),
            true,
        ),
        (
            "long",
            format!("content-length: {}", long.len()),
            long,
            false,
        ),
        (
            "in chunks",
            "transfer-encoding: chunked".to_owned(),
            format!("{length:x}\r\n{SMUGGLED}\r\n0\r\n\r\n"),
            false,
        ),
        (
            "waited for",
            format!("expect: 100-continue\r\ncontent-length: {length}"),
            SMUGGLED.to_owned(),
            false,
        ),
    ] {
        let (sidecar, upstream) = sidecar_and_upstream().await;
        let denied = format!("POST /forbidden HTTP/1.1\r\nhost: a\r\n{fields}\r\n\r\n{body}");
        let stream = sidecar.stream("frontend", &["http/1.1"]).await;
        let answers = raw(stream, format!("{denied}{last}")).await;
        let seen: Vec<_> = upstream
            .seen()
            .into_iter()
            .map(|seen| seen.target)
            .collect();
        let expected: (&[_], &[_]) = match served {
            true => (&["403", "200"], &["/last"]),
            false => (&["403"], &[]),
        };
        assert_eq!(statuses(&answers), expected.0, "{what}: {answers}");
        assert_eq!(seen, expected.1, "{what}");
    }
}

#[tokio::test]
async fn nothing_goes_through_a_tunnel_that_the_upstream_did_not_open() {
    let (sidecar, upstream) = sidecar_and_upstream().await;
    let upgrade = "GET /ws HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                   sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let forbidden = "GET /forbidden HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    let stream = sidecar.stream("frontend", &["http/1.1"]).await;
    let answers = raw(stream, format!("{upgrade}{forbidden}")).await;
    // The upstream answers 200 in place of 101: what follows is a request, to be decided.
    assert_eq!(statuses(&answers), ["200", "403"], "{answers}");
    assert_eq!(upstream.only().target, "/ws");
}

/// An upstream that answers as soon as it has a head, and keeps what each connection said.
struct Hasty {
    address: SocketAddr,
    heard: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Hasty {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&heard);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let number = {
                    let mut heard = kept.lock().unwrap();
                    heard.push(Vec::new());
                    heard.len() - 1
                };
                tokio::spawn(answer_heads(stream, Arc::clone(&kept), number));
            }
        });
        Self { address, heard }
    }

    fn heard(&self) -> Vec<String> {
        let heard = self.heard.lock().unwrap();
        let texts = heard.iter();
        texts
            .map(|bytes| String::from_utf8_lossy(bytes).into_owned())
            .collect()
    }
}

async fn answer_heads(mut stream: TcpStream, heard: Arc<Mutex<Vec<Vec<u8>>>>, number: usize) {
    let (mut buffer, mut answered) = ([0; 4_096], false);
    while let Ok(length @ 1..) = stream.read(&mut buffer).await {
        heard.lock().unwrap()[number].extend_from_slice(&buffer[..length]);
        if !answered && buffer[..length].windows(4).any(|end| end == b"\r\n\r\n") {
            answered = true;
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
            stream.write_all(answer).await.unwrap();
        }
    }
}

#[tokio::test]
async fn an_upstream_connection_with_half_a_body_on_it_is_not_used_again() {
    let upstream = Hasty::start().await;
    let sidecar = Setup::new(upstream.address).start().await;
    let mut stream = sidecar.stream("frontend", &["http/1.1"]).await;
    let head = "POST /half HTTP/1.1\r\nhost: a\r\ncontent-length: 1000\r\n\r\nhalf";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut status = [0; 12];
    within("the answer", stream.read_exact(&mut status))
        .await
        .unwrap();
    assert_eq!(&status, b"HTTP/1.1 200");
    drop(stream);

    let answer = sidecar
        .http1("frontend")
        .await
        .send(client::get("/next"))
        .await;
    assert_eq!(answer.status, 200);
    let heard = eventually("the second request", || async {
        let heard = upstream.heard();
        heard
            .iter()
            .any(|text| text.contains("/next"))
            .then_some(heard)
    })
    .await;
    let next = heard.iter().find(|text| text.contains("/next")).unwrap();
    assert!(next.starts_with("GET /next HTTP/1.1\r\n"), "{heard:?}");
}
