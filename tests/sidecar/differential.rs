//! What policy saw equals what the upstream saw, for requests made to be read differently by
//! different parsers, before applications of four makes.
//!
//! Each case is refused, and the application saw nothing of it; or exactly one request arrived,
//! whose method, host and target are byte for byte those of the decision record.

use std::collections::HashMap;
use std::time::Duration;

use futures_util::StreamExt;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::support::application::{Application, Saw};
use crate::support::corpus::{self, Case, Expect};
use crate::support::frames::{self, Outcome};
use crate::support::pki::{Credentials, workload};
use crate::support::setup::{Setup, Sidecar};
use crate::support::upstream::Speaks;
use crate::support::{PATIENCE, client, eventually};

/// Anything is allowed, and the query and the case's name are on record.
const POLICY: &str = r#"
@id("frontend-calls-app")
permit (
  principal == Workload::"spiffe://test.example/ns/default/sa/frontend",
  action,
  resource is Endpoint in Service::"app"
);
@id("is-on-record")
forbid (principal, action, resource is Endpoint)
when { context.headers["x-case"].contains("never") || (context has query && context.query == "never") };
"#;

/// How many cases are under way at once.
const ABREAST: usize = 16;
/// After this time without a byte, no further answer is waited for.
const QUIET: Duration = Duration::from_millis(400);

#[tokio::test]
async fn hyper_sees_what_policy_saw() {
    sees_what_policy_saw(Application::hyper(Speaks::Http1).await, "http1").await;
}

#[tokio::test]
async fn hyper_over_http2_sees_what_policy_saw() {
    sees_what_policy_saw(Application::hyper(Speaks::Http2).await, "http2").await;
}

#[tokio::test]
async fn nginx_sees_what_policy_saw() {
    if let Some(nginx) = Application::nginx().await {
        sees_what_policy_saw(nginx, "http1").await;
    }
}

#[tokio::test]
async fn node_sees_what_policy_saw() {
    if let Some(node) = Application::node().await {
        sees_what_policy_saw(node, "http1").await;
    }
}

#[tokio::test]
async fn python_sees_what_policy_saw() {
    if let Some(python) = Application::python().await {
        sees_what_policy_saw(python, "http1").await;
    }
}

async fn sees_what_policy_saw(application: Application, protocol: &str) {
    let mut setup = Setup::new(application.address);
    setup.upstream_keys.push("response_timeout: 2s");
    if protocol == "http2" {
        setup.upstream_keys.push("protocol: http2");
    }
    setup.write_policy(POLICY);
    let entities = "schema:\n  headers: [x-case]\n";
    std::fs::write(setup.path("policies/entities.yaml"), entities).unwrap();
    let sidecar = setup.start().await;

    let cases = corpus::all();
    let caller = sidecar.setup.caller("frontend");
    let answers: HashMap<String, String> = futures_util::stream::iter(&cases)
        .map(|case| async { (case.name.clone(), send(&sidecar, &caller, case).await) })
        .buffer_unordered(ABREAST)
        .collect()
        .await;
    let (records, seen) = all_that_was_left(&sidecar, &application).await;

    let mut wrong = Vec::new();
    for case in &cases {
        let trace = Trace {
            answer: &answers[&case.name],
            records: of_case(&records, &case.name, recorded_case),
            seen: of_case(&seen, &case.name, seen_case),
        };
        if let Err(why) = trace.check(case, application.name) {
            wrong.push(format!("{}: {why}\n    {trace:?}", case.name));
        }
    }
    let unmarked = seen.iter().filter(|saw| seen_case(saw).is_none());
    wrong.extend(unmarked.map(|saw| format!("smuggled: {saw:?}")));
    let report = wrong.join("\n");
    assert!(
        wrong.is_empty(),
        "{} before {}\n{report}",
        wrong.len(),
        application.name
    );
}

/// Sends a case and says what was answered: statuses, or nothing.
async fn send(sidecar: &Sidecar, caller: &Credentials, case: &Case) -> String {
    let connect = async |alpn| sidecar.connect(Some(caller), &[alpn]).await.unwrap();
    match &case.request {
        corpus::Request::Http1(bytes) => {
            statuses(connect("http/1.1").await, bytes, case.answered()).await
        }
        corpus::Request::Http2(request) => {
            match frames::exchange(connect("h2").await, request, &case.name).await {
                Outcome::Answered(status) => status.to_string(),
                Outcome::AnsweredOther => "other".to_owned(),
                Outcome::Ended => String::new(),
            }
        }
    }
}

/// The statuses that come back for raw bytes, until the connection ends or nothing more comes.
async fn statuses(mut stream: TlsStream<TcpStream>, request: &[u8], answered: bool) -> String {
    // A server that refuses may close before it has read everything.
    let _ = stream.write_all(request).await;
    let _ = stream.flush().await;
    let (mut answers, mut buffer) = (Vec::new(), [0; 4_096]);
    loop {
        let limit = if answered && answers.is_empty() {
            PATIENCE
        } else {
            QUIET
        };
        match tokio::time::timeout(limit, stream.read(&mut buffer)).await {
            Ok(Ok(length)) if length > 0 => answers.extend_from_slice(&buffer[..length]),
            _ => break,
        }
    }
    let answers = String::from_utf8_lossy(&answers).into_owned();
    let heads = answers.split("HTTP/1.1 ").skip(1);
    heads.map(|head| &head[..3]).collect::<Vec<_>>().join(" ")
}

