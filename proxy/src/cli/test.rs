//! `wayleave test`: policy unit tests.

use std::path::PathBuf;
use std::process::ExitCode;

use miette::Diagnostic;
use serde_json::json;
use wayleave_authz::{LoadErrors, load, testing};

use super::FAILED;
use super::policy_source::PolicySource;
use super::report::{self, Format};

const EXAMPLES: &str = "\
Examples:
  wayleave test --config wayleave.yaml policy-tests/
  wayleave test --policies policies orders_test.yaml --junit report.xml

A test file:
  defaults: { service: orders }
  tests:
    - name: the cart reads its orders
      request: { principal: \"spiffe://shop.example/ns/web/sa/cart\", method: GET, path: /orders/7 }
      expect: allow
      by: [cart-reads-orders]

Exit status: 0 every test passed; 1 a test failed; 2 usage, policy or test file.";

/// Arguments of `wayleave test`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct TestArgs {
    #[command(flatten)]
    source: PolicySource,
    /// Test files in YAML or JSON, and folders of them
    #[arg(required = true, value_name = "FILE")]
    tests: Vec<PathBuf>,
    /// Also write the results as JUnit XML
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// The shape of the results: text for people, JSON for programs
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// The results could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the results to `{path}`; check that its folder exists")]
struct JunitError {
    path: String,
    #[source]
    source: std::io::Error,
}

/// Runs the tests, and says with which status the process should end.
pub(super) fn run(args: &TestArgs) -> ExitCode {
    let engine = match args.source.load() {
        Ok((engine, _)) => engine,
        Err(code) => return code,
    };
    let results = load::read_tests(&args.tests).and_then(|files| testing::run(&engine, &files));
    match results {
        Ok(results) => tell(&results, args),
        Err(errors) => problems(&errors),
    }
}

fn problems(errors: &LoadErrors) -> ExitCode {
    report::problems(
        errors
            .problems()
            .iter()
            .map(|problem| problem as &dyn Diagnostic),
    )
}

fn tell(results: &testing::Report, args: &TestArgs) -> ExitCode {
    if let Some(path) = &args.junit
        && let Err(source) = std::fs::write(path, results.junit_xml())
    {
        return report::mistake(&JunitError {
            path: path.display().to_string(),
            source,
        });
    }
    match args.format {
        Format::Text => print!("{results}"),
        Format::Json => println!("{}", json!(results)),
    }
    match results.passed() {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(FAILED),
    }
}
