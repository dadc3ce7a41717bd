//! The results as tables for people and as JSON for programs.

use std::fmt::{self, Display};
use std::process::Command;

use anyhow::Result;
use serde::Serialize;
use serde_json::{Value, json};

use crate::bulk::{Carried, Way};
use crate::client::Plan;
use crate::hold::Held;
use crate::measure::Measured;
use crate::peers::{Found, Peer};
use crate::probe::Proof;
use crate::rate::{Latencies, Rate};
use crate::target::Kind;

/// One measurement of each kind in each case, as often as there were rounds.
pub(crate) struct Rows<C, M>(Vec<Row<C, M>>);

struct Row<C, M> {
    case: C,
    kind: Kind,
    found: M,
}

impl<C: Copy + PartialEq + Display, M: Serialize> Rows<C, M> {
    pub(crate) fn add(&mut self, case: C, kind: Kind, found: M) {
        self.0.push(Row { case, kind, found });
    }

    /// The cases in the order in which they were first measured.
    pub(crate) fn cases(&self) -> Vec<C> {
        let mut cases = Vec::new();
        for row in &self.0 {
            if !cases.contains(&row.case) {
                cases.push(row.case);
            }
        }
        cases
    }

    /// The kinds that were measured in a case, in order.
    pub(crate) fn kinds(&self, case: C) -> Vec<Kind> {
        let mut kinds = Vec::new();
        for row in self.0.iter().filter(|row| row.case == case) {
            if !kinds.contains(&row.kind) {
                kinds.push(row.kind);
            }
        }
        kinds
    }

    /// A figure of every round, the least first.
    pub(crate) fn figures(&self, case: C, kind: Kind, figure: impl Fn(&M) -> f64) -> Figures {
        let of = |row: &&Row<C, M>| row.case == case && row.kind == kind;
        let mut figures: Vec<f64> = self
            .0
            .iter()
            .filter(of)
            .map(|row| figure(&row.found))
            .collect();
        figures.sort_by(f64::total_cmp);
        Figures(figures)
    }

    fn json(&self, more: impl Fn(&M) -> Value) -> Value {
        let rows = self.0.iter().map(|row| {
            json!({
                "case": row.case.to_string(),
                "target": row.kind.to_string(),
                "measured": row.found,
                "derived": more(&row.found),
            })
        });
        rows.collect()
    }
}

impl<C, M> Default for Rows<C, M> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

/// One figure of every round, the least first.
pub(crate) struct Figures(Vec<f64>);

impl Figures {
    pub(crate) fn least(&self) -> f64 {
        self.0.first().copied().unwrap_or(f64::NAN)
    }

    pub(crate) fn median(&self) -> f64 {
        self.0.get(self.0.len() / 2).copied().unwrap_or(f64::NAN)
    }

    pub(crate) fn most(&self) -> f64 {
        self.0.last().copied().unwrap_or(f64::NAN)
    }
}

/// How the run was made.
pub(crate) struct About {
    pub(crate) seconds: f64,
    pub(crate) rounds: u32,
    pub(crate) pinned: bool,
    /// Whether clients, upstream and target go before other work on the machine.
    pub(crate) first: bool,
    pub(crate) rate: Rate,
    pub(crate) peers: Vec<Found>,
}

impl About {
    /// The peers that are not here.
    pub(crate) fn absent(&self) -> Vec<&'static str> {
        let here = |peer: &Peer| self.peers.iter().any(|found| found.peer == *peer);
        let absent = Peer::ALL.iter().filter(|peer| !here(peer));
        absent.map(|peer| peer.name()).collect()
    }
}

/// Everything that one run found.
pub(crate) struct Report {
    pub(crate) about: About,
    pub(crate) proofs: Vec<(Kind, Proof)>,
    pub(crate) requests: Rows<Plan, Measured>,
    pub(crate) latencies: Rows<Plan, Latencies>,
    pub(crate) held: Rows<&'static str, Held>,
    pub(crate) carried: Rows<Way, Carried>,
}

const ENVOY: Kind = Kind::Peer(Peer::Envoy);

impl Report {
    pub(crate) fn new(about: About) -> Self {
        Self {
            about,
            proofs: Vec::new(),
            requests: Rows::default(),
            latencies: Rows::default(),
            held: Rows::default(),
            carried: Rows::default(),
        }
    }

