//! The time of a decision by the number of policies.

use std::path::Path;

use anyhow::Result;
use plotters::prelude::*;

use super::{FONT, WIDTH, failed};
use crate::decisions::{Series, Timed};

/// Draws `decisions.svg`: time by number of policies, both on logarithmic scales.
pub(crate) fn draw(all: &[Series], folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder)?;
    let path = folder.join("decisions.svg");
    let area = SVGBackend::new(&path, (WIDTH.unsigned_abs(), 380)).into_drawing_area();
    failed(area.fill(&WHITE))?;
    let points = || all.iter().flat_map(|series| &series.timed);
    let most_ns = points().map(|timed| timed.least_ns).fold(1e3, f64::max);
    let most = points().map(|timed| timed.policies).max().unwrap_or(1) as f64;
    let mut chart = failed(
        ChartBuilder::on(&area)
            .caption("Time of a decision by number of policies", (FONT, 15))
            .margin(10)
            .x_label_area_size(40)
            .y_label_area_size(70)
            .build_cartesian_2d(
                (1.0..most * 1.2).log_scale(),
                (100.0..most_ns * 2.0).log_scale(),
            ),
    )?;
    failed(
        chart
            .configure_mesh()
            .disable_x_mesh()
            .x_desc("policies")
            .x_label_formatter(&|policies| format!("{policies:.0}"))
            .y_label_formatter(&|ns| span(*ns))
            .draw(),
    )?;
    for (series, colour) in all
        .iter()
        .zip([RGBColor(0, 114, 178), RGBColor(213, 94, 0)])
    {
        let at = |timed: &Timed| (timed.policies as f64, timed.least_ns);
        let line = LineSeries::new(series.timed.iter().map(at), colour.stroke_width(2));
        let drawn = failed(chart.draw_series(line.point_size(3)))?;
        drawn.label(series.engine).legend(move |(x, y)| {
            PathElement::new(vec![(x, y), (x + 18, y)], colour.stroke_width(2))
        });
    }
    failed(
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .background_style(WHITE.mix(0.8))
            .draw(),
    )?;
    failed(area.present())
}

/// `250 ns`, `1 µs`, `2.5 ms`.
fn span(ns: f64) -> String {
    match ns {
        ns if ns < 1e3 => format!("{ns:.0} ns"),
        ns if ns < 1e6 => format!("{:.0} µs", ns / 1e3),
        ns => format!("{:.0} ms", ns / 1e6),
    }
}
