//! TCP listeners: decided once, carried whole, and cut so that it shows.

use std::io::ErrorKind;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::support::pki::{Leaf, workload};
use crate::support::setup::{Setup, Sidecar};
use crate::support::tcp::{GREETING, LONG, Talks, TcpUpstream};
use crate::support::{eventually, within};

const POLICY: &str = r#"
@id("frontend-connects")
permit (
  principal == Workload::"spiffe://test.example/ns/default/sa/frontend",
  action == Action::"tcp:connect",
  resource in Service::"app"
) when { resource.host == "localhost" };
"#;

fn setup(upstream: &TcpUpstream) -> Setup {
    let mut setup = Setup::new(upstream.address);
    setup.inbound_keys.push("protocol: tcp");
    setup.write_policy(POLICY);
    setup
}

async fn before(talks: Talks) -> (Sidecar, TcpUpstream) {
    let upstream = TcpUpstream::start(talks).await;
    (setup(&upstream).start().await, upstream)
}

/// Sends and reads back so many bytes.
async fn exchanged(stream: &mut TlsStream<TcpStream>, bytes: &[u8]) {
    stream.write_all(bytes).await.unwrap();
    stream.flush().await.unwrap();
    let mut back = vec![0; bytes.len()];
    within("the echo", stream.read_exact(&mut back))
        .await
        .unwrap();
    assert_eq!(back, bytes);
}