    /// All measurements, one by one, with what they were made on.
    pub(crate) fn json(&self) -> Result<String> {
        let peers = self.about.peers.iter();
        let versions: Value = peers
            .map(|found| json!({ "name": found.peer.name(), "version": found.version }))
            .collect();
        let proofs = self.proofs.iter();
        let proofs: Value = proofs
            .map(|(kind, proof)| json!({ "target": kind.to_string(), "proof": proof }))
            .collect();
        let report = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "commit": commit(),
            "processor": processor(),
            "kernel": read("/proc/sys/kernel/osrelease"),
            "pinned": self.about.pinned,
            "first": self.about.first,
            "seconds": self.about.seconds,
            "rounds": self.about.rounds,
            "rate": self.about.rate.per_second,
            "peers": versions,
            "absent": self.about.absent(),
            "proofs": proofs,
            "requests": self.requests.json(|found| json!({ "cpu_us": found.cpu_us() })),
            "latencies": self.latencies.json(|_| Value::Null),
            "held": self.held.json(|found| json!({ "bytes_each": found.bytes_each() })),
            "carried": self.carried.json(|found| json!({ "cpu_s_per_gb": found.cpu_per_gb() })),
        });
        Ok(serde_json::to_string_pretty(&report)? + "\n")
    }
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

/// The commit of the folder that this is run in, where that is a repository.
fn commit() -> Option<String> {
    let mut git = Command::new("git");
    let output = git.args(["rev-parse", "--short", "HEAD"]).output().ok()?;
    let commit = String::from_utf8(output.stdout).ok()?;
    Some(commit.trim().to_owned()).filter(|commit| output.status.success() && !commit.is_empty())
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path)
        .unwrap_or_default()
        .trim()
        .to_owned()
}

fn mib(kib: f64) -> f64 {
    kib / 1024.0
}

/// `1.22`, or a dash where there is nothing to compare with.
fn ratio(of: f64, to: f64) -> String {
    let ratio = of / to;
    match ratio.is_finite() {
        true => format!("{ratio:.2}"),
        false => "–".to_owned(),
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let about = &self.about;
        let pinned = if about.pinned {
            "on a core of its own"
        } else {
            "not pinned"
        };
        let first = if about.first {
            ", before other work"
        } else {
            ""
        };
        let (processor, seconds, rounds) = (processor(), about.seconds, about.rounds);
        writeln!(
            f,
            "\n{processor}, process under test {pinned}{first}, {rounds} × {seconds} s\n"
        )?;
        for found in &about.peers {
            writeln!(f, "- {} {}", found.peer.name(), found.version)?;
        }
        for name in about.absent() {
            writeln!(f, "- {name}: not here, skipped")?;
        }
        for (kind, proof) in &self.proofs {
            let Proof {
                key_exchange,
                full_handshakes,
                refused,
            } = proof;
            let refused = refused.len();
            writeln!(
                f,
                "- {kind}: {key_exchange}, {full_handshakes} of {full_handshakes} offers to resume \
                 not taken up, {refused} of {refused} forbidden requests refused"
            )?;
        }
        self.request_table(f)?;
        self.latency_table(f)?;
        self.held_table(f)?;
        self.carried_table(f)
    }
}

impl Report {
    fn request_table(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.requests.cases().is_empty() {
            return Ok(());
        }
        writeln!(
            f,
            "\n| plan | process under test | CPU µs a request (median, most) | to bare | to Envoy \
             | idle MiB | peak MiB |\n| --- | --- | ---: | ---: | ---: | ---: | ---: |"
        )?;
        for plan in self.requests.cases() {
            let cpu = |kind| self.requests.figures(plan, kind, Measured::cpu_us);
            let (bare, envoy) = (cpu(Kind::Bare).least(), cpu(ENVOY).least());
            for kind in self.requests.kinds(plan) {
                let of = cpu(kind);
                let memory = |figure: fn(&Measured) -> u64| {
                    let kib = self
                        .requests
                        .figures(plan, kind, |found| figure(found) as f64);
                    mib(kib.most())
                };
                writeln!(
                    f,
                    "| {plan} | {kind} | {:.1} ({:.1}, {:.1}) | {} | {} | {:.1} | {:.1} |",
                    of.least(),
                    of.median(),
                    of.most(),
                    ratio(of.least(), bare),
                    ratio(of.least(), envoy),
                    memory(|found| found.idle.resident_kib),
                    memory(|found| found.loaded.peak_kib),
                )?;
            }
        }
        Ok(())
    }

