//! Peers with a good certificate and bad manners: whatever one of them does, memory stays flat,
//! well-behaved callers beside it are answered, and it is told to go.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::client::raw;
use crate::support::process::{Process, wayleave};
use crate::support::raw_http2::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, GOAWAY, HEADERS, PING,
    RST_STREAM, RawHttp2, SETTINGS, WINDOW_UPDATE, frame, get, get_head, literal_field, post_head,
};
use crate::support::setup::{Setup, Sidecar, message};
use crate::support::upstream::{Speaks, Upstream};
use crate::support::{client, eventually, load, within};

/// What an attack may add to the peak memory of the sidecar.
const FLAT_KIB: u64 = 24 * 1024;

async fn sidecar_and_upstream() -> (Sidecar, Upstream) {
    limited(&[]).await
}

async fn limited(limits: &[&'static str]) -> (Sidecar, Upstream) {
    let upstream = Upstream::start(Speaks::Http1).await;
    let mut setup = Setup::new(upstream.address);
    setup.limits.extend(limits);
    (setup.start().await, upstream)
}

/// Runs an attack beside callers of every kind, each of whose calls must be answered, and sees
/// what it cost.
async fn beside<T>(sidecar: &Sidecar, attack: impl Future<Output = T>) -> T {
    assert_eq!(sidecar.get("frontend", "/before").await.status, 200);
    let before = sidecar.process.memory_kib("VmHWM");
    let mut outcome = None;
    let calls = load::until(sidecar, async {
        outcome = Some(within("the attack", attack).await);
    })
    .await;
    assert!(calls >= 3, "{calls}");
    let grown = sidecar.process.memory_kib("VmHWM") - before;
    assert!(grown < FLAT_KIB, "grew by {grown} KiB");
    outcome.unwrap()
}

/// Sends `attack` until the sidecar has had enough, or `times` over; answers with the error that
/// it was told as it was let go.
async fn flood(sidecar: &Sidecar, times: u32, attack: impl Fn(u32) -> Vec<u8>) -> Option<u32> {
    let RawHttp2 { reader, mut writer } = RawHttp2::begin(sidecar, "frontend", &[]).await;
    // Read at the same time, so that the sidecar never waits for us.
    let told = tokio::spawn(goaway(reader));
    for number in 0..times {
        if writer.write_all(&attack(number)).await.is_err() {
            break;
        }
    }
    within("the end of the connection", told).await.unwrap()
}

/// Reads to the end; the error of the GOAWAY, where there was one.
async fn goaway(mut reader: impl AsyncReadExt + Unpin) -> Option<u32> {
    let mut told = None;
    let mut head = [0; 9];
    while reader.read_exact(&mut head).await.is_ok() {
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        if reader.read_exact(&mut payload).await.is_err() {
            break;
        }
        if head[3] == GOAWAY {
            told = Some(u32::from_be_bytes(payload[4..8].try_into().unwrap()));
        }
    }
    told
}

/// Waits until a connection was ended for this reason, in metrics, record and log.
async fn told_of(sidecar: &Sidecar, reason_code: &str) {
    let line = format!("wayleave_connections_cut_total{{reason_code=\"{reason_code}\"}}");
    eventually(&line, || async {
        let metrics = sidecar.admin_get("/metrics").await?.text();
        metrics.contains(&line).then_some(())
    })
    .await;
    let record = sidecar
        .record(|record| record["reason_code"] == reason_code)
        .await;
    assert_eq!(record["effect"], "deny");
    let principal = "spiffe://test.example/ns/default/sa/frontend";
    assert_eq!(record["principal"], principal);
    assert!(record["source"].as_str().unwrap().starts_with("127.0.0.1:"));
}

/// CVE-2023-44487: streams that are opened and reset at once.
#[tokio::test]
async fn rapid_resets_are_told_to_calm_down() {
    let (sidecar, _upstream) = sidecar_and_upstream().await;
    let attack = flood(&sidecar, 20_000, |number| {
        let stream = 2 * number + 1;
        [
            get(stream),
            frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()),
        ]
        .concat()
    });
    let told = beside(&sidecar, attack).await;
    assert!(matches!(told, None | Some(ENHANCE_YOUR_CALM)), "{told:?}");
    told_of(&sidecar, "http2_abuse").await;
}

