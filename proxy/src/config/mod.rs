//! The sidecar's configuration: one YAML file, read once into one validated [`Config`].
//!
//! What the rest of the proxy gets is typed, complete and checked: defaults are filled in,
//! relative paths are resolved against the file's folder, ranges hold. It refuses to guess:
//! an unknown key, a value out of range or a missing one is an error with its place, and all
//! the errors of a file are told together.

mod defaults;
mod destinations;
mod hosts;
mod identity;
mod keys_fit;
mod limits;
mod listeners;
mod load;
mod probes;
mod problem;
mod raw;
mod reader;
mod resilience;
mod scalar;
mod secret;
mod signal_store;
mod signals;
mod ssf;
#[cfg(test)]
mod ssf_tests;
#[cfg(test)]
mod tests;
mod tree;
mod upstream;
mod validate;
mod values;
mod web_url;

use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub use hosts::HostPattern;
pub use load::{load, parse, parse_file, text_of};
pub use problem::{ConfigErrors, Problem};
pub use resilience::{
    Balance, CircuitConfig, HealthCheckConfig, OutlierConfig, RetryConfig, RetryOn,
};
pub(crate) use scalar::{duration_of as duration, host_port_of as host_port};
pub use secret::Secret;
pub use signal_store::{SignalStoreConfig, StoreUrl};
pub use signals::SignalsConfig;
pub use ssf::{
    Algorithm, JwksSource, MappedSubject, OnNoncompliant, PollConfig, PushConfig, PushTls,
    SubjectName, TransmitterConfig,
};
pub(crate) use validate::SOCKET_PATH;
pub use wayleave_certs::source::federation::{FederationConfig, Profile};
pub use wayleave_certs::source::files::FilesConfig;
pub use wayleave_certs::source::workload_api::SvidChoice;
pub use wayleave_certs::workload_api::Endpoint;
pub use wayleave_identity::{SpiffeIdPattern, TrustDomain};
pub use web_url::{WebUrl, WebUrlError};

/// Everything `wayleave run` needs to know, validated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Where the sidecar's SVID, its key and its trust bundle come from.
    pub identity: IdentityConfig,
    /// Where the policies are.
    pub policies: PoliciesConfig,
    /// The listeners that callers reach, with distinct names and addresses; at least one where
    /// there is none outbound.
    pub inbound: Vec<InboundConfig>,
    /// The listeners that the workload calls out through; distinct as the inbound ones are.
    pub outbound: Vec<OutboundConfig>,
    /// The services that the workload calls, by distinct names.
    pub destinations: Vec<DestinationConfig>,
    /// The admin listener.
    pub admin: AdminConfig,
    /// What is logged, and where decisions are recorded.
    pub log: LogConfig,
    /// How the process runs: its threads and its sockets.
    pub runtime: RuntimeConfig,
    /// How long calls in flight may take to finish after SIGTERM; 0 s to 1 h, 30 s by default.
    pub drain_timeout: Duration,
    /// The listener for health probes, which have no certificate; none unless it is asked for.
    pub probes: Option<ProbesConfig>,
    /// How long everything is served after readiness has become false and before the listeners
    /// close; 0 s to 5 min, 0 s by default.
    pub drain_delay: Duration,
    /// How the behaviour of principals is followed, and what is kept of it.
    pub signals: SignalsConfig,
}

/// Who the sidecar is, and whom it trusts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentityConfig {
    /// Where the SVID, its key and the trust bundle come from.
    pub source: IdentitySource,
    /// Other trust domains whose bundles are fetched; distinct, and in no file of the source.
    pub federation: Vec<FederationConfig>,
}

/// The source of the sidecar's own identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IdentitySource {
    /// PEM files, read again when they change.
    Files(FilesConfig),
    /// A SPIFFE Workload API, such as SPIRE's agent.
    WorkloadApi(WorkloadApiConfig),
}

/// A SPIFFE Workload API as the source of the identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkloadApiConfig {
    /// Its address; that in `SPIFFE_ENDPOINT_SOCKET` where there is none.
    pub endpoint: Option<Endpoint>,
    /// Which of several SVIDs is ours; the first by default.
    pub choice: SvidChoice,
    /// How long the first SVID may take before the sidecar gives up; 1 s to 1 h, 30 s by default.
    pub first_svid_timeout: Duration,
}

/// Where the policies are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoliciesConfig {
    /// Cedar files, and folders whose `*.cedar` files are read; at least one.
    pub paths: Vec<PathBuf>,
}

