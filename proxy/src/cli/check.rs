//! `wayleave check`: everything that `wayleave run` does with its files, short of running.
//!
//! Reads the configuration, the identity and the policies, and tells all that is wrong with
//! them. It binds no port, writes no file and contacts nobody.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

use clap::Args;
use miette::Diagnostic;
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use wayleave_authz::Engine;
use wayleave_certs::source::federation::FederationError;

use super::report::{self, Format};
use crate::admin::{self, Destination};
use crate::config::{
    self, Config, DecisionSink, FederationConfig, IdentitySource, OutboundKind, Profile,
    UpstreamTls,
};
use crate::identity::{self, OpenError, OpenIdentity};
use crate::leads::read_roots;
use crate::policies::PolicyFiles;
use crate::ssf;
use crate::standing::store;
use crate::warnings;

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
    #[serde(skip_serializing_if = "Vec::is_empty")]
    federation: Vec<FederationFacts>,
    #[serde(skip_serializing_if = "Option::is_none")]
    policies: Option<PolicyFacts>,
    inbound: Vec<InboundFacts>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    outbound: Vec<OutboundFacts>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    destinations: Vec<Destination>,
    #[serde(skip_serializing_if = "Option::is_none")]
    probes: Option<ProbeFacts>,
    /// What works, and is better known.
    warnings: Vec<String>,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum IdentityFacts {
    /// What the files hold.
    Read { id: String, not_after: String },
    /// Whom `wayleave run` will ask; a check asks nobody.
    Unasked { workload_api: String },
}

#[derive(Debug, Serialize)]
struct FederationFacts {
    trust_domain: String,
    url: String,
    profile: &'static str,
}

#[derive(Debug, Serialize)]
struct PolicyFacts {
    count: usize,
    revision: String,
    /// The policies that Cedar evaluates itself, and why.
    not_compiled: BTreeMap<String, String>,
}

#[derive(Debug, Serialize)]
struct InboundFacts {
    name: String,
    listen: String,
    service: String,
    upstream: String,
    protocol: String,
    tls_mode: &'static str,
}

#[derive(Debug, Serialize)]
struct ProbeFacts {
    listen: String,
    paths: Vec<String>,
}

#[derive(Debug, Serialize)]
struct OutboundFacts {
    name: String,
    listen: String,
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    destination: Option<String>,
}

/// A problem without a place in a text.
#[derive(Debug, thiserror::Error, Diagnostic)]
#[error("{0}")]
struct Plain(String);

fn check(path: &Path, now: SystemTime) -> Outcome {
    let mut outcome = Outcome::default();
    match config::load(path) {
        Ok(config) => outcome.check_parts(path, &config, now),
        Err(errors) => {
            let problems = errors.problems().iter().cloned();
            outcome.problems.extend(problems.map(Finding::of_config));
        }
    }
    outcome
}

impl Outcome {
    fn check_parts(&mut self, path: &Path, config: &Config, now: SystemTime) {
        self.facts.warnings = warnings::warnings(config);
        self.check_identity(path, config, now);
        self.check_policies(&config.policies.paths);
        self.check_decisions(&config.log.decisions);
        self.check_roots(path, config);
        self.check_store(path, config);
        let problems = ssf::unreadable(&config.signals);
        let findings = problems.into_iter().map(|why| Finding::plain(path, why));
        self.problems.extend(findings);
        self.facts.inbound = config.inbound.iter().map(InboundFacts::new).collect();
        self.facts.outbound = config.outbound.iter().map(OutboundFacts::new).collect();
        self.facts.destinations = config.destinations.iter().map(Destination::new).collect();
        self.facts.probes = config.probes.as_ref().map(ProbeFacts::new);
    }

