//! Latency: by percentile at one rate, and by rate at two percentiles.

use std::path::Path;

use anyhow::Result;
use plotters::prelude::*;

use super::{Area, FONT, WIDTH, colour, failed, text};
use crate::client::Plan;
use crate::rate::{Latencies, Pace};
use crate::report::Report;
use crate::target::Kind;

type Figure = fn(&Latencies) -> f64;

/// The percentiles of the first plan at a rate in the middle, on a logarithmic scale.
pub(super) fn percentiles(report: &Report, path: &Path) -> Result<()> {
    let rates = report.about.rates.as_slice();
    let middle = rates.get(rates.len().saturating_sub(1) / 2);
    let mut paces = report.latencies.cases().into_iter();
    let Some(pace) = paces.find(|pace| Some(&pace.per_second) == middle) else {
        return Ok(());
    };
    let area = SVGBackend::new(path, (WIDTH.unsigned_abs(), 420)).into_drawing_area();
    failed(area.fill(&WHITE))?;
    let kinds = report.latencies.kinds(pace);
    let lines: Vec<_> = kinds
        .into_iter()
        .map(|kind| (kind, figures(report, pace, kind)))
        .collect();
    let all = || lines.iter().flat_map(|(_, line)| line.iter().copied());
    let (least, most) = (all().fold(f64::MAX, f64::min), all().fold(1.0, f64::max));
    let title = format!(
        "Latency µs at {} requests/s: {}",
        pace.per_second, pace.plan
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

fn figures(report: &Report, pace: Pace, kind: Kind) -> [f64; 4] {
    let best = |figure: Figure| report.latencies.figures(pace, kind, figure).least();
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

const PANEL: i32 = 290;
const LEGEND: i32 = 24;
/// Names side by side in the legend.
const ACROSS: usize = 3;

/// The two percentiles of [`by_rate`].
const DRAWN: [(&str, Figure); 2] = [("p50", |found| found.p50_us), ("p99", |found| found.p99_us)];

/// A row of two panels for each plan: latency by rate at the median and at the 99th percentile, both
/// on logarithmic scales. A point is hollow where some round did not sustain the rate.
pub(super) fn by_rate(report: &Report, path: &Path) -> Result<()> {
    let mut plans: Vec<Plan> = Vec::new();
    let mut kinds: Vec<Kind> = Vec::new();
    for pace in report.latencies.cases() {
        plans.extend((!plans.contains(&pace.plan)).then_some(pace.plan));
        for kind in report.latencies.kinds(pace) {
            kinds.extend((!kinds.contains(&kind)).then_some(kind));
        }
    }
    let lines = i32::try_from(kinds.len().div_ceil(ACROSS) + 1)?;
    let panels = PANEL * i32::try_from(plans.len())?;
    let size = (WIDTH, panels + LEGEND * lines);
    let size = (size.0.unsigned_abs(), size.1.unsigned_abs());
    let area = SVGBackend::new(path, size).into_drawing_area();
    failed(area.fill(&WHITE))?;
    let (upper, lower) = area.split_vertically(panels);
    let places = upper.split_evenly((plans.len(), DRAWN.len()));
    let drawn = plans
        .iter()
        .flat_map(|plan| DRAWN.map(|drawn| (*plan, drawn)));
    for (place, (plan, (name, figure))) in places.iter().zip(drawn) {
        let title = format!("{name}, µs: {plan}");
        Panel {
            report,
            plan,
            figure,
        }
        .draw(place, &title)?;
    }
    legend(&lower, &kinds)?;
    failed(area.present())
}

fn legend(area: &Area<'_>, kinds: &[Kind]) -> Result<()> {
    for (number, kind) in kinds.iter().enumerate() {
        let x = 30 + i32::try_from(number % ACROSS)? * (WIDTH - 30) / ACROSS as i32;
        let y = 4 + i32::try_from(number / ACROSS)? * LEGEND;
        let stroke = colour(*kind).stroke_width(2);
        failed(area.draw(&PathElement::new([(x, y + 6), (x + 18, y + 6)], stroke)))?;
        text(area, &kind.to_string(), (x + 26, y), 13)?;
    }
    let y = 4 + i32::try_from(kinds.len().div_ceil(ACROSS))? * LEGEND;
    let told = "Across: requests a second that were due. Hollow: not sustained in every round.";
    text(area, told, (30, y), 13)
}

/// One percentile of one plan.
struct Panel<'a> {
    report: &'a Report,
    plan: Plan,
    figure: Figure,
}

impl Panel<'_> {
    fn draw(&self, area: &Area<'_>, title: &str) -> Result<()> {
        let rates = &self.report.about.rates;
        let edge = |rate: Option<&u32>| f64::from(rate.copied().unwrap_or(1));
        let (first, last) = (edge(rates.first()), edge(rates.last()));
        let (least, most) = self.range();
        let mut chart = failed(
            ChartBuilder::on(area)
                .caption(title, (FONT, 14))
                .margin(10)
                .x_label_area_size(24)
                .y_label_area_size(56)
                .build_cartesian_2d(
                    (first * 0.85..last * 1.18)
                        .log_scale()
                        .with_key_points(rates.iter().map(|rate| f64::from(*rate)).collect()),
                    (least * 0.8..most * 1.25)
                        .log_scale()
                        .with_key_points(marks(least * 0.8, most * 1.25)),
                ),
        )?;
        failed(
            chart
                .configure_mesh()
                .disable_x_mesh()
                .x_label_formatter(&|rate| format!("{rate:.0}"))
                .y_label_formatter(&|us| format!("{us:.0}"))
                .draw(),
        )?;
        let kinds = self.paces().next();
        let kinds = kinds.map(|pace| self.report.latencies.kinds(pace));
        for kind in kinds.unwrap_or_default() {
            let stroke = colour(kind).stroke_width(2);
            let points: Vec<_> = self.points(kind).collect();
            let line = points.iter().map(|(at, _)| *at);
            failed(chart.draw_series(LineSeries::new(line, stroke)))?;
            failed(chart.draw_series(points.iter().map(|(at, sustained)| {
                let style = ShapeStyle {
                    filled: *sustained,
                    ..stroke
                };
                Circle::new(*at, 3, style)
            })))?;
        }
        Ok(())
    }

    fn paces(&self) -> impl Iterator<Item = Pace> {
        let paces = self.report.latencies.cases().into_iter();
        let plan = self.plan;
        paces.filter(move |pace| pace.plan == plan)
    }

    /// The best round at each rate, and whether every round sustained it.
    fn points(&self, kind: Kind) -> impl Iterator<Item = ((f64, f64), bool)> {
        self.paces().map(move |pace| {
            let figures = self.report.latencies.figures(pace, kind, self.figure);
            let (short, _) = self.report.unsustained(pace, kind);
            let at = (f64::from(pace.per_second), figures.least());
            (at, short == 0)
        })
    }

    /// The least and the most of this percentile in any plan, so that panels compare.
    fn range(&self) -> (f64, f64) {
        let rows = &self.report.latencies;
        let of = |pace: Pace| {
            let kinds = rows.kinds(pace).into_iter();
            kinds.map(move |kind| rows.figures(pace, kind, self.figure).least())
        };
        let all: Vec<f64> = rows.cases().into_iter().flat_map(of).collect();
        let least = all.iter().copied().fold(f64::MAX, f64::min);
        (least, all.iter().copied().fold(1.0, f64::max))
    }
}

/// 1, 2 and 5 of every power of ten between two figures.
fn marks(least: f64, most: f64) -> Vec<f64> {
    let powers = (0..9).map(|power| 10_f64.powi(power));
    let marks = powers.flat_map(|power| [power, 2.0 * power, 5.0 * power]);
    let within = |mark: &f64| (least..=most).contains(mark);
    marks.filter(within).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_round_and_within() {
        assert_eq!(marks(90.0, 1_100.0), [100.0, 200.0, 500.0, 1_000.0]);
        assert!(marks(150.0, 160.0).is_empty());
    }
}
