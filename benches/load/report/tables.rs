//! The results as tables in Markdown.

use std::fmt::{self, Display};

use super::{Report, processor};
use crate::bulk::Carried;
use crate::hold::Held;
use crate::measure::Measured;
use crate::peers::Peer;
use crate::probe::Proof;
use crate::rate::{Latencies, Pace};
use crate::target::Kind;

const ENVOY: Kind = Kind::Peer(Peer::Envoy);

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
            "\nµs from the moment each request was due, the best round of each figure\n\n\
             | plan, requests/s | process under test | answered/s | p50 | p90 | p99 | p99.9 | most \
             | sent late, p99 | CPU µs |\n\
             | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
        )?;
        for pace in self.latencies.cases() {
            for kind in self.latencies.kinds(pace) {
                let best = |figure: fn(&Latencies) -> f64| {
                    self.latencies.figures(pace, kind, figure).least()
                };
                writeln!(
                    f,
                    "| {pace} | {kind} | {} | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} |",
                    self.answered(pace, kind),
                    best(|found| found.p50_us),
                    best(|found| found.p90_us),
                    best(|found| found.p99_us),
                    best(|found| found.p999_us),
                    best(|found| found.max_us),
                    best(|found| found.sent_late_p99_us),
                    best(|found| found.cpu_us),
                )?;
            }
        }
        Ok(())
    }

    /// The rate at which requests were answered, the best round; and in how many it was not the one
    /// that was asked for.
    fn answered(&self, pace: Pace, kind: Kind) -> String {
        let most = |found: &Latencies| found.answered_per_second;
        let most = self.latencies.figures(pace, kind, most).most();
        match self.unsustained(pace, kind) {
            (0, _) => format!("{most:.0}"),
            (short, rounds) => format!("{most:.0}, not sustained in {short} of {rounds}"),
        }
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
    fn nothing_to_compare_with_is_a_dash_and_no_number() {
        assert_eq!(ratio(1.0, f64::NAN), "–");
        assert_eq!(ratio(1.0, 0.0), "–");
        assert_eq!(ratio(3.0, 2.0), "1.50");
    }
}