    fn check_identity(&mut self, path: &Path, whole: &Config, now: SystemTime) {
        let config = &whole.identity;
        let opened = match OpenIdentity::open(config.clone(), now) {
            Ok(opened) => opened,
            Err(error) => return self.problems.push(Finding::of_identity(path, error)),
        };
        self.facts.federation = config.federation.iter().map(FederationFacts::new).collect();
        if let Some(identity) = opened.reader().current() {
            let missing = warnings::without_bundle(whole, identity.bundles());
            self.facts.warnings.extend(missing);
        }
        self.facts.identity = match &config.source {
            IdentitySource::Files(_) => opened.reader().current().map(|identity| {
                let svid = identity.svid();
                let (id, not_after) = (svid.id().to_string(), timestamp(svid.not_after()));
                IdentityFacts::Read { id, not_after }
            }),
            IdentitySource::WorkloadApi(api) => {
                let endpoint = identity::endpoint(api).ok();
                endpoint.map(|endpoint| IdentityFacts::Unasked {
                    workload_api: endpoint.to_string(),
                })
            }
        };
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

    /// The authorities that hosts of the web are verified with have to be there.
    fn check_roots(&mut self, path: &Path, config: &Config) {
        let inbound = config.inbound.iter().map(|each| &each.upstream.tls);
        let destinations = config.destinations.iter().map(|each| &each.upstream.tls);
        for tls in inbound.chain(destinations) {
            let UpstreamTls::Web(roots) = tls else {
                continue;
            };
            if let Err(error) = read_roots(roots) {
                let message = format!("`tls.roots` cannot be used: {error}");
                self.problems.push(Finding::plain(path, message));
            }
        }
    }

    /// The files by which the store is connected to have to be there.
    fn check_store(&mut self, path: &Path, config: &Config) {
        if let Some(store) = &config.signals.store
            && let Err(error) = store::verify(store)
        {
            self.problems.push(Finding::plain(path, error.to_string()));
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

    /// A problem of the identity's files, or of what the configuration at `config` leaves open.
    fn of_identity(config: &Path, error: OpenError) -> Self {
        match error {
            OpenError::Files(error) => Self::plain(&error.path, error.problem.to_string()),
            OpenError::Federation(FederationError::Io { path, source }) => {
                Self::plain(&path, format!("cannot be read: {source}"))
            }
            OpenError::Federation(FederationError::Bundle {
                path,
                trust_domain,
                source,
            }) => {
                let message = format!("the bundle of `{trust_domain}` cannot be used: {source}");
                Self::plain(&path, message)
            }
            other => Self::plain(config, other.to_string()),
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

impl FederationFacts {
    fn new(config: &FederationConfig) -> Self {
        Self {
            trust_domain: config.trust_domain.to_string(),
            url: config.url.to_string(),
            profile: match config.profile {
                Profile::HttpsWeb { .. } => "https_web",
                Profile::HttpsSpiffe { .. } => "https_spiffe",
            },
        }
    }
}

impl PolicyFacts {
    fn new(engine: &Engine) -> Self {
        Self {
            count: engine.policies().len(),
            revision: engine.revision().to_string(),
            not_compiled: engine
                .not_compiled()
                .map(|(id, why)| (id.to_string(), why))
                .collect(),
        }
    }
}

impl InboundFacts {
    fn new(inbound: &config::InboundConfig) -> Self {
        Self {
            name: inbound.name.to_string(),
            listen: inbound.listen.to_string(),
            service: inbound.service.to_string(),
            upstream: inbound.upstream.to_string(),
            protocol: admin::protocol(inbound.protocol),
            tls_mode: admin::tls_mode(inbound.tls.mode),
        }
    }
}

impl ProbeFacts {
    fn new(probes: &config::ProbesConfig) -> Self {
        let paths = probes.paths.iter();
        Self {
            listen: probes.listen.to_string(),
            paths: paths.map(|probe| probe.path.clone()).collect(),
        }
    }
}

impl OutboundFacts {
    fn new(outbound: &config::OutboundConfig) -> Self {
        Self {
            name: outbound.name.to_string(),
            listen: outbound.listen.to_string(),
            kind: outbound.kind.as_str(),
            destination: match &outbound.kind {
                OutboundKind::Explicit(destination) => Some(destination.service.to_string()),
                OutboundKind::ForwardProxy | OutboundKind::Transparent => None,
            },
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
    match &facts.identity {
        Some(IdentityFacts::Read { id, not_after }) => {
            lines.push(format!("  identity  {id}, until {not_after}"));
        }
        Some(IdentityFacts::Unasked { workload_api }) => {
            lines.push(format!(
                "  identity  from the Workload API at {workload_api}, which was not asked"
            ));
        }
        None => {}
    }
    for FederationFacts {
        trust_domain,
        url,
        profile,
    } in &facts.federation
    {
        lines.push(format!(
            "  federated {trust_domain} by {profile} from {url}, which was not fetched"
        ));
    }
    if let Some(policies) = &facts.policies {
        let count = report::count(policies.count, "policy", "policies");
        lines.push(format!(
            "  policies  {count}, revision {}",
            policies.revision
        ));
        for (id, why) in &policies.not_compiled {
            lines.push(format!(
                "            {id} is left to Cedar, some hundred times slower: {why}"
            ));
        }
    }
    for inbound in &facts.inbound {
        let InboundFacts {
            name,
            listen,
            service,
            upstream,
            protocol,
            ..
        } = inbound;
        let spoken = match protocol.as_str() {
            "http" => String::new(),
            other => format!(" ({other})"),
        };
        lines.push(format!(
            "  inbound   {name}: {listen} for the service {service} at {upstream}{spoken}"
        ));
    }
    for OutboundFacts {
        name,
        listen,
        kind,
        destination,
    } in &facts.outbound
    {
        lines.push(match destination {
            Some(destination) => {
                format!("  outbound  {name}: {listen} to the destination {destination}")
            }
            None => format!("  outbound  {name}: {listen}, {kind}"),
        });
    }
    for destination in &facts.destinations {
        let Destination {
            service, upstream, ..
        } = destination;
        let tls = destination.tls.as_ref();
        let tls = tls.map_or(String::new(), |tls| format!(", {tls}"));
        lines.push(format!("  destination {service}: at {upstream}{tls}"));
    }
    if let Some(ProbeFacts { listen, paths }) = &facts.probes {
        lines.push(format!("  probes    {listen} for {}", paths.join(", ")));
    }
    for warning in &facts.warnings {
        lines.push(format!("  WARNING   {warning}"));
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
    fn a_workload_api_is_named_and_not_asked() {
        let files = "files: {svid: svid.pem, key: key.pem, bundle: bundle.pem}";
        let api = "workload_api: {endpoint: 'unix:///nowhere/agent.sock'}\n  federation: [{trust_domain: p.example, url: 'https://p.example/', profile: https_spiffe, endpoint_id: 'spiffe://p.example/e'}]";
        let good = folder(&CONFIG.replace(files, api), "");
        let path = good.path().join("wayleave.yaml");
        let outcome = check(&path, SystemTime::now());
        assert!(outcome.problems.is_empty(), "{:?}", told(&good));
        let text = summary(&outcome.facts, &path);
        let expected = "from the Workload API at unix:///nowhere/agent.sock, which was not asked";
        assert!(text.contains(expected), "{text}");
        assert!(text.contains("p.example by https_spiffe"), "{text}");
    }

    #[test]
    fn a_bootstrap_bundle_that_cannot_be_read_is_named() {
        let files = "files: {svid: svid.pem, key: key.pem, bundle: bundle.pem}";
        let api = "workload_api: {endpoint: 'unix:///a.sock'}\n  federation: [{trust_domain: p, url: 'https://p/', profile: https_spiffe, endpoint_id: 'spiffe://p/e', bootstrap_bundle: p.pem}]";
        let outcome = check(
            &folder(&CONFIG.replace(files, api), "")
                .path()
                .join("wayleave.yaml"),
            SystemTime::now(),
        );
        assert!(outcome.problems[0].told.file.ends_with("/p.pem"));
        assert!(outcome.problems[0].told.message.contains("cannot be read"));
    }

    #[test]
    fn every_file_of_a_transmitter_is_read() {
        let transmitter = "signals:
  state_dir: state
  ssf:
    - name: idp
      issuer: i
      audience: [a]
      jwks: jwks.json
      push: { listen: 127.0.0.1:0, path: /ssf, token_file: token, tls: { certificate: c.pem, key: k.pem } }
";
        let folder = folder(
            &format!("{CONFIG}{transmitter}"),
            "permit (principal, action);",
        );
        std::fs::write(folder.path().join("jwks.json"), r#"{"keys":[]}"#).unwrap();
        let told = told(&folder).join("\n");
        for words in [
            "none of its keys can verify",
            "token: No such file",
            "c.pem: No such file",
        ] {
            assert!(told.contains(words), "no `{words}` in {told}");
        }
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
