//! Checks the `limits` of a listener.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::defaults as default;
use super::raw::{Field, RawLimits};
use super::validate::{HOUR, Validator};
use super::{LimitsConfig, scalar};

pub(super) const PEER_TIME: RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_secs(300);
const IDLE_TIME: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(86_400);
const BODY_TIME: RangeInclusive<Duration> = Duration::from_secs(1)..=HOUR;
const CALL_TIME: RangeInclusive<Duration> =
    Duration::from_millis(100)..=Duration::from_secs(86_400);
const AGE: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(7 * 86_400);
const GRACE: RangeInclusive<Duration> = Duration::ZERO..=HOUR;

impl Validator<'_> {
    pub(super) fn limits(&mut self, raw: Option<&RawLimits>) -> Option<LimitsConfig> {
        let absent = RawLimits::default();
        let raw = raw.unwrap_or(&absent);
        let capacity = self.capacity(raw);
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
        let body = self.time(raw.body_timeout, default::BODY_TIMEOUT, &BODY_TIME);
        let request = self.time_or_off(raw.request_timeout, &CALL_TIME);
        let age = self.time_or_off(raw.connection_age, &AGE);
        let connection_grace = self.time(raw.connection_grace, default::CONNECTION_GRACE, &GRACE);
        let capacity = capacity?;
        Some(LimitsConfig {
            max_header_bytes: header_bytes?,
            header_timeout: header?,
            handshake_timeout: handshake?,
            max_concurrent_streams: streams?,
            idle_timeout: idle?,
            trust_grace: grace?,
            tcp_idle_timeout: tcp_idle?,
            detect_timeout: detect?,
            body_timeout: body?,
            request_timeout: request?,
            connection_age: age?,
            connection_grace: connection_grace?,
            max_connections: capacity.connections,
            max_handshakes: capacity.handshakes,
            max_requests: capacity.requests,
            max_requests_per_peer: capacity.requests_per_peer,
            max_connections_per_peer: capacity.connections_per_peer,
        })
    }

    fn capacity(&mut self, raw: &RawLimits) -> Option<Capacity> {
        let connections = self.count(raw.max_connections, default::MAX_CONNECTIONS, 1..=1_000_000);
        let handshakes = self.count(raw.max_handshakes, default::MAX_HANDSHAKES, 1..=100_000);
        let requests = self.count(raw.max_requests, default::MAX_REQUESTS, 1..=1_000_000);
        let connections_per_peer = self.share(raw.max_connections_per_peer, connections);
        let requests_per_peer = self.share(raw.max_requests_per_peer, requests);
        Some(Capacity {
            connections: connections?,
            handshakes: handshakes?,
            requests: requests?,
            connections_per_peer: connections_per_peer?,
            requests_per_peer: requests_per_peer?,
        })
    }

    /// What one peer may hold of `all`: never more than there is.
    fn share(&mut self, field: Option<Field>, all: Option<usize>) -> Option<usize> {
        // The limit that it is a share of was refused, and told; any number will do here.
        let all = all.unwrap_or(1_000_000);
        let most = u64::try_from(all).unwrap_or(u64::MAX);
        self.count(field, default::share_of_one_peer(all), 1..=most)
    }

    fn time_or_off(
        &mut self,
        field: Option<Field>,
        range: &RangeInclusive<Duration>,
    ) -> Option<Option<Duration>> {
        self.optional(field, None, |node| {
            if scalar::is_off(node) {
                return Ok(None);
            }
            scalar::duration(node, range)
                .map(Some)
                .map_err(|wrong| wrong.or("`off`"))
        })
    }
}

/// How much may be held at once.
struct Capacity {
    connections: usize,
    handshakes: usize,
    requests: usize,
    connections_per_peer: usize,
    requests_per_peer: usize,
}
