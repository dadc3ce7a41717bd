//! Peers with a good certificate and bad manners: whatever one of them does, memory stays
//! flat and the others are served.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::support::setup::{Setup, Sidecar};
use crate::support::upstream::{Speaks, Upstream};
use crate::support::{client, within};

/// What an attack may add to the peak memory of the sidecar.
const FLAT_KIB: u64 = 24 * 1024;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

async fn sidecar_and_upstream() -> (Sidecar, Upstream) {
    let upstream = Upstream::start(Speaks::Http1).await;
    (Setup::new(upstream.address).start().await, upstream)
}

/// A frame (RFC 9113 section 4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// `GET https://localhost/` in HPACK: three indexed fields and a literal authority.
fn request_head() -> Vec<u8> {
    [&[0x82, 0x87, 0x84, 0x41, 9][..], b"localhost"].concat()
}

/// A literal field that is never indexed, 126 bytes long.
fn literal_field() -> Vec<u8> {
    [&[0x10, 3][..], b"x-a", &[120], &[b'v'; 120]].concat()
}

async fn http2(sidecar: &Sidecar) -> TlsStream<TcpStream> {
    let mut stream = sidecar.stream("frontend", &["h2"]).await;
    stream.write_all(PREFACE).await.unwrap();
    stream.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
    stream
}

/// Sends `attack` until the sidecar has had enough, or `times` over; then asks whether
/// another peer is served, and what it cost.
async fn survives(attack: impl Fn(u32) -> Vec<u8>, times: u32) -> bool {
    let (sidecar, _upstream) = sidecar_and_upstream().await;
    assert_eq!(sidecar.get("frontend", "/before").await.status, 200);
    let before = sidecar.process.memory_kib("VmHWM");
    let (mut reader, mut writer) = tokio::io::split(http2(&sidecar).await);
    let reading = tokio::spawn(async move {
        let mut answers = vec![0; 65_536];
        while matches!(reader.read(&mut answers).await, Ok(length) if length > 0) {}
    });
    let writing = async {
        for number in 0..times {
            if writer.write_all(&attack(number)).await.is_err() {
                return true;
            }
        }
        false
    };
    let cut = within("the attack", writing).await;
    let answer = sidecar.get("frontend", "/after").await;
    assert_eq!(answer.status, 200, "others are no longer served");
    let grown = sidecar.process.memory_kib("VmHWM") - before;
    assert!(grown < FLAT_KIB, "grew by {grown} KiB");
    reading.abort();
    cut
}

/// CVE-2023-44487: streams that are opened and reset at once.
#[tokio::test]
async fn rapid_resets_are_survived_and_cut() {
    let attack = |number: u32| {
        let stream = 2 * number + 1;
        let head = frame(HEADERS, END_HEADERS | END_STREAM, stream, &request_head());
        [head, frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())].concat()
    };
    assert!(
        survives(attack, 20_000).await,
        "20,000 resets were taken without a word"
    );
}

/// CVE-2024-27919: a head that never ends.
#[tokio::test]
async fn endless_continuation_frames_are_cut() {
    let attack = |number: u32| match number {
        0 => frame(HEADERS, END_STREAM, 1, &request_head()),
        _ => frame(CONTINUATION, 0, 1, &literal_field().repeat(100)),
    };
    assert!(
        survives(attack, 5_000).await,
        "60 MB of header were taken without a word"
    );
}

#[tokio::test]
async fn a_flood_of_settings_is_survived() {
    survives(|_| frame(SETTINGS, 0, 0, &[]).repeat(100), 2_000).await;
}

#[tokio::test]
async fn a_flood_of_pings_is_survived() {
    survives(|_| frame(PING, 0, 0, b"pingpong").repeat(100), 2_000).await;
}

/// Many streams whose answers are never read: each is held to its window.
#[tokio::test]
async fn answers_that_are_not_read_are_not_piled_up() {
    let (sidecar, _upstream) = sidecar_and_upstream().await;
    let before = sidecar.process.memory_kib("VmHWM");
    let mut stream = http2(&sidecar).await;
    for number in 0..128_u32 {
        let head = frame(
            HEADERS,
            END_HEADERS | END_STREAM,
            2 * number + 1,
            &request_head(),
        );
        stream.write_all(&head).await.unwrap();
    }
    assert_eq!(sidecar.get("frontend", "/after").await.status, 200);
    let grown = sidecar.process.memory_kib("VmHWM") - before;
    assert!(grown < FLAT_KIB, "grew by {grown} KiB");
}

#[tokio::test]
async fn a_hundred_half_open_handshakes_do_not_keep_others_out() {
    let (sidecar, _upstream) = sidecar_and_upstream().await;
    let mut half_open = Vec::new();
    for number in 0..100 {
        let mut stream = TcpStream::connect(sidecar.inbound).await.unwrap();
        if number % 2 == 0 {
            stream.write_all(&[22, 3, 1, 2, 0, 1]).await.unwrap();
        }
        half_open.push(stream);
    }
    let mut http1 = sidecar.http1("frontend").await;
    assert_eq!(http1.send(client::get("/")).await.status, 200);
}
