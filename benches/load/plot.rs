//! The results as pictures.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;

use crate::client::Plan;
use crate::decisions::{Series, Timed};
use crate::measure::Measured;
use crate::rate::Latencies;
use crate::report::Report;
use crate::target::Kind;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

const FONT: &str = "sans-serif";
const WIDTH: i32 = 760;
const BAR: i32 = 22;
const HEAD: i32 = 34;
const LABELS: i32 = 210;
const VALUES: i32 = 60;

fn colour(kind: Kind) -> RGBColor {
    use crate::peers::Peer;
    match kind {
        Kind::Straight => RGBColor(150, 150, 150),
        Kind::Bare => RGBColor(90, 90, 90),
        Kind::Sidecar | Kind::SidecarOf(_) | Kind::SidecarSignals => RGBColor(0, 114, 178),
        Kind::SidecarRecording => RGBColor(86, 180, 233),
        Kind::Peer(Peer::Envoy) => RGBColor(213, 94, 0),
        Kind::EnvoyLogging => RGBColor(236, 152, 96),
        Kind::Peer(Peer::Nginx) => RGBColor(0, 158, 115),
        Kind::Peer(Peer::Haproxy) => RGBColor(204, 121, 167),
    }
}

/// Draws `cpu.svg` and `latency.svg` into a folder, as far as they were measured.
pub(crate) fn draw(report: &Report, folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder)?;
    if !report.requests.cases().is_empty() {
        cpu(report, &folder.join("cpu.svg"))?;
    }
    if !report.latencies.cases().is_empty() {
        latency(report, &folder.join("latency.svg"))?;
    }
    Ok(())
}

/// One block of bars for each plan, each with a scale of its own.
fn cpu(report: &Report, path: &Path) -> Result<()> {
    let plans = report.requests.cases();
    let heights = plans.iter().map(|plan| block(report, *plan));
    let height: i32 = heights.sum();
    let size = (WIDTH.unsigned_abs(), height.unsigned_abs());
    let area = SVGBackend::new(path, size).into_drawing_area();
    failed(area.fill(&WHITE))?;
    let mut top = 0;
    for plan in plans {
        bars(report, plan, &area, top)?;
        top += block(report, plan);
    }
    failed(area.present())
}

fn block(report: &Report, plan: Plan) -> i32 {
    let kinds = i32::try_from(report.requests.kinds(plan).len()).unwrap_or(0);
    HEAD + kinds * BAR + BAR / 2
}

fn bars(report: &Report, plan: Plan, area: &Area<'_>, top: i32) -> Result<()> {
    let kinds = report.requests.kinds(plan);
    let cpu = |kind| {
        report
            .requests
            .figures(plan, kind, Measured::cpu_us)
            .least()
    };
    let most = kinds.iter().map(|kind| cpu(*kind)).fold(0.0, f64::max);
    let title = format!("CPU µs a request: {plan}");
    text(area, &title, (10, top + 10), 15)?;
    let mut y = top + HEAD;
    for kind in kinds {
        let value = cpu(kind);
        let length = f64::from(WIDTH - LABELS - VALUES) * value / most.max(f64::MIN_POSITIVE);
        let right = LABELS + length as i32;
        let bar = [(LABELS, y), (right, y + BAR - 6)];
        failed(area.draw(&Rectangle::new(bar, colour(kind).filled())))?;
        text(area, &kind.to_string(), (10, y + 2), 13)?;
        text(area, &format!("{value:.1}"), (right + 6, y + 2), 13)?;
        y += BAR;
    }
    Ok(())
}

fn text(area: &Area<'_>, text: &str, at: (i32, i32), size: i32) -> Result<()> {
    let style = (FONT, size).into_text_style(area);
    failed(area.draw_text(text, &style, at))
}

/// The percentiles of the first plan, on a logarithmic scale.
fn latency(report: &Report, path: &Path) -> Result<()> {
    let Some(plan) = report.latencies.cases().first().copied() else {
        return Ok(());
    };
    let area = SVGBackend::new(path, (WIDTH.unsigned_abs(), 420)).into_drawing_area();
    failed(area.fill(&WHITE))?;
    let kinds = report.latencies.kinds(plan);
    let lines: Vec<_> = kinds
        .into_iter()
        .map(|kind| (kind, percentiles(report, plan, kind)))
        .collect();
    let all = || lines.iter().flat_map(|(_, line)| line.iter().copied());
    let (least, most) = (all().fold(f64::MAX, f64::min), all().fold(1.0, f64::max));
    let title = format!(
        "Latency µs at {} requests/s: {plan}",
        report.about.rate.per_second
    );
    let mut chart = failed(
        ChartBuilder::on(&area)
            .caption(title, (FONT, 15))
            .margin(10)
            .x_label_area_size(30)
            .y_label_area_size(60)
            .build_cartesian_2d(0.0..4.2, (least * 0.8..most * 1.25).log_scale()),
    )?;
    failed(
        chart
            .configure_mesh()
            .disable_x_mesh()
            .x_labels(5)
            .x_label_formatter(&|at| percentile(*at).to_owned())
            .y_label_formatter(&|us| format!("{us:.0}"))
            .draw(),
    )?;
    for (kind, line) in &lines {
        let colour = colour(*kind);
        let points = line.iter().enumerate().map(|(at, us)| (at as f64, *us));
        let series = failed(chart.draw_series(LineSeries::new(points, colour.stroke_width(2))))?;
        series.label(kind.to_string()).legend(move |(x, y)| {
            PathElement::new(vec![(x, y), (x + 18, y)], colour.stroke_width(2))
        });
    }
    failed(
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::LowerRight)
            .background_style(WHITE.mix(0.8))
            .draw(),
    )?;
    failed(area.present())
}

fn percentiles(report: &Report, plan: Plan, kind: Kind) -> [f64; 4] {
    let best = |figure: fn(&Latencies) -> f64| report.latencies.figures(plan, kind, figure).least();
    [
        best(|found| found.p50_us),
        best(|found| found.p90_us),
        best(|found| found.p99_us),
        best(|found| found.p999_us),
    ]
}

fn percentile(at: f64) -> &'static str {
    match at {
        0.0 => "p50",
        1.0 => "p90",
        2.0 => "p99",
        3.0 => "p99.9",
        _ => "",
    }
}

/// The errors of the library borrow what was drawn.
fn failed<T, E: std::fmt::Display>(result: Result<T, E>) -> Result<T> {
    result.map_err(|error| anyhow!("cannot draw: {error}"))
}

/// Draws `decisions.svg`: time by number of policies, both on logarithmic scales.
pub(crate) fn decisions(all: &[Series], folder: &Path) -> Result<()> {
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