/// Everything that was recorded and seen, once a last request has been.
async fn all_that_was_left(sidecar: &Sidecar, application: &Application) -> (Vec<Value>, Vec<Saw>) {
    let mut last = client::get("/last");
    last.headers_mut().insert("x-case", "last".parse().unwrap());
    assert_eq!(sidecar.http1("frontend").await.send(last).await.status, 200);
    let seen = eventually("the last request", || async {
        let seen = application.seen();
        seen.iter().any(|saw| saw.target == "/last").then_some(seen)
    });
    let seen = seen.await;
    let is_last = |record: &Value| record["resource"]["path"] == "/last";
    sidecar.record(is_last).await;
    let lines = sidecar.process.stdout.all();
    let records = lines.iter().map(|line| serde_json::from_str(line).unwrap());
    (records.collect(), seen)
}

fn of_case<'a, T>(all: &'a [T], case: &str, of: impl Fn(&'a T) -> Option<&'a str>) -> Vec<&'a T> {
    all.iter().filter(|one| of(one) == Some(case)).collect()
}

fn recorded_case(record: &Value) -> Option<&str> {
    record["headers"]["x-case"][0].as_str()
}

fn seen_case(saw: &Saw) -> Option<&str> {
    saw.values("x-case").first().copied()
}

/// What one case left behind. A call that was refused before any policy was asked has no
/// headers on record, and none of its records is here.
#[derive(Debug)]
struct Trace<'a> {
    answer: &'a str,
    records: Vec<&'a Value>,
    seen: Vec<&'a Saw>,
}

impl Trace<'_> {
    fn check(&self, case: &Case, application: &str) -> Result<(), String> {
        for saw in &self.seen {
            check_headers(saw)?;
            check_trailers(saw)?;
        }
        match &case.expect {
            Expect::Refused => self.check_refused(),
            Expect::Cut => self.check_cut(),
            Expect::Forwarded(_) if case.refused_by.contains(&application) => self.check_cut(),
            Expect::Forwarded(request) => {
                let ([record], [saw]) = (&self.records[..], &self.seen[..]) else {
                    return Err(format!(
                        "decided {}, seen {}",
                        self.records.len(),
                        self.seen.len()
                    ));
                };
                check_same(record, saw)?;
                request.check(saw)
            }
        }
    }

    /// A 4xx or the end of the connection, no decision, and nothing of it went on.
    fn check_refused(&self) -> Result<(), String> {
        let refused = !self.answer.starts_with(['2', '5']);
        match refused && self.records.is_empty() && self.seen.is_empty() {
            true => Ok(()),
            false => Err("it was not refused".to_owned()),
        }
    }

    /// The head may have been decided and forwarded; no whole request came of it.
    fn check_cut(&self) -> Result<(), String> {
        match self.seen.is_empty() && !self.answer.starts_with('2') {
            true => Ok(()),
            false => Err("a whole request came of it".to_owned()),
        }
    }
}

/// The promise itself.
fn check_same(record: &Value, saw: &Saw) -> Result<(), String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut target = text(&record["resource"]["path"]);
    if record["query"].is_string() {
        target = format!("{target}?{}", text(&record["query"]));
    }
    let decided = (
        text(&record["method"]),
        target,
        text(&record["resource"]["host"]),
    );
    let seen_target = String::from_utf8(saw.target.chars().map(|c| c as u8).collect());
    let [host] = saw.values("host")[..] else {
        return Err("the upstream saw no host, or more than one".to_owned());
    };
    let host = host.to_ascii_lowercase();
    let host = host.rsplit_once(':').map_or(&*host, |(name, _)| name);
    let host = host.strip_suffix('.').unwrap_or(host).to_owned();
    let seen = (saw.method.clone(), seen_target.unwrap_or_default(), host);
    match decided == seen {
        true => Ok(()),
        false => Err(format!("decided {decided:?}, seen {seen:?}")),
    }
}

/// Names under which a header that the sidecar sets or takes off would reach an application.
const HOP_BY_HOP: [&str; 4] = [
    "upgrade",
    "http2-settings",
    "keep-alive",
    "proxy-connection",
];
const NO_TRAILERS: [&str; 6] = [
    "x-forwarded-client-cert",
    "authorization",
    "host",
    "content-length",
    "transfer-encoding",
    "te",
];

/// What no request that arrives may have, whatever was sent.
fn check_headers(saw: &Saw) -> Result<(), String> {
    // As CGI and its descendants read names.
    let named = |names: &[&str]| {
        let known = |name: &str| names.contains(&&*name.to_ascii_lowercase().replace('_', "-"));
        saw.headers.iter().filter(|(name, _)| known(name)).count()
    };
    let callers = saw.values("x-forwarded-client-cert");
    let ours = |value: &&str| value.contains(&workload("frontend")) && !value.contains("admin");
    if named(&["x-forwarded-client-cert"]) != 1 || !callers.iter().all(ours) {
        return Err("the caller named itself".to_owned());
    }
    if named(&["content-length", "transfer-encoding"]) > 1 {
        return Err("more than one framing".to_owned());
    }
    if named(&HOP_BY_HOP) > 0 {
        return Err("a hop-by-hop field went on".to_owned());
    }
    let expectations = saw.values("expect");
    if named(&["expect"]) > 1 || expectations.iter().any(|value| *value != "100-continue") {
        return Err("an expectation went on that is not the sidecar's own".to_owned());
    }
    Ok(())
}

/// What no request may have behind its head.
fn check_trailers(saw: &Saw) -> Result<(), String> {
    let forbidden = |name: &str| NO_TRAILERS.contains(&&*name.to_ascii_lowercase());
    let found = saw.trailers.iter().any(|(name, _)| forbidden(name));
    match found {
        true => Err("a trailer that is no trailer".to_owned()),
        false => Ok(()),
    }
}
