//! `/status`: how the sidecar is doing, in one document for programs and for `wayleave status`.

use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};
use wayleave_certs::{Identity, IdentityReader, SourceStatus, TrustBundle};

use super::{Admin, LoadStatus};
use crate::config::{
    DestinationConfig, InboundConfig, InboundMode, ListenerProtocol, OutboundConfig, OutboundKind,
    TlsMode,
};
use crate::config_loads::ConfigLoads;
use crate::forward::EndpointStatus;
use crate::moment::moment;
use crate::policy_loads::FailedLoad;
use crate::record::metrics::Metrics;
use crate::ssf::TransmitterStatus;
use crate::standing::store::StoreStatus;

/// When the sidecar was started, on both clocks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Started {
    wall: SystemTime,
    steady: Instant,
}

impl Started {
    pub(crate) fn now() -> Self {
        Self {
            wall: SystemTime::now(),
            steady: Instant::now(),
        }
    }
}

/// The whole document. Times are RFC 3339, spans are whole seconds.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Status {
    pub(crate) version: String,
    pub(crate) started: String,
    pub(crate) uptime_seconds: u64,
    pub(crate) ready: bool,
    /// Why it is not ready.
    pub(crate) reasons: Vec<String>,
    pub(crate) identity: IdentityStatus,
    pub(crate) policies: PolicyStatus,
    /// None where there is no configuration file.
    pub(crate) config: Option<ConfigStatus>,
    pub(crate) listeners: Vec<Listening>,
    pub(crate) destinations: Vec<Destination>,
    pub(crate) load: LoadStatus,
    /// The store that a fleet shares; none where this sidecar is for itself.
    #[serde(default)]
    pub(crate) signal_store: Option<StoreStatus>,
    /// The transmitters of security events.
    #[serde(default)]
    pub(crate) ssf: Vec<TransmitterStatus>,
}

/// Who the sidecar is and whom it trusts.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct IdentityStatus {
    /// None before the first SVID and after it was withdrawn.
    pub(crate) svid: Option<SvidStatus>,
    pub(crate) bundles: Vec<BundleStatus>,
    pub(crate) source: Source,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SvidStatus {
    pub(crate) id: String,
    pub(crate) serial: String,
    pub(crate) not_before: String,
    pub(crate) not_after: String,
    /// Below zero once it is over.
    pub(crate) expires_in_seconds: i64,
    /// Counts the snapshots of the identity, from 1.
    pub(crate) generation: u64,
    /// Since when this snapshot is in use.
    pub(crate) since: String,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct BundleStatus {
    pub(crate) trust_domain: String,
    pub(crate) authorities: usize,
    /// How many authorities are over or not valid yet.
    pub(crate) authorities_not_valid: usize,
    pub(crate) revocation_lists: usize,
    /// The publisher's `spiffe_sequence`.
    pub(crate) sequence: Option<u64>,
    /// Since when the bundle has been as it is.
    pub(crate) since: String,
    pub(crate) age_seconds: u64,
}

/// How the source of the identity is doing.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Source {
    pub(crate) updates: u64,
    pub(crate) failures: u64,
    /// None when the latest attempt went well.
    pub(crate) last_failure: Option<SourceFailure>,
    /// None when somebody else decides it.
    pub(crate) next_rotation: Option<String>,
    pub(crate) next_rotation_in_seconds: Option<i64>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SourceFailure {
    pub(crate) at: String,
    pub(crate) message: String,
}

/// Which policies decide.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct PolicyStatus {
    /// None when no policies are in force.
    pub(crate) revision: Option<String>,
    pub(crate) count: usize,
    pub(crate) loaded: Option<String>,
    /// A later version of the files that did not load.
    pub(crate) failed_load: Option<FailedLoadStatus>,
}

/// Which configuration is in force.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ConfigStatus {
    pub(crate) file: String,
    /// A hash of the file's text.
    pub(crate) revision: String,
    pub(crate) loaded: String,
    /// A later version of the file that was not taken.
    pub(crate) failed_load: Option<FailedLoadStatus>,
    /// Keys with new values that only a restart brings into force.
    pub(crate) needs_restart: Vec<String>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct FailedLoadStatus {
    pub(crate) at: String,
    /// One line each, with file, line and column.
    pub(crate) problems: Vec<String>,
}

