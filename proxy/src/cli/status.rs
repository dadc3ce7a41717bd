//! `wayleave status`: how a running sidecar is doing, asked of its admin listener.

use std::fmt::Write;
use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use super::report::{Format, count, harmless};
use super::{FAILED, admin_client, report};
use crate::admin::{
    BundleStatus, ConfigStatus, Destination, FailedLoadStatus, IdentityStatus, ListenerLoad,
    Listening, LoadStatus, PolicyStatus, Source, Status, SvidStatus,
};
use crate::config;
use crate::forward::EndpointStatus;
use crate::moment::span;
use crate::ssf::TransmitterStatus;
use crate::standing::store::StoreStatus;

const EXAMPLES: &str = "\
Examples:
  wayleave status
  wayleave status --admin 127.0.0.1:15000
  wayleave status --format json | jq .identity.svid.expires_in_seconds

Exit status: 0 the sidecar answered, ready or not; 1 it did not; 2 usage.";

/// Show a running sidecar's identity, trust bundles, policies and listeners
///
/// Sends GET /status to the admin listener.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct StatusArgs {
    /// The admin listener's address
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:15000")]
    admin: SocketAddr,
    /// How long to wait for the answer
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = config::duration)]
    timeout: Duration,
    /// The shape of the answer: text for people, JSON for programs
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// Why there is no status to show.
#[derive(Debug, thiserror::Error)]
enum StatusError {
    #[error("no answer from {admin}; is a sidecar running there? --admin names its address")]
    NoAnswer {
        admin: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("{admin} is not the admin listener of this version of wayleave: {detail}")]
    NotStatus { admin: SocketAddr, detail: String },
}

/// Asks, shows, and says with which status the process should end.
pub(super) fn run(args: &StatusArgs) -> ExitCode {
    match ask(args) {
        Ok((_, text)) if args.format == Format::Json => report::say(&text),
        Ok((status, _)) => report::say(&render(&status)),
        Err(error) => {
            report::mistake(&error);
            ExitCode::from(FAILED)
        }
    }
}

/// The status, and the text of it.
fn ask(args: &StatusArgs) -> Result<(Status, String), StatusError> {
    let admin = args.admin;
    let not_status = |detail: String| StatusError::NotStatus { admin, detail };
    let answer = admin_client::exchange(admin, "/status", args.timeout, |_| false)
        .map_err(|source| StatusError::NoAnswer { admin, source })?;
    match admin_client::status(&answer) {
        Some(200) => {}
        Some(code) => return Err(not_status(format!("it answers with {code}"))),
        None => return Err(not_status("it does not speak HTTP".to_owned())),
    }
    let body = admin_client::body(&answer).unwrap_or_default();
    let status = serde_json::from_slice(body).map_err(|error| not_status(error.to_string()))?;
    Ok((status, String::from_utf8_lossy(body).into_owned()))
}

fn render(status: &Status) -> String {
    let mut text = String::new();
    let ready = match status.ready {
        true => "ready".to_owned(),
        false => format!("NOT READY ({})", status.reasons.join(", ")),
    };
    let up = span(Duration::from_secs(status.uptime_seconds));
    let _ = writeln!(text, "wayleave {}, {ready}, up {up}", status.version);
    identity(&mut text, &status.identity);
    policies(&mut text, &status.policies);
    if let Some(config) = &status.config {
        configuration(&mut text, config);
    }
    text.push_str("\nlisteners\n");
    for listening in &status.listeners {
        listener(&mut text, listening);
    }
    if !status.destinations.is_empty() {
        text.push_str("\ndestinations\n");
    }
    for each in &status.destinations {
        destination(&mut text, each);
    }
    load(&mut text, &status.load);
    if let Some(store) = &status.signal_store {
        signal_store(&mut text, store);
    }
    transmitters(&mut text, &status.ssf);
    text
}

fn signal_store(text: &mut String, store: &StoreStatus) {
    text.push_str("\nsignal store\n");
    field(text, "server", &store.url);
    let state = match (store.connected, &store.error) {
        (true, _) => format!("connected since {}", store.since),
        (false, None) => "NOT CONNECTED yet".to_owned(),
        (false, Some(why)) => {
            format!("NOT CONNECTED since {}: {}", store.since, harmless(why))
        }
    };
    field(text, "state", &state);
    if !store.fleet_wide.is_empty() {
        field(text, "fleet-wide", &store.fleet_wide.join(", "));
    }
}

