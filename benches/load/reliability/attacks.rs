//! Peers that mean it ill. Each says what became of its connections: a sidecar must end them all.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::frames::{self, END_HEADERS, END_STREAM, Kind};
use super::ground::{self, Ground};
use super::witness::DENIED;
use crate::connector::Connector;
use crate::job::Job;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Attack {
    SlowHeads,
    SlowBodies,
    RapidReset,
    LongHeads,
    EndlessContinuation,
    UnpackingHeads,
    HalfOpenHandshakes,
    Silence,
    GarbageForTls,
    GarbageInTls,
    GarbageFrames,
}

impl Attack {
    pub(crate) const ALL: [Self; 11] = [
        Self::SlowHeads,
        Self::SlowBodies,
        Self::RapidReset,
        Self::LongHeads,
        Self::EndlessContinuation,
        Self::UnpackingHeads,
        Self::HalfOpenHandshakes,
        Self::Silence,
        Self::GarbageForTls,
        Self::GarbageInTls,
        Self::GarbageFrames,
    ];

    /// How many go on at once.
    fn crowd(self) -> usize {
        match self {
            Self::SlowHeads | Self::SlowBodies => 50,
            Self::HalfOpenHandshakes | Self::Silence => 150,
            Self::RapidReset | Self::LongHeads | Self::EndlessContinuation => 2,
            Self::UnpackingHeads => 2,
            Self::GarbageForTls | Self::GarbageInTls | Self::GarbageFrames => 5,
        }
    }
}

impl fmt::Display for Attack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SlowHeads => "heads a byte at a time",
            Self::SlowBodies => "bodies a byte at a time",
            Self::RapidReset => "streams opened and reset",
            Self::LongHeads => "heads of a megabyte",
            Self::EndlessContinuation => "CONTINUATION without end",
            Self::UnpackingHeads => "heads that unpack to megabytes",
            Self::HalfOpenHandshakes => "half a ClientHello",
            Self::Silence => "connections that say nothing",
            Self::GarbageForTls => "garbage in place of TLS",
            Self::GarbageInTls => "garbage in place of HTTP/1.1",
            Self::GarbageFrames => "garbage in place of HTTP/2",
        })
    }
}

/// What became of the connections of one attack.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fates {
    /// The sidecar ended them.
    pub(crate) ended: u64,
    /// They were still there when patience was over.
    pub(crate) stayed: u64,
    /// They could not be opened.
    pub(crate) unopened: u64,
}

impl Fates {
    fn add(&mut self, other: Self) {
        self.ended += other.ended;
        self.stayed += other.stayed;
        self.unopened += other.unopened;
    }
}

/// How long a connection of an attacker may stay, above every limit of the configuration.
const PATIENCE: Duration = Duration::from_secs(20);
const DRIP: Duration = Duration::from_millis(200);
const PAUSE: Duration = Duration::from_millis(20);
/// What an attacker sends at most on one connection.
const MOST: usize = 4 << 20;

/// Attacks until the moment, and then waits for what is still open.
pub(crate) async fn go_on(attack: Attack, ground: Arc<Ground>, until: Instant) -> Result<Fates> {
    let mut crowd = JoinSet::new();
    for number in 0..attack.crowd() {
        let ground = Arc::clone(&ground);
        crowd.spawn(async move {
            let mut fates = Fates::default();
            let caller = ground::allowed(1 + number % 2);
            while Instant::now() < until {
                let connector = ground.connector(&caller, Job::Http1)?;
                fates.add(once(attack, &ground, &connector).await);
                sleep(PAUSE).await;
            }
            Ok::<_, anyhow::Error>(fates)
        });
    }
    let mut all = Fates::default();
    while let Some(fates) = crowd.join_next().await {
        all.add(fates??);
    }
    Ok(all)
}

async fn once(attack: Attack, ground: &Ground, connector: &Connector) -> Fates {
    let (one, none) = (
        Fates {
            ended: 1,
            ..Fates::default()
        },
        Fates::default(),
    );
    match timeout(PATIENCE, open_and_attack(attack, ground, connector)).await {
        Err(_) => Fates { stayed: 1, ..none },
        Ok(Ok(())) => one,
        Ok(Err(_)) => Fates {
            unopened: 1,
            ..none
        },
    }
}