/// A listener, with where its calls go.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Listening {
    pub(crate) name: String,
    /// `inbound` or `outbound`.
    pub(crate) direction: String,
    /// How an outbound one is told where calls go: `explicit`, `forward_proxy`, `transparent`.
    pub(crate) kind: Option<String>,
    pub(crate) address: SocketAddr,
    /// None where it is told by each call.
    pub(crate) service: Option<String>,
    /// `enforce` or `audit`.
    pub(crate) mode: String,
    /// None where it is told by each call.
    pub(crate) upstream: Option<String>,
    pub(crate) require_post_quantum: bool,
    /// `http`, `tcp` or `auto`.
    pub(crate) protocol: String,
    /// `strict` or `permissive`, or `off` towards the workload.
    pub(crate) tls_mode: String,
    /// Connections without TLS so far, at a permissive listener.
    pub(crate) plaintext_connections: Option<u64>,
    /// The trust domains that are let in; none when that is all with a bundle.
    pub(crate) trust_domains: Option<Vec<String>>,
    /// Where calls go now, and how that is doing.
    #[serde(default)]
    pub(crate) endpoints: Vec<EndpointStatus>,
}

impl Listening {
    /// An inbound listener with the address that it was given.
    pub(crate) fn inbound(config: &InboundConfig, address: SocketAddr) -> Self {
        Self {
            name: config.name.to_string(),
            direction: "inbound".to_owned(),
            kind: None,
            address,
            service: Some(config.service.to_string()),
            mode: mode(config.mode),
            upstream: Some(config.upstream.to_string()),
            require_post_quantum: config.tls.require_post_quantum,
            protocol: protocol(config.protocol),
            tls_mode: tls_mode(config.tls.mode).to_owned(),
            plaintext_connections: (config.tls.mode == TlsMode::Permissive).then_some(0),
            trust_domains: config.trust_domains.as_ref().map(|domains| {
                let domains = domains.iter();
                domains.map(ToString::to_string).collect()
            }),
            endpoints: Vec::new(),
        }
    }

    /// An outbound listener with the address that it was given.
    pub(crate) fn outbound(config: &OutboundConfig, address: SocketAddr) -> Self {
        let only = match &config.kind {
            OutboundKind::Explicit(destination) => Some(destination),
            OutboundKind::ForwardProxy | OutboundKind::Transparent => None,
        };
        Self {
            name: config.name.to_string(),
            direction: "outbound".to_owned(),
            kind: Some(config.kind.as_str().to_owned()),
            address,
            service: only.map(|destination| destination.service.to_string()),
            mode: mode(config.mode),
            upstream: only.map(|destination| destination.upstream.to_string()),
            require_post_quantum: false,
            protocol: protocol(config.protocol),
            tls_mode: "off".to_owned(),
            plaintext_connections: None,
            trust_domains: None,
            endpoints: Vec::new(),
        }
    }
}

/// A service that the workload may call, as far as policies let it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Destination {
    pub(crate) service: String,
    pub(crate) hosts: Vec<String>,
    /// Empty for all.
    pub(crate) ports: Vec<u16>,
    pub(crate) upstream: String,
    /// How the upstream proves to be the one that is meant, in words; none where it does not.
    pub(crate) tls: Option<String>,
}

impl Destination {
    pub(crate) fn new(config: &DestinationConfig) -> Self {
        Self {
            service: config.service.to_string(),
            hosts: config.hosts.iter().map(ToString::to_string).collect(),
            ports: config.ports.clone(),
            upstream: config.upstream.to_string(),
            tls: config.upstream.tls.proof(),
        }
    }
}

fn mode(mode: InboundMode) -> String {
    match mode {
        InboundMode::Enforce => "enforce",
        InboundMode::Audit => "audit",
    }
    .to_owned()
}

pub(crate) fn protocol(protocol: ListenerProtocol) -> String {
    match protocol {
        ListenerProtocol::Http => "http",
        ListenerProtocol::Tcp => "tcp",
        ListenerProtocol::Auto => "auto",
    }
    .to_owned()
}

pub(crate) fn tls_mode(mode: TlsMode) -> &'static str {
    match mode {
        TlsMode::Strict => "strict",
        TlsMode::Permissive => "permissive",
    }
}

impl Listening {
    /// The listener with its counts as they are now.
    fn counted(&self, metrics: &Metrics) -> Self {
        let mut listening = self.clone();
        if let Some(count) = &mut listening.plaintext_connections {
            *count = metrics.plaintext_connections(&self.name);
        }
        listening
    }
}

impl Status {
    pub(super) fn of(admin: &Admin, now: SystemTime) -> Self {
        let reasons = admin.not_ready(now);
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started: moment(admin.started.wall),
            uptime_seconds: admin.started.steady.elapsed().as_secs(),
            ready: reasons.is_empty(),
            reasons: reasons.into_iter().map(str::to_owned).collect(),
            identity: IdentityStatus::of(&admin.identity, now),
            policies: PolicyStatus::of(admin),
            config: admin.config.as_deref().map(ConfigStatus::of),
            listeners: listeners(admin),
            destinations: admin.destinations.load().to_vec(),
            load: LoadStatus::of(&admin.load),
            signal_store: admin.store.as_ref().map(|store| store.status()),
            ssf: admin.ssf.statuses(),
        }
    }
}