fn transmitters(text: &mut String, all: &[TransmitterStatus]) {
    if !all.is_empty() {
        text.push_str("\ntransmitters of security events\n");
    }
    for one in all {
        let stream = one.stream.as_deref().unwrap_or("not said");
        let keys = count(one.keys, "key", "keys");
        let _ = writeln!(text, "  {}  {keys}, stream {stream}", harmless(&one.name));
        if let Some(last) = &one.last_event {
            let _ = writeln!(text, "    {} {} ({})", last.at, last.event, last.result);
        }
        if let Some(refused) = &one.last_refusal {
            let _ = writeln!(text, "    {} refused: {}", refused.at, refused.message);
        }
        for failure in &one.failures {
            let _ = writeln!(text, "    FAILED {}", harmless(failure));
        }
    }
}

fn load(text: &mut String, load: &LoadStatus) {
    text.push_str("\nload\n");
    let mib = |bytes: u64| bytes >> 20;
    let limit = load
        .max_memory_bytes
        .map(|limit| format!(" of {} MiB", mib(limit)))
        .unwrap_or_default();
    let short = if load.memory_short { ", SHORT" } else { "" };
    let memory = format!("{} MiB{limit}{short}", mib(load.resident_bytes));
    field(text, "memory", &memory);
    for listener in &load.listeners {
        let ListenerLoad { name, .. } = listener;
        let over = if listener.overloaded {
            ", OVERLOADED"
        } else {
            ""
        };
        let _ = writeln!(
            text,
            "  {name}  {} of {} connections, {} of {} calls in flight{over}",
            listener.connections,
            listener.max_connections,
            listener.requests,
            listener.max_requests
        );
    }
}

fn identity(text: &mut String, identity: &IdentityStatus) {
    text.push_str("\nidentity\n");
    match &identity.svid {
        Some(svid) => own_svid(text, svid),
        None => field(text, "SVID", "none"),
    }
    source(text, &identity.source);
    text.push_str("\ntrust bundles\n");
    for bundle in &identity.bundles {
        trust_bundle(text, bundle);
    }
}

fn own_svid(text: &mut String, svid: &SvidStatus) {
    field(text, "SVID", &svid.id);
    field(text, "serial", &svid.serial);
    let until = format!("{} ({})", svid.not_after, distance(svid.expires_in_seconds));
    field(text, "until", &until);
    let use_since = format!("since {}, snapshot {}", svid.since, svid.generation);
    field(text, "in use", &use_since);
}

fn source(text: &mut String, source: &Source) {
    match (&source.next_rotation, source.next_rotation_in_seconds) {
        (Some(at), Some(left)) => field(text, "rotation", &format!("{at} ({})", distance(left))),
        _ => field(text, "rotation", "when the source sends a new one"),
    }
    let updates = count_of(source.updates, "update", "updates");
    let failures = count_of(source.failures, "failure", "failures");
    field(text, "source", &format!("{updates}, {failures}"));
    if let Some(failure) = &source.last_failure {
        let words = format!("{} {}", failure.at, harmless(&failure.message));
        field(text, "FAILING", &words);
    }
}

fn trust_bundle(text: &mut String, bundle: &BundleStatus) {
    let mut words = count(bundle.authorities, "authority", "authorities");
    if bundle.authorities_not_valid > 0 {
        let _ = write!(words, " ({} NOT VALID)", bundle.authorities_not_valid);
    }
    if let Some(sequence) = bundle.sequence {
        let _ = write!(words, ", sequence {sequence}");
    }
    if bundle.revocation_lists > 0 {
        let lists = count(
            bundle.revocation_lists,
            "revocation list",
            "revocation lists",
        );
        let _ = write!(words, ", {lists}");
    }
    let age = span(Duration::from_secs(bundle.age_seconds));
    let _ = writeln!(
        text,
        "  {}  {words}, unchanged for {age}",
        bundle.trust_domain
    );
}

fn policies(text: &mut String, policies: &PolicyStatus) {
    text.push_str("\npolicies\n");
    let in_force = count(policies.count, "policy", "policies");
    field(text, "in force", &in_force);
    if let Some(revision) = &policies.revision {
        field(text, "revision", revision);
    }
    if let Some(loaded) = &policies.loaded {
        field(text, "loaded", loaded);
    }
    if let Some(failed) = &policies.failed_load {
        failed_load(text, failed, "the files have changed and do not load");
    }
}

