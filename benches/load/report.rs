//! The results as a table for people and as JSON for programs.

use std::fmt;

use anyhow::Result;
use serde_json::{Value, json};

use crate::client::Plan;
use crate::measure::Measured;
use crate::target::Kind;

/// One measurement.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) plan: Plan,
    pub(crate) kind: Kind,
    pub(crate) measured: Measured,
}

/// Everything that one run found.
pub(crate) struct Report {
    seconds: f64,
    rounds: u32,
    pinned: bool,
    rows: Vec<Row>,
}

/// The rounds of one target by one plan, the cheapest first.
struct Rounds<'a>(Vec<&'a Measured>);

impl Rounds<'_> {
    fn median(&self) -> Option<&Measured> {
        self.0.get(self.0.len() / 2).copied()
    }

    /// The cheapest and the dearest round, in microseconds of CPU a request.
    fn spread(&self) -> (f64, f64) {
        let cpu = |measured: Option<&&Measured>| measured.map_or(0.0, |measured| measured.cpu_us());
        (cpu(self.0.first()), cpu(self.0.last()))
    }
}

impl Report {
    pub(crate) fn new(seconds: f64, rounds: u32, pinned: bool) -> Self {
        Self {
            seconds,
            rounds,
            pinned,
            rows: Vec::new(),
        }
    }

    pub(crate) fn add(&mut self, row: Row) {
        self.rows.push(row);
    }

    fn rounds(&self, plan: Plan, kind: Kind) -> Rounds<'_> {
        let of = self
            .rows
            .iter()
            .filter(|row| row.plan == plan && row.kind == kind);
        let mut rounds: Vec<_> = of.map(|row| &row.measured).collect();
        rounds.sort_by(|a, b| a.cpu_us().total_cmp(&b.cpu_us()));
        Rounds(rounds)
    }

    /// All measurements, one by one, with what they were made on.
    pub(crate) fn json(&self) -> Result<String> {
        let rows: Vec<Value> = self.rows.iter().map(row_json).collect();
        let report = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "processor": processor(),
            "kernel": read("/proc/sys/kernel/osrelease"),
            "pinned": self.pinned,
            "seconds": self.seconds,
            "rounds": self.rounds,
            "measurements": rows,
        });
        Ok(serde_json::to_string_pretty(&report)? + "\n")
    }
}

fn row_json(row: &Row) -> Value {
    json!({
        "plan": row.plan.to_string(),
        "target": row.kind.to_string(),
        "cpu_us_per_request": row.measured.cpu_us(),
        "measured": row.measured,
    })
}

fn processor() -> String {
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    model.map_or_else(
        || std::env::consts::ARCH.to_owned(),
        |(_, model)| model.to_owned(),
    )
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path)
        .unwrap_or_default()
        .trim()
        .to_owned()
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pinned = if self.pinned {
            "a core of its own"
        } else {
            "not pinned"
        };
        let (processor, seconds, rounds) = (processor(), self.seconds, self.rounds);
        writeln!(
            f,
            "\n{processor}, process under test on {pinned}, {rounds} × {seconds} s\n"
        )?;
        writeln!(
            f,
            "| plan | process under test | requests per CPU-second | CPU µs a request (min to max) \
             | p50 µs | p99 µs | peak MiB |"
        )?;
        writeln!(f, "| --- | --- | ---: | ---: | ---: | ---: | ---: |")?;
        for plan in Plan::ALL {
            for kind in Kind::ALL {
                self.line(f, plan, kind)?;
            }
        }
        Ok(())
    }
}

impl Report {
    fn line(&self, f: &mut fmt::Formatter<'_>, plan: Plan, kind: Kind) -> fmt::Result {
        let rounds = self.rounds(plan, kind);
        let Some(median) = rounds.median() else {
            return Ok(());
        };
        let (least, most) = rounds.spread();
        let cpu = median.cpu_us();
        writeln!(
            f,
            "| {plan} | {kind} | {:.0} | {cpu:.1} ({least:.1} to {most:.1}) | {} | {} | {:.1} |",
            if cpu > 0.0 { 1e6 / cpu } else { 0.0 },
            median.p50_us,
            median.p99_us,
            median.peak_memory_kib as f64 / 1024.0,
        )
    }
}
