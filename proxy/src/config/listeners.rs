//! Checks the listeners, inbound and outbound, and that no two of them want the same name or port.

use std::net::SocketAddr;
use std::sync::Arc;

use super::defaults as default;
use super::destinations::outbound_sections;
use super::problem::Wrong;
use super::raw::{Field, RawConfig, RawInbound, RawOutbound, RawTls, Section};
use super::tree::{NodeId, Tree};
use super::validate::{Validator, content};
use super::{
    AdminConfig, DestinationConfig, InboundConfig, InboundMode, ListenerProtocol, OutboundConfig,
    OutboundKind, TlsConfig, TlsMode, TrustDomain, scalar,
};

const MODES: [(&str, InboundMode); 2] = [
    ("enforce", InboundMode::Enforce),
    ("audit", InboundMode::Audit),
];
const PROTOCOLS: [(&str, ListenerProtocol); 3] = [
    ("http", ListenerProtocol::Http),
    ("tcp", ListenerProtocol::Tcp),
    ("auto", ListenerProtocol::Auto),
];
const TLS_MODES: [(&str, TlsMode); 2] = [
    ("strict", TlsMode::Strict),
    ("permissive", TlsMode::Permissive),
];

/// The kinds of outbound listeners, by their names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Explicit,
    ForwardProxy,
    Transparent,
}

const KINDS: [(&str, Kind); 3] = [
    ("explicit", Kind::Explicit),
    ("forward_proxy", Kind::ForwardProxy),
    ("transparent", Kind::Transparent),
];

/// Every listener of a file, and where those outbound lead.
pub(super) struct Listeners {
    pub(super) inbound: Vec<InboundConfig>,
    pub(super) outbound: Vec<OutboundConfig>,
    pub(super) destinations: Vec<DestinationConfig>,
}

/// A listener by what must be its own, and where that is written.
struct Claim<'a> {
    name: &'a str,
    listen: SocketAddr,
    name_field: Option<Field>,
    listen_field: Option<Field>,
}