/// The listeners, with the endpoints that calls go to from there.
fn listeners(admin: &Admin) -> Vec<Listening> {
    let listeners = admin.listeners.load();
    let listeners = listeners.iter().map(|one| {
        let mut listening = one.counted(&admin.metrics);
        listening.endpoints = admin.upstreams.status(&listening.name);
        listening
    });
    listeners.collect()
}

impl IdentityStatus {
    fn of(reader: &IdentityReader, now: SystemTime) -> Self {
        let identity = reader.current();
        let identity = identity.as_deref();
        let bundles = identity.map(|identity| bundles(identity, now));
        Self {
            svid: identity.map(|identity| SvidStatus::of(identity, now)),
            bundles: bundles.unwrap_or_default(),
            source: Source::of(&reader.status(), now),
        }
    }
}

fn bundles(identity: &Identity, now: SystemTime) -> Vec<BundleStatus> {
    let bundles = identity.bundles().iter();
    let status = |bundle: &TrustBundle| {
        let since = identity.bundle_since(bundle.trust_domain());
        BundleStatus::of(bundle, since.unwrap_or(now), now)
    };
    bundles.map(|bundle| status(bundle)).collect()
}

impl SvidStatus {
    fn of(identity: &Identity, now: SystemTime) -> Self {
        let svid = identity.svid();
        Self {
            id: svid.id().to_string(),
            serial: svid.serial_hex(),
            not_before: moment(svid.not_before()),
            not_after: moment(svid.not_after()),
            expires_in_seconds: seconds_until(svid.not_after(), now),
            generation: identity.generation(),
            since: moment(identity.since()),
        }
    }
}

impl BundleStatus {
    fn of(bundle: &TrustBundle, since: SystemTime, now: SystemTime) -> Self {
        let authorities = bundle.authorities().iter();
        Self {
            trust_domain: bundle.trust_domain().to_string(),
            authorities: bundle.authorities().len(),
            authorities_not_valid: authorities.filter(|a| !a.is_valid_at(now)).count(),
            revocation_lists: bundle.revocation_lists().count(),
            sequence: bundle.sequence(),
            since: moment(since),
            age_seconds: now.duration_since(since).unwrap_or_default().as_secs(),
        }
    }
}

impl Source {
    fn of(status: &SourceStatus, now: SystemTime) -> Self {
        let failure = status.last_failure.as_ref();
        Self {
            updates: status.updates,
            failures: status.failures,
            last_failure: failure.map(|failure| SourceFailure {
                at: moment(failure.at),
                message: failure.message.clone(),
            }),
            next_rotation: status.next_rotation.map(moment),
            next_rotation_in_seconds: status.next_rotation.map(|at| seconds_until(at, now)),
        }
    }
}

impl PolicyStatus {
    fn of(admin: &Admin) -> Self {
        let engine = admin.policies.current();
        let failed = admin.loads.failed_load();
        Self {
            revision: engine.as_ref().map(|engine| engine.revision().to_string()),
            count: engine.as_ref().map_or(0, |engine| engine.policies().len()),
            loaded: admin.loads.loaded().map(moment),
            failed_load: failed.map(|failed| FailedLoadStatus::of(&failed)),
        }
    }
}

impl ConfigStatus {
    fn of(loads: &ConfigLoads) -> Self {
        let good = loads.good();
        let failed = loads.failed_load();
        let needs_restart = good.needs_restart.iter();
        Self {
            file: loads.file().to_owned(),
            revision: good.revision.clone(),
            loaded: moment(good.at),
            failed_load: failed.map(|failed| FailedLoadStatus {
                at: moment(failed.at),
                problems: failed.problems.clone(),
            }),
            needs_restart: needs_restart.map(|key| (*key).to_owned()).collect(),
        }
    }
}

impl FailedLoadStatus {
    fn of(failed: &FailedLoad) -> Self {
        Self {
            at: moment(failed.at),
            problems: failed.problems.iter().map(ToString::to_string).collect(),
        }
    }
}

/// Whole seconds until a moment; below zero once it is over.
fn seconds_until(at: SystemTime, now: SystemTime) -> i64 {
    let whole = |time: Duration| i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    match at.duration_since(now) {
        Ok(left) => whole(left),
        Err(over) => -whole(over.duration()),
    }
}