/// One listener towards the workload: who may reach which service through it, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InboundConfig {
    /// The listener's name in logs and metrics: 1 to 63 of `a-z`, `0-9`, `-` and `_`.
    pub name: Arc<str>,
    /// The address to bind; port 0 asks the kernel for a free port.
    pub listen: SocketAddr,
    /// The Cedar `Service` that stands behind this listener.
    pub service: Arc<str>,
    /// Host names served here, in lower case and without a port; empty serves every host.
    pub hosts: Vec<String>,
    /// What callers speak; HTTP by default.
    pub protocol: ListenerProtocol,
    /// Whether what policy denies is refused; `enforce` by default.
    pub mode: InboundMode,
    /// The workload.
    pub upstream: UpstreamConfig,
    /// What one peer may hold or take.
    pub limits: LimitsConfig,
    /// Whether a denied caller is told the policy's `@reason`; `false` by default.
    pub show_reason: bool,
    /// What is asked of a caller's TLS beyond what always holds.
    pub tls: TlsConfig,
    /// The trust domains whose workloads are let in; all that have a bundle where there is none.
    pub trust_domains: Option<Arc<[TrustDomain]>>,
}

/// One listener that the workload calls out through: plain on this side, and on loopback.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboundConfig {
    /// The listener's name in logs and metrics: 1 to 63 of `a-z`, `0-9`, `-` and `_`.
    pub name: Arc<str>,
    /// The loopback address to bind; port 0 asks the kernel for a free port.
    pub listen: SocketAddr,
    /// What the workload speaks; HTTP by default.
    pub protocol: ListenerProtocol,
    /// How a call says where it goes; explicit by default.
    pub kind: OutboundKind,
    /// Whether what policy denies is refused; `enforce` by default.
    pub mode: InboundMode,
    /// What the workload may hold or take.
    pub limits: LimitsConfig,
    /// Whether the workload is told the policy's `@reason`; `false` by default.
    pub show_reason: bool,
}

/// How a call of the workload says where it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OutboundKind {
    /// By the listener that it calls: all calls are for this destination.
    Explicit(Box<DestinationConfig>),
    /// By its target, as one asks a proxy: an absolute URL, `CONNECT` or the `Host`.
    ForwardProxy,
    /// By where the connection was going before the kernel redirected it to us, and its `Host`.
    Transparent,
}

/// A service that the workload calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DestinationConfig {
    /// The Cedar `Service` that policies know it by; distinct.
    pub service: Arc<str>,
    /// The hosts that it is found by. An explicit listener for it takes every host.
    pub hosts: Vec<HostPattern>,
    /// The ports that it is called on; empty stands for all.
    pub ports: Vec<u16>,
    /// How it is reached.
    pub upstream: UpstreamConfig,
}

/// What a listener's clients speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListenerProtocol {
    /// HTTP/1.1 or HTTP/2: every request is decided.
    Http,
    /// Bytes that are not looked into: every connection is decided.
    Tcp,
    /// One of the two, which each connection's first bytes tell.
    Auto,
}

/// What becomes of a call that policy denies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InboundMode {
    /// It is refused.
    Enforce,
    /// It passes, and its record says that it would have been denied. Failures still deny:
    /// no policies, a `forbid` that cannot be evaluated, an ambiguous request.
    Audit,
}

/// What one listener asks of a caller's TLS beyond TLS 1.3 and a verified X509-SVID.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsConfig {
    /// Whether a key exchange that a quantum computer could break is refused; `false` by
    /// default.
    pub require_post_quantum: bool,
    /// Whether callers without TLS are served too; `strict` by default.
    pub mode: TlsMode,
}

/// Whether callers without TLS are served.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TlsMode {
    /// They are not: whoever calls proves who it is.
    #[default]
    Strict,
    /// They are, as anonymous callers, for as long as a migration takes.
    Permissive,
}

