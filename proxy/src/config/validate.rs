//! From the raw structs to a [`Config`]: types, ranges, defaults, and what must hold between
//! the parts.
//!
//! Every function checks all of its part before it gives up, so that the problems of a file come
//! out together. `None` means that a problem was noted.

use std::num::NonZeroUsize;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tracing::Level;

use super::defaults as default;
use super::problem::{Problems, Wrong, quoted};
use super::raw::{RawAdmin, RawConfig, RawLog, RawPolicies, RawRuntime, Section};
use super::tree::{Node, Tree, Value};
use super::{
    AdminConfig, Config, DecisionSink, LogConfig, LogFormat, MaxMemory, PoliciesConfig,
    RuntimeConfig, scalar,
};

pub(super) const HOUR: Duration = Duration::from_secs(3_600);

/// Longer than any load balancer takes to notice would only be a slower end.
const DRAIN_DELAY: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(300);
const DRAIN_TIME: RangeInclusive<Duration> = Duration::ZERO..=HOUR;

const MEMORY: RangeInclusive<u64> = 16 << 20..=1 << 40;
/// Longest path of a unix socket, in bytes.
pub(crate) const SOCKET_PATH: usize = 107;

const LEVELS: [(&str, Level); 5] = [
    ("error", Level::ERROR),
    ("warn", Level::WARN),
    ("info", Level::INFO),
    ("debug", Level::DEBUG),
    ("trace", Level::TRACE),
];
const FORMATS: [(&str, LogFormat); 2] = [("text", LogFormat::Text), ("json", LogFormat::Json)];
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
        let listeners = self.listeners(raw);
        let admin = self.admin(raw.admin.as_ref().map(content));
        let log = self.log(raw.log.as_ref().map(content));
        let runtime = self.runtime(raw.runtime.as_ref().map(content));
        let drain_timeout = self.time(raw.drain_timeout, default::DRAIN_TIMEOUT, &DRAIN_TIME);
        let probes = self.probes(raw, listeners.as_ref(), admin.as_ref());
        let drain_delay = self.time(raw.drain_delay, default::DRAIN_DELAY, &DRAIN_DELAY);
        let signals = self.signals(raw, listeners.as_ref(), admin.as_ref(), probes.as_ref());
        let listeners = listeners?;
        self.admin_and_listeners_differ(raw, admin.as_ref(), &listeners);
        Some(Config {
            identity: identity?,
            policies: policies?,
            inbound: listeners.inbound,
            outbound: listeners.outbound,
            destinations: listeners.destinations,
            admin: admin?,
            log: log?,
            runtime: runtime?,
            drain_timeout: drain_timeout?,
            probes: probes?,
            drain_delay: drain_delay?,
            signals: signals?,
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
        let base = self.base;
        let socket = self.maybe(raw.socket, |node| {
            socket_path(node, base, "/run/wayleave/admin.sock")
        });
        allow_remote?;
        Some(AdminConfig {
            listen: listen?,
            socket: socket?,
        })
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
        let absent = RawRuntime::default();
        let raw = raw.unwrap_or(&absent);
        let base = self.base;
        let workers = self.optional(raw.workers, default::WORKERS, |node| {
            let workers = scalar::integer(node, &(1..=256))?;
            let workers = usize::try_from(workers).unwrap_or(1);
            Ok(NonZeroUsize::new(workers).unwrap_or(NonZeroUsize::MIN))
        });
        let max_memory = self.optional(raw.max_memory, MaxMemory::Auto, |node| match &node.value {
            Value::Text(text) if text == "auto" => Ok(MaxMemory::Auto),
            _ if scalar::is_off(node) => Ok(MaxMemory::Off),
            _ => scalar::size(node, &MEMORY)
                .map(MaxMemory::Bytes)
                .map_err(|wrong| wrong.or("`auto` or `off`")),
        });
        let reuse_port = self.optional(raw.reuse_port, false, scalar::boolean);
        let hand_over = self.maybe(raw.hand_over, |node| {
            socket_path(node, base, "/run/wayleave/hand-over.sock")
        });
        Some(RuntimeConfig {
            workers: workers?,
            max_memory: max_memory?,
            reuse_port: reuse_port?,
            hand_over: hand_over?,
        })
    }
}

pub(super) fn content<T>(section: &Section<T>) -> &T {
    &section.1
}

/// A path that the system can bind a socket to.
fn socket_path(node: &Node, base: &Path, example: &str) -> Result<PathBuf, Wrong> {
    let path = scalar::path(node, base)?;
    if path.as_os_str().len() <= SOCKET_PATH {
        return Ok(path);
    }
    Err(Wrong::new(format!(
        "the path of a socket has at most {SOCKET_PATH} bytes, and `{}` has {}",
        quoted(&path.to_string_lossy()),
        path.as_os_str().len()
    ))
    .help(format!("choose a shorter one, such as `{example}`")))
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
