//! Bars: CPU time of a request by plan, and what memory each target takes.

use std::path::Path;

use anyhow::Result;
use plotters::prelude::*;

use super::{Area, WIDTH, colour, failed, text};
use crate::hold::Held;
use crate::measure::Measured;
use crate::report::Report;
use crate::target::Kind;

const BAR: i32 = 22;
const HEAD: i32 = 34;
const LABELS: i32 = 210;
const VALUES: i32 = 110;

/// Bars with one scale.
pub(super) struct Block {
    title: String,
    bars: Vec<Bar>,
}

struct Bar {
    kind: Kind,
    value: f64,
    /// Where the bar goes on, paler.
    up_to: Option<f64>,
}

impl Block {
    fn height(&self) -> i32 {
        let bars = i32::try_from(self.bars.len()).unwrap_or(0);
        HEAD + bars * BAR + BAR / 2
    }

    fn most(&self) -> f64 {
        let most = self.bars.iter().map(Bar::most);
        most.fold(f64::MIN_POSITIVE, f64::max)
    }
}

impl Bar {
    fn most(&self) -> f64 {
        self.up_to.unwrap_or(self.value)
    }

    fn told(&self) -> String {
        match self.up_to {
            None => format!("{:.1}", self.value),
            Some(up_to) => format!("{:.1}, {up_to:.1}", self.value),
        }
    }
}

/// A block for each plan.
pub(super) fn cpu(report: &Report) -> Vec<Block> {
    let rows = &report.requests;
    let block = |plan| Block {
        title: format!("CPU µs a request: {plan}"),
        bars: bars(rows.kinds(plan), |kind| {
            (rows.figures(plan, kind, Measured::cpu_us).least(), None)
        }),
    };
    rows.cases().into_iter().map(block).collect()
}

/// Resident memory, and what held things cost, as far as they were measured.
pub(super) fn memory(report: &Report) -> Vec<Block> {
    let held = |what: &'static str| Block {
        title: format!("KB each: {what}"),
        bars: bars(report.held.kinds(what), |kind| {
            let each = report.held.figures(what, kind, Held::bytes_each);
            (each.least() / 1e3, None)
        }),
    };
    let resident = resident(report).into_iter();
    let cases = report.held.cases().into_iter();
    resident.chain(cases.map(held)).collect()
}

/// Before the first connection, and the most under the load of any plan.
fn resident(report: &Report) -> Option<Block> {
    let rows = &report.requests;
    let plans = rows.cases();
    let most = |kind: Kind, figure: fn(&Measured) -> u64| {
        let plans = plans.iter();
        let kib = plans.map(|plan| {
            rows.figures(*plan, kind, |found| figure(found) as f64)
                .most()
        });
        kib.fold(0.0, f64::max) / 1024.0
    };
    let first = plans.first()?;
    Some(Block {
        title: "Resident memory, MiB: idle, and at most under load".to_owned(),
        bars: bars(rows.kinds(*first), |kind| {
            let idle = most(kind, |found| found.idle.resident_kib);
            (idle, Some(most(kind, |found| found.loaded.peak_kib)))
        }),
    })
}

fn bars(kinds: Vec<Kind>, figure: impl Fn(Kind) -> (f64, Option<f64>)) -> Vec<Bar> {
    let bar = |kind| {
        let (value, up_to) = figure(kind);
        Bar { kind, value, up_to }
    };
    kinds.into_iter().map(bar).collect()
}

/// Draws blocks one below the other; nothing where there are none.
pub(super) fn draw(blocks: &[Block], path: &Path) -> Result<()> {
    if blocks.is_empty() {
        return Ok(());
    }
    let height: i32 = blocks.iter().map(Block::height).sum();
    let size = (WIDTH.unsigned_abs(), height.unsigned_abs());
    let area = SVGBackend::new(path, size).into_drawing_area();
    failed(area.fill(&WHITE))?;
    let mut top = 0;
    for block in blocks {
        text(&area, &block.title, (10, top + 10), 15)?;
        let most = block.most();
        for (bar, y) in block.bars.iter().zip((top + HEAD..).step_by(BAR as usize)) {
            row(&area, bar, most, y)?;
        }
        top += block.height();
    }
    failed(area.present())
}

fn row(area: &Area<'_>, bar: &Bar, most: f64, y: i32) -> Result<()> {
    let right = |value: f64| LABELS + (f64::from(WIDTH - LABELS - VALUES) * value / most) as i32;
    let colour = colour(bar.kind);
    let box_to = |value| [(LABELS, y), (right(value), y + BAR - 6)];
    if let Some(up_to) = bar.up_to {
        let paler = colour.mix(0.35).filled();
        failed(area.draw(&Rectangle::new(box_to(up_to), paler)))?;
    }
    failed(area.draw(&Rectangle::new(box_to(bar.value), colour.filled())))?;
    text(area, &bar.kind.to_string(), (10, y + 2), 13)?;
    text(area, &bar.told(), (right(bar.most()) + 6, y + 2), 13)
}