/// Where allowed calls go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamConfig {
    /// Where it listens, tried in this order; at least one, but for an `original` upstream.
    pub addresses: Vec<Address>,
    /// What the upstream speaks; HTTP/1.1 by default.
    pub protocol: UpstreamProtocol,
    /// How it is made sure that the upstream is the one that is meant; plain by default.
    pub tls: UpstreamTls,
    /// How long a connection attempt may take; 1 ms to 5 min, 5 s by default.
    pub connect_timeout: Duration,
    /// How long the upstream may take until its response head; 1 ms to 1 h, 60 s by default.
    pub response_timeout: Duration,
    /// How long an idle connection is kept for reuse; 1 ms to 1 h, 60 s by default.
    pub pool_idle_timeout: Duration,
    /// Idle connections kept by each worker; 0 to 10,000, 64 by default.
    pub pool_max_idle: usize,
    /// How often names are resolved again; 1 s to 1 h, 30 s by default.
    pub dns_refresh: Duration,
    /// Which of several endpoints a call goes to; the one with the fewest requests by default.
    pub balance: Balance,
    /// When an endpoint is left out because calls to it fail.
    pub outlier: OutlierConfig,
    /// How endpoints are asked whether they are well; they are not asked by default.
    pub health_check: Option<HealthCheckConfig>,
    /// What may be held towards the upstream at once; no limits by default.
    pub circuit: CircuitConfig,
    /// Which calls are tried again; none by default.
    pub retries: Option<RetryConfig>,
    /// How often an HTTP/2 connection is pinged; 1 s to 1 h, never by default.
    pub keepalive: Option<Duration>,
    /// Bytes of a response's head; 8 KiB to 1 MiB, 64 KiB by default.
    pub max_response_header_bytes: usize,
    /// Fields of an HTTP/1.1 response's head; 1 to 1,000, 100 by default.
    pub max_response_headers: usize,
    /// The host that TLS names and, by the web's PKI, verifies; that of the address by default.
    pub server_name: Option<String>,
    /// Calls go to where the caller asked for, if its address is one of these; none by default.
    pub original: Option<AllowedAddresses>,
}

/// Which addresses that are not public an `original` upstream may have; none by default.
///
/// What is no address of a host, such as `0.0.0.0` or a multicast group, is never allowed, nor are
/// the sidecar's own listeners.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AllowedAddresses {
    /// `127.0.0.0/8` and `::1`: this machine or pod.
    pub loopback: bool,
    /// `169.254.0.0/16` and `fe80::/10`: among them the metadata services of clouds.
    pub link_local: bool,
    /// RFC 1918, RFC 6598 and unique local addresses: one's own networks.
    pub private: bool,
}

/// An address of an upstream.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Address {
    /// Host name or IP address, and port.
    Tcp(HostPort),
    /// A unix socket.
    Unix(PathBuf),
}

/// TLS towards an upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UpstreamTls {
    /// None: for the workload on loopback.
    Off,
    /// Mutual TLS with our SVID; the upstream must prove to be one of these workloads.
    Mutual(SpiffeIdPattern),
    /// TLS as on the web: the upstream must prove its host name; we show no certificate.
    Web(WebRoots),
}

/// The authorities that a host's certificate is verified with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WebRoots {
    /// Those of the operating system.
    System,
    /// Those in a PEM file.
    File(PathBuf),
}

/// The protocol spoken towards an upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum UpstreamProtocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 with prior knowledge (h2c).
    Http2,
}

/// A host name or an IP address, with a port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HostPort {
    /// A DNS name in lower case, or an IP address; IPv6 without brackets.
    pub host: String,
    /// 1 to 65535.
    pub port: u16,
}

/// What one listener accepts before it answers with a refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitsConfig {
    /// Connections open at once; 1 to 1,000,000, 10,000 by default.
    pub max_connections: usize,
    /// Bytes of a request's head; 8 KiB to 1 MiB, 32 KiB by default.
    pub max_header_bytes: usize,
    /// Time from the first byte of a request's head to its last; 100 ms to 5 min, 10 s by
    /// default.
    pub header_timeout: Duration,
    /// Time to finish the TLS handshake; 100 ms to 5 min, 10 s by default.
    pub handshake_timeout: Duration,
    /// HTTP/2 streams open at once on one connection; 1 to 10,000, 128 by default.
    pub max_concurrent_streams: u32,
    /// Time a connection may stay without a request; 1 s to 24 h, 300 s by default.
    pub idle_timeout: Duration,
    /// Time for calls in flight once their peer is no longer trusted; 0 s to 1 h, 5 s by default.
    pub trust_grace: Duration,
    /// Time a TCP connection may stay without a byte either way; 1 s to 24 h, 1 h by default.
    pub tcp_idle_timeout: Duration,
    /// Time until the first bytes of a connection must tell its protocol, where that is not
    /// declared; 100 ms to 5 min, 10 s by default.
    pub detect_timeout: Duration,
    /// Time without progress of a request's body, or of an answer that the caller does not read;
    /// 1 s to 1 h, 60 s by default.
    pub body_timeout: Duration,
    /// Time for a whole call, its answer's last byte included; 100 ms to 24 h, off by default.
    pub request_timeout: Option<Duration>,
    /// Time after which a connection is asked to close; 1 s to 7 days, off by default.
    pub connection_age: Option<Duration>,
    /// Time for calls in flight on a connection that was asked to close for its age; 0 s to 1 h,
    /// 30 s by default.
    pub connection_grace: Duration,
    /// TLS handshakes in flight at once; 1 to 100,000, 256 by default.
    pub max_handshakes: usize,
    /// Calls in flight at once; 1 to 1,000,000, 10,000 by default.
    pub max_requests: usize,
    /// Calls in flight at once of one principal; half of `max_requests` by default.
    pub max_requests_per_peer: usize,
    /// Connections open at once of one principal; half of `max_connections` by default.
    pub max_connections_per_peer: usize,
}