/// The same at leisure: each stream is looked at before it is reset, which HTTP/2's own count of
/// resets does not see.
#[tokio::test]
async fn resets_of_streams_that_were_looked_at_are_counted_too() {
    const ROUND: u32 = 100;
    let (sidecar, upstream) = sidecar_and_upstream().await;
    let attack = async {
        // Who may do nothing: nothing of it reaches the upstream.
        let mut raw = RawHttp2::begin(&sidecar, "frontend", &[(4, 0)]).await;
        for round in 0..100 {
            let streams = (0..ROUND).map(|n| 2 * (round * ROUND + n) + 1);
            let opened: Vec<u8> = streams.clone().flat_map(forbidden).collect();
            if raw.send(&opened).await.is_err() {
                return true;
            }
            for _ in 0..ROUND {
                if raw.find(|frame| frame.kind == HEADERS).await.is_none() {
                    return true;
                }
            }
            let reset = |stream| frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes());
            let resets: Vec<u8> = streams.flat_map(reset).collect();
            if raw.send(&resets).await.is_err() {
                return true;
            }
        }
        false
    };
    assert!(beside(&sidecar, attack).await, "10,000 resets were taken");
    told_of(&sidecar, "rapid_reset").await;
    assert!(
        upstream
            .seen()
            .iter()
            .all(|seen| !seen.target.contains("forbidden"))
    );
}

/// A request for what nobody may have.
fn forbidden(stream: u32) -> Vec<u8> {
    let path = [&[0x04, 10][..], b"/forbidden"].concat();
    let head = [&[0x82, 0x87][..], &path, &[0x41, 9], b"localhost"].concat();
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &head)
}

/// CVE-2024-27919: a head that never ends.
#[tokio::test]
async fn endless_continuation_frames_are_told_to_calm_down() {
    let (sidecar, _upstream) = sidecar_and_upstream().await;
    let attack = flood(&sidecar, 5_000, |number| match number {
        0 => frame(HEADERS, END_STREAM, 1, &get_head()),
        _ => frame(CONTINUATION, 0, 1, &literal_field().repeat(100)),
    });
    let told = beside(&sidecar, attack).await;
    assert!(matches!(told, None | Some(ENHANCE_YOUR_CALM)), "{told:?}");
    told_of(&sidecar, "http2_abuse").await;
}

/// A few bytes of HPACK that stand for a great many: one large field in the table, named often.
#[tokio::test]
async fn a_header_bomb_is_not_unpacked() {
    let (sidecar, upstream) = sidecar_and_upstream().await;
    let large = [&[0x40, 1, b'x', 0x7f, 0xa1, 0x1e][..], &[b'v'; 4_000]].concat();
    let attack = flood(&sidecar, 200, |number| {
        let stream = 2 * number + 1;
        let head = [get_head(), large.clone(), vec![0xbe; 12_000]].concat();
        frame(HEADERS, END_HEADERS | END_STREAM, stream, &head)
    });
    beside(&sidecar, attack).await;
    told_of(&sidecar, "http2_abuse").await;
    assert!(
        upstream
            .seen()
            .iter()
            .all(|seen| seen.values("x").is_empty())
    );
}

#[tokio::test]
async fn floods_of_frames_without_content_are_cut() {
    let (sidecar, _upstream) = sidecar_and_upstream().await;
    for frames in [
        frame(SETTINGS, 0, 0, &[]),
        frame(PING, 0, 0, b"pingpong"),
        frame(WINDOW_UPDATE, 0, 0, &1_u32.to_be_bytes()),
        frame(2, 0, 1, &[0, 0, 0, 0, 1]),
        frame(0x20, 0, 0, b"nobody knows"),
    ] {
        let attack = flood(&sidecar, 2_000, |_| frames.repeat(100));
        beside(&sidecar, attack).await;
    }
    told_of(&sidecar, "http2_flood").await;
    let metrics = sidecar.admin_get("/metrics").await.unwrap().text();
    let all = "wayleave_connections_cut_total{reason_code=\"http2_flood\"} 5";
    assert!(metrics.contains(all), "{metrics}");
}

