//! What a run found, as a table, as JSON, and as success or failure.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::found::Found;
use super::{Arguments, Outcome};
use crate::rate;

impl Outcome {
    /// Prints a table, writes the JSON where that is asked for.
    ///
    /// # Errors
    /// Where an exchange did not end as was to be expected of its caller, or none was made.
    pub(super) fn report(&self, arguments: &Arguments) -> Result<()> {
        self.print(arguments);
        if let Some(path) = &arguments.json {
            self.write_json(path, arguments)?;
        }
        ensure!(self.exchanges() > 0, "no exchange was made");
        for (side, found) in &self.sides {
            if let Some(example) = &found.example {
                bail!(
                    "{} exchanges of {} callers ended otherwise than they should, such as: {example}",
                    found.unexpected,
                    side.name()
                );
            }
        }
        Ok(())
    }

    pub(super) fn exchanges(&self) -> u64 {
        self.sides.values().map(|found| found.latency.len()).sum()
    }

    /// Whether exchanges were answered as they were due.
    fn sustained(&self) -> bool {
        let mut sides = self.sides.values();
        sides.all(|found| rate::is_sustained(self.length, found.last))
    }

    /// CPU time of the server for one exchange, in microseconds.
    fn cpu_us(&self) -> Option<f64> {
        let (cpu, _) = self.server?;
        Some(cpu.as_secs_f64() * 1e6 / self.exchanges().max(1) as f64)
    }

    pub(super) fn late_us(&self) -> f64 {
        self.late.value_at_quantile(0.99) as f64 / 1e3
    }

    fn print(&self, arguments: &Arguments) {
        println!(
            "{}, {} connections, {:.1} s\n",
            arguments.job,
            arguments.connections,
            self.length.as_secs_f64()
        );
        println!(
            "| callers | exchanges | a second | p50 µs | p90 µs | p99 µs | p99.9 µs | most µs | answers |"
        );
        println!("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- |");
        for (side, found) in &self.sides {
            println!("| {} | {}", side.name(), self.row(found));
        }
        if let Some(asked) = arguments.rate {
            println!(
                "\n{asked} a second were due, and waited for a caller for {:.0} µs (p99)",
                self.late_us()
            );
            if !self.sustained() {
                let sides = self.sides.values();
                let all: f64 = sides.map(|found| found.per_second(self.length)).sum();
                println!("NOT SUSTAINED: {all:.0} a second were answered");
            }
        }
        if let Some((cpu_us, (_, peak_kib))) = self.cpu_us().zip(self.server) {
            println!(
                "\nthe server: {cpu_us:.1} µs of CPU an exchange, {:.1} MiB at most",
                peak_kib as f64 / 1024.0
            );
        }
    }

    fn row(&self, found: &Found) -> String {
        let answers = found.answers.iter();
        let answers = answers.map(|(answer, count)| format!("{answer}: {count}"));
        format!(
            "{} | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} | {} |",
            found.latency.len(),
            found.per_second(self.length),
            found.us(0.5),
            found.us(0.9),
            found.us(0.99),
            found.us(0.999),
            found.us(1.0),
            answers.collect::<Vec<_>>().join(", ")
        )
    }

    fn write_json(&self, path: &Path, arguments: &Arguments) -> Result<()> {
        let sides = self.sides.iter();
        let sides: Value = sides
            .map(|(side, found)| {
                json!({
                    "callers": side.name(),
                    "exchanges": found.latency.len(),
                    "per_second": found.per_second(self.length),
                    "unexpected": found.unexpected,
                    "answers": found.answers,
                    "p50_us": found.us(0.5),
                    "p90_us": found.us(0.9),
                    "p99_us": found.us(0.99),
                    "p999_us": found.us(0.999),
                    "max_us": found.us(1.0),
                })
            })
            .collect();
        let asked = arguments.rate;
        let report = json!({
            "job": arguments.job,
            "connections": arguments.connections,
            "streams": arguments.streams,
            "fresh": arguments.fresh,
            "rate": asked,
            "sustained": asked.map(|_| self.sustained()),
            "sent_late_p99_us": asked.map(|_| self.late_us()),
            "seconds": self.length.as_secs_f64(),
            "cpu_us": self.cpu_us(),
            "peak_kib": self.server.map(|(_, peak_kib)| peak_kib),
            "callers": sides,
        });
        let text = serde_json::to_string_pretty(&report)? + "\n";
        std::fs::write(path, text).with_context(|| path.display().to_string())
    }
}
