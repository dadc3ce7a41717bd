//! From the raw structs to a [`Config`]: types, ranges, defaults, and what must hold between
//! the parts.
//!
//! Every function checks all of its part before it gives up, so that the problems of a file come
//! out together. `None` means that a problem was noted.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use tracing::Level;

use super::defaults as default;
use super::problem::{Problems, Wrong, quoted};
use super::raw::{
    RawAdmin, RawConfig, RawInbound, RawLimits, RawLog, RawPolicies, RawRuntime, RawTls,
    RawUpstream, Section,
};
use super::tree::{Node, Tree};
use super::{
    AdminConfig, Config, DecisionSink, InboundConfig, InboundMode, LimitsConfig, LogConfig,
    LogFormat, PoliciesConfig, RuntimeConfig, TlsConfig, UpstreamConfig, UpstreamProtocol, scalar,
};

const MILLISECOND: Duration = Duration::from_millis(1);
pub(super) const HOUR: Duration = Duration::from_secs(3_600);

const CONNECT_TIME: RangeInclusive<Duration> = MILLISECOND..=Duration::from_secs(300);
const UPSTREAM_TIME: RangeInclusive<Duration> = MILLISECOND..=HOUR;
const PEER_TIME: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(300);
const IDLE_TIME: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(86_400);
const DRAIN_TIME: RangeInclusive<Duration> = Duration::ZERO..=HOUR;

const LEVELS: [(&str, Level); 5] = [
    ("error", Level::ERROR),
    ("warn", Level::WARN),
    ("info", Level::INFO),
    ("debug", Level::DEBUG),
    ("trace", Level::TRACE),
];
const FORMATS: [(&str, LogFormat); 2] = [("text", LogFormat::Text), ("json", LogFormat::Json)];
const MODES: [(&str, InboundMode); 2] = [
    ("enforce", InboundMode::Enforce),
    ("audit", InboundMode::Audit),
];
const PROTOCOLS: [(&str, UpstreamProtocol); 2] = [
    ("http1", UpstreamProtocol::Http1),
    ("http2", UpstreamProtocol::Http2),
];

/// Checks one file; `base` is the folder that its relative paths start from.
pub(super) struct Validator<'a> {
    pub(super) tree: &'a Tree,
    pub(super) base: &'a Path,
    pub(super) problems: &'a mut Problems,
}

