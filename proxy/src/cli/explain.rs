//! `wayleave explain`: decides a call offline, asked for by hand or taken from a record,
//! and says why.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::json;
use wayleave_authz::{
    Action, Direction, Engine, RecordedFacts, RecordedRpc, RecordedTls, signals::SignalValues,
};
use wayleave_identity::SpiffeId;

use super::policy_source::PolicySource;
use super::records::Records;
use super::report::{self, Format};
use crate::protocol::canonical;
use crate::record::replay::Recorded;

const EXAMPLES: &str = "\
Examples:
  wayleave explain --config wayleave.yaml --method GET --path /orders/7 \\
      --principal spiffe://shop.example/ns/web/sa/cart
  wayleave explain --policies .wayleave/policies --service app --method DELETE --path /orders/7 \\
      --principal spiffe://dev.wayleave/ns/default/sa/agent --header 'x-role: reader'
  wayleave explain --config wayleave.yaml --tcp --host db.shop.example --port 5432 \\
      --principal spiffe://shop.example/ns/web/sa/orders
  wayleave explain --config wayleave.yaml --from-record decisions.jsonl
  curl -s 'http://127.0.0.1:15000/decisions?limit=1' | jq -c '.decisions[]' |
      wayleave explain --policies .wayleave/policies --from-record -

Prints the decision, the policies that determined it with their text and place, which of their
conditions held, and for a deny the permits that came nearest with the first condition that
failed. A record is decided again and compared with what was decided then.

Exit status: 0 explained, whatever the decision; 1 a record was decided otherwise than recorded;
2 usage, configuration or policy.";

/// Arguments of `wayleave explain`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct ExplainArgs {
    #[command(flatten)]
    source: PolicySource,
    /// Decide the calls of these decision records, one JSON object a line; `-` is standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = ["principal", "method", "path"])]
    from_record: Option<PathBuf>,
    #[command(flatten)]
    call: CallArgs,
    /// The shape of the answer: text for people, JSON for programs
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// A call, asked for by hand.
#[derive(Debug, clap::Args)]
struct CallArgs {
    /// The caller's SPIFFE ID; an anonymous caller when absent
    #[arg(long, value_name = "SPIFFE-ID")]
    principal: Option<SpiffeId>,
    /// The HTTP method, as sent
    #[arg(long, default_value = "GET")]
    method: String,
    /// The path, and the query if there is one, as sent
    #[arg(long, value_name = "PATH", required_unless_present_any = ["from_record", "tcp"])]
    path: Option<String>,
    /// The service; that of the configuration's first listener when absent
    #[arg(long)]
    service: Option<String>,
    /// The host that is asked for
    #[arg(long, default_value = "localhost")]
    host: String,
    /// The port that is called
    #[arg(long, default_value_t = 443)]
    port: u16,
    /// A header, `name: value`; may be given several times
    #[arg(long = "header", value_name = "NAME: VALUE", value_parser = header)]
    headers: Vec<(String, String)>,
    /// A signal, `calls_per_minute=101`, below `context.signals`; may be given several times
    #[arg(long = "signal", value_name = "NAME=VALUE", value_parser = signal)]
    signals: Vec<(String, String)>,
    /// A gRPC call: the path is `/package.Service/Method`
    #[arg(long)]
    grpc: bool,
    /// A TCP connection, to `--host` (the server name of the handshake) and `--port`
    #[arg(long, conflicts_with_all = ["from_record", "method", "path", "headers", "grpc"])]
    tcp: bool,
    /// The caller's address
    #[arg(long, value_name = "IP", default_value = "127.0.0.1")]
    source_ip: IpAddr,
    /// The TLS key exchange group
    #[arg(long, value_name = "GROUP", default_value = "X25519MLKEM768")]
    key_exchange: String,
}

fn header(text: &str) -> Result<(String, String), &'static str> {
    let (name, value) = text.split_once(':').ok_or("write it as `name: value`")?;
    let name = http::HeaderName::try_from(name.trim()).map_err(|_| "this is not a header name")?;
    Ok((name.to_string(), value.trim().to_owned()))
}

fn signal(text: &str) -> Result<(String, String), &'static str> {
    let (name, value) = text.split_once('=').ok_or("write it as `name=value`")?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