impl Validator<'_> {
    /// All listeners; those that are good are held against each other even where others are not.
    pub(super) fn listeners(&mut self, raw: &RawConfig) -> Option<Listeners> {
        let raw_outbound = outbound_sections(raw);
        let section = match (&raw.inbound, raw_outbound) {
            (None, [_, ..]) => None,
            (inbound, _) => self.present(Tree::ROOT, "inbound", inbound.as_ref()),
        };
        let raw_inbound: &[Section<RawInbound>] = section.map_or(&[], |section| &section.1);
        if let Some(Section(at, sections)) = section {
            self.not_empty(*at, sections, "listener");
        }
        let inbound: Vec<_> = raw_inbound.iter().map(|raw| self.inbound(raw)).collect();
        let destinations = self.destinations(raw);
        let outbound: Vec<_> = raw_outbound
            .iter()
            .map(|raw| self.outbound(raw, &destinations))
            .collect();
        let mut claims: Vec<Claim<'_>> = Vec::new();
        for (Section(_, raw), config) in raw_inbound.iter().zip(&inbound) {
            claims.extend(config.as_ref().map(|config| Claim {
                name: &config.name,
                listen: config.listen,
                name_field: raw.name,
                listen_field: raw.listen,
            }));
        }
        for (Section(_, raw), config) in raw_outbound.iter().zip(&outbound) {
            claims.extend(config.as_ref().map(|config| Claim {
                name: &config.name,
                listen: config.listen,
                name_field: raw.name,
                listen_field: raw.listen,
            }));
        }
        self.listeners_differ(&claims);
        if section.is_none() && raw_outbound.is_empty() {
            return None;
        }
        let destinations: Vec<_> = destinations.into_iter().collect::<Option<_>>()?;
        let outbound: Vec<_> = outbound.into_iter().collect::<Option<_>>()?;
        self.destinations_are_told_apart(raw, &destinations, &outbound);
        Some(Listeners {
            inbound: inbound.into_iter().collect::<Option<_>>()?,
            outbound,
            destinations,
        })
    }

    fn inbound(&mut self, raw: &Section<RawInbound>) -> Option<InboundConfig> {
        let Section(at, raw) = raw;
        let name = self.required(*at, "name", raw.name, scalar::listener_name);
        let listen = self.required(*at, "listen", raw.listen, scalar::listen);
        let service = self.required(*at, "service", raw.service, scalar::service_name);
        let hosts = self.hosts(raw.hosts.as_ref());
        let upstream = self.present(*at, "upstream", raw.upstream.as_ref());
        let upstream = upstream.and_then(|section| {
            let upstream = self.upstream(section, listen)?;
            if upstream.original.is_some() {
                let wrong = Wrong::new("only a destination can be where the caller says");
                let help = "name the address that the workload listens on";
                self.note(section.1.original, wrong.help(help));
                return None;
            }
            Some(upstream)
        });
        let limits = self.limits(raw.limits.as_ref().map(content));
        let show_reason = self.optional(raw.show_reason, false, scalar::boolean);
        let protocol = self.listener_protocol(raw.protocol);
        let mode = self.mode(raw.mode);
        let tls = self.tls(raw.tls.as_ref().map(content));
        let trust_domains = self.trust_domains(raw.trust_domains.as_ref());
        if let Some(protocol) = protocol {
            self.inbound_keys_fit(raw, protocol);
        }
        Some(InboundConfig {
            name: name?,
            listen: listen?,
            service: service?,
            hosts: hosts?,
            protocol: protocol?,
            upstream: upstream?,
            limits: limits?,
            mode: mode?,
            show_reason: show_reason?,
            tls: tls?,
            trust_domains: trust_domains?,
        })
    }

    fn outbound(
        &mut self,
        raw: &Section<RawOutbound>,
        destinations: &[Option<DestinationConfig>],
    ) -> Option<OutboundConfig> {
        let Section(at, raw) = raw;
        let name = self.required(*at, "name", raw.name, scalar::listener_name);
        let listen = self.required(*at, "listen", raw.listen, |node| {
            let listen = scalar::listen(node)?;
            // SECURITY: whoever reaches an outbound listener calls in the workload's name.
            if listen.ip().is_loopback() {
                return Ok(listen);
            }
            Err(Wrong::new(format!(
                "`{listen}` is reachable from other machines, whose calls would go out in this \
                 workload's name"
            ))
            .help("use a loopback address such as `127.0.0.1:9001`"))
        });
        let kind = self.outbound_kind(*at, raw, destinations);
        let limits = self.limits(raw.limits.as_ref().map(content));
        let show_reason = self.optional(raw.show_reason, false, scalar::boolean);
        let protocol = self.listener_protocol(raw.protocol);
        let mode = self.mode(raw.mode);
        if let (Some(kind), Some(protocol)) = (&kind, protocol) {
            self.outbound_keys_fit(raw, kind, protocol);
        }
        Some(OutboundConfig {
            name: name?,
            listen: listen?,
            protocol: protocol?,
            kind: kind?,
            mode: mode?,
            limits: limits?,
            show_reason: show_reason?,
        })
    }

    /// How calls say where they go. What is of no use to a kind is a mistake.
    fn outbound_kind(
        &mut self,
        at: NodeId,
        raw: &RawOutbound,
        destinations: &[Option<DestinationConfig>],
    ) -> Option<OutboundKind> {
        let kind = self.optional(raw.kind, Kind::Explicit, |node| {
            scalar::choice(node, &KINDS)
        })?;
        if kind == Kind::Explicit {
            let service =
                self.required(at, "destination", raw.destination, scalar::service_name)?;
            let destination = self.destination_of(raw.destination, &service, destinations)?;
            return Some(OutboundKind::Explicit(Box::new(destination)));
        }
        let mut good = true;
        for (field, key) in [(raw.destination, "destination"), (raw.protocol, "protocol")] {
            if field.is_some() {
                let wrong = Wrong::new(format!("`{key}` is for a listener of the kind `explicit`"));
                self.note(field, wrong.help("leave it out, or leave `kind` out"));
                good = false;
            }
        }
        if kind == Kind::Transparent && !cfg!(target_os = "linux") {
            let wrong = Wrong::new("only Linux tells where a redirected connection was going");
            self.note(
                raw.kind,
                wrong.help("use `forward_proxy` or `explicit` here"),
            );
            good = false;
        }
        good.then_some(match kind {
            Kind::Transparent => OutboundKind::Transparent,
            _ => OutboundKind::ForwardProxy,
        })
    }

    fn hosts(&mut self, raw: Option<&Section<Vec<Field>>>) -> Option<Vec<String>> {
        match raw {
            Some(Section(_, fields)) => self.distinct(fields, "host", scalar::served_host),
            None => Some(Vec::new()),
        }
    }

    fn listener_protocol(&mut self, field: Option<Field>) -> Option<ListenerProtocol> {
        self.optional(field, default::LISTENER_PROTOCOL, |node| {
            scalar::choice(node, &PROTOCOLS)
        })
    }

    fn mode(&mut self, field: Option<Field>) -> Option<InboundMode> {
        self.optional(field, InboundMode::Enforce, |node| {
            scalar::choice(node, &MODES)
        })
    }

    fn tls(&mut self, raw: Option<&RawTls>) -> Option<TlsConfig> {
        let field = raw.and_then(|raw| raw.require_post_quantum);
        let require_post_quantum = self.optional(field, false, scalar::boolean);
        let mode_field = raw.and_then(|raw| raw.mode);
        let mode = self.optional(mode_field, TlsMode::default(), |node| {
            scalar::choice(node, &TLS_MODES)
        });
        let (require_post_quantum, mode) = (require_post_quantum?, mode?);
        if require_post_quantum && mode == TlsMode::Permissive {
            let wrong = Wrong::new("a caller without TLS has no key exchange at all");
            let help = "set `mode: strict`, or `require_post_quantum: false` until everybody \
                        calls with TLS";
            self.note(mode_field, wrong.help(help));
            return None;
        }
        Some(TlsConfig {
            require_post_quantum,
            mode,
        })
    }

    /// The trust domains that are let in: the outer `None` is a problem, the inner one all.
    fn trust_domains(
        &mut self,
        raw: Option<&Section<Vec<Field>>>,
    ) -> Option<Option<Arc<[TrustDomain]>>> {
        let Some(Section(at, fields)) = raw else {
            return Some(None);
        };
        self.not_empty(*at, fields, "trust domain");
        let domains = self.distinct(fields, "trust domain", scalar::trust_domain)?;
        (!domains.is_empty()).then(|| Some(domains.into()))
    }
}