impl Validator<'_> {
    /// The validated configuration.
    pub(super) fn config(&mut self, raw: &RawConfig) -> Option<Config> {
        let root = Tree::ROOT;
        let identity = self.present(root, "identity", raw.identity.as_ref());
        let identity = identity.and_then(|section| self.identity(section));
        let policies = self.present(root, "policies", raw.policies.as_ref());
        let policies = policies.and_then(|section| self.policies(section));
        let inbound = self.present(root, "inbound", raw.inbound.as_ref());
        let inbound = inbound.and_then(|section| self.inbounds(section));
        let admin = self.admin(raw.admin.as_ref().map(content));
        let log = self.log(raw.log.as_ref().map(content));
        let runtime = self.runtime(raw.runtime.as_ref().map(content));
        let drain_timeout = self.time(raw.drain_timeout, default::DRAIN_TIMEOUT, &DRAIN_TIME);
        self.admin_and_inbound_differ(raw, admin.as_ref(), inbound.as_deref());
        Some(Config {
            identity: identity?,
            policies: policies?,
            inbound: inbound?,
            admin: admin?,
            log: log?,
            runtime: runtime?,
            drain_timeout: drain_timeout?,
        })
    }

    fn policies(&mut self, raw: &Section<RawPolicies>) -> Option<PoliciesConfig> {
        let Section(at, RawPolicies { paths }) = raw;
        let Section(at, fields) = self.present(*at, "paths", paths.as_ref())?;
        self.not_empty(*at, fields, "policy file or folder");
        let base = self.base;
        let paths = self.distinct(fields, "path", |node| scalar::path(node, base))?;
        Some(PoliciesConfig { paths })
    }

    fn inbounds(&mut self, raw: &Section<Vec<Section<RawInbound>>>) -> Option<Vec<InboundConfig>> {
        let Section(at, sections) = raw;
        self.not_empty(*at, sections, "listener");
        let inbound: Vec<Option<InboundConfig>> = sections
            .iter()
            .map(|section| self.inbound(section))
            .collect();
        for (index, (section, later)) in sections.iter().zip(&inbound).enumerate() {
            for earlier in inbound.iter().take(index).flatten() {
                self.listeners_differ(section, earlier, later.as_ref());
            }
        }
        inbound.into_iter().collect()
    }

    fn inbound(&mut self, raw: &Section<RawInbound>) -> Option<InboundConfig> {
        let Section(at, raw) = raw;
        let name = self.required(*at, "name", raw.name, scalar::listener_name);
        let listen = self.required(*at, "listen", raw.listen, scalar::listen);
        let service = self.required(*at, "service", raw.service, scalar::service_name);
        let hosts = match &raw.hosts {
            Some(Section(_, fields)) => self.distinct(fields, "host", scalar::served_host),
            None => Some(Vec::new()),
        };
        let upstream = self.present(*at, "upstream", raw.upstream.as_ref());
        let upstream = upstream.and_then(|section| self.upstream(section, listen));
        let limits = self.limits(raw.limits.as_ref().map(content));
        let show_reason = self.optional(raw.show_reason, false, scalar::boolean);
        let mode = self.optional(raw.mode, InboundMode::Enforce, |node| {
            scalar::choice(node, &MODES)
        });
        let tls = self.tls(raw.tls.as_ref().map(content));
        Some(InboundConfig {
            name: name?,
            listen: listen?,
            service: service?,
            hosts: hosts?,
            upstream: upstream?,
            limits: limits?,
            mode: mode?,
            show_reason: show_reason?,
            tls: tls?,
        })
    }

    fn tls(&mut self, raw: Option<&RawTls>) -> Option<TlsConfig> {
        let field = raw.and_then(|raw| raw.require_post_quantum);
        let require_post_quantum = self.optional(field, false, scalar::boolean)?;
        Some(TlsConfig {
            require_post_quantum,
        })
    }

    fn upstream(
        &mut self,
        raw: &Section<RawUpstream>,
        listen: Option<SocketAddr>,
    ) -> Option<UpstreamConfig> {
        let Section(at, raw) = raw;
        let address = self.required(*at, "address", raw.address, |node| {
            let address = scalar::host_port(node)?;
            match listen {
                Some(listen) if reaches(&address, listen) => Err(Wrong::new(format!(
                    "`{address}` is the listener's own address, so calls would go in circles"
                ))
                .help("name the address that the workload listens on")),
                _ => Ok(address),
            }
        });
        let protocol = self.optional(raw.protocol, default::PROTOCOL, |node| {
            scalar::choice(node, &PROTOCOLS)
        });
        let connect = self.time(raw.connect_timeout, default::CONNECT_TIMEOUT, &CONNECT_TIME);
        let response = self.time(
            raw.response_timeout,
            default::RESPONSE_TIMEOUT,
            &UPSTREAM_TIME,
        );
        let idle = self.time(
            raw.pool_idle_timeout,
            default::POOL_IDLE_TIMEOUT,
            &UPSTREAM_TIME,
        );
        let max_idle = self.count(raw.pool_max_idle, default::POOL_MAX_IDLE, 0..=10_000);
        Some(UpstreamConfig {
            address: address?,
            protocol: protocol?,
            connect_timeout: connect?,
            response_timeout: response?,
            pool_idle_timeout: idle?,
            pool_max_idle: max_idle?,
        })
    }

    fn limits(&mut self, raw: Option<&RawLimits>) -> Option<LimitsConfig> {
        let absent = RawLimits::default();
        let raw = raw.unwrap_or(&absent);
        let connections = self.count(raw.max_connections, default::MAX_CONNECTIONS, 1..=1_000_000);
        let header_bytes = self.optional(raw.max_header_bytes, default::MAX_HEADER_BYTES, |node| {
            let bytes = scalar::size(node, &(8 << 10..=1 << 20))?;
            Ok(usize::try_from(bytes).unwrap_or(usize::MAX))
        });
        let header = self.time(raw.header_timeout, default::HEADER_TIMEOUT, &PEER_TIME);
        let handshake = self.time(
            raw.handshake_timeout,
            default::HANDSHAKE_TIMEOUT,
            &PEER_TIME,
        );
        let streams = self.optional(raw.max_concurrent_streams, default::MAX_STREAMS, |node| {
            let streams = scalar::integer(node, &(1..=10_000))?;
            Ok(u32::try_from(streams).unwrap_or(u32::MAX))
        });
        let idle = self.time(raw.idle_timeout, default::IDLE_TIMEOUT, &IDLE_TIME);
        let grace = self.time(raw.trust_grace, default::TRUST_GRACE, &DRAIN_TIME);
        Some(LimitsConfig {
            max_connections: connections?,
            max_header_bytes: header_bytes?,
            header_timeout: header?,
            handshake_timeout: handshake?,
            max_concurrent_streams: streams?,
            idle_timeout: idle?,
            trust_grace: grace?,
        })
    }

    fn admin(&mut self, raw: Option<&RawAdmin>) -> Option<AdminConfig> {
        let absent = RawAdmin::default();
        let raw = raw.unwrap_or(&absent);
        let allow_remote = self.optional(raw.allow_remote, false, scalar::boolean);
        let listen = self.optional(raw.listen, default::ADMIN_LISTEN, |node| {
            let listen = scalar::listen(node)?;
            // SECURITY: the admin listener shows decisions and has no authentication of its own.
            if listen.ip().is_loopback() || allow_remote == Some(true) {
                return Ok(listen);
            }
            Err(
                Wrong::new(format!("`{listen}` is reachable from other machines")).help(
                    "use a loopback address such as `127.0.0.1:15000`, or set \
                     `admin.allow_remote: true` and keep others out by other means",
                ),
            )
        });
        allow_remote?;
        Some(AdminConfig { listen: listen? })
    }

    fn log(&mut self, raw: Option<&RawLog>) -> Option<LogConfig> {
        let absent = RawLog::default();
        let raw = raw.unwrap_or(&absent);
        let base = self.base;
        let level = self.optional(raw.level, default::LOG_LEVEL, |node| {
            scalar::choice(node, &LEVELS)
        });
        let format = self.optional(raw.format, default::LOG_FORMAT, |node| {
            scalar::choice(node, &FORMATS)
        });
        let decisions = self.optional(raw.decisions, DecisionSink::Stdout, |node| {
            decision_sink(node, base)
        });
        Some(LogConfig {
            level: level?,
            format: format?,
            decisions: decisions?,
        })
    }

    fn runtime(&mut self, raw: Option<&RawRuntime>) -> Option<RuntimeConfig> {
        let workers = raw.and_then(|raw| raw.workers);
        let workers = self.optional(workers, default::WORKERS, |node| {
            let workers = scalar::integer(node, &(1..=256))?;
            let workers = usize::try_from(workers).unwrap_or(1);
            Ok(NonZeroUsize::new(workers).unwrap_or(NonZeroUsize::MIN))
        });
        Some(RuntimeConfig { workers: workers? })
    }
}

