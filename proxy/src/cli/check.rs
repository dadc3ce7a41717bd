//! `wayleave check`: everything that `wayleave run` does with its files, short of running.
//!
//! Reads the configuration, the identity and the policies, and tells all that is wrong with
//! them. It binds no port, writes no file and contacts nobody.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

use clap::{Args, ValueEnum};
use miette::Diagnostic;
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use wayleave_authz::Engine;
use wayleave_certs::source::files::FilesSource;

use super::report;
use crate::config::{self, Config, DecisionSink, IdentityConfig};
use crate::policies::PolicyFiles;

const EXAMPLES: &str = "\
Examples:
  wayleave check --config wayleave.yaml
  wayleave check --config wayleave.yaml --format json | jq '.problems[].message'

Exit status: 0 when `wayleave run` would start, 2 when something is wrong.";

/// Check a configuration with its certificates and policies, without running it
///
/// Reads everything that `wayleave run` reads, and reports all problems at once, each with
/// its file, line and column, and what to write instead. Binds no port.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct CheckArgs {
    /// The configuration file
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
    /// The shape of the report: text for people, JSON for programs
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
}

/// Checks, reports, and says with which status the process should end.
pub(crate) fn run(args: &CheckArgs) -> ExitCode {
    let outcome = check(&args.config, SystemTime::now());
    let reported = match args.format {
        Format::Text => tell(&outcome, &args.config),
        Format::Json => tell_json(&outcome),
    };
    match reported {
        Ok(()) if outcome.problems.is_empty() => ExitCode::SUCCESS,
        _ => ExitCode::from(2),
    }
}

/// What was found.
#[derive(Debug, Default)]
struct Outcome {
    problems: Vec<Finding>,
    facts: Facts,
}

/// One problem, in the form that programs read, and as people see it.
#[derive(Debug)]
struct Finding {
    told: Told,
    rendered: Box<dyn Diagnostic + Send + Sync>,
}

#[derive(Debug, Serialize)]
struct Told {
    file: String,
    line: Option<usize>,
    column: Option<usize>,
    message: String,
    help: Option<String>,
}

/// What a good configuration amounts to.
#[derive(Debug, Default, Serialize)]
struct Facts {
    #[serde(skip_serializing_if = "Option::is_none")]
    identity: Option<IdentityFacts>,
    #[serde(skip_serializing_if = "Option::is_none")]
    policies: Option<PolicyFacts>,
    inbound: Vec<InboundFacts>,
}

#[derive(Debug, Serialize)]
struct IdentityFacts {
    id: String,
    not_after: String,
}

#[derive(Debug, Serialize)]
struct PolicyFacts {
    count: usize,
    revision: String,
}

#[derive(Debug, Serialize)]
struct InboundFacts {
    name: String,
    listen: String,
    service: String,
    upstream: String,
}

/// A problem without a place in a text.
#[derive(Debug, thiserror::Error, Diagnostic)]
#[error("{0}")]
struct Plain(String);

fn check(path: &Path, now: SystemTime) -> Outcome {
    let mut outcome = Outcome::default();
    match config::load(path) {
        Ok(config) => outcome.check_parts(&config, now),
        Err(errors) => {
            let problems = errors.problems().iter().cloned();
            outcome.problems.extend(problems.map(Finding::of_config));
        }
    }
    outcome
}

impl Outcome {
    fn check_parts(&mut self, config: &Config, now: SystemTime) {
        self.check_identity(&config.identity, now);
        self.check_policies(&config.policies.paths);
        self.check_decisions(&config.log.decisions);
        self.facts.inbound = config.inbound.iter().map(InboundFacts::new).collect();
    }

    fn check_identity(&mut self, config: &IdentityConfig, now: SystemTime) {
        let IdentityConfig::Files(files) = config;
        match FilesSource::load(files.clone(), now) {
            Ok(source) => {
                self.facts.identity = source.reader().current().map(|identity| IdentityFacts {
                    id: identity.svid().id().to_string(),
                    not_after: timestamp(identity.svid().not_after()),
                });
            }
            Err(error) => {
                let message = error.problem.to_string();
                self.problems.push(Finding::plain(&error.path, message));
            }
        }
    }

    fn check_policies(&mut self, paths: &[PathBuf]) {
        match PolicyFiles::new(paths.to_vec()).load() {
            Ok(engine) => self.facts.policies = Some(PolicyFacts::new(&engine)),
            Err(errors) => {
                let problems = errors.problems().iter().cloned();
                self.problems.extend(problems.map(Finding::of_policy));
            }
        }
    }

    fn check_decisions(&mut self, sink: &DecisionSink) {
        let DecisionSink::File(path) = sink else {
            return;
        };
        if let Err(error) = appendable(path) {
            let message = format!(
                "decisions cannot be written: {error}; check that the folder exists and the mode"
            );
            self.problems.push(Finding::plain(path, message));
        }
    }
}

/// Whether `path` can be appended to, without creating it.
fn appendable(path: &Path) -> io::Result<()> {
    match OpenOptions::new().append(true).open(path) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let folder = path
                .parent()
                .filter(|folder| !folder.as_os_str().is_empty());
            let folder = fs::metadata(folder.unwrap_or(Path::new(".")))?;
            if !folder.is_dir() {
                return Err(io::ErrorKind::NotADirectory.into());
            }
            Ok(())
        }
        Err(error) => Err(error),
    }
}

impl Finding {
    fn of_config(problem: config::Problem) -> Self {
        Self {
            told: Told {
                file: problem.file().to_owned(),
                line: problem.line(),
                column: problem.column(),
                message: problem.message().to_owned(),
                help: problem.remedy().map(str::to_owned),
            },
            rendered: Box::new(problem),
        }
    }

