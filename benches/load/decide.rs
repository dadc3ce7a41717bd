//! The decision, alone: this program under callgrind, counted only while it decides.

use std::hint::black_box;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Result, ensure};
use clap::ValueEnum;
use tokio::process::Command;
use wayleave_benches::rules::{self, Call};
use wayleave_benches::stock::Stock;

use crate::callgrind::Profile;

/// Who decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Decider {
    /// The sidecar's engine.
    Compiled,
    /// `cedar_policy::Authorizer`.
    Stock,
}

impl Decider {
    fn name(self) -> &'static str {
        match self {
            Self::Compiled => "compiled",
            Self::Stock => "stock",
        }
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[arg(long, value_enum)]
    decider: Decider,
    #[arg(long)]
    policies: usize,
    #[arg(long)]
    rounds: usize,
}

/// Rounds over all calls that are counted, after one that is not.
const ROUNDS: usize = 5;

/// Decides all calls, once uncounted and then so many times within [`counted_decisions`].
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let calls = rules::calls();
    let policies = arguments.policies;
    let mut decide: Box<dyn FnMut(&Call) -> bool> = match arguments.decider {
        Decider::Compiled => {
            let engine = rules::engine(policies);
            Box::new(move |call| engine.decide(&call.facts()).is_allow())
        }
        Decider::Stock => {
            let stock = Stock::new(&rules::rules(policies));
            Box::new(move |call| stock.allows(call))
        }
    };
    let expected = calls.iter().filter(|call| decide(call)).count() * arguments.rounds;
    let allowed = counted_decisions(&mut *decide, &calls, arguments.rounds);
    ensure!(
        allowed == expected && expected > 0,
        "{allowed} allowed, not {expected}"
    );
    Ok(())
}

/// What callgrind counts: the name is what it is told to look for.
#[inline(never)]
fn counted_decisions(
    decide: &mut dyn FnMut(&Call) -> bool,
    calls: &[Call],
    rounds: usize,
) -> usize {
    let mut allowed = 0;
    for _ in 0..rounds {
        allowed += calls.iter().filter(|call| decide(black_box(call))).count();
    }
    allowed
}

/// One decision's instructions and allocations, the mean over all calls.
pub(crate) async fn count(decider: Decider, policies: usize, folder: &Path) -> Result<(f64, f64)> {
    let out = folder.join(format!("decide-{}-{policies}", decider.name()));
    let mut file = std::ffi::OsString::from("--callgrind-out-file=");
    file.push(&out);
    let mut command = Command::new("valgrind");
    command
        .args([
            "--quiet",
            "--tool=callgrind",
            "--toggle-collect=*counted_decisions*",
        ])
        .arg(file)
        .arg(std::env::current_exe()?)
        .args(["decide", "--decider", decider.name()])
        .args([
            "--policies",
            &policies.to_string(),
            "--rounds",
            &ROUNDS.to_string(),
        ])
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let status = command.status().await?;
    ensure!(status.success(), "counting decisions: {status}");
    let profile = Profile::read(&std::fs::read_to_string(&out)?);
    let decisions = (rules::calls().len() * ROUNDS) as f64;
    ensure!(profile.total() > 0, "callgrind did not find the decisions");
    let each = |count: u64| count as f64 / decisions;
    Ok((each(profile.total()), each(profile.allocations)))
}