#[tokio::test]
async fn a_flood_of_empty_data_is_told_to_calm_down() {
    let (sidecar, _upstream) = sidecar_and_upstream().await;
    let attack = flood(&sidecar, 2_000, |number| match number {
        0 => frame(HEADERS, END_HEADERS, 1, &post_head()),
        _ => frame(DATA, 0, 1, &[]).repeat(100),
    });
    let told = beside(&sidecar, attack).await;
    assert!(matches!(told, None | Some(ENHANCE_YOUR_CALM)), "{told:?}");
    told_of(&sidecar, "http2_abuse").await;
}

/// More streams than were agreed on are refused, and who goes on is told to go.
#[tokio::test]
async fn more_streams_than_agreed_on_are_refused() {
    let (sidecar, _upstream) = limited(&["max_concurrent_streams: 10"]).await;
    let attack = flood(&sidecar, 5_000, |number| {
        frame(HEADERS, END_HEADERS, 2 * number + 1, &post_head())
    });
    let told = beside(&sidecar, attack).await;
    assert!(matches!(told, None | Some(ENHANCE_YOUR_CALM)), "{told:?}");
    told_of(&sidecar, "http2_abuse").await;
}

/// Many streams whose answers are never read: each is held to its window.
#[tokio::test]
async fn answers_that_are_not_read_are_not_piled_up() {
    let (sidecar, _upstream) = sidecar_and_upstream().await;
    let mut raw = RawHttp2::begin(&sidecar, "frontend", &[]).await;
    let attack = async {
        for number in 0..128_u32 {
            raw.send(&get(2 * number + 1)).await.unwrap();
        }
    };
    beside(&sidecar, attack).await;
}

/// Answers that were handed out whole and that no window lets out: their calls are over, and
/// so is the connection after the idle time.
#[tokio::test]
async fn closed_windows_do_not_outlast_the_idle_time() {
    let (sidecar, _upstream) = limited(&["idle_timeout: 1s"]).await;
    let mut raw = RawHttp2::begin(&sidecar, "frontend", &[(4, 0)]).await;
    let attack = async {
        for number in 0..20 {
            raw.send(&get(2 * number + 1)).await.unwrap();
        }
        raw.end().await
    };
    assert_eq!(beside(&sidecar, attack).await, Some(0));
}

#[tokio::test]
async fn half_open_handshakes_give_way_to_honest_ones() {
    let (sidecar, _upstream) = limited(&["max_handshakes: 8"]).await;
    let mut half_open = Vec::new();
    let attack = async {
        for number in 0..60 {
            let mut stream = TcpStream::connect(sidecar.inbound).await.unwrap();
            if number % 2 == 0 {
                stream.write_all(&[22, 3, 1, 2, 0, 1]).await.unwrap();
            }
            half_open.push(stream);
        }
    };
    beside(&sidecar, attack).await;
    eventually("handshakes to give way", || async {
        let metrics = sidecar.admin_get("/metrics").await?.text();
        let counted = metrics.lines().find_map(|line| {
            line.strip_prefix("wayleave_handshakes_total{result=\"too_many_handshakes\"} ")
        })?;
        (counted.parse::<u32>().unwrap() >= 52).then_some(())
    })
    .await;
    let status = sidecar.admin_get("/status").await.unwrap().json();
    let handshakes = status["load"]["listeners"][0]["handshakes"].as_u64();
    assert!(handshakes.unwrap() <= 8, "{status}");
}

/// Each costs the sidecar a key exchange and a signature before it can be refused.
#[tokio::test]
async fn a_flood_of_handshakes_without_a_certificate_leaves_callers_served() {
    let (sidecar, upstream) = sidecar_and_upstream().await;
    let attack = async {
        let handshakes = (0..300).map(|_| async {
            let Ok(mut stream) = sidecar.connect(None, &["h2"]).await else {
                return;
            };
            // Refused once the certificate is found missing.
            let refused = stream.read_to_end(&mut Vec::new()).await;
            assert!(refused.is_err());
        });
        futures_util::future::join_all(handshakes).await;
    };
    beside(&sidecar, attack).await;
    let seen = upstream.seen();
    let kept = seen.iter().filter(|seen| seen.target.starts_with("/kept/"));
    assert!(kept.count() >= 2, "established connections were not served");
    let metrics = sidecar.admin_get("/metrics").await.unwrap().text();
    assert!(
        metrics.contains("wayleave_handshakes_total{result="),
        "{metrics}"
    );
}