    fn of_policy(problem: wayleave_authz::Problem) -> Self {
        Self {
            told: Told {
                file: problem.file().to_owned(),
                line: problem.line(),
                column: problem.column(),
                message: problem.message().to_owned(),
                help: problem.help_text().map(str::to_owned),
            },
            rendered: Box::new(problem),
        }
    }

    fn plain(path: &Path, message: String) -> Self {
        let file = path.display().to_string();
        Self {
            rendered: Box::new(Plain(format!("{file}: {message}"))),
            told: Told {
                file,
                line: None,
                column: None,
                message,
                help: None,
            },
        }
    }
}

impl PolicyFacts {
    fn new(engine: &Engine) -> Self {
        Self {
            count: engine.policies().len(),
            revision: engine.revision().to_string(),
        }
    }
}

impl InboundFacts {
    fn new(inbound: &config::InboundConfig) -> Self {
        Self {
            name: inbound.name.to_string(),
            listen: inbound.listen.to_string(),
            service: inbound.service.to_string(),
            upstream: inbound.upstream.address.to_string(),
        }
    }
}

fn timestamp(time: SystemTime) -> String {
    OffsetDateTime::from(time)
        .format(&Rfc3339)
        .unwrap_or_default()
}

fn tell(outcome: &Outcome, path: &Path) -> io::Result<()> {
    if outcome.problems.is_empty() {
        let text = summary(&outcome.facts, path);
        return io::stdout().lock().write_all(text.as_bytes());
    }
    let color = report::wants_color(&io::stderr());
    let mut stderr = io::stderr().lock();
    for problem in &outcome.problems {
        stderr.write_all(report::render(&*problem.rendered, color).as_bytes())?;
    }
    writeln!(
        stderr,
        "{}",
        report::count(outcome.problems.len(), "problem", "problems")
    )
}

fn summary(facts: &Facts, path: &Path) -> String {
    let mut lines = vec![format!("{}: ok", path.display())];
    if let Some(identity) = &facts.identity {
        lines.push(format!(
            "  identity  {}, until {}",
            identity.id, identity.not_after
        ));
    }
    if let Some(policies) = &facts.policies {
        let count = report::count(policies.count, "policy", "policies");
        lines.push(format!(
            "  policies  {count}, revision {}",
            policies.revision
        ));
    }
    for inbound in &facts.inbound {
        let InboundFacts {
            name,
            listen,
            service,
            upstream,
        } = inbound;
        lines.push(format!(
            "  inbound   {name}: {listen} for the service {service} at {upstream}"
        ));
    }
    lines.push(String::new());
    lines.join("\n")
}

fn tell_json(outcome: &Outcome) -> io::Result<()> {
    #[derive(Serialize)]
    struct Report<'a> {
        ok: bool,
        problems: Vec<&'a Told>,
        #[serde(flatten)]
        facts: &'a Facts,
    }
    let report = Report {
        ok: outcome.problems.is_empty(),
        problems: outcome
            .problems
            .iter()
            .map(|finding| &finding.told)
            .collect(),
        facts: &outcome.facts,
    };
    let mut stdout = io::stdout().lock();
    serde_json::to_writer_pretty(&mut stdout, &report)?;
    stdout.write_all(b"\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = "\
identity:
  files: {svid: svid.pem, key: key.pem, bundle: bundle.pem}
policies:
  paths: [policies]
inbound:
  - name: orders
    listen: 127.0.0.1:8443
    service: orders
    upstream: {address: '127.0.0.1:8080'}
";

    fn folder(config: &str, policy: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("wayleave.yaml"), config).unwrap();
        fs::create_dir(folder.path().join("policies")).unwrap();
        fs::write(folder.path().join("policies/a.cedar"), policy).unwrap();
        folder
    }

    fn told(folder: &tempfile::TempDir) -> Vec<String> {
        let outcome = check(&folder.path().join("wayleave.yaml"), SystemTime::now());
        outcome
            .problems
            .iter()
            .map(|finding| format!("{:?} {}", finding.told.line, finding.told.message))
            .collect()
    }

    #[test]
    fn a_broken_configuration_is_reported_with_every_place() {
        let told = told(&folder("identity: 1\npolicy: 2\n", ""));
        assert_eq!(told.len(), 4, "{told:?}");
    }

    #[test]
    fn identity_and_policies_are_reported_together() {
        let told = told(&folder(CONFIG, "@id(\"a\")\npermit (principal, action);\n"));
        assert!(
            told[0].starts_with("None ") && told[0].contains("does not exist"),
            "{told:?}"
        );
        assert!(
            told.iter().any(|line| line.starts_with("Some(2)")),
            "{told:?}"
        );
    }

    #[test]
    fn a_missing_folder_for_decisions_is_reported_and_nothing_is_created() {
        let config = format!("{CONFIG}log: {{decisions: 'file:logs/decisions.jsonl'}}\n");
        let folder = folder(&config, "");
        assert!(
            told(&folder)
                .iter()
                .any(|line| line.contains("decisions cannot be written"))
        );
        fs::create_dir(folder.path().join("logs")).unwrap();
        assert!(!told(&folder).iter().any(|line| line.contains("decisions")));
        assert!(!folder.path().join("logs/decisions.jsonl").exists());
    }

    #[test]
    fn a_problem_is_drawn_with_its_place_and_its_remedy() {
        let folder = folder("inbuond: []\n", "");
        let outcome = check(&folder.path().join("wayleave.yaml"), SystemTime::now());
        let drawn: String = outcome
            .problems
            .iter()
            .map(|problem| report::render(&*problem.rendered, false))
            .collect();
        for part in [
            "unknown key `inbuond`",
            "1 │ inbuond: []",
            "did you mean `inbound`?",
        ] {
            assert!(drawn.contains(part), "{drawn}");
        }
    }
}