/// Explains, and says with which status the process should end.
pub(super) fn run(args: &ExplainArgs) -> ExitCode {
    let (engine, service) = match args.source.load() {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    match &args.from_record {
        Some(path) => explain_records(path, &engine, args.format),
        None => explain_call(&args.call, service, &engine, args.format),
    }
}

fn explain_call(
    call: &CallArgs,
    service: Option<String>,
    engine: &Engine,
    format: Format,
) -> ExitCode {
    let facts = match call.facts(service) {
        Ok(facts) => facts,
        Err(error) => return report::mistake(&error),
    };
    let explanation = engine.explain(&facts.facts());
    match format {
        Format::Text => print!("{explanation}"),
        Format::Json => println!("{}", json!(explanation)),
    }
    ExitCode::SUCCESS
}

/// What is wrong with a call that was asked for by hand.
#[derive(Debug, thiserror::Error)]
enum CallError {
    #[error("which service? give --service, or --config with a listener")]
    NoService,
    #[error("the path `{path}` never reaches a policy: {why} (the caller is answered 400)")]
    Ambiguous {
        path: String,
        why: crate::protocol::Ambiguity,
    },
    #[error("{0}")]
    Signal(String),
    #[error("a gRPC path is `/package.Service/Method`, not `{0}`")]
    NotGrpc(String),
}

impl CallArgs {
    fn facts(&self, service: Option<String>) -> Result<RecordedFacts, CallError> {
        let service = self
            .service
            .clone()
            .or(service)
            .ok_or(CallError::NoService)?;
        let target = self.path.as_deref().unwrap_or_default();
        let (path, query) = match target.split_once('?') {
            Some((path, query)) => (path, Some(query.to_owned())),
            None => (target, None),
        };
        if !self.tcp {
            canonical::check_path(path).map_err(|why| CallError::Ambiguous {
                path: path.to_owned(),
                why,
            })?;
        }
        let since = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Ok(RecordedFacts {
            principal: self.principal.clone(),
            action: self.action(),
            service,
            host: self.host.to_ascii_lowercase(),
            path: path.to_owned(),
            template: None,
            documented: false,
            port: self.port,
            direction: Direction::Inbound,
            time_ms: i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
            source_ip: self.source_ip,
            tls: Some(RecordedTls {
                version: "1.3".into(),
                key_exchange: self.key_exchange.clone(),
                post_quantum: self.key_exchange.contains("MLKEM"),
            }),
            method: match (self.tcp, self.grpc) {
                (true, _) => None,
                (false, true) => Some("POST".into()),
                (false, false) => Some(self.method.clone()),
            },
            query,
            headers: self.headers(),
            withheld: Vec::new(),
            claims: BTreeMap::new(),
            rpc: self.rpc(path)?,
            signals: self.signals()?,
        })
    }

    fn signals(&self) -> Result<SignalValues, CallError> {
        let mut signals = SignalValues::NONE;
        for (name, value) in &self.signals {
            let set = signals.set_by_name(name, value);
            set.map_err(CallError::Signal)?;
        }
        Ok(signals)
    }

    fn action(&self) -> Action {
        match (self.tcp, self.grpc) {
            (true, _) => Action::TCP_CONNECT,
            (false, true) => Action::GRPC_CALL,
            (false, false) => Action::from_http_method(&self.method),
        }
    }

    fn headers(&self) -> BTreeMap<String, Vec<String>> {
        let mut headers = BTreeMap::<String, Vec<String>>::new();
        for (name, value) in &self.headers {
            headers.entry(name.clone()).or_default().push(value.clone());
        }
        headers
    }

    fn rpc(&self, path: &str) -> Result<Option<RecordedRpc>, CallError> {
        if !self.grpc {
            return Ok(None);
        }
        let (service, method) = path
            .strip_prefix('/')
            .and_then(|path| path.split_once('/'))
            .ok_or_else(|| CallError::NotGrpc(path.to_owned()))?;
        Ok(Some(RecordedRpc {
            service: service.to_owned(),
            method: method.to_owned(),
        }))
    }
}

fn explain_records(path: &Path, engine: &Engine, format: Format) -> ExitCode {
    let mut records = match Records::open(path) {
        Ok(records) => records,
        Err(error) => return report::mistake(&error),
    };
    let mut all_same = true;
    for (line, record) in records.by_ref() {
        match record {
            Ok(recorded) => all_same &= explain_record(&recorded, engine, format),
            Err(error) => eprintln!("{}:{line}: {error}", path.display()),
        }
    }
    match records.finish() {
        Err(error) => report::mistake(&error),
        Ok(()) if all_same => ExitCode::SUCCESS,
        Ok(()) => ExitCode::from(super::FAILED),
    }
}

/// Explains one record; whether it is decided as it was then.
fn explain_record(recorded: &Recorded, engine: &Engine, format: Format) -> bool {
    let explanation = engine.explain(&recorded.facts.facts());
    let policies: Vec<&str> = explanation
        .determining
        .iter()
        .map(|policy| &*policy.id)
        .collect();
    let same = explanation.effect == recorded.decided_by_policy() && policies == recorded.policies;
    match format {
        Format::Json => {
            let id = &recorded.decision_id;
            println!(
                "{}",
                json!({ "decision_id": id, "as_recorded": same, "explanation": explanation })
            );
        }
        Format::Text => {
            println!("decision {}", recorded.decision_id);
            print!("{explanation}");
            tell_difference(recorded, same);
        }
    }
    same
}

fn tell_difference(recorded: &Recorded, same: bool) {
    for name in &recorded.facts.withheld {
        println!("note: the value of `{name}` is not recorded; policies that read it may differ");
    }
    match same {
        true => println!("as recorded\n"),
        false => println!(
            "recorded otherwise: {} ({}), determined by [{}]\n",
            recorded.effect,
            recorded.reason_code,
            recorded.policies.join(", ")
        ),
    }
}