fn configuration(text: &mut String, config: &ConfigStatus) {
    text.push_str("\nconfiguration\n");
    field(text, "file", &harmless(&config.file));
    field(text, "revision", &config.revision);
    field(text, "loaded", &config.loaded);
    if !config.needs_restart.is_empty() {
        let keys = config.needs_restart.join(", ");
        field(text, "RESTART", &format!("needed for {keys}"));
    }
    if let Some(failed) = &config.failed_load {
        failed_load(text, failed, "the file has changed and was not taken");
    }
}

fn failed_load(text: &mut String, failed: &FailedLoadStatus, what: &str) {
    field(text, "FAILED", &format!("{}: {what}", failed.at));
    for problem in &failed.problems {
        let _ = writeln!(text, "            {}", harmless(problem));
    }
}

fn listener(text: &mut String, listening: &Listening) {
    let Listening { name, address, .. } = listening;
    let place = match (
        listening.kind.as_deref(),
        &listening.service,
        &listening.upstream,
    ) {
        (None, Some(service), Some(upstream)) => format!("for {service} at {upstream}"),
        (_, Some(service), Some(upstream)) => format!("outbound, for {service} at {upstream}"),
        (Some("transparent"), ..) => "outbound, what is redirected to it".to_owned(),
        _ => "outbound, as a forward proxy".to_owned(),
    };
    let mut notes = String::new();
    if listening.mode != "enforce" {
        let _ = write!(notes, ", {} MODE", listening.mode.to_uppercase());
    }
    if listening.require_post_quantum {
        notes.push_str(", post-quantum only");
    }
    if listening.protocol != "http" {
        let _ = write!(notes, ", {}", listening.protocol);
    }
    if let Some(count) = listening.plaintext_connections {
        let _ = write!(notes, ", PERMISSIVE: {count} connections without TLS");
    }
    if let Some(domains) = &listening.trust_domains {
        let _ = write!(notes, ", only {}", domains.join(", "));
    }
    let _ = writeln!(text, "  {name}  {address} {place}{notes}");
    for one in listening
        .endpoints
        .iter()
        .filter(|one| is_news(one, listening))
    {
        endpoint(text, one);
    }
}

/// A healthy endpoint that is the whole upstream has been named already.
fn is_news(endpoint: &EndpointStatus, listening: &Listening) -> bool {
    endpoint.health != "healthy" || listening.upstream.as_ref() != Some(&endpoint.address)
}

fn endpoint(text: &mut String, endpoint: &EndpointStatus) {
    let mut words = match endpoint.health.as_str() {
        "healthy" => "healthy".to_owned(),
        other => other.to_uppercase(),
    };
    if let Some(seconds) = endpoint.ejected_for_seconds {
        let _ = write!(words, " for {}", span(Duration::from_secs(seconds)));
    }
    if endpoint.failures > 0 {
        let failures = count_of(endpoint.failures.into(), "failure", "failures");
        let _ = write!(words, ", {failures} in a row");
    }
    let _ = writeln!(text, "      {}  {words}", harmless(&endpoint.address));
}

fn destination(text: &mut String, destination: &Destination) {
    let Destination {
        service, upstream, ..
    } = destination;
    let _ = write!(text, "  {service}  {upstream}");
    if let Some(tls) = &destination.tls {
        let _ = write!(text, ", {tls}");
    }
    if !destination.hosts.is_empty() {
        let _ = write!(text, ", called by {}", destination.hosts.join(", "));
    }
    if !destination.ports.is_empty() {
        let ports: Vec<_> = destination.ports.iter().map(u16::to_string).collect();
        let _ = write!(text, " on {}", ports.join(", "));
    }
    text.push('\n');
}

fn field(text: &mut String, name: &str, value: &str) {
    let _ = writeln!(text, "  {name:<9} {value}");
}

fn count_of(number: u64, one: &str, many: &str) -> String {
    count(usize::try_from(number).unwrap_or(usize::MAX), one, many)
}

/// How far a moment is, in words.
fn distance(seconds: i64) -> String {
    let far = span(Duration::from_secs(seconds.unsigned_abs()));
    match seconds < 0 {
        true => format!("{far} ago"),
        false => format!("in {far}"),
    }
}
