//! Times decisions by the number of policies: the sidecar's engine beside the stock evaluator of
//! the same language, in one process and in turns.

use std::hint::black_box;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde::Serialize;
use wayleave_benches::rules::{self, Call};
use wayleave_benches::stock::Stock;

use crate::plot;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Seconds for each engine at each number of policies.
    #[arg(long, default_value_t = 1.0, value_parser = crate::seconds)]
    seconds: f64,
    /// Write the results to this file as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Draw `decisions.svg` into this folder.
    #[arg(long)]
    plots: Option<PathBuf>,
}

const SIZES: [usize; 5] = [1, 10, 100, 1_000, 10_000];
/// Beyond this many policies the stock evaluator takes tens of milliseconds a decision.
const STOCK_UP_TO: usize = 1_000;
/// The measurements of one engine at one size, of which the least and the median are told.
const ROUNDS: usize = 5;

/// Nanoseconds a decision, by rounds over all calls.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Timed {
    pub(crate) policies: usize,
    pub(crate) least_ns: f64,
    pub(crate) median_ns: f64,
}

/// One engine at every size that it was measured at.
#[derive(Debug, Serialize)]
pub(crate) struct Series {
    pub(crate) engine: &'static str,
    pub(crate) timed: Vec<Timed>,
}

type Decide = Box<dyn FnMut(&Call) -> bool>;

/// Times, and prints a table.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let budget = Duration::from_secs_f64(arguments.seconds);
    let mut compiled = Series {
        engine: "wayleave",
        timed: Vec::new(),
    };
    let mut stock = Series {
        engine: "cedar-policy",
        timed: Vec::new(),
    };
    println!("| policies | wayleave, ns (median) | cedar-policy, ns (median) |");
    println!("| ---: | ---: | ---: |");
    for policies in SIZES {
        let engine = rules::engine(policies);
        let ours: Decide = Box::new(move |call| engine.decide(&call.facts()).is_allow());
        let mut both = vec![ours];
        if policies <= STOCK_UP_TO {
            let evaluator = Stock::new(&rules::rules(policies));
            both.push(Box::new(move |call| evaluator.allows(call)));
        }
        let timed = time(policies, &mut both, budget)?;
        let mut cells = vec![policies.to_string()];
        for (series, timed) in [&mut compiled, &mut stock].into_iter().zip(&timed) {
            cells.push(format!("{:.0} ({:.0})", timed.least_ns, timed.median_ns));
            series.timed.push(*timed);
        }
        cells.resize(3, "–".to_owned());
        println!("| {} |", cells.join(" | "));
    }
    let all = [compiled, stock];
    if let Some(path) = &arguments.json {
        std::fs::write(path, serde_json::to_string_pretty(&all)? + "\n")?;
    }
    match &arguments.plots {
        Some(folder) => plot::decisions::draw(&all, folder),
        None => Ok(()),
    }
}

/// Each decider in turn, so that a slow moment falls on all of them. They must agree.
fn time(policies: usize, deciders: &mut [Decide], budget: Duration) -> Result<Vec<Timed>> {
    let calls = rules::calls();
    let mut told = Vec::new();
    for decide in deciders.iter_mut() {
        told.push(calls.iter().map(decide).collect::<Vec<_>>());
    }
    ensure!(
        told.windows(2).all(|two| matches!(two, [a, b] if a == b)),
        "they disagree"
    );
    let mut rounds = vec![Vec::new(); deciders.len()];
    let each = budget / u32::try_from(ROUNDS)?;
    for _ in 0..ROUNDS {
        for (decide, rounds) in deciders.iter_mut().zip(&mut rounds) {
            rounds.push(round(decide, &calls, each));
        }
    }
    let timed = rounds.into_iter().map(|mut rounds| {
        rounds.sort_by(f64::total_cmp);
        let at = |index: usize| rounds.get(index).copied().unwrap_or(f64::NAN);
        Timed {
            policies,
            least_ns: at(0),
            median_ns: at(ROUNDS / 2),
        }
    });
    Ok(timed.collect())
}

/// Nanoseconds a decision over a while; all calls once at least.
fn round(decide: &mut Decide, calls: &[Call], length: Duration) -> f64 {
    let (start, mut decided) = (Instant::now(), 0_usize);
    while decided == 0 || start.elapsed() < length {
        for call in calls {
            black_box(decide(black_box(call)));
        }
        decided += calls.len();
    }
    start.elapsed().as_nanos() as f64 / decided as f64
}
