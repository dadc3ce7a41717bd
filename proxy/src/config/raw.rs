//! The shape of the file: which keys there are, and where.
//!
//! These structs say nothing of types, ranges or defaults; every leaf is the [`Field`] that names
//! its node, and `validate` makes a [`Config`](super::Config) of them. A key that is not named
//! here is a mistake.

use serde::Deserialize;

use super::tree::NodeId;

/// A leaf: the node that holds its value.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(super) struct Field(pub(super) NodeId);

/// A group of keys, with the node that holds it.
#[derive(Debug, Deserialize)]
pub(super) struct Section<T>(pub(super) NodeId, pub(super) T);

/// The whole file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawConfig {
    pub(super) identity: Option<Section<RawIdentity>>,
    pub(super) policies: Option<Section<RawPolicies>>,
    pub(super) inbound: Option<Section<Vec<Section<RawInbound>>>>,
    pub(super) outbound: Option<Section<Vec<Section<RawOutbound>>>>,
    pub(super) destinations: Option<Section<Vec<Section<RawDestination>>>>,
    pub(super) admin: Option<Section<RawAdmin>>,
    pub(super) log: Option<Section<RawLog>>,
    pub(super) runtime: Option<Section<RawRuntime>>,
    pub(super) drain_timeout: Option<Field>,
    pub(super) probes: Option<Section<RawProbes>>,
    pub(super) drain_delay: Option<Field>,
    pub(super) signals: Option<Section<RawSignals>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawIdentity {
    pub(super) files: Option<Section<RawFiles>>,
    pub(super) workload_api: Option<Section<RawWorkloadApi>>,
    pub(super) federation: Option<Section<Vec<Section<RawFederation>>>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawFiles {
    pub(super) svid: Option<Field>,
    pub(super) key: Option<Field>,
    pub(super) bundle: Option<Field>,
    pub(super) federated: Option<Section<Vec<Section<RawFederated>>>>,
    pub(super) revocation_lists: Option<Section<Vec<Field>>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawFederated {
    pub(super) trust_domain: Option<Field>,
    pub(super) bundle: Option<Field>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawWorkloadApi {
    pub(super) endpoint: Option<Field>,
    pub(super) hint: Option<Field>,
    pub(super) id: Option<Field>,
    pub(super) first_svid_timeout: Option<Field>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawFederation {
    pub(super) trust_domain: Option<Field>,
    pub(super) url: Option<Field>,
    pub(super) profile: Option<Field>,
    pub(super) endpoint_id: Option<Field>,
    pub(super) bootstrap_bundle: Option<Field>,
    pub(super) roots: Option<Field>,
    pub(super) store: Option<Field>,
    pub(super) timeout: Option<Field>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPolicies {
    pub(super) paths: Option<Section<Vec<Field>>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawInbound {
    pub(super) name: Option<Field>,
    pub(super) listen: Option<Field>,
    pub(super) service: Option<Field>,
    pub(super) hosts: Option<Section<Vec<Field>>>,
    pub(super) protocol: Option<Field>,
    pub(super) mode: Option<Field>,
    pub(super) upstream: Option<Section<RawUpstream>>,
    pub(super) limits: Option<Section<RawLimits>>,
    pub(super) show_reason: Option<Field>,
    pub(super) tls: Option<Section<RawTls>>,
    pub(super) trust_domains: Option<Section<Vec<Field>>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawOutbound {
    pub(super) name: Option<Field>,
    pub(super) listen: Option<Field>,
    pub(super) protocol: Option<Field>,
    pub(super) destination: Option<Field>,
    pub(super) mode: Option<Field>,
    pub(super) limits: Option<Section<RawLimits>>,
    pub(super) show_reason: Option<Field>,
    pub(super) kind: Option<Field>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawDestination {
    pub(super) service: Option<Field>,
    pub(super) hosts: Option<Section<Vec<Field>>>,
    pub(super) upstream: Option<Section<RawUpstream>>,
    pub(super) ports: Option<Section<Vec<Field>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTls {
    pub(super) require_post_quantum: Option<Field>,
    pub(super) mode: Option<Field>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawUpstream {
    pub(super) address: Option<Field>,
    pub(super) addresses: Option<Section<Vec<Field>>>,
    pub(super) protocol: Option<Field>,
    pub(super) tls: Option<Section<RawUpstreamTls>>,
    pub(super) connect_timeout: Option<Field>,
    pub(super) response_timeout: Option<Field>,
    pub(super) pool_idle_timeout: Option<Field>,
    pub(super) pool_max_idle: Option<Field>,
    pub(super) dns_refresh: Option<Field>,
    pub(super) balance: Option<Field>,
    pub(super) outlier: Option<Section<RawOutlier>>,
    pub(super) health_check: Option<Section<RawHealthCheck>>,
    pub(super) circuit: Option<Section<RawCircuit>>,
    pub(super) retries: Option<Section<RawRetries>>,
    pub(super) keepalive: Option<Field>,
    pub(super) max_response_header_bytes: Option<Field>,
    pub(super) max_response_headers: Option<Field>,
    pub(super) original: Option<Field>,
    pub(super) allow_addresses: Option<Section<Vec<Field>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawOutlier {
    pub(super) consecutive_failures: Option<Field>,
    pub(super) ejection_time: Option<Field>,
    pub(super) max_ejected_percent: Option<Field>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawHealthCheck {
    pub(super) path: Option<Field>,
    pub(super) interval: Option<Field>,
    pub(super) timeout: Option<Field>,
    pub(super) unhealthy_after: Option<Field>,
    pub(super) healthy_after: Option<Field>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawCircuit {
    pub(super) max_connections: Option<Field>,
    pub(super) max_pending: Option<Field>,
    pub(super) max_requests: Option<Field>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRetries {
    pub(super) attempts: Option<Field>,
    pub(super) on: Option<Section<Vec<Field>>>,
    pub(super) per_try_timeout: Option<Field>,
    pub(super) budget_percent: Option<Field>,
    pub(super) min_per_second: Option<Field>,
    pub(super) buffer: Option<Field>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawUpstreamTls {
    pub(super) peer: Option<Field>,
    pub(super) roots: Option<Field>,
    pub(super) server_name: Option<Field>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLimits {
    pub(super) max_connections: Option<Field>,
    pub(super) max_header_bytes: Option<Field>,
    pub(super) header_timeout: Option<Field>,
    pub(super) handshake_timeout: Option<Field>,
    pub(super) max_concurrent_streams: Option<Field>,
    pub(super) idle_timeout: Option<Field>,
    pub(super) trust_grace: Option<Field>,
    pub(super) tcp_idle_timeout: Option<Field>,
    pub(super) detect_timeout: Option<Field>,
    pub(super) body_timeout: Option<Field>,
    pub(super) request_timeout: Option<Field>,
    pub(super) connection_age: Option<Field>,
    pub(super) connection_grace: Option<Field>,
    pub(super) max_handshakes: Option<Field>,
    pub(super) max_requests: Option<Field>,
    pub(super) max_requests_per_peer: Option<Field>,
    pub(super) max_connections_per_peer: Option<Field>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawAdmin {
    pub(super) listen: Option<Field>,
    pub(super) allow_remote: Option<Field>,
    pub(super) socket: Option<Field>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawSignals {
    pub(super) state_dir: Option<Field>,
    pub(super) max_principals: Option<Field>,
    pub(super) reauthorize_every: Option<Field>,
    pub(super) store: Option<Section<RawSignalStore>>,
    pub(super) ssf: Option<Section<Vec<Section<RawTransmitter>>>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawSignalStore {
    pub(super) url: Option<Field>,
    pub(super) password_file: Option<Field>,
    pub(super) ca_file: Option<Field>,
    pub(super) prefix: Option<Field>,
    pub(super) timeout: Option<Field>,
    pub(super) fleet_wide: Option<Section<Vec<Field>>>,
    pub(super) reconcile_every: Option<Field>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLog {
    pub(super) level: Option<Field>,
    pub(super) format: Option<Field>,
    pub(super) decisions: Option<Field>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRuntime {
    pub(super) workers: Option<Field>,
    pub(super) max_memory: Option<Field>,
    pub(super) reuse_port: Option<Field>,
    pub(super) hand_over: Option<Field>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawProbes {
    pub(super) listen: Option<Field>,
    pub(super) paths: Option<Section<Vec<Section<RawProbe>>>>,
    pub(super) timeout: Option<Field>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawProbe {
    pub(super) path: Option<Field>,
    pub(super) upstream: Option<Field>,
    pub(super) upstream_path: Option<Field>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTransmitter {
    pub(super) name: Option<Field>,
    pub(super) issuer: Option<Field>,
    pub(super) audience: Option<Section<Vec<Field>>>,
    pub(super) jwks: Option<Field>,
    pub(super) jwks_ca_file: Option<Field>,
    pub(super) jwks_refresh: Option<Field>,
    pub(super) algorithms: Option<Section<Vec<Field>>>,
    pub(super) push: Option<Section<RawPush>>,
    pub(super) poll: Option<Section<RawPoll>>,
    pub(super) max_age: Option<Field>,
    pub(super) clock_skew: Option<Field>,
    pub(super) subjects: Option<Section<Vec<Section<RawSubject>>>>,
    pub(super) trust_domains: Option<Section<Vec<Field>>>,
    pub(super) on_noncompliant: Option<Field>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPush {
    pub(super) listen: Option<Field>,
    pub(super) path: Option<Field>,
    pub(super) tls: Option<Section<RawPushTls>>,
    pub(super) token_file: Option<Field>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPushTls {
    pub(super) certificate: Option<Field>,
    pub(super) key: Option<Field>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPoll {
    pub(super) url: Option<Field>,
    pub(super) interval: Option<Field>,
    pub(super) token_file: Option<Field>,
    pub(super) ca_file: Option<Field>,
    pub(super) long_poll: Option<Field>,
    pub(super) timeout: Option<Field>,
    pub(super) max_events: Option<Field>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawSubject {
    pub(super) uri: Option<Field>,
    pub(super) opaque: Option<Field>,
    pub(super) iss: Option<Field>,
    pub(super) sub: Option<Field>,
    pub(super) spiffe_ids: Option<Section<Vec<Field>>>,
}
