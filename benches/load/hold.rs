//! What held things cost in memory: idle connections after one request each, and open
//! HTTP/2 streams whose answer has no end.

use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};
use futures_util::stream::{FuturesUnordered, StreamExt};
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde::Serialize;

use crate::body::Body;
use crate::client::{self, Plan, Sender};
use crate::connector::{Connector, Http1};
use crate::process::Memory;
use crate::target::{Stage, Target};
use crate::upstream::EVENTS;

/// How many are opened at once.
const AT_ONCE: usize = 32;
/// Connections from one source address; it has some 28,000 ports.
const PER_SOURCE: usize = 16_384;
/// Streams on one connection, below every proxy's limit.
const STREAMS: usize = 100;

/// What so many held things cost a target.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Held {
    pub(crate) count: usize,
    /// With one connection that has been used.
    pub(crate) before: Memory,
    pub(crate) with: Memory,
    /// CPU time that opening and using them cost, in microseconds each.
    pub(crate) cpu_us: f64,
}

impl Held {
    /// Growth for each, in bytes.
    pub(crate) fn bytes_each(&self) -> f64 {
        let grown = self
            .with
            .resident_kib
            .saturating_sub(self.before.resident_kib);
        grown as f64 * 1024.0 / self.count.max(1) as f64
    }
}

/// Opens so many connections, uses each once, and holds them all.
pub(crate) async fn connections(target: &Target, stage: &Stage, count: usize) -> Result<Held> {
    let connector = target.connector(Plan::Http1 { connections: count }, stage)?;
    let mut held = vec![used(&connector, 0).await?];
    let process = target.process;
    let (before, cpu) = (process.memory()?, process.cpu()?);
    let mut opening = FuturesUnordered::new();
    let mut next = 1..=count;
    loop {
        while opening.len() < AT_ONCE
            && let Some(number) = next.next()
        {
            opening.push(used(&connector, number));
        }
        match opening.next().await {
            Some(sender) => held.push(sender?),
            None => break,
        }
    }
    let with = process.memory()?;
    let cpu = process.cpu()?.saturating_sub(cpu);
    for sender in &mut held {
        ensure!(!sender.is_closed(), "an idle connection was closed");
    }
    Ok(Held {
        count,
        before,
        with,
        cpu_us: cpu.as_secs_f64() * 1e6 / count.max(1) as f64,
    })
}

async fn used(connector: &Connector, number: usize) -> Result<Http1> {
    let source = u8::try_from(1 + number / PER_SOURCE)?;
    let sender = connector.http1_from(Ipv4Addr::new(127, 0, 0, source)).await;
    let mut sender = sender.with_context(|| format!("connection {number}"))?;
    client::exchange(&mut sender).await?;
    Ok(sender)
}

/// Opens so many streams, reads the first piece of each answer, and holds them all.
pub(crate) async fn streams(target: &Target, stage: &Stage, count: usize) -> Result<Held> {
    let plan = Plan::Http2 {
        connections: count.div_ceil(STREAMS),
        streams: STREAMS,
    };
    let connector = target.connector(plan, stage)?;
    let process = target.process;
    let mut senders = Vec::new();
    for _ in 0..count.div_ceil(STREAMS) {
        let sender = connector.http2().await?;
        Sender::Http2(sender.clone()).exchange().await?;
        senders.push(sender);
    }
    let (before, cpu) = (process.memory()?, process.cpu()?);
    let mut held: Vec<Incoming> = Vec::new();
    for number in 0..count {
        let sender = senders
            .get_mut(number / STREAMS)
            .context("too few connections")?;
        sender.ready().await?;
        let request = Request::get(format!("https://localhost{EVENTS}")).body(Body::Empty)?;
        let response = sender.send_request(request).await?;
        ensure!(response.status() == StatusCode::OK, "{}", response.status());
        let mut body = response.into_body();
        body.frame().await.context("a stream ended")??;
        held.push(body);
    }
    let with = process.memory()?;
    let cpu = process.cpu()?.saturating_sub(cpu);
    drop(held);
    Ok(Held {
        count,
        before,
        with,
        cpu_us: cpu.as_secs_f64() * 1e6 / count.max(1) as f64,
    })
}

/// Whether so many connections can be held by one process here.
pub(crate) fn fits(count: usize, open_files: u64) -> bool {
    // The target has a connection of its own to the upstream for some of them.
    open_files > count as u64 + 1_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_shared_among_what_is_held() {
        let memory = |resident_kib| Memory {
            resident_kib,
            peak_kib: resident_kib,
        };
        let held = Held {
            count: 1_024,
            before: memory(1_000),
            with: memory(11_000),
            cpu_us: 0.0,
        };
        assert!((held.bytes_each() - 10_000.0).abs() < f64::EPSILON);
    }

    #[test]
    fn a_limit_of_open_files_is_respected() {
        assert!(fits(10_000, 20_000));
        assert!(!fits(10_000, 10_500));
    }
}
