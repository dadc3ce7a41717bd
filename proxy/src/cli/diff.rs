//! `wayleave diff`: what new policies would change about calls that were recorded.

use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::json;
use wayleave_authz::{Difference, RecordedFacts};

use super::FAILED;
use super::policy_source;
use super::records::Records;
use super::report::{self, Format};
use crate::record::replay::{Recorded, ReplayError};

const EXAMPLES: &str = "\
Examples:
  wayleave diff --old policies --new policies-next --records decisions.jsonl
  kubectl logs orders-0 -c wayleave | wayleave diff --old old --new new --records -

Decides every recorded call by both sets of policies and tells which calls would change their
decision, grouped by the policy that makes the change. Lines that are no decision records, and
calls that were refused before any policy was asked, are counted and passed over.

Exit status: 0 no decision changes; 1 some do; 2 usage, policy or records.";

/// Arguments of `wayleave diff`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct DiffArgs {
    /// Policy files and folders in force; may be given several times
    #[arg(long, required = true, value_name = "PATH")]
    old: Vec<PathBuf>,
    /// Policy files and folders to compare with; may be given several times
    #[arg(long, required = true, value_name = "PATH")]
    new: Vec<PathBuf>,
    /// Decision records, one JSON object a line; `-` is standard input
    #[arg(long, value_name = "FILE")]
    records: PathBuf,
    /// The shape of the answer: text for people, JSON for programs
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// Compares, and says with which status the process should end.
pub(super) fn run(args: &DiffArgs) -> ExitCode {
    let sides = policy_source::engine(args.old.clone())
        .and_then(|old| Ok((old, policy_source::engine(args.new.clone())?)));
    let (old, new) = match sides {
        Ok(sides) => sides,
        Err(code) => return code,
    };
    let mut records = match Records::open(&args.records) {
        Ok(records) => records,
        Err(error) => return report::mistake(&error),
    };
    let mut passed_over = PassedOver::default();
    let calls = records
        .by_ref()
        .filter_map(|(_, record)| passed_over.sort(record));
    let difference = Difference::between(&old, &new, calls);
    if let Err(error) = records.finish() {
        return report::mistake(&error);
    }
    match args.format {
        Format::Text => {
            print!("{difference}");
            passed_over.tell();
        }
        Format::Json => println!("{}", json!(difference)),
    }
    match difference.changed {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::from(FAILED),
    }
}

/// Lines that say nothing about policies.
#[derive(Debug, Default)]
struct PassedOver {
    refused: usize,
    others: usize,
}

impl PassedOver {
    /// The call of a line that has one; the others are counted.
    fn sort(&mut self, record: Result<Recorded, ReplayError>) -> Option<RecordedFacts> {
        match record {
            Ok(recorded) => return Some(recorded.facts),
            Err(ReplayError::NotDecided(_)) => self.refused += 1,
            Err(ReplayError::NotARecord(_) | ReplayError::OtherKind(_)) => self.others += 1,
        }
        None
    }

    fn tell(&self) {
        if self.refused > 0 {
            println!(
                "{}",
                report::count(self.refused, "call was", "calls were")
                    + " refused before any policy was asked"
            );
        }
        if self.others > 0 {
            println!(
                "{}",
                report::count(self.others, "line is", "lines are") + " no decision record"
            );
        }
    }
}
