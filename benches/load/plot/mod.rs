//! The results as pictures.

mod bars;
pub(crate) mod decisions;
mod latency;

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;

use crate::report::Report;
use crate::target::Kind;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

const FONT: &str = "sans-serif";
const WIDTH: i32 = 760;

fn colour(kind: Kind) -> RGBColor {
    use crate::peers::Peer;
    match kind {
        Kind::Straight | Kind::Echo => RGBColor(150, 150, 150),
        Kind::Bare => RGBColor(90, 90, 90),
        Kind::Sidecar | Kind::SidecarOf(_) | Kind::SidecarSignals => RGBColor(0, 114, 178),
        Kind::SidecarRecording => RGBColor(86, 180, 233),
        Kind::Peer(Peer::Envoy) => RGBColor(213, 94, 0),
        Kind::EnvoyLogging => RGBColor(236, 152, 96),
        Kind::Peer(Peer::Nginx) => RGBColor(0, 158, 115),
        Kind::Peer(Peer::Haproxy) => RGBColor(204, 121, 167),
    }
}

/// Draws `cpu.svg`, `memory.svg`, `latency.svg` and `latency-by-rate.svg` into a folder, as far as they
/// were measured.
pub(crate) fn draw(report: &Report, folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder)?;
    bars::draw(&bars::cpu(report), &folder.join("cpu.svg"))?;
    bars::draw(&bars::memory(report), &folder.join("memory.svg"))?;
    if !report.latencies.cases().is_empty() {
        latency::percentiles(report, &folder.join("latency.svg"))?;
        latency::by_rate(report, &folder.join("latency-by-rate.svg"))?;
    }
    Ok(())
}

fn text(area: &Area<'_>, text: &str, at: (i32, i32), size: i32) -> Result<()> {
    let style = (FONT, size).into_text_style(area);
    failed(area.draw_text(text, &style, at))
}

/// The errors of the library borrow what was drawn.
fn failed<T, E: std::fmt::Display>(result: Result<T, E>) -> Result<T> {
    result.map_err(|error| anyhow!("cannot draw: {error}"))
}
