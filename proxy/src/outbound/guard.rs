//! Which addresses a caller may have us connect to: asked after a name was resolved, and once,
//! so that the address that was checked is the one that is connected to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::config::AllowedAddresses;

/// What an `original` upstream may be.
#[derive(Debug, Clone)]
pub(crate) struct Guard {
    allowed: AllowedAddresses,
    own: Own,
}

/// Where this sidecar listens itself, admin and probes included. A reload may change it, for all
/// who have it. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Own(Arc<ArcSwap<Vec<SocketAddr>>>);

impl Own {
    /// It listens at these addresses and at no others.
    pub(crate) fn set(&self, addresses: Vec<SocketAddr>) {
        self.0.store(Arc::new(addresses));
    }

    /// It listens at these as well.
    pub(crate) fn add(&self, addresses: impl IntoIterator<Item = SocketAddr>) {
        let mut all = Vec::clone(&self.0.load());
        all.extend(addresses);
        self.set(all);
    }

    /// Whether connecting to `address` reaches one of the listeners.
    pub(crate) fn has(&self, address: SocketAddr) -> bool {
        let ip = address.ip().to_canonical();
        self.0
            .load()
            .iter()
            .filter(|listener| listener.port() == address.port())
            .any(|listener| match listener.ip().to_canonical() {
                listening if listening.is_unspecified() => is_local(ip),
                listening => listening == ip,
            })
    }
}

/// An address that may be connected to. Only a [`Guard`] makes one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Checked(SocketAddr);

/// Why an address may not be connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    /// One of the sidecar's own listeners.
    #[error("{0} is a listener of this sidecar")]
    Own(SocketAddr),
    /// An address of a kind that was not allowed.
    #[error("{0} is a {1} address, which `allow_addresses` does not name")]
    NotAllowed(SocketAddr, &'static str),
    /// Not the address of a host.
    #[error("{0} is no address of a host")]
    NoHost(SocketAddr),
}

impl Checked {
    /// The address.
    pub(crate) fn address(self) -> SocketAddr {
        self.0
    }
}

impl Guard {
    /// A guard of a sidecar that listens at `own`.
    pub(crate) fn new(allowed: AllowedAddresses, own: Own) -> Self {
        Self { allowed, own }
    }

    /// Checks one address.
    pub(crate) fn check(&self, address: SocketAddr) -> Result<Checked, Refused> {
        let not_allowed = |kind| Err(Refused::NotAllowed(address, kind));
        match kind(address.ip()) {
            // SECURITY: no key allows these; the kernel would take some of them for loopback.
            Kind::NoHost => return Err(Refused::NoHost(address)),
            Kind::Loopback if !self.allowed.loopback => return not_allowed("loopback"),
            Kind::LinkLocal if !self.allowed.link_local => return not_allowed("link_local"),
            Kind::Private if !self.allowed.private => return not_allowed("private"),
            _ => {}
        }
        match self.own.has(address) {
            true => Err(Refused::Own(address)),
            false => Ok(Checked(address)),
        }
    }
}

/// Whether an address is this machine's: the kernel calls such from itself. Sends nothing.
fn is_local(ip: IpAddr) -> bool {
    let from = match ip {
        IpAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::from(Ipv6Addr::UNSPECIFIED),
    };
    let chosen = UdpSocket::bind((from, 0)).and_then(|socket| {
        socket.connect((ip, 9))?;
        socket.local_addr()
    });
    ip.is_loopback() || chosen.is_ok_and(|chosen| chosen.ip() == ip)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Public,
    Loopback,
    LinkLocal,
    Private,
    NoHost,
}

fn kind(ip: IpAddr) -> Kind {
    match ip.to_canonical() {
        IpAddr::V4(ip) => kind_v4(ip),
        IpAddr::V6(ip) => kind_v6(ip),
    }
}

/// By the registry of special-purpose addresses (RFC 6890).
fn kind_v4(ip: Ipv4Addr) -> Kind {
    match ip.octets() {
        [127, ..] => Kind::Loopback,
        [169, 254, ..] => Kind::LinkLocal,
        [10, ..] | [192, 168, ..] | [172, 16..=31, ..] | [100, 64..=127, ..] => Kind::Private,
        // This network, protocol assignments, benchmarks, multicast, reserved, broadcast.
        [0, ..] | [192, 0, 0, _] | [198, 18..=19, ..] | [224..=255, ..] => Kind::NoHost,
        _ => Kind::Public,
    }
}

