//! What holds where the file says nothing.
//!
//! Only comfort and capacity have defaults; identity, policies and listeners never do.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::time::Duration;

use tracing::Level;

use super::{
    Address, LimitsConfig, ListenerProtocol, LogFormat, UpstreamConfig, UpstreamProtocol,
    UpstreamTls,
};

pub(super) const ADMIN_LISTEN: SocketAddr =
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 15_000);
pub(super) const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);
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

pub(super) const MAX_CONNECTIONS: usize = 10_000;
pub(super) const MAX_HEADER_BYTES: usize = 32 << 10;
pub(super) const HEADER_TIMEOUT: Duration = Duration::from_secs(60);
pub(super) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
pub(super) const MAX_STREAMS: u32 = 128;
pub(super) const IDLE_TIMEOUT: Duration = Duration::from_secs(300);
pub(super) const TRUST_GRACE: Duration = Duration::from_secs(5);

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
            server_name: None,
            original: None,
        }
    }
}