#[tokio::test]
async fn garbage_in_place_of_a_handshake_is_refused() {
    let (sidecar, upstream) = sidecar_and_upstream().await;
    let garbage: [&[u8]; 4] = [
        b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        &[0; 1_000],
        &[0xff; 70_000],
    ];
    let attack = async {
        for number in 0..200 {
            let mut stream = TcpStream::connect(sidecar.inbound).await.unwrap();
            let _ = stream.write_all(garbage[number % garbage.len()]).await;
            let _ = stream.read_to_end(&mut Vec::new()).await;
        }
    };
    beside(&sidecar, attack).await;
    assert!(upstream.seen().iter().all(|seen| seen.target != "/"));
}

#[tokio::test]
async fn heads_that_trickle_in_are_cut() {
    let (sidecar, _upstream) = limited(&["header_timeout: 500ms"]).await;
    let attack = async {
        let mut slow = Vec::new();
        let caller = sidecar.setup.caller("frontend");
        for _ in 0..50 {
            let stream = sidecar.connect(Some(&caller), &["http/1.1"]).await;
            let mut stream = stream.unwrap();
            stream.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
            slow.push(stream);
        }
        for stream in &mut slow {
            // A byte now and then does not help it.
            while stream.write_all(b"x").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    };
    beside(&sidecar, attack).await;
    told_of(&sidecar, "header_timeout").await;
}

#[tokio::test]
async fn bodies_that_do_not_come_are_answered_with_408() {
    let (sidecar, _upstream) = limited(&["body_timeout: 1s"]).await;
    let attack = async {
        let mut slow = Vec::new();
        let caller = sidecar.setup.caller("frontend");
        for _ in 0..20 {
            let stream = sidecar.connect(Some(&caller), &["http/1.1"]).await;
            let mut stream = stream.unwrap();
            let head = "POST /slow HTTP/1.1\r\nhost: a\r\ncontent-length: 1000\r\n\r\nabc";
            stream.write_all(head.as_bytes()).await.unwrap();
            slow.push(stream);
        }
        for stream in &mut slow {
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer).await;
            let answer = String::from_utf8_lossy(&answer).into_owned();
            assert!(answer.starts_with("HTTP/1.1 408 "), "{answer:?}");
            assert!(answer.contains("connection: close"), "{answer:?}");
            assert!(
                answer.contains("\"reason_code\":\"body_timeout\""),
                "{answer:?}"
            );
        }
    };
    beside(&sidecar, attack).await;
    let record = sidecar.record(|record| record["status"] == 408).await;
    assert_eq!(record["failure"], "body_timeout");
}

/// All written before an answer is read; each is decided by itself.
#[tokio::test]
async fn a_flood_of_pipelined_requests_is_answered_one_by_one() {
    const REQUESTS: usize = 2_000;
    let (sidecar, upstream) = sidecar_and_upstream().await;
    let mut stream = sidecar.stream("agent", &["http/1.1"]).await;
    let requests = "GET /pipelined HTTP/1.1\r\nhost: a\r\n\r\n".repeat(REQUESTS);
    let attack = async { stream.write_all(requests.as_bytes()).await.unwrap() };
    beside(&sidecar, attack).await;
    let (mut answers, mut buffer) = (0, vec![0; 65_536]);
    let mut kept = String::new();
    while answers < REQUESTS {
        let read = within("the answers", stream.read(&mut buffer)).await;
        let length = read.unwrap();
        assert!(length > 0, "closed after {answers} answers");
        kept += &String::from_utf8_lossy(&buffer[..length]);
        answers += kept.matches("HTTP/1.1 403 ").count();
        // What may be the beginning of the next one.
        kept = kept.split_off(kept.len() - kept.len().min(12));
    }
    assert_eq!(answers, REQUESTS);
    assert!(
        upstream
            .seen()
            .iter()
            .all(|seen| seen.target != "/pipelined")
    );
}

