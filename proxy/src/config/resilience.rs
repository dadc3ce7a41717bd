//! What an upstream's settings say of trouble: which endpoint a call goes to, when one is left
//! out, what may be held at once and what is tried again. Types, and the checks that make them.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::defaults as default;
use super::problem::{Wrong, quoted};
use super::raw::{Field, RawCircuit, RawHealthCheck, RawOutlier, RawRetries, Section};
use super::scalar;
use super::tree::Node;
use super::validate::{HOUR, Validator};

/// Which of several endpoints a call goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Balance {
    /// Each in turn.
    RoundRobin,
    /// Of two picked at random, the one with fewer requests in flight.
    LeastRequests,
}

/// When an endpoint is left out because calls to it fail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutlierConfig {
    /// Failures in a row after which an endpoint is ejected; 1 to 1,000, 5 by default.
    pub consecutive_failures: u32,
    /// How long the first ejection lasts, each further one longer; 100 ms to 1 h, 30 s by default.
    pub ejection_time: Duration,
    /// How many of the endpoints may be out at once; 0 to 100 %, 50 by default. 0 ejects none,
    /// more allows for one at least.
    pub max_ejected_percent: u32,
}

/// How endpoints are asked whether they are well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheckConfig {
    /// What is asked for with GET; any 2xx is well.
    pub path: String,
    /// The time between two questions; 100 ms to 1 h, 10 s by default.
    pub interval: Duration,
    /// How long an answer may take, connection included; 10 ms to 5 min, 2 s by default.
    pub timeout: Duration,
    /// Bad answers in a row after which an endpoint is left out; 1 to 100, 3 by default.
    pub unhealthy_after: u32,
    /// Good answers in a row after which it is used again; 1 to 100, 2 by default.
    pub healthy_after: u32,
}

/// What may be held towards one upstream at once, by all workers together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CircuitConfig {
    /// Connections, idle ones included; no limit by default.
    pub max_connections: Option<usize>,
    /// Requests that wait for a connection; 1,024 by default where connections are limited.
    pub max_pending: Option<usize>,
    /// Requests in flight; no limit by default.
    pub max_requests: Option<usize>,
}

/// Which calls are tried again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetryConfig {
    /// How often a call is tried in all; 2 to 10, 2 by default.
    pub attempts: u32,
    /// What is worth another attempt; `connect`, `reset` and `503` by default.
    pub on: Vec<RetryOn>,
    /// How long one attempt may take until its response head; the whole response time by default.
    pub per_try_timeout: Option<Duration>,
    /// How many retries there may be for a hundred requests; 0 to 100, 20 by default.
    pub budget_percent: u32,
    /// Retries a second that are allowed whatever the budget; 0 to 10,000, 10 by default.
    pub min_per_second: u32,
    /// Bytes of a request's body that are kept to be sent again; 0 to 1 MiB, 0 by default.
    pub buffer: usize,
}

/// Something that is worth another attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryOn {
    /// No connection could be made.
    Connect,
    /// The connection broke before a response, or no response came within the time of one try.
    Reset,
    /// The upstream answered with this status.
    Status(u16),
    /// The upstream answered a gRPC call with `UNAVAILABLE` and nothing else.
    GrpcUnavailable,
}

const BALANCES: [(&str, Balance); 2] = [
    ("round_robin", Balance::RoundRobin),
    ("least_requests", Balance::LeastRequests),
];
const CONDITIONS: [(&str, RetryOn); 6] = [
    ("connect", RetryOn::Connect),
    ("reset", RetryOn::Reset),
    ("502", RetryOn::Status(502)),
    ("503", RetryOn::Status(503)),
    ("504", RetryOn::Status(504)),
    ("grpc_unavailable", RetryOn::GrpcUnavailable),
];

const CHECK_EVERY: RangeInclusive<Duration> = Duration::from_millis(100)..=HOUR;
const CHECK_TIME: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(300);
const TRY_TIME: RangeInclusive<Duration> = Duration::from_millis(1)..=HOUR;

