//! The clients: a closed loop, in which each of a fixed number of callers sends its next
//! request when it has read the answer to the last.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::task::JoinSet;

use crate::body::Body;
use crate::connector::{Connector, Http1, Http2};
use crate::upstream::BODY;

/// How the callers share connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plan {
    /// Each caller keeps a connection of its own.
    Http1 { connections: usize },
    /// So many callers share each connection.
    Http2 { connections: usize, streams: usize },
    /// Each caller opens a connection for each request: a full handshake every time.
    Fresh { callers: usize },
}

impl Plan {
    pub(crate) const ALL: [Self; 3] = [
        Self::Http1 { connections: 32 },
        Self::Http2 {
            connections: 8,
            streams: 4,
        },
        Self::Fresh { callers: 8 },
    ];

    /// Those that keep their connections.
    pub(crate) const KEPT: [Self; 2] = [
        Self::Http1 { connections: 32 },
        Self::Http2 {
            connections: 8,
            streams: 4,
        },
    ];
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http1 { connections } => write!(f, "HTTP/1.1, {connections} connections"),
            Self::Http2 {
                connections,
                streams,
            } => write!(f, "HTTP/2, {connections}×{streams}"),
            Self::Fresh { callers } => write!(f, "new connection each, {callers} callers"),
        }
    }
}

/// What all callers share.
pub(crate) struct Shared {
    pub(crate) answered: AtomicU64,
    /// Latencies count from here on; before it is the warm-up.
    pub(crate) measuring: AtomicBool,
    pub(crate) stopping: AtomicBool,
}

/// Callers at work.
pub(crate) struct Callers {
    tasks: JoinSet<Result<Vec<Duration>>>,
    pub(crate) shared: Arc<Shared>,
}

impl Callers {
    /// Opens every connection and lets the callers go.
    pub(crate) async fn start(connector: Connector, plan: Plan) -> Result<Self> {
        let shared = Arc::new(Shared {
            answered: AtomicU64::new(0),
            measuring: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
        });
        let mut tasks = JoinSet::new();
        for sender in Sender::all(&connector, plan).await? {
            tasks.spawn(call(sender, Arc::clone(&shared)));
        }
        Ok(Self { tasks, shared })
    }

    /// Lets every caller finish its request; answers with all latencies, sorted.
    pub(crate) async fn stop(mut self) -> Result<Vec<Duration>> {
        self.shared.stopping.store(true, Ordering::Relaxed);
        let mut latencies = Vec::new();
        while let Some(caller) = self.tasks.join_next().await {
            latencies.extend(caller??);
        }
        latencies.sort_unstable();
        Ok(latencies)
    }

    /// The error of a caller that failed; never ready while all are well.
    pub(crate) async fn failed(&mut self) -> anyhow::Error {
        match self.tasks.join_next().await {
            Some(Ok(Err(error))) => error,
            _ => anyhow::anyhow!("a caller ended before it was told to"),
        }
    }
}

/// One caller's way to the target.
pub(crate) enum Sender {
    Http1(Http1),
    Http2(Http2),
    Fresh(Arc<Connector>),
}

impl Sender {
    /// One for each request that can be under way at once, its connection open.
    pub(crate) async fn all(connector: &Connector, plan: Plan) -> Result<Vec<Self>> {
        let mut senders = Vec::new();
        match plan {
            Plan::Http1 { connections } => {
                for _ in 0..connections {
                    senders.push(Self::Http1(connector.http1().await?));
                }
            }
            Plan::Http2 {
                connections,
                streams,
            } => {
                for _ in 0..connections {
                    let connection = connector.http2().await?;
                    senders.extend((0..streams).map(|_| Self::Http2(connection.clone())));
                }
            }
            Plan::Fresh { callers } => {
                let connector = Arc::new(connector.clone());
                senders.extend((0..callers).map(|_| Self::Fresh(Arc::clone(&connector))));
            }
        }
        Ok(senders)
    }

    /// So many requests, one after the other.
    pub(crate) async fn exchanges(&mut self, count: u32) -> Result<()> {
        for _ in 0..count {
            self.exchange().await?;
        }
        Ok(())
    }

    /// Asks for what the rule allows.
    async fn send(&mut self) -> Result<Response<Incoming>> {
        match self {
            Self::Http1(sender) => over_http1(sender).await,
            Self::Http2(sender) => {
                sender.ready().await?;
                let request = Request::get("https://localhost/api/items");
                Ok(sender.send_request(request.body(Body::Empty)?).await?)
            }
            Self::Fresh(connector) => over_http1(&mut connector.http1().await?).await,
        }
    }

    /// One request, whose answer must be the upstream's.
    pub(crate) async fn exchange(&mut self) -> Result<()> {
        read(self.send().await?).await
    }
}

/// One request over one connection, whose answer must be the upstream's.
pub(crate) async fn exchange(sender: &mut Http1) -> Result<()> {
    read(over_http1(sender).await?).await
}

async fn read(response: Response<Incoming>) -> Result<()> {
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    ensure!(
        status == StatusCode::OK && body.len() == BODY.len(),
        "answered {status}: {body:?}"
    );
    Ok(())
}

async fn over_http1(sender: &mut Http1) -> Result<Response<Incoming>> {
    sender.ready().await?;
    let request = Request::get("/api/items").header("host", "localhost");
    Ok(sender.send_request(request.body(Body::Empty)?).await?)
}

/// One caller. An answer that is not the upstream's ends the measurement.
async fn call(mut sender: Sender, shared: Arc<Shared>) -> Result<Vec<Duration>> {
    let mut latencies = Vec::new();
    while !shared.stopping.load(Ordering::Relaxed) {
        let start = Instant::now();
        sender.exchange().await?;
        shared.answered.fetch_add(1, Ordering::Relaxed);
        if shared.measuring.load(Ordering::Relaxed) {
            latencies.push(start.elapsed());
        }
    }
    Ok(latencies)
}
