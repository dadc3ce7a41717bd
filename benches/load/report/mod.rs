//! The results as tables for people and as JSON for programs.

mod rows;
mod tables;

use std::process::Command;

use anyhow::Result;
use serde_json::{Value, json};

use crate::bulk::{Carried, Way};
use crate::client::Plan;
use crate::hold::Held;
use crate::measure::Measured;
use crate::peers::{Found, Peer};
use crate::probe::Proof;
use crate::rate::{Latencies, Pace};
use crate::target::Kind;
pub(crate) use rows::Rows;

/// How the run was made.
pub(crate) struct About {
    pub(crate) seconds: f64,
    pub(crate) rounds: u32,
    pub(crate) pinned: bool,
    /// Whether clients, upstream and target go before other work on the machine.
    pub(crate) first: bool,
    /// Requests a second, in the measurement of latency.
    pub(crate) rates: Vec<u32>,
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
    pub(crate) latencies: Rows<Pace, Latencies>,
    pub(crate) held: Rows<&'static str, Held>,
    pub(crate) carried: Rows<Way, Carried>,
}

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

    /// In how many rounds a target did not keep up with a rate, and how many there were.
    pub(crate) fn unsustained(&self, pace: Pace, kind: Kind) -> (usize, usize) {
        let short = |found: &Latencies| f64::from(u8::from(!found.sustained));
        self.latencies.figures(pace, kind, short).positive()
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
            "rates": self.about.rates,
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
