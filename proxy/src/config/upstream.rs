//! Checks the `upstream` of a listener or a destination: where it is, what it speaks, and how it
//! proves to be the one that is meant.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::Path;
use std::time::Duration;

use super::defaults as default;
use super::problem::Wrong;
use super::raw::{Field, RawUpstream, RawUpstreamTls, Section};
use super::tree::{Node, NodeId};
use super::validate::{HOUR, Validator, content};
use super::{Address, HostPort, UpstreamConfig, UpstreamProtocol, UpstreamTls, scalar};

const MILLISECOND: Duration = Duration::from_millis(1);
const CONNECT_TIME: RangeInclusive<Duration> = MILLISECOND..=Duration::from_secs(300);
const UPSTREAM_TIME: RangeInclusive<Duration> = MILLISECOND..=HOUR;
const REFRESH: RangeInclusive<Duration> = Duration::from_secs(1)..=HOUR;

const PROTOCOLS: [(&str, UpstreamProtocol); 2] = [
    ("http1", UpstreamProtocol::Http1),
    ("http2", UpstreamProtocol::Http2),
];

impl Validator<'_> {
    pub(super) fn upstream(
        &mut self,
        raw: &Section<RawUpstream>,
        listen: Option<SocketAddr>,
    ) -> Option<UpstreamConfig> {
        let Section(at, raw) = raw;
        let addresses = self.addresses(*at, raw, listen);
        let protocol = self.optional(raw.protocol, default::PROTOCOL, |node| {
            scalar::choice(node, &PROTOCOLS)
        });
        let tls = self.upstream_tls(raw.tls.as_ref());
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
        let refresh = self.time(raw.dns_refresh, default::DNS_REFRESH, &REFRESH);
        let balance = self.balance(raw.balance);
        let outlier = self.outlier(raw.outlier.as_ref().map(content));
        let health_check = self.health_check(raw.health_check.as_ref());
        let circuit = self.circuit(raw.circuit.as_ref().map(content));
        let retries = self.retries(raw.retries.as_ref().map(content));
        let keepalive = self.keepalive(raw.keepalive, protocol);
        let header_bytes = self.optional(
            raw.max_response_header_bytes,
            default::MAX_RESPONSE_HEADER_BYTES,
            |node| {
                let bytes = scalar::size(node, &(8 << 10..=1 << 20))?;
                Ok(usize::try_from(bytes).unwrap_or(usize::MAX))
            },
        );
        let headers = self.count(
            raw.max_response_headers,
            default::MAX_RESPONSE_HEADERS,
            1..=1_000,
        );
        Some(UpstreamConfig {
            addresses: addresses?,
            protocol: protocol?,
            tls: tls?,
            connect_timeout: connect?,
            response_timeout: response?,
            pool_idle_timeout: idle?,
            pool_max_idle: max_idle?,
            dns_refresh: refresh?,
            balance: balance?,
            outlier: outlier?,
            health_check: health_check?,
            circuit: circuit?,
            retries: retries?,
            keepalive: keepalive?,
            max_response_header_bytes: header_bytes?,
            max_response_headers: headers?,
        })
    }

    /// One `address`, or a list of `addresses`.
    fn addresses(
        &mut self,
        at: NodeId,
        raw: &RawUpstream,
        listen: Option<SocketAddr>,
    ) -> Option<Vec<Address>> {
        let base = self.base;
        let read = |node: &Node| address(node, listen, base);
        match (raw.address, &raw.addresses) {
            (_, None) => self
                .required(at, "address", raw.address, read)
                .map(|address| vec![address]),
            (None, Some(Section(at, fields))) => {
                self.not_empty(*at, fields, "address");
                self.distinct(fields, "address", read)
                    .filter(|addresses| !addresses.is_empty())
            }
            (Some(field), Some(_)) => {
                let wrong = Wrong::new("the upstream has both `address` and `addresses`");
                self.note(Some(field), wrong.help("keep one of the two"));
                None
            }
        }
    }

    /// PING is a frame of HTTP/2: the key would do nothing for another protocol.
    fn keepalive(
        &mut self,
        field: Option<Field>,
        protocol: Option<UpstreamProtocol>,
    ) -> Option<Option<Duration>> {
        let keepalive = self.maybe(field, |node| scalar::duration(node, &REFRESH))?;
        if keepalive.is_some() && protocol == Some(UpstreamProtocol::Http1) {
            let wrong = Wrong::new("only HTTP/2 connections can be pinged");
            self.note(
                field,
                wrong.help("set `protocol: http2`, or leave `keepalive` out"),
            );
            return None;
        }
        Some(keepalive)
    }

    fn upstream_tls(&mut self, raw: Option<&Section<RawUpstreamTls>>) -> Option<UpstreamTls> {
        let Some(Section(at, raw)) = raw else {
            return Some(UpstreamTls::Off);
        };
        self.required(*at, "peer", raw.peer, scalar::spiffe_id_pattern)
            .map(UpstreamTls::Mutual)
    }
}

/// An address that does not lead back to the listener.
fn address(node: &Node, listen: Option<SocketAddr>, base: &Path) -> Result<Address, Wrong> {
    let address = scalar::address(node, base)?;
    match (&address, listen) {
        (Address::Tcp(tcp), Some(listen)) if reaches(tcp, listen) => Err(Wrong::new(format!(
            "`{address}` is the listener's own address, so calls would go in circles"
        ))
        .help("name the address that the workload listens on")),
        _ => Ok(address),
    }
}

/// Whether connecting to `address` reaches the listener bound to `listen`.
fn reaches(address: &HostPort, listen: SocketAddr) -> bool {
    let loopback = address.host == "localhost";
    let reached = match address.host.parse::<std::net::IpAddr>() {
        Ok(ip) => ip == listen.ip() || (listen.ip().is_unspecified() && ip.is_loopback()),
        Err(_) => loopback && (listen.ip().is_loopback() || listen.ip().is_unspecified()),
    };
    address.port == listen.port() && reached
}
