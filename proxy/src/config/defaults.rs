//! What holds where the file says nothing.
//!
//! Only comfort and capacity have defaults; identity, policies and listeners never do.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::time::Duration;

use tracing::Level;

use super::{
    Address, Balance, CircuitConfig, LimitsConfig, ListenerProtocol, LogFormat, OutlierConfig,
    RetryOn, UpstreamConfig, UpstreamProtocol, UpstreamTls,
};

pub(super) const ADMIN_LISTEN: SocketAddr =
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 15_000);
pub(super) const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);
pub(super) const DRAIN_DELAY: Duration = Duration::ZERO;
pub(super) const LOG_LEVEL: Level = Level::INFO;
pub(super) const LOG_FORMAT: LogFormat = LogFormat::Json;
pub(super) const WORKERS: NonZeroUsize = NonZeroUsize::MIN;

pub(super) const FIRST_SVID_TIMEOUT: Duration = Duration::from_secs(30);
pub(super) const FETCH_TIMEOUT: Duration = Duration::from_secs(30);

pub(super) const LISTENER_PROTOCOL: ListenerProtocol = ListenerProtocol::Http;

pub(super) const PROTOCOL: UpstreamProtocol = UpstreamProtocol::Http1;
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
pub(super) const RESPONSE_TIMEOUT: Duration = Duration::from_secs(60);
pub(super) const POOL_IDLE_TIMEOUT: Duration = Duration::from_secs(60);
pub(super) const POOL_MAX_IDLE: usize = 64;
pub(super) const DNS_REFRESH: Duration = Duration::from_secs(30);
pub(super) const BALANCE: Balance = Balance::LeastRequests;
pub(super) const MAX_RESPONSE_HEADER_BYTES: usize = 64 << 10;
pub(super) const MAX_RESPONSE_HEADERS: usize = 100;

pub(super) const CONSECUTIVE_FAILURES: u32 = 5;
pub(super) const EJECTION_TIME: Duration = Duration::from_secs(30);
pub(super) const MAX_EJECTED_PERCENT: u32 = 50;

pub(super) const CHECK_INTERVAL: Duration = Duration::from_secs(10);
pub(super) const CHECK_TIMEOUT: Duration = Duration::from_secs(2);
pub(super) const UNHEALTHY_AFTER: u32 = 3;
pub(super) const HEALTHY_AFTER: u32 = 2;

pub(super) const MAX_PENDING: usize = 1024;

pub(super) const ATTEMPTS: u32 = 2;
pub(super) const RETRY_ON: [RetryOn; 3] = [RetryOn::Connect, RetryOn::Reset, RetryOn::Status(503)];
pub(super) const BUDGET_PERCENT: u32 = 20;
pub(super) const MIN_RETRIES_PER_SECOND: u32 = 10;

pub(super) const MAX_CONNECTIONS: usize = 10_000;
pub(super) const MAX_HEADER_BYTES: usize = 32 << 10;
pub(super) const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
pub(super) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
pub(super) const MAX_STREAMS: u32 = 128;
pub(super) const IDLE_TIMEOUT: Duration = Duration::from_secs(300);
pub(super) const TRUST_GRACE: Duration = Duration::from_secs(5);
pub(super) const TCP_IDLE_TIMEOUT: Duration = Duration::from_secs(3_600);
pub(super) const DETECT_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) const MAX_PRINCIPALS: usize = 100_000;
pub(super) const STORE_PREFIX: &str = "wayleave:";
pub(super) const STORE_TIMEOUT: Duration = Duration::from_secs(2);
pub(super) const RECONCILE_EVERY: Duration = Duration::from_secs(1);

pub(super) const PROBE_TIMEOUT: Duration = Duration::from_secs(5);
pub(super) const BODY_TIMEOUT: Duration = Duration::from_secs(60);
pub(super) const CONNECTION_GRACE: Duration = Duration::from_secs(30);
pub(super) const MAX_HANDSHAKES: usize = 256;
pub(super) const MAX_REQUESTS: usize = 10_000;

pub(super) const JWKS_REFRESH: Duration = Duration::from_secs(600);
/// A transmitter keeps what it could not deliver; what is refused as too old is lost.
pub(super) const SET_MAX_AGE: Duration = Duration::from_secs(7 * 86_400);
pub(super) const CLOCK_SKEW: Duration = Duration::from_secs(60);
pub(super) const POLL_INTERVAL: Duration = Duration::from_secs(10);
pub(super) const POLL_TIMEOUT: Duration = Duration::from_secs(60);
pub(super) const POLL_EVENTS: usize = 32;

/// What one principal may hold where the file says nothing: half, so that it is never all.
pub(super) fn share_of_one_peer(all: usize) -> usize {
    all.div_ceil(2)
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            max_connections: MAX_CONNECTIONS,
            max_header_bytes: MAX_HEADER_BYTES,
            header_timeout: HEADER_TIMEOUT,
            handshake_timeout: HANDSHAKE_TIMEOUT,
            max_concurrent_streams: MAX_STREAMS,
            idle_timeout: IDLE_TIMEOUT,
            trust_grace: TRUST_GRACE,
            tcp_idle_timeout: TCP_IDLE_TIMEOUT,
            detect_timeout: DETECT_TIMEOUT,
            body_timeout: BODY_TIMEOUT,
            request_timeout: None,
            connection_age: None,
            connection_grace: CONNECTION_GRACE,
            max_handshakes: MAX_HANDSHAKES,
            max_requests: MAX_REQUESTS,
            max_requests_per_peer: share_of_one_peer(MAX_REQUESTS),
            max_connections_per_peer: share_of_one_peer(MAX_CONNECTIONS),
        }
    }
}

impl UpstreamConfig {
    /// The upstream at `address`, plain, with the default protocol, times and pool.
    #[must_use]
    pub fn at(address: Address) -> Self {
        Self {
            addresses: vec![address],
            protocol: PROTOCOL,
            tls: UpstreamTls::Off,
            connect_timeout: CONNECT_TIMEOUT,
            response_timeout: RESPONSE_TIMEOUT,
            pool_idle_timeout: POOL_IDLE_TIMEOUT,
            pool_max_idle: POOL_MAX_IDLE,
            dns_refresh: DNS_REFRESH,
            balance: BALANCE,
            outlier: OutlierConfig {
                consecutive_failures: CONSECUTIVE_FAILURES,
                ejection_time: EJECTION_TIME,
                max_ejected_percent: MAX_EJECTED_PERCENT,
            },
            health_check: None,
            circuit: CircuitConfig::default(),
            retries: None,
            keepalive: None,
            max_response_header_bytes: MAX_RESPONSE_HEADER_BYTES,
            max_response_headers: MAX_RESPONSE_HEADERS,
            server_name: None,
            original: None,
        }
    }
}
