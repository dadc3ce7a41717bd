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
use super::{
    Address, AllowedAddresses, HostPort, UpstreamConfig, UpstreamProtocol, UpstreamTls, WebRoots,
    scalar,
};

const MILLISECOND: Duration = Duration::from_millis(1);
const CONNECT_TIME: RangeInclusive<Duration> = MILLISECOND..=Duration::from_secs(300);
const UPSTREAM_TIME: RangeInclusive<Duration> = MILLISECOND..=HOUR;
const REFRESH: RangeInclusive<Duration> = Duration::from_secs(1)..=HOUR;

/// A kind of address that an `original` upstream may be allowed to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    Loopback,
    LinkLocal,
    Private,
}

const REACHES: [(&str, Reach); 3] = [
    ("loopback", Reach::Loopback),
    ("link_local", Reach::LinkLocal),
    ("private", Reach::Private),
];

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
        let original = self.original(raw);
        let addresses = match original {
            Some(None) => self.addresses(*at, raw, listen),
            // Found out when it is called; or a mistake that has been told.
            _ => Some(Vec::new()),
        };
        let protocol = self.optional(raw.protocol, default::PROTOCOL, |node| {
            scalar::choice(node, &PROTOCOLS)
        });
        let tls = self.upstream_tls(raw.tls.as_ref());
        let server_name = raw.tls.as_ref().and_then(|section| section.1.server_name);
        let server_name = self.maybe(server_name, scalar::server_name);
        self.no_tls_on_a_unix_socket(raw, addresses.as_deref());
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
            server_name: server_name?,
            original: original?,
        })
    }

    /// SECURITY: a unix socket is reached without TLS, so what TLS would prove must not be asked.
    fn no_tls_on_a_unix_socket(&mut self, raw: &RawUpstream, addresses: Option<&[Address]>) {
        let Some(Section(at, _)) = &raw.tls else {
            return;
        };
        let mut addresses = addresses.into_iter().flatten();
        if addresses.any(|address| matches!(address, Address::Unix(_))) {
            let wrong = Wrong::new("a unix socket is reached without TLS");
            let help = "leave `tls` out, or name a host and a port";
            self.note(Some(Field(*at)), wrong.help(help));
        }
    }

    /// Which addresses an `original` upstream may have; nothing for one with addresses of its own.
    fn original(&mut self, raw: &RawUpstream) -> Option<Option<AllowedAddresses>> {
        let is_original = self.optional(raw.original, false, scalar::boolean)?;
        let allowed = match &raw.allow_addresses {
            Some(Section(_, fields)) => self.distinct(fields, "kind of address", |node| {
                scalar::choice(node, &REACHES)
            })?,
            None => Vec::new(),
        };
        if !is_original {
            let Some(Section(at, _)) = &raw.allow_addresses else {
                return Some(None);
            };
            let wrong = Wrong::new("this is about the addresses of an `original` upstream");
            self.note(
                Some(Field(*at)),
                wrong.help("leave it out, or add `original: true`"),
            );
            return None;
        }
        let addresses = raw.addresses.as_ref().map(|section| Field(section.0));
        if let Some(field) = raw.address.or(addresses) {
            let wrong = Wrong::new("the upstream is `original` and has an address");
            self.note(Some(field), wrong.help("keep one of the two"));
            return None;
        }
        if let Some(Section(at, _)) = &raw.health_check {
            let wrong = Wrong::new("an `original` upstream has no address that could be asked");
            self.note(Some(Field(*at)), wrong.help("leave it out"));
            return None;
        }
        Some(Some(AllowedAddresses {
            loopback: allowed.contains(&Reach::Loopback),
            link_local: allowed.contains(&Reach::LinkLocal),
            private: allowed.contains(&Reach::Private),
        }))
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
        match (raw.peer, raw.roots) {
            (_, None) => self
                .required(*at, "peer", raw.peer, scalar::spiffe_id_pattern)
                .map(UpstreamTls::Mutual),
            (None, Some(_)) => {
                let base = self.base;
                self.maybe(raw.roots, |node| web_roots(node, base))?
                    .map(UpstreamTls::Web)
            }
            (Some(_), Some(field)) => {
                let wrong = Wrong::new("the upstream's TLS has both `peer` and `roots`");
                let help = "keep `peer` for a workload, or `roots` for a host of the web";
                self.note(Some(field), wrong.help(help));
                None
            }
        }
    }
}

/// `system`, or a PEM file.
fn web_roots(node: &Node, base: &Path) -> Result<WebRoots, Wrong> {
    match scalar::text(node, "`system`, or the path of a PEM file")? {
        "system" => Ok(WebRoots::System),
        _ => scalar::path(node, base).map(WebRoots::File),
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
pub(super) fn reaches(address: &HostPort, listen: SocketAddr) -> bool {
    let loopback = address.host == "localhost";
    let reached = match address.host.parse::<std::net::IpAddr>() {
        Ok(ip) => ip == listen.ip() || (listen.ip().is_unspecified() && ip.is_loopback()),
        Err(_) => loopback && (listen.ip().is_loopback() || listen.ip().is_unspecified()),
    };
    address.port == listen.port() && reached
}
