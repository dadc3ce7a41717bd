//! What the admin listener tells Prometheus. Names follow OpenTelemetry's conventions
//! where there is one. No label holds a SPIFFE ID or a path: callers choose those.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::Method;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelSet, LabelSetEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use wayleave_certs::IdentityReader;

use wayleave_authz::Effect;

use super::DecisionRecord;
use crate::forward::metrics::UpstreamFamilies;
use crate::ssf::metrics::SsfFamilies;
use crate::standing::metrics::StandingFamilies;

/// Bucket bounds of `http.server.request.duration` in OpenTelemetry, in seconds.
const REQUEST_BUCKETS: [f64; 14] = [
    0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
];

/// From a quarter of a microsecond to 16 ms, in seconds.
const DECISION_BUCKETS: [f64; 9] = [
    0.25e-6, 0.5e-6, 1e-6, 4e-6, 16e-6, 64e-6, 256e-6, 1e-3, 16e-3,
];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DecisionLabels {
    listener: String,
    effect: &'static str,
    reason_code: &'static str,
}

/// From a hundredth of a second to a day, in seconds.
const CONNECTION_BUCKETS: [f64; 9] = [
    0.01, 0.1, 1.0, 10.0, 60.0, 600.0, 3_600.0, 21_600.0, 86_400.0,
];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TcpLabels {
    listener: String,
    effect: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByteLabels {
    listener: String,
    /// `in` from the caller, `out` to it.
    direction: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AuditLabels {
    listener: String,
    would_have: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct RequestLabels {
    method: &'static str,
    status: u16,
    error: Option<&'static str>,
}

impl EncodeLabelSet for RequestLabels {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), std::fmt::Error> {
        use prometheus_client::encoding::EncodeLabel;
        ("http_request_method", self.method).encode(encoder.encode_label())?;
        ("http_response_status_code", u32::from(self.status)).encode(encoder.encode_label())?;
        ("error_type", self.error.unwrap_or("")).encode(encoder.encode_label())
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabels {
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    reason_code: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ListenerLabels {
    listener: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KeyExchangeLabels {
    key_exchange: &'static str,
}

/// All metrics of one sidecar.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    decisions: Family<DecisionLabels, Counter>,
    audited: Family<AuditLabels, Counter>,
    requests: Family<RequestLabels, Histogram>,
    decision_time: Histogram,
    handshakes: Family<ResultLabels, Counter>,
    key_exchanges: Family<KeyExchangeLabels, Counter>,
    connections: Gauge,
    trust_ended: Family<ReasonLabels, Counter>,
    connections_cut: Family<ReasonLabels, Counter>,
    requests_in_flight: Family<ListenerLabels, Gauge>,
    handshakes_in_flight: Family<ListenerLabels, Gauge>,
    overloaded: Family<ListenerLabels, Gauge>,
    resident: Gauge,
    policy_loads: Family<ResultLabels, Counter>,
    policies: Gauge,
    config_loads: Family<ResultLabels, Counter>,
    config_needs_restart: Gauge,
    svid_expiry: Gauge<f64, AtomicU64>,
    identity_updates: Counter,
    identity_failures: Counter,
    trust_domains: Gauge,
    trust_authorities: Gauge,
    records_dropped: Counter,
    record_write_failures: Counter,
    tcp_connections: Family<TcpLabels, Counter>,
    tcp_duration: Histogram,
    tcp_bytes: Family<ByteLabels, Counter>,
    plaintext: Family<ListenerLabels, Counter>,
    probes: Family<ResultLabels, Counter>,
    upstreams: UpstreamFamilies,
    standing: StandingFamilies,
    ssf: SsfFamilies,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// A registry with every metric of the sidecar at zero.
    pub(crate) fn new() -> Self {
        let mut metrics = Self {
            registry: Registry::default(),
            decisions: Family::default(),
            audited: Family::default(),
            requests: Family::new_with_constructor(|| Histogram::new(REQUEST_BUCKETS)),
            decision_time: Histogram::new(DECISION_BUCKETS),
            handshakes: Family::default(),
            key_exchanges: Family::default(),
            connections: Gauge::default(),
            trust_ended: Family::default(),
            connections_cut: Family::default(),
            requests_in_flight: Family::default(),
            handshakes_in_flight: Family::default(),
            overloaded: Family::default(),
            resident: Gauge::default(),
            policy_loads: Family::default(),
            policies: Gauge::default(),
            config_loads: Family::default(),
            config_needs_restart: Gauge::default(),
            svid_expiry: Gauge::default(),
            identity_updates: Counter::default(),
            identity_failures: Counter::default(),
            trust_domains: Gauge::default(),
            trust_authorities: Gauge::default(),
            records_dropped: Counter::default(),
            record_write_failures: Counter::default(),
            tcp_connections: Family::default(),
            tcp_duration: Histogram::new(CONNECTION_BUCKETS),
            tcp_bytes: Family::default(),
            plaintext: Family::default(),
            probes: Family::default(),
            upstreams: UpstreamFamilies::default(),
            standing: StandingFamilies::default(),
            ssf: SsfFamilies::default(),
        };
        metrics.register();
        metrics
    }

    fn register(&mut self) {
        let r = &mut self.registry;
        r.register(
            "wayleave_decisions",
            "Calls decided or refused",
            self.decisions.clone(),
        );
        r.register(
            "wayleave_audit",
            "Calls that audit mode would have decided otherwise",
            self.audited.clone(),
        );
        r.register_with_unit(
            "http_server_request_duration",
            "From reading a call's head to the end of its answer",
            Unit::Seconds,
            self.requests.clone(),
        );
        r.register_with_unit(
            "wayleave_decision_duration",
            "Evaluation of the policies for one call",
            Unit::Seconds,
            self.decision_time.clone(),
        );
        r.register(
            "wayleave_handshakes",
            "TLS handshakes by result",
            self.handshakes.clone(),
        );
        r.register(
            "wayleave_key_exchanges",
            "Completed handshakes by key exchange group",
            self.key_exchanges.clone(),
        );
        r.register(
            "wayleave_connections",
            "Open inbound connections",
            self.connections.clone(),
        );
        r.register(
            "wayleave_trust_ended",
            "Connections ended because their peer is no longer trusted",
            self.trust_ended.clone(),
        );
        r.register(
            "wayleave_connections_cut",
            "Connections ended for what their peer did or left undone",
            self.connections_cut.clone(),
        );
        r.register(
            "wayleave_requests_in_flight",
            "Calls that have not ended",
            self.requests_in_flight.clone(),
        );
        r.register(
            "wayleave_handshakes_in_flight",
            "TLS handshakes that have not ended",
            self.handshakes_in_flight.clone(),
        );
        r.register(
            "wayleave_overloaded",
            "1 while a further call would be refused for overload",
            self.overloaded.clone(),
        );
        r.register_with_unit(
            "process_resident_memory",
            "Memory that the process holds",
            Unit::Bytes,
            self.resident.clone(),
        );
        r.register(
            "wayleave_policy_loads",
            "Policy loads by result",
            self.policy_loads.clone(),
        );
        r.register(
            "wayleave_policies",
            "Policies in force",
            self.policies.clone(),
        );
        r.register(
            "wayleave_config_loads",
            "Loads of the configuration file by result",
            self.config_loads.clone(),
        );
        r.register(
            "wayleave_config_needs_restart",
            "Keys of the configuration with new values that wait for a restart",
            self.config_needs_restart.clone(),
        );
        r.register_with_unit(
            "wayleave_svid_expiry_timestamp",
            "When the sidecar's own SVID expires, since the epoch",
            Unit::Seconds,
            self.svid_expiry.clone(),
        );
        r.register(
            "wayleave_identity_updates",
            "SVIDs and trust bundles taken into use, rotations included",
            self.identity_updates.clone(),
        );
        r.register(
            "wayleave_identity_failures",
            "Failures of the identity's source; the last good identity stays",
            self.identity_failures.clone(),
        );
        r.register(
            "wayleave_trust_domains",
            "Trust domains with a trust bundle",
            self.trust_domains.clone(),
        );
        r.register(
            "wayleave_trust_authorities",
            "Authorities in all trust bundles",
            self.trust_authorities.clone(),
        );
        r.register(
            "wayleave_records_dropped",
            "Decision records dropped because their queue was full",
            self.records_dropped.clone(),
        );
        r.register(
            "wayleave_record_write_failures",
            "Batches of decision records that could not be written",
            self.record_write_failures.clone(),
        );
        r.register(
            "wayleave_tcp_connections",
            "TCP connections decided or refused",
            self.tcp_connections.clone(),
        );
        r.register_with_unit(
            "wayleave_tcp_connection_duration",
            "From the end of the handshake to the end of an allowed TCP connection",
            Unit::Seconds,
            self.tcp_duration.clone(),
        );
        r.register(
            "wayleave_tcp_bytes",
            "Bytes of TCP connections that have ended",
            self.tcp_bytes.clone(),
        );
        r.register(
            "wayleave_plaintext_connections",
            "Connections without TLS at permissive listeners",
            self.plaintext.clone(),
        );
        r.register(
            "wayleave_probes",
            "Health probes by result",
            self.probes.clone(),
        );
        self.upstreams.register(r);
        self.ssf.register(r);
        self.standing.register(r);
        let build = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
        r.register("wayleave_build", "The running version", build);
    }

    /// Everything in OpenMetrics text form.
    pub(crate) fn encode(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }

    /// Where decisions like that of `record` are counted.
    pub(super) fn decisions_like(&self, record: &DecisionRecord) -> Counter {
        let labels = DecisionLabels {
            listener: record.listener.to_string(),
            effect: record.effect.as_str(),
            reason_code: record.reason_code,
        };
        self.decisions.get_or_create_owned(&labels)
    }

    /// Where the time of requests like that of `record` is counted; none for what is no request.
    pub(super) fn requests_like(&self, record: &DecisionRecord) -> Option<Histogram> {
        let method = match &record.call {
            None => "_OTHER",
            Some(call) => method_label(call.method()?),
        };
        let labels = RequestLabels {
            method,
            status: record.status.unwrap_or(0),
            error: record.failure.map(super::Failure::as_str),
        };
        Some(self.requests.get_or_create_owned(&labels))
    }

    pub(super) fn decision_took(&self, time: Duration) {
        self.decision_time.observe(time.as_secs_f64());
    }

    pub(super) fn audited(&self, listener: &str, would_have: Effect) {
        let labels = AuditLabels {
            listener: listener.to_owned(),
            would_have: would_have.as_str(),
        };
        self.audited.get_or_create(&labels).inc();
    }

    /// Counts a connection whose bytes are not looked into.
    pub(super) fn record_tcp(&self, record: &DecisionRecord) {
        let listener = record.listener.to_string();
        let effect = record.effect;
        let labels = TcpLabels {
            listener: listener.clone(),
            effect: effect.as_str(),
        };
        self.tcp_connections.get_or_create(&labels).inc();
        if effect == Effect::Allow {
            self.tcp_duration.observe(record.call_time.as_secs_f64());
        }
        let Some(carried) = record.carried else {
            return;
        };
        for (direction, bytes) in [("in", carried.bytes_in), ("out", carried.bytes_out)] {
            let labels = ByteLabels {
                listener: listener.clone(),
                direction,
            };
            self.tcp_bytes.get_or_create(&labels).inc_by(bytes);
        }
    }

    /// Counts a connection without TLS at a permissive listener.
    pub(crate) fn plaintext_connection(&self, listener: &str) {
        self.plaintext.get_or_create(&of(listener)).inc();
    }

    /// How many connections without TLS a permissive listener had.
    pub(crate) fn plaintext_connections(&self, listener: &str) -> u64 {
        self.plaintext.get_or_create(&of(listener)).get()
    }

    /// Counts a health probe.
    pub(crate) fn probe(&self, result: &'static str) {
        self.probes.get_or_create(&ResultLabels { result }).inc();
    }

    pub(super) fn records_dropped(&self, count: u64) {
        self.records_dropped.inc_by(count);
    }

    pub(super) fn record_write_failed(&self) {
        self.record_write_failures.inc();
    }

    /// Counts a completed handshake.
    pub(crate) fn handshake_completed(&self, key_exchange: &'static str) {
        self.handshakes
            .get_or_create(&ResultLabels { result: "ok" })
            .inc();
        self.key_exchanges
            .get_or_create(&KeyExchangeLabels { key_exchange })
            .inc();
    }

    /// Counts a handshake or connection that was refused, by reason code.
    pub(crate) fn handshake_refused(&self, reason_code: &'static str) {
        self.handshakes
            .get_or_create(&ResultLabels {
                result: reason_code,
            })
            .inc();
    }

    /// Counts a connection that was ended because its peer is no longer trusted.
    pub(crate) fn trust_ended(&self, reason_code: &'static str) {
        self.trust_ended
            .get_or_create(&ReasonLabels { reason_code })
            .inc();
    }

    /// Counts a connection that was ended for what its peer did or left undone.
    pub(crate) fn connection_cut(&self, reason_code: &'static str) {
        self.connections_cut
            .get_or_create(&ReasonLabels { reason_code })
            .inc();
    }

    /// Notes what a listener holds.
    pub(crate) fn load(
        &self,
        listener: &str,
        requests: usize,
        handshakes: usize,
        overloaded: bool,
    ) {
        let labels = ListenerLabels {
            listener: listener.to_owned(),
        };
        let requests_in_flight = self.requests_in_flight.get_or_create(&labels);
        requests_in_flight.set(number(requests));
        let handshakes_in_flight = self.handshakes_in_flight.get_or_create(&labels);
        handshakes_in_flight.set(number(handshakes));
        let gauge = self.overloaded.get_or_create(&labels);
        gauge.set(i64::from(overloaded));
    }

    /// Notes how much memory the process holds.
    pub(crate) fn resident(&self, bytes: u64) {
        self.resident.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// What is known against principals, and what came of it.
    pub(crate) fn standing(&self) -> &StandingFamilies {
        &self.standing
    }

    /// What is counted about upstreams.
    pub(crate) fn upstreams(&self) -> &UpstreamFamilies {
        &self.upstreams
    }

    /// What is counted about transmitters of security events.
    pub(crate) fn ssf(&self) -> &SsfFamilies {
        &self.ssf
    }

    /// The gauge of open inbound connections.
    pub(crate) fn connections(&self) -> &Gauge {
        &self.connections
    }

    /// Counts a policy load, and notes how many policies are in force after a good one.
    pub(crate) fn policy_load(&self, in_force: Option<usize>) {
        let result = if in_force.is_some() { "ok" } else { "failed" };
        self.policy_loads
            .get_or_create(&ResultLabels { result })
            .inc();
        if let Some(count) = in_force {
            self.policies.set(number(count));
        }
    }

    /// Counts a load of the configuration file, and notes how many keys wait for a restart after
    /// a good one.
    pub(crate) fn config_load(&self, waiting: Option<usize>) {
        let result = if waiting.is_some() { "ok" } else { "failed" };
        self.config_loads
            .get_or_create(&ResultLabels { result })
            .inc();
        if let Some(count) = waiting {
            self.config_needs_restart.set(number(count));
        }
    }

    /// Notes how the sidecar's own identity and its source are doing.
    pub(crate) fn identity(&self, reader: &IdentityReader) {
        let status = reader.status();
        let updates = self.identity_updates.inner();
        updates.store(status.updates, Ordering::Relaxed);
        let failures = self.identity_failures.inner();
        failures.store(status.failures, Ordering::Relaxed);
        let Some(identity) = reader.current() else {
            return;
        };
        let at = identity.svid().not_after();
        let since = at.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        self.svid_expiry.set(since.as_secs_f64());
        let bundles = identity.bundles();
        self.trust_domains.set(number(bundles.len()));
        let authorities = bundles.iter().map(|bundle| bundle.authorities().len());
        self.trust_authorities.set(number(authorities.sum()));
    }
}

fn of(listener: &str) -> ListenerLabels {
    ListenerLabels {
        listener: listener.to_owned(),
    }
}

/// A count as gauges hold it.
fn number(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        Method::TRACE => "TRACE",
        _ => "_OTHER",
    }
}