/// What must hold between the parts.
impl Validator<'_> {
    fn listeners_differ(&mut self, claims: &[Claim<'_>]) {
        for (index, later) in claims.iter().enumerate() {
            for earlier in claims.iter().take(index) {
                if later.name == earlier.name {
                    let wrong =
                        Wrong::new(format!("a listener named `{}` exists already", later.name));
                    let help = "give each listener its own name";
                    self.note(later.name_field, wrong.help(help));
                }
                if overlap(later.listen, earlier.listen) {
                    let wrong = Wrong::new(format!(
                        "`{}` is taken by the listener `{}`",
                        later.listen, earlier.name
                    ));
                    let help = "give each listener its own port";
                    self.note(later.listen_field, wrong.help(help));
                }
            }
        }
    }

    pub(super) fn admin_and_listeners_differ(
        &mut self,
        raw: &RawConfig,
        admin: Option<&AdminConfig>,
        listeners: &Listeners,
    ) {
        let Some(admin) = admin else { return };
        let admin_field = raw.admin.as_ref().and_then(|section| section.1.listen);
        let raw_inbound = raw.inbound.iter().flat_map(|section| &section.1);
        let raw_outbound = raw.outbound.iter().flat_map(|section| &section.1);
        let inbound = raw_inbound
            .map(|section| section.1.listen)
            .zip(listeners.inbound.iter().map(|l| (&l.name, l.listen)));
        let outbound = raw_outbound
            .map(|section| section.1.listen)
            .zip(listeners.outbound.iter().map(|l| (&l.name, l.listen)));
        for (field, (name, listen)) in inbound.chain(outbound) {
            if overlap(admin.listen, listen) {
                let wrong = Wrong::new(format!(
                    "the admin listener and the listener `{name}` both want port {}",
                    listen.port()
                ))
                .help("give the two different ports");
                self.note(admin_field.or(field), wrong);
            }
        }
    }
}

/// Whether two listeners cannot both be bound; port 0 is a fresh port each time.
pub(super) fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    let same_ip = a.ip() == b.ip() || a.ip().is_unspecified() || b.ip().is_unspecified();
    a.port() != 0 && a.port() == b.port() && same_ip
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