/// The listener for health probes: plain HTTP, and only the paths that are named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbesConfig {
    /// The address to bind; port 0 asks the kernel for a free port.
    pub listen: SocketAddr,
    /// What may be probed; at least one, with distinct paths.
    pub paths: Vec<ProbeConfig>,
    /// How long the application may take to answer; 100 ms to 5 min, 5 s by default.
    pub timeout: Duration,
}

/// One thing that may be probed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeConfig {
    /// The path that is asked of us, with its query if it has one.
    pub path: String,
    /// Where the application answers; tried in this order.
    pub addresses: Vec<Address>,
    /// What it speaks there.
    pub protocol: UpstreamProtocol,
    /// The path that is asked of the application; the same by default.
    pub upstream_path: String,
}

/// The admin listener: health, metrics and recent decisions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminConfig {
    /// A loopback address unless remote access was asked for; 127.0.0.1:15000 by default.
    pub listen: SocketAddr,
    /// The unix socket at which operators start and lift quarantines; none by default.
    pub socket: Option<PathBuf>,
}

/// What is logged, and where decisions are recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    /// The least severe level that is logged; `info` by default.
    pub level: tracing::Level,
    /// The shape of log lines; JSON by default.
    pub format: LogFormat,
    /// Where decision records go; standard output by default.
    pub decisions: DecisionSink,
}

/// The shape of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// One readable line each.
    Text,
    /// One JSON object a line.
    Json,
}

/// Where decision records go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DecisionSink {
    /// Standard output, one record a line.
    Stdout,
    /// Nowhere.
    Off,
    /// Appended to this file, one record a line.
    File(PathBuf),
}

/// How many workers serve calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuntimeConfig {
    /// Threads that serve calls, each on a runtime of its own; 1 to 256, 1 by default.
    pub workers: NonZeroUsize,
    /// Resident memory above which calls are refused; `auto` by default.
    pub max_memory: MaxMemory,
    /// Whether listening sockets are bound with SO_REUSEPORT, so that another process of the
    /// same user can bind the same addresses; `false` by default.
    pub reuse_port: bool,
    /// The unix socket at which a running sidecar gives its listening sockets to the one that
    /// replaces it; none by default.
    pub hand_over: Option<PathBuf>,
}

/// How much memory the process may hold before it refuses calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MaxMemory {
    /// Nine tenths of what the control group allows; no limit where it allows everything.
    Auto,
    /// No limit.
    Off,
    /// So many bytes; 16 MiB to 1 TiB.
    Bytes(u64),
}

impl OutboundKind {
    /// Its name in the file.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Explicit(_) => "explicit",
            Self::ForwardProxy => "forward_proxy",
            Self::Transparent => "transparent",
        }
    }
}

impl UpstreamTls {
    /// How the upstream proves to be the one that is meant, in words; nothing where it does not.
    #[must_use]
    pub fn proof(&self) -> Option<String> {
        match self {
            Self::Off => None,
            Self::Mutual(pattern) => Some(format!("which proves to be {pattern}")),
            Self::Web(WebRoots::System) => {
                Some("which proves its host by the system's authorities".to_owned())
            }
            Self::Web(WebRoots::File(path)) => {
                let path = path.display();
                Some(format!(
                    "which proves its host by the authorities in {path}"
                ))
            }
        }
    }
}

impl UpstreamConfig {
    /// The port of the first address that has one; 0 for unix sockets.
    #[must_use]
    pub fn port(&self) -> u16 {
        let ports = self.addresses.iter().filter_map(|address| match address {
            Address::Tcp(address) => Some(address.port),
            Address::Unix(_) => None,
        });
        ports.take(1).next().unwrap_or_default()
    }
}

impl fmt::Display for UpstreamConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.original.is_some() {
            f.write_str("the original address")?;
        }
        for (index, address) in self.addresses.iter().enumerate() {
            let comma = if index > 0 { ", " } else { "" };
            write!(f, "{comma}{address}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}