fn kind_v6(ip: Ipv6Addr) -> Kind {
    let [a, b, c, d, e, f, g, h] = ip.segments();
    match (a, b) {
        _ if ip == Ipv6Addr::LOCALHOST => Kind::Loopback,
        (0xfe80..=0xfebf, _) => Kind::LinkLocal,
        (0xfc00..=0xfdff, _) | (0xfec0..=0xfeff, _) => Kind::Private,
        // Translated to the IPv4 address that it ends in (RFC 6052), or tunnelled to the one it
        // begins with (RFC 3056): a kind of that one.
        (0x64, 0xff9b) if (c, d, e, f) == (0, 0, 0, 0) => kind_v4(embedded(g, h)),
        (0x2002, _) => kind_v4(embedded(b, c)),
        // IPv4-compatible and unspecified, translation of one's own, Teredo, multicast.
        (0, 0) | (0x64, 0xff9b) | (0x2001, 0) | (0xff00.., _) => Kind::NoHost,
        _ => Kind::Public,
    }
}

fn embedded(high: u16, low: u16) -> Ipv4Addr {
    let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
    Ipv4Addr::new(a, b, c, d)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard(allowed: AllowedAddresses) -> Guard {
        let own = Own::default();
        own.add(["0.0.0.0:8443", "127.0.0.1:15001"].map(|own| own.parse().unwrap()));
        Guard::new(allowed, own)
    }

    fn all() -> AllowedAddresses {
        AllowedAddresses {
            loopback: true,
            link_local: true,
            private: true,
        }
    }

    #[test]
    fn only_public_addresses_are_connected_to_unless_more_is_allowed() {
        let guard = guard(AllowedAddresses::default());
        for public in [
            "93.184.215.14:443",
            "[2606:2800:21f:cb07::1]:443",
            "[64:ff9b::101:101]:1",
        ] {
            assert!(guard.check(public.parse().unwrap()).is_ok(), "{public}");
        }
        for refused in [
            "127.0.0.1:80",
            "127.9.9.9:80",
            "[::1]:80",
            "[::ffff:127.0.0.1]:80",
            "169.254.169.254:80",
            "[::ffff:169.254.169.254]:80",
            "[64:ff9b::a9fe:a9fe]:80",
            "[2002:a9fe:a9fe::]:80",
            "[fe80::1]:80",
            "[fd00:ec2::254]:80",
            "10.0.0.1:80",
            "172.31.0.1:80",
            "192.168.0.1:80",
            "100.64.0.1:80",
        ] {
            assert!(guard.check(refused.parse().unwrap()).is_err(), "{refused}");
        }
    }

    #[test]
    fn what_is_no_hosts_address_is_never_connected_to() {
        let guard = guard(all());
        for refused in [
            "0.0.0.0:80",
            "0.1.2.3:80",
            "[::]:80",
            "[::ffff:0.0.0.0]:80",
            "[::7f00:1]:80",
            "224.0.0.1:80",
            "255.255.255.255:80",
            "[ff02::1]:80",
            "[64:ff9b:1::1]:80",
            "[2001:0:1::1]:80",
        ] {
            let address = refused.parse().unwrap();
            assert_eq!(guard.check(address).unwrap_err(), Refused::NoHost(address));
        }
        assert!(guard.check("169.254.169.254:80".parse().unwrap()).is_ok());
    }

    #[test]
    fn the_sidecars_own_listeners_are_never_connected_to() {
        let guard = guard(all());
        for own in [
            "127.0.0.1:15001",
            "[::ffff:127.0.0.1]:15001",
            "127.0.0.1:8443",
            "127.0.0.2:8443",
        ] {
            let address = own.parse().unwrap();
            assert_eq!(guard.check(address).unwrap_err(), Refused::Own(address));
        }
        for other in ["127.0.0.2:15001", "127.0.0.1:8444", "93.184.215.14:8443"] {
            assert!(guard.check(other.parse().unwrap()).is_ok(), "{other}");
        }
    }
}