/// What must hold between the parts.
impl Validator<'_> {
    fn listeners_differ(
        &mut self,
        section: &Section<RawInbound>,
        earlier: &InboundConfig,
        later: Option<&InboundConfig>,
    ) {
        let Some(later) = later else { return };
        if later.name == earlier.name {
            let wrong = Wrong::new(format!("a listener named `{}` exists already", later.name));
            self.note(
                section.1.name,
                wrong.help("give each listener its own name"),
            );
        }
        if overlap(later.listen, earlier.listen) {
            let wrong = Wrong::new(format!(
                "`{}` is taken by the listener `{}`",
                later.listen, earlier.name
            ));
            self.note(
                section.1.listen,
                wrong.help("give each listener its own port"),
            );
        }
    }

    fn admin_and_inbound_differ(
        &mut self,
        raw: &RawConfig,
        admin: Option<&AdminConfig>,
        inbound: Option<&[InboundConfig]>,
    ) {
        let (Some(admin), Some(inbound)) = (admin, inbound) else {
            return;
        };
        let admin_field = raw.admin.as_ref().and_then(|section| section.1.listen);
        let sections = raw.inbound.iter().flat_map(|section| &section.1);
        for (section, listener) in sections.zip(inbound) {
            if overlap(admin.listen, listener.listen) {
                let wrong = Wrong::new(format!(
                    "the admin listener and the listener `{}` both want port {}",
                    listener.name,
                    listener.listen.port()
                ))
                .help("give the two different ports");
                self.note(admin_field.or(section.1.listen), wrong);
            }
        }
    }
}

pub(super) fn content<T>(section: &Section<T>) -> &T {
    &section.1
}

fn decision_sink(node: &Node, base: &Path) -> Result<DecisionSink, Wrong> {
    let expected = "`stdout`, `off` or `file:` and a path, such as `file:/var/log/decisions.jsonl`";
    match scalar::text(node, expected)? {
        "stdout" => Ok(DecisionSink::Stdout),
        "off" => Ok(DecisionSink::Off),
        written => match written.strip_prefix("file:") {
            Some(path) => scalar::file_path(path.trim(), base).map(DecisionSink::File),
            None => Err(Wrong::new(format!(
                "`{}` is not a place for decisions",
                quoted(written)
            ))
            .help(format!("expected {expected}"))),
        },
    }
}

/// Whether two listeners cannot both be bound; port 0 is a fresh port each time.
fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    let same_ip = a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified();
    a.port() != 0 && a.port() == b.port() && same_ip
}

/// Whether connecting to `address` reaches the listener bound to `listen`.
fn reaches(address: &super::HostPort, listen: SocketAddr) -> bool {
    let loopback = address.host == "localhost";
    let reached = match address.host.parse::<std::net::IpAddr>() {
        Ok(ip) => ip == listen.ip() || (listen.ip().is_unspecified() && ip.is_loopback()),
        Err(_) => loopback && (listen.ip().is_loopback() || listen.ip().is_unspecified()),
    };
    address.port == listen.port() && reached
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_overlap_when_the_kernel_would_refuse_the_second() {
        let overlaps = |a: &str, b: &str| overlap(a.parse().unwrap(), b.parse().unwrap());
        assert!(overlaps("127.0.0.1:80", "127.0.0.1:80"));
        assert!(overlaps("0.0.0.0:80", "127.0.0.1:80"));
        assert!(!overlaps("127.0.0.2:80", "127.0.0.1:80"));
        assert!(!overlaps("127.0.0.1:0", "127.0.0.1:0"));
    }
}