/// Fails the test unless the connection is cut, as opposed to ended.
async fn is_reset(stream: &mut TlsStream<TcpStream>) {
    let mut rest = Vec::new();
    let ended = within("the end", stream.read_to_end(&mut rest)).await;
    assert_eq!(ended.unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert!(rest.is_empty(), "{rest:?}");
}

async fn record(sidecar: &Sidecar) -> Value {
    let record = sidecar.record(|_| true).await;
    assert_eq!(record["protocol"], "tcp", "{record}");
    record
}

#[tokio::test]
async fn a_caller_that_half_closes_gets_all_of_a_long_answer() {
    let (sidecar, upstream) = before(Talks::AnswersAtTheEnd).await;
    let mut stream = sidecar.stream("frontend", &[]).await;
    stream.write_all(b"question").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    within("the answer", stream.read_to_end(&mut answer))
        .await
        .unwrap();
    assert_eq!(answer.len(), LONG);
    assert_eq!(upstream.heard()[0].bytes, b"question");
    let record = record(&sidecar).await;
    assert_eq!(record["effect"], "allow");
    assert_eq!(record["action"], "tcp:connect");
    assert_eq!(record["resource"]["host"], "localhost");
    assert_eq!(record["resource"]["port"], sidecar.inbound.port());
    assert_eq!(record["failure"], Value::Null);
    assert_eq!(record["bytes_in"], 8);
    assert_eq!(record["bytes_out"], LONG);
}

#[tokio::test]
async fn a_server_may_speak_first() {
    let (sidecar, _upstream) = before(Talks::Greets).await;
    let mut stream = sidecar.stream("frontend", &[]).await;
    let mut greeting = vec![0; GREETING.len()];
    within("the greeting", stream.read_exact(&mut greeting))
        .await
        .unwrap();
    assert_eq!(greeting, GREETING);
    exchanged(&mut stream, b"HELO").await;
}

#[tokio::test]
async fn whatever_is_offered_by_alpn_is_passed_over() {
    let (sidecar, _upstream) = before(Talks::Echoes).await;
    for offered in [&["h2", "http/1.1"][..], &["postgresql"], &[]] {
        let mut stream = sidecar.stream("frontend", offered).await;
        assert_eq!(stream.get_ref().1.alpn_protocol(), None);
        exchanged(&mut stream, b"any bytes").await;
    }
}

#[tokio::test]
async fn a_denied_connection_is_reset_and_none_is_opened() {
    let (sidecar, upstream) = before(Talks::Greets).await;
    let mut stream = sidecar.stream("agent", &[]).await;
    is_reset(&mut stream).await;
    upstream.assert_untouched();
    let record = record(&sidecar).await;
    assert_eq!(record["effect"], "deny");
    assert_eq!(record["reason_code"], "no_matching_policy");
    assert_eq!(record["failure"], Value::Null);
    assert_eq!(record.get("bytes_in"), None);
}

#[tokio::test]
async fn a_server_name_that_is_not_served_is_reset() {
    let upstream = TcpUpstream::start(Talks::Greets).await;
    let mut setup = setup(&upstream);
    setup.inbound_keys.push("hosts: [db.test.example]");
    setup.write_policy(r#"@id("all") permit (principal, action, resource);"#);
    let sidecar = setup.start().await;
    let mut stream = sidecar.stream("frontend", &[]).await;
    is_reset(&mut stream).await;
    upstream.assert_untouched();
    let record = record(&sidecar).await;
    assert_eq!(record["reason_code"], "host_not_served");
    assert_eq!(record["resource"]["host"], "localhost");
}

#[tokio::test]
async fn an_upstream_that_is_away_resets_the_caller() {
    let upstream = TcpUpstream::start(Talks::Echoes).await;
    let mut setup = setup(&upstream);
    setup.upstream = "127.0.0.1:9".to_owned();
    let sidecar = setup.start().await;
    is_reset(&mut sidecar.stream("frontend", &[]).await).await;
    assert_eq!(record(&sidecar).await["failure"], "upstream_unreachable");
}

#[tokio::test]
async fn an_answer_that_breaks_off_does_not_look_complete() {
    let (sidecar, _upstream) = before(Talks::BreaksOff).await;
    let mut stream = sidecar.stream("frontend", &[]).await;
    stream.write_all(b"question").await.unwrap();
    let mut answer = Vec::new();
    let ended = within("the end", stream.read_to_end(&mut answer)).await;
    assert!(ended.is_err(), "{answer:?}");
    assert_eq!(record(&sidecar).await["failure"], "upstream_broke");
}

/// A connection that closes without TLS's own end may have been cut by anybody on the way.
#[tokio::test]
async fn a_caller_that_breaks_off_does_not_look_complete_to_the_upstream() {
    let (sidecar, upstream) = before(Talks::Echoes).await;
    let mut stream = sidecar.stream("frontend", &[]).await;
    exchanged(&mut stream, b"half of a question").await;
    drop(stream);
    assert_eq!(upstream.ended().await, Err(ErrorKind::ConnectionReset));
    assert_eq!(record(&sidecar).await["failure"], "caller_gone");
}

#[tokio::test]
async fn a_connection_that_moves_nothing_is_reset_on_both_sides() {
    let upstream = TcpUpstream::start(Talks::Echoes).await;
    let mut setup = setup(&upstream);
    setup.limits.push("tcp_idle_timeout: 1s");
    let sidecar = setup.start().await;
    let mut stream = sidecar.stream("frontend", &[]).await;
    exchanged(&mut stream, b"and then silence").await;
    is_reset(&mut stream).await;
    assert_eq!(upstream.ended().await, Err(ErrorKind::ConnectionReset));
    let record = record(&sidecar).await;
    assert_eq!(record["failure"], "idle_timeout");
    assert_eq!(record["bytes_in"], 16);
}

#[tokio::test]
async fn a_connection_whose_caller_is_no_longer_trusted_is_reset_on_both_sides() {
    let upstream = TcpUpstream::start(Talks::Echoes).await;
    let mut setup = setup(&upstream);
    setup.identity = "files:\n  svid: own/svid.pem\n  key: own/key.pem\n  \
                      bundle: own/bundle.pem\n  revocation_lists: [revoked.pem]"
        .to_owned();
    let list = setup.path("revoked.pem");
    std::fs::write(&list, setup.ca.revocation_list(1, &[])).unwrap();
    let leaf = Leaf {
        serial: Some(666),
        ..Leaf::svid(&workload("frontend"))
    };
    let revoked = setup.credentials("revoked", &leaf);
    let sidecar = setup.start().await;
    let mut stream = sidecar.connect(Some(&revoked), &[]).await.unwrap();
    exchanged(&mut stream, b"still trusted").await;
    let revocations = sidecar.setup.ca.revocation_list(2, &[666]);
    std::fs::write(&list, revocations).unwrap();
    is_reset(&mut stream).await;
    assert_eq!(upstream.ended().await, Err(ErrorKind::ConnectionReset));
    assert_eq!(record(&sidecar).await["failure"], "trust_ended");
}

#[tokio::test]
async fn draining_lets_a_connection_end_and_then_resets_it() {
    let upstream = TcpUpstream::start(Talks::Echoes).await;
    let mut setup = setup(&upstream);
    setup.keys.push("drain_timeout: 1h");
    let mut sidecar = setup.start().await;
    let mut stream = sidecar.stream("frontend", &[]).await;
    exchanged(&mut stream, b"before").await;
    sidecar.process.signal("TERM").await;
    eventually("draining", || async {
        (sidecar.admin_get("/readyz").await?.status == 503).then_some(())
    })
    .await;
    exchanged(&mut stream, b"while it drains").await;
    sidecar.process.signal("TERM").await;
    is_reset(&mut stream).await;
    assert_eq!(upstream.ended().await, Err(ErrorKind::ConnectionReset));
    assert_eq!(sidecar.process.ended().await.code(), Some(0));
    assert_eq!(record(&sidecar).await["failure"], "drained");
}

#[tokio::test]
async fn connections_are_counted_by_effect_with_their_bytes() {
    let (sidecar, _upstream) = before(Talks::Echoes).await;
    let mut stream = sidecar.stream("frontend", &[]).await;
    exchanged(&mut stream, b"twelve bytes").await;
    stream.shutdown().await.unwrap();
    is_reset(&mut sidecar.stream("agent", &[]).await).await;
    let wanted = [
        r#"wayleave_tcp_connections_total{listener="app",effect="allow"} 1"#,
        r#"wayleave_tcp_connections_total{listener="app",effect="deny"} 1"#,
        r#"wayleave_tcp_bytes_total{listener="app",direction="in"} 12"#,
        r#"wayleave_tcp_bytes_total{listener="app",direction="out"} 12"#,
        "wayleave_tcp_connection_duration_seconds_count 1",
    ];
    eventually("the counts", || async {
        let metrics = sidecar.admin_get("/metrics").await?.text();
        let no_http = !metrics.contains("http_server_request_duration_seconds_count");
        let all = wanted.iter().all(|line| metrics.contains(line));
        (all && no_http).then_some(())
    })
    .await;
}

#[tokio::test]
async fn many_bytes_both_ways_at_once_leave_memory_flat() {
    let (sidecar, _upstream) = before(Talks::Echoes).await;
    let before = sidecar.process.memory_kib("VmHWM");
    let stream = sidecar.stream("frontend", &[]).await;
    let (mut reader, mut writer) = tokio::io::split(stream);
    let total: usize = 64 << 20;
    let writing = tokio::spawn(async move {
        let chunk = vec![7; 1 << 16];
        for _ in 0..total / chunk.len() {
            writer.write_all(&chunk).await.unwrap();
        }
        writer.shutdown().await.unwrap();
    });
    let mut read = 0;
    let mut buffer = vec![0; 1 << 16];
    loop {
        let count = within("bytes", reader.read(&mut buffer)).await.unwrap();
        if count == 0 {
            break;
        }
        assert!(buffer[..count].iter().all(|byte| *byte == 7));
        read += count;
    }
    writing.await.unwrap();
    assert_eq!(read, total);
    let grown = sidecar.process.memory_kib("VmHWM") - before;
    assert!(grown < 24 * 1024, "grew by {grown} KiB");
    tokio::time::timeout(Duration::from_secs(30), record(&sidecar))
        .await
        .unwrap();
}