    fn latency_table(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.latencies.cases().is_empty() {
            return Ok(());
        }
        writeln!(
            f,
            "\n{} requests/s, µs from the moment each was due, the best round of each figure\n\n\
             | plan | process under test | p50 | p90 | p99 | p99.9 | sent late, p99 | CPU µs |\n\
             | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
            self.about.rate.per_second
        )?;
        for plan in self.latencies.cases() {
            for kind in self.latencies.kinds(plan) {
                let best = |figure: fn(&Latencies) -> f64| {
                    self.latencies.figures(plan, kind, figure).least()
                };
                writeln!(
                    f,
                    "| {plan} | {kind} | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} |",
                    best(|found| found.p50_us),
                    best(|found| found.p90_us),
                    best(|found| found.p99_us),
                    best(|found| found.p999_us),
                    best(|found| found.sent_late_p99_us),
                    best(|found| found.cpu_us),
                )?;
            }
        }
        Ok(())
    }

    fn held_table(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.held.cases().is_empty() {
            return Ok(());
        }
        writeln!(
            f,
            "\n| held | process under test | KB each | CPU µs each | MiB in all |\n\
             | --- | --- | ---: | ---: | ---: |"
        )?;
        for what in self.held.cases() {
            for kind in self.held.kinds(what) {
                let least =
                    |figure: fn(&Held) -> f64| self.held.figures(what, kind, figure).least();
                writeln!(
                    f,
                    "| {:.0} {what} | {kind} | {:.1} | {:.0} | {:.1} |",
                    least(|found| found.count as f64),
                    least(Held::bytes_each) / 1e3,
                    least(|found| found.cpu_us),
                    mib(least(|found| found.with.resident_kib as f64)),
                )?;
            }
        }
        Ok(())
    }

    fn carried_table(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.carried.cases().is_empty() {
            return Ok(());
        }
        writeln!(
            f,
            "\n| one long body | process under test | CPU s a GB (median) | to bare | MB/s | peak MiB |\n\
             | --- | --- | ---: | ---: | ---: | ---: |"
        )?;
        for way in self.carried.cases() {
            let cpu = |kind| self.carried.figures(way, kind, Carried::cpu_per_gb);
            let bare = cpu(Kind::Bare).least();
            for kind in self.carried.kinds(way) {
                let figures = |figure: fn(&Carried) -> f64| self.carried.figures(way, kind, figure);
                writeln!(
                    f,
                    "| {way} | {kind} | {:.2} ({:.2}) | {} | {:.0} | {:.1} |",
                    cpu(kind).least(),
                    cpu(kind).median(),
                    ratio(cpu(kind).least(), bare),
                    figures(Carried::megabytes_per_second).most(),
                    mib(figures(|found| found.peak_kib as f64).most()),
                )?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_of_their_case_and_kind_and_sorted() {
        let mut rows = Rows::default();
        for (case, kind, found) in [
            ("a", Kind::Bare, 3.0),
            ("a", Kind::Bare, 1.0),
            ("a", Kind::Sidecar, 9.0),
            ("b", Kind::Bare, 5.0),
            ("a", Kind::Bare, 2.0),
        ] {
            rows.add(case, kind, found);
        }
        let figures = rows.figures("a", Kind::Bare, |found: &f64| *found);
        assert_eq!(
            (figures.least(), figures.median(), figures.most()),
            (1.0, 2.0, 3.0)
        );
        assert_eq!(rows.cases(), ["a", "b"]);
        assert_eq!(rows.kinds("a"), [Kind::Bare, Kind::Sidecar]);
    }

    #[test]
    fn nothing_to_compare_with_is_a_dash_and_no_number() {
        assert_eq!(ratio(1.0, f64::NAN), "–");
        assert_eq!(ratio(1.0, 0.0), "–");
        assert_eq!(ratio(3.0, 2.0), "1.50");
    }
}