/// Answers when the sidecar has ended the connection.
async fn open_and_attack(attack: Attack, ground: &Ground, connector: &Connector) -> Result<()> {
    let plain = async || Ok::<_, anyhow::Error>(TcpStream::connect(ground.listens.web).await?);
    match attack {
        Attack::SlowHeads => {
            let start = b"GET /api/items HTTP/1.1\r\nhost: localhost\r\nx-slow: ";
            drip(connector.bytes_as_http1().await?, start).await;
        }
        Attack::SlowBodies => {
            let start =
                b"POST /api/items HTTP/1.1\r\nhost: localhost\r\ncontent-length: 99999\r\n\r\n";
            drip(connector.bytes_as_http1().await?, start).await;
        }
        Attack::LongHeads => {
            let (name, value) = DENIED;
            let start =
                format!("GET /api/items HTTP/1.1\r\nhost: localhost\r\n{name}: {value}\r\n");
            let line = b"x-long: wwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwwww\r\n";
            pour(connector.bytes_as_http1().await?, start.as_bytes(), |_| {
                line.repeat(64)
            })
            .await;
        }
        Attack::RapidReset => {
            pour(
                connector.bytes_as_http2().await?,
                &frames::preface(),
                resets,
            )
            .await;
        }
        Attack::EndlessContinuation => {
            let mut start = frames::preface();
            start.extend(frames::frame(Kind::Headers, END_STREAM, 1, &frames::head()));
            let more = frames::field(b"x-more", &[b'w'; 100]).repeat(100);
            let more = frames::frame(Kind::Continuation, 0, 1, &more);
            pour(connector.bytes_as_http2().await?, &start, |_| more.clone()).await;
        }
        Attack::UnpackingHeads => {
            let head = frames::unpacking_head(4_000);
            let flags = END_STREAM | END_HEADERS;
            let next = |number| frames::frame(Kind::Headers, flags, number * 2 + 1, &head);
            pour(connector.bytes_as_http2().await?, &frames::preface(), next).await;
        }
        Attack::HalfOpenHandshakes => {
            // A record of 512 bytes that begins a ClientHello of 508, and no more of it.
            let start = [0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
            let mut stream = plain().await?;
            stream.write_all(&start).await?;
            read_to_its_end(&mut stream).await;
        }
        Attack::Silence => read_to_its_end(&mut plain().await?).await,
        Attack::GarbageForTls => pour(plain().await?, b"", garbage).await,
        Attack::GarbageInTls => pour(connector.bytes_as_http1().await?, b"", garbage).await,
        Attack::GarbageFrames => {
            pour(
                connector.bytes_as_http2().await?,
                &frames::preface(),
                garbage,
            )
            .await;
        }
    }
    Ok(())
}

/// A hundred streams opened and reset at once.
fn resets(number: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    for stream in 0..100 {
        let stream = (number * 100 + stream) * 2 + 1;
        let head = frames::head();
        bytes.extend(frames::frame(
            Kind::Headers,
            END_STREAM | END_HEADERS,
            stream,
            &head,
        ));
        // CANCEL.
        bytes.extend(frames::frame(Kind::Reset, 0, stream, &[0, 0, 0, 8]));
    }
    bytes
}

/// The same bytes in every run (xorshift).
fn garbage(number: u32) -> Vec<u8> {
    let mut state = number.wrapping_mul(2_654_435_761) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()
    };
    std::iter::repeat_with(next).take(256).flatten().collect()
}

/// Sends the start and then a byte now and then, until the sidecar ends the connection.
async fn drip(stream: impl AsyncRead + AsyncWrite, start: &[u8]) {
    let (mut read, mut write) = tokio::io::split(stream);
    let send = async {
        let mut sent = write.write_all(start).await;
        while sent.is_ok() {
            let _ = write.flush().await;
            sleep(DRIP).await;
            sent = write.write_all(b"w").await;
        }
    };
    tokio::select! {
        () = send => {}
        () = read_to_its_end(&mut read) => {}
    }
}

/// Sends as fast as it is taken, until the sidecar ends the connection; at most [`MOST`] bytes.
async fn pour(
    stream: impl AsyncRead + AsyncWrite,
    start: &[u8],
    mut next: impl FnMut(u32) -> Vec<u8>,
) {
    let (mut read, mut write) = tokio::io::split(stream);
    let send = async {
        let mut sent = start.len();
        let mut went = write.write_all(start).await;
        let mut number = 0;
        while went.is_ok() && sent < MOST {
            let bytes = next(number);
            (sent, number) = (sent + bytes.len(), number + 1);
            went = write.write_all(&bytes).await;
            let _ = write.flush().await;
        }
        if went.is_ok() {
            // It took all: whether it then ends the connection is for the reader to see.
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        () = send => {}
        () = read_to_its_end(&mut read) => {}
    }
}

async fn read_to_its_end(read: &mut (impl AsyncRead + Unpin)) {
    let mut buffer = [0; 4_096];
    while matches!(read.read(&mut buffer).await, Ok(1..)) {}
}
