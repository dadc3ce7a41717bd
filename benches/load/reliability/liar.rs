//! An upstream that does what upstreams should not: it is written in bytes, since no server
//! library would say these things.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::sleep;

use super::ground;
use super::witness::NUMBER;

/// How it treats a request whose head it has read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lie {
    /// It says nothing.
    Stalls,
    /// It resets the connection.
    Resets,
    /// It tells a longer body than it sends, and ends the connection.
    TellsMore,
    /// It sends an answer of its own after the body that it told.
    TellsLess,
    /// It tells two lengths.
    TwoLengths,
    /// It tells a length and sends chunks.
    LengthAndChunks,
    /// It tells a chunk longer than numbers go.
    EndlessChunk,
    /// It ends the connection in the middle of a chunk.
    HalfAChunk,
    /// It speaks something else.
    NoHttp,
    /// It answers well, and ends the connection a moment later without having said so.
    ClosesIdle,
}

/// The body that it means.
pub(crate) const HONEST: &str = "hello";
/// What it slips in: no caller may ever see it.
pub(crate) const SLIPPED: &str = "evil!";

impl Lie {
    fn answer(self) -> &'static str {
        match self {
            Self::Stalls | Self::Resets => "",
            Self::TellsMore => "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhello",
            Self::TellsLess => {
                "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello\
                 HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nevil!"
            }
            Self::TwoLengths => {
                "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 10\r\n\r\nevil!evil!"
            }
            Self::LengthAndChunks => {
                "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n\
                 5\r\nhello\r\n0\r\n\r\n"
            }
            Self::EndlessChunk => {
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n\
                 fffffffffffffffff\r\nhello\r\n0\r\n\r\n"
            }
            Self::HalfAChunk => {
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n64\r\nevil!"
            }
            Self::NoHttp => "220 smtp.example ESMTP\r\n\r\n",
            Self::ClosesIdle => "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
        }
    }

    /// Whether the connection goes on after an answer.
    fn goes_on(self) -> bool {
        matches!(
            self,
            Self::TellsLess | Self::TwoLengths | Self::LengthAndChunks
        )
    }
}

/// A running liar; it ends with all its connections when dropped.
pub(crate) struct Liar {
    task: JoinHandle<()>,
    numbered: Arc<Mutex<HashMap<u64, u32>>>,
}

impl Liar {
    pub(crate) async fn start(address: SocketAddr, lie: Lie) -> Result<Self> {
        let listener = ground::bind(address).await?;
        let numbered = Arc::default();
        let noted = Arc::clone(&numbered);
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, lie, Arc::clone(&noted)));
            }
        });
        Ok(Self { task, numbered })
    }

    /// How often each numbered call arrived.
    pub(crate) fn numbered(&self) -> HashMap<u64, u32> {
        self.numbered
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl Drop for Liar {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(mut stream: TcpStream, lie: Lie, numbered: Arc<Mutex<HashMap<u64, u32>>>) {
    let _ = stream.set_nodelay(true);
    loop {
        let Ok(head) = head(&mut stream).await else {
            return;
        };
        let number = number(&head);
        if let Some(number) = number {
            let mut numbered = numbered.lock().unwrap_or_else(PoisonError::into_inner);
            *numbered.entry(number).or_default() += 1;
        }
        if stream.write_all(lie.answer().as_bytes()).await.is_err() {
            return;
        }
        match lie {
            Lie::Stalls => std::future::pending::<()>().await,
            // Without lingering, an end is a reset.
            Lie::Resets => {
                let _ = stream.set_zero_linger();
                return;
            }
            Lie::ClosesIdle => {
                sleep(Duration::from_micros(number.unwrap_or_default() % 4 * 500)).await;
                return;
            }
            _ if lie.goes_on() => {}
            _ => return,
        }
    }
}

/// Reads one request's head; the requests have no bodies.
async fn head(stream: &mut TcpStream) -> Result<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    String::from_utf8(head).context("a head that is no text")
}

fn number(head: &str) -> Option<u64> {
    let fields = head.lines().filter_map(|line| line.split_once(": "));
    let mut numbers = fields.filter(|(name, _)| name.eq_ignore_ascii_case(NUMBER));
    numbers.next()?.1.trim().parse().ok()
}