impl Validator<'_> {
    pub(super) fn balance(&mut self, field: Option<Field>) -> Option<Balance> {
        self.optional(field, default::BALANCE, |node| {
            scalar::choice(node, &BALANCES)
        })
    }

    pub(super) fn outlier(&mut self, raw: Option<&RawOutlier>) -> Option<OutlierConfig> {
        let absent = RawOutlier::default();
        let raw = raw.unwrap_or(&absent);
        let failures = self.number(
            raw.consecutive_failures,
            default::CONSECUTIVE_FAILURES,
            1..=1_000,
        );
        let time = self.time(raw.ejection_time, default::EJECTION_TIME, &CHECK_EVERY);
        let percent = self.number(
            raw.max_ejected_percent,
            default::MAX_EJECTED_PERCENT,
            0..=100,
        );
        Some(OutlierConfig {
            consecutive_failures: failures?,
            ejection_time: time?,
            max_ejected_percent: percent?,
        })
    }

    pub(super) fn health_check(
        &mut self,
        raw: Option<&Section<RawHealthCheck>>,
    ) -> Option<Option<HealthCheckConfig>> {
        let Some(Section(at, raw)) = raw else {
            return Some(None);
        };
        let path = self.required(*at, "path", raw.path, check_path);
        let interval = self.time(raw.interval, default::CHECK_INTERVAL, &CHECK_EVERY);
        let timeout = self.time(raw.timeout, default::CHECK_TIMEOUT, &CHECK_TIME);
        let unhealthy = self.number(raw.unhealthy_after, default::UNHEALTHY_AFTER, 1..=100);
        let healthy = self.number(raw.healthy_after, default::HEALTHY_AFTER, 1..=100);
        Some(Some(HealthCheckConfig {
            path: path?,
            interval: interval?,
            timeout: timeout?,
            unhealthy_after: unhealthy?,
            healthy_after: healthy?,
        }))
    }

    pub(super) fn circuit(&mut self, raw: Option<&RawCircuit>) -> Option<CircuitConfig> {
        let absent = RawCircuit::default();
        let raw = raw.unwrap_or(&absent);
        let connections = self.limit(raw.max_connections, 1);
        let pending = self.limit(raw.max_pending, 0);
        let requests = self.limit(raw.max_requests, 1);
        if raw.max_pending.is_some() && raw.max_connections.is_none() {
            let wrong = Wrong::new("nothing waits where connections are not limited");
            self.note(
                raw.max_pending,
                wrong.help("add `max_connections`, or leave `max_pending` out"),
            );
            return None;
        }
        let connections = connections?;
        Some(CircuitConfig {
            max_connections: connections,
            max_pending: pending?.or(connections.map(|_| default::MAX_PENDING)),
            max_requests: requests?,
        })
    }

    pub(super) fn retries(&mut self, raw: Option<&RawRetries>) -> Option<Option<RetryConfig>> {
        let Some(raw) = raw else {
            return Some(None);
        };
        let attempts = self.number(raw.attempts, default::ATTEMPTS, 2..=10);
        let on = self.retry_on(raw.on.as_ref());
        let per_try = self.maybe(raw.per_try_timeout, |node| {
            scalar::duration(node, &TRY_TIME)
        });
        let percent = self.number(raw.budget_percent, default::BUDGET_PERCENT, 0..=100);
        let min = self.number(
            raw.min_per_second,
            default::MIN_RETRIES_PER_SECOND,
            0..=10_000,
        );
        let buffer = self.optional(raw.buffer, 0, |node| {
            let bytes = scalar::size(node, &(0..=1 << 20))?;
            Ok(usize::try_from(bytes).unwrap_or(usize::MAX))
        });
        Some(Some(RetryConfig {
            attempts: attempts?,
            on: on?,
            per_try_timeout: per_try?,
            budget_percent: percent?,
            min_per_second: min?,
            buffer: buffer?,
        }))
    }

    fn retry_on(&mut self, raw: Option<&Section<Vec<Field>>>) -> Option<Vec<RetryOn>> {
        let Some(Section(at, fields)) = raw else {
            return Some(default::RETRY_ON.to_vec());
        };
        self.not_empty(*at, fields, "condition");
        self.distinct(fields, "condition", |node| {
            scalar::choice(node, &CONDITIONS)
        })
        .filter(|conditions| !conditions.is_empty())
    }

    fn number(
        &mut self,
        field: Option<Field>,
        default: u32,
        range: RangeInclusive<u64>,
    ) -> Option<u32> {
        self.optional(field, default, |node| {
            let number = scalar::integer(node, &range)?;
            Ok(u32::try_from(number).unwrap_or(u32::MAX))
        })
    }

    fn limit(&mut self, field: Option<Field>, least: u64) -> Option<Option<usize>> {
        self.maybe(field, |node| {
            let number = scalar::integer(node, &(least..=1_000_000))?;
            Ok(usize::try_from(number).unwrap_or(usize::MAX))
        })
    }
}

/// A path to ask for, as it goes into a request.
fn check_path(node: &Node) -> Result<String, Wrong> {
    let expected = "a path, such as `/healthz`";
    let written = scalar::text(node, expected)?;
    match written.parse::<http::uri::PathAndQuery>() {
        Ok(path) if written.starts_with('/') => Ok(path.to_string()),
        _ => Err(Wrong::new(format!("`{}` is not a path", quoted(written)))
            .help(format!("expected {expected}"))),
    }
}
