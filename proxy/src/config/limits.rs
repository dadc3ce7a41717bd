//! Checks the `limits` of a listener.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::defaults as default;
use super::raw::RawLimits;
use super::validate::{HOUR, Validator};
use super::{LimitsConfig, scalar};

pub(super) const PEER_TIME: RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_secs(300);
const IDLE_TIME: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(86_400);
const GRACE: RangeInclusive<Duration> = Duration::ZERO..=HOUR;

impl Validator<'_> {
    pub(super) fn limits(&mut self, raw: Option<&RawLimits>) -> Option<LimitsConfig> {
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
        let grace = self.time(raw.trust_grace, default::TRUST_GRACE, &GRACE);
        let tcp_idle = self.time(raw.tcp_idle_timeout, default::TCP_IDLE_TIMEOUT, &IDLE_TIME);
        let detect = self.time(raw.detect_timeout, default::DETECT_TIMEOUT, &PEER_TIME);
        Some(LimitsConfig {
            max_connections: connections?,
            max_header_bytes: header_bytes?,
            header_timeout: header?,
            handshake_timeout: handshake?,
            max_concurrent_streams: streams?,
            idle_timeout: idle?,
            trust_grace: grace?,
            tcp_idle_timeout: tcp_idle?,
            detect_timeout: detect?,
        })
    }
}