#[tokio::test]
async fn endless_chunk_extensions_and_trailers_never_become_a_request() {
    let (sidecar, upstream) = sidecar_and_upstream().await;
    let head = "POST /bomb HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
    let attack = async {
        for rest in [
            format!("1;{}\r\na\r\n0\r\n\r\n", "e".repeat(100_000)),
            format!(
                "1;e\r\na\r\n{}0\r\n\r\n",
                "1;eeeeeeee\r\na\r\n".repeat(10_000)
            ),
            format!("1\r\na\r\n0\r\nx-large: {}\r\n\r\n", "t".repeat(100_000)),
            format!("1\r\na\r\n0\r\n{}\r\n", "x-many: t\r\n".repeat(10_000)),
        ] {
            let stream = sidecar.stream("frontend", &["http/1.1"]).await;
            let answer = raw(stream, format!("{head}{rest}")).await;
            assert!(!answer.contains("200 OK"), "{answer}");
        }
    };
    beside(&sidecar, attack).await;
    assert!(upstream.seen().iter().all(|seen| seen.target != "/bomb"));
}

#[tokio::test]
async fn many_small_chunks_are_one_body() {
    let (sidecar, upstream) = sidecar_and_upstream().await;
    let head = "POST /chunks HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\
                transfer-encoding: chunked\r\n\r\n";
    let chunks = "1\r\na\r\n".repeat(20_000);
    let attack = async {
        let stream = sidecar.stream("frontend", &["http/1.1"]).await;
        raw(stream, format!("{head}{chunks}0\r\n\r\n")).await
    };
    let answer = beside(&sidecar, attack).await;
    assert!(answer.contains("upstream got 20000 bytes"), "{answer}");
    let seen = upstream.seen();
    let body = seen.iter().find(|seen| seen.target == "/chunks").unwrap();
    assert_eq!(body.body.len(), 20_000);
}

#[tokio::test]
async fn hundreds_of_idle_connections_are_held() {
    let (sidecar, _upstream) = sidecar_and_upstream().await;
    let (mut http1, mut http2) = (Vec::new(), Vec::new());
    let caller = sidecar.setup.caller("frontend");
    let attack = async {
        for _ in 0..100 {
            let stream = sidecar.connect(Some(&caller), &["h2"]).await.unwrap();
            http2.push(RawHttp2::over(stream, &[]).await);
            let stream = sidecar.connect(Some(&caller), &["http/1.1"]).await.unwrap();
            http1.push(stream);
        }
    };
    beside(&sidecar, attack).await;
    let status = sidecar.admin_get("/status").await.unwrap().json();
    let open = status["load"]["listeners"][0]["connections"].as_u64();
    assert!(open.unwrap() >= 200, "{status}");
}

/// More connections than the shell's limit of open files would have let in.
#[tokio::test]
async fn the_limit_of_open_files_is_raised_as_far_as_it_goes() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let setup = Setup::new(upstream.address);
    let config = setup.write_config();
    let program = wayleave().as_std().get_program().to_owned();
    let mut shell = tokio::process::Command::new("sh");
    let script = r#"ulimit -S -n 64; ulimit -H -n 512; exec "$0" run --config "$1""#;
    let process = Process::start(shell.arg("-c").arg(script).arg(program).arg(&config));
    let ready = process
        .stderr
        .json("ready", |line| message(line) == Some("ready"))
        .await;
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", process.pid())).unwrap();
    let open_files = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    let words: Vec<&str> = open_files.unwrap().split_whitespace().collect();
    assert_eq!(words[3..5], ["512", "512"], "{limits}");
    let told = process
        .stderr
        .json("the limit", |line| {
            message(line) == Some("limit of open files")
        })
        .await;
    assert!(
        told.to_string().contains("512") && told.to_string().contains("64"),
        "{told}"
    );
    let inbound = ready["fields"]["inbound"]
        .as_str()
        .or(ready["inbound"].as_str());
    let inbound = inbound.unwrap().parse().unwrap();
    let bundle = setup.ca.pem().into_bytes();
    let caller = setup.caller("frontend");
    let mut held = Vec::new();
    for _ in 0..100 {
        let tls = client::tls(Some(&caller), &bundle, &["http/1.1"]);
        held.push(client::handshake(inbound, tls).await.unwrap());
    }
    let mut last = client::Http1::over(held.pop().unwrap()).await;
    assert_eq!(last.send(client::get("/")).await.status, 200);
}
