//! What a long body costs, each way.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use serde::Serialize;

use crate::body::Body;
use crate::client::Plan;
use crate::target::{Stage, Target};
use crate::upstream::BULK;

/// Which way a body goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Down,
    Up,
}

impl Way {
    pub(crate) const ALL: [Self; 2] = [Self::Down, Self::Up];
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Down => "to the caller",
            Self::Up => "to the upstream",
        })
    }
}

/// What one body cost.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Carried {
    pub(crate) bytes: u64,
    pub(crate) wall_s: f64,
    pub(crate) cpu_s: f64,
    pub(crate) peak_kib: u64,
}

impl Carried {
    /// CPU seconds for 10^9 bytes.
    pub(crate) fn cpu_per_gb(&self) -> f64 {
        self.cpu_s * 1e9 / self.bytes.max(1) as f64
    }

    /// Megabytes (10^6) a second.
    pub(crate) fn megabytes_per_second(&self) -> f64 {
        self.bytes as f64 / 1e6 / self.wall_s.max(f64::MIN_POSITIVE)
    }
}

/// Sends one body of so many bytes over one connection.
pub(crate) async fn carry(target: &Target, stage: &Stage, way: Way, bytes: u64) -> Result<Carried> {
    let connector = target.connector(Plan::Http1 { connections: 1 }, stage)?;
    let mut sender = connector.http1().await?;
    let request = match way {
        Way::Down => Request::get(format!("{BULK}?{bytes}")).header("host", "localhost"),
        Way::Up => Request::post(BULK).header("host", "localhost"),
    };
    let request = request.body(match way {
        Way::Down => Body::Empty,
        Way::Up => Body::Long(bytes),
    })?;
    let (cpu, start) = (target.process.cpu()?, Instant::now());
    let response = sender.send_request(request).await?;
    ensure!(response.status() == StatusCode::OK, "{}", response.status());
    let mut body = response.into_body();
    let (mut length, mut told) = (0, Vec::new());
    while let Some(frame) = body.frame().await {
        let frame = frame?;
        let data = frame.data_ref();
        length += data.map_or(0, Bytes::len) as u64;
        if let (Way::Up, Some(data)) = (way, data) {
            told.extend_from_slice(data);
        }
    }
    let wall = start.elapsed();
    let carried = match way {
        Way::Down => length,
        Way::Up => std::str::from_utf8(&told)?.parse().context("no length")?,
    };
    ensure!(carried == bytes, "{carried} of {bytes} bytes arrived");
    finished(target, bytes, wall, cpu)
}

fn finished(target: &Target, bytes: u64, wall: Duration, cpu: Duration) -> Result<Carried> {
    Ok(Carried {
        bytes,
        wall_s: wall.as_secs_f64(),
        cpu_s: target.process.cpu()?.saturating_sub(cpu).as_secs_f64(),
        peak_kib: target.process.memory()?.peak_kib,
    })
}
