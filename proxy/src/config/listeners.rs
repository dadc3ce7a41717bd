//! Checks the listeners, inbound and outbound, the destinations that outbound ones lead to, and
//! that no two of them want the same name or port.

use std::net::SocketAddr;
use std::sync::Arc;

use super::defaults as default;
use super::problem::{Wrong, quoted};
use super::raw::{Field, RawConfig, RawDestination, RawInbound, RawOutbound, RawTls, Section};
use super::tree::Tree;
use super::validate::{Validator, content};
use super::{
    AdminConfig, DestinationConfig, InboundConfig, InboundMode, ListenerProtocol, OutboundConfig,
    TlsConfig, TlsMode, TrustDomain, scalar,
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

/// Every listener of a file.
pub(super) struct Listeners {
    pub(super) inbound: Vec<InboundConfig>,
    pub(super) outbound: Vec<OutboundConfig>,
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
        let section = self.present(Tree::ROOT, "inbound", raw.inbound.as_ref());
        let raw_inbound: &[Section<RawInbound>] = section.map_or(&[], |section| &section.1);
        if let Some(Section(at, sections)) = section {
            self.not_empty(*at, sections, "listener");
        }
        let inbound: Vec<_> = raw_inbound.iter().map(|raw| self.inbound(raw)).collect();
        let destinations = self.destinations(raw);
        let raw_outbound: &[Section<RawOutbound>] =
            raw.outbound.as_ref().map_or(&[], |section| &section.1);
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
        section?;
        let destinations: Option<Vec<_>> = destinations.into_iter().collect();
        destinations?;
        Some(Listeners {
            inbound: inbound.into_iter().collect::<Option<_>>()?,
            outbound: outbound.into_iter().collect::<Option<_>>()?,
        })
    }

    fn inbound(&mut self, raw: &Section<RawInbound>) -> Option<InboundConfig> {
        let Section(at, raw) = raw;
        let name = self.required(*at, "name", raw.name, scalar::listener_name);
        let listen = self.required(*at, "listen", raw.listen, scalar::listen);
        let service = self.required(*at, "service", raw.service, scalar::service_name);
        let hosts = self.hosts(raw.hosts.as_ref());
        let upstream = self.present(*at, "upstream", raw.upstream.as_ref());
        let upstream = upstream.and_then(|section| self.upstream(section, listen));
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
        let service = self.required(*at, "destination", raw.destination, scalar::service_name);
        let destination = service
            .and_then(|service| self.destination_of(raw.destination, &service, destinations));
        let limits = self.limits(raw.limits.as_ref().map(content));
        let show_reason = self.optional(raw.show_reason, false, scalar::boolean);
        let protocol = self.listener_protocol(raw.protocol);
        let mode = self.mode(raw.mode);
        if let Some(protocol) = protocol {
            self.outbound_keys_fit(raw, protocol);
        }
        Some(OutboundConfig {
            name: name?,
            listen: listen?,
            protocol: protocol?,
            destination: destination?,
            mode: mode?,
            limits: limits?,
            show_reason: show_reason?,
        })
    }

    /// The destination that a listener names; nothing, and no second complaint, where the one
    /// that is meant has a mistake of its own.
    fn destination_of(
        &mut self,
        field: Option<Field>,
        service: &Arc<str>,
        destinations: &[Option<DestinationConfig>],
    ) -> Option<DestinationConfig> {
        let mut good = destinations.iter().flatten();
        let found = good.find(|destination| destination.service == *service);
        if found.is_none() && destinations.iter().all(Option::is_some) {
            let wrong = Wrong::new(format!("there is no destination `{}`", quoted(service)));
            self.note(
                field,
                wrong.help("name one of the `destinations`, or add it there"),
            );
        }
        found.cloned()
    }

    fn destinations(&mut self, raw: &RawConfig) -> Vec<Option<DestinationConfig>> {
        let sections: &[Section<RawDestination>] =
            raw.destinations.as_ref().map_or(&[], |section| &section.1);
        let destinations: Vec<_> = sections.iter().map(|raw| self.destination(raw)).collect();
        for (index, (Section(_, raw), later)) in sections.iter().zip(&destinations).enumerate() {
            let Some(later) = later else { continue };
            let mut earlier = destinations.iter().take(index).flatten();
            if earlier.any(|earlier| earlier.service == later.service) {
                let wrong = Wrong::new(format!("a destination `{}` exists already", later.service));
                self.note(raw.service, wrong.help("name each service once"));
            }
        }
        destinations
    }

    fn destination(&mut self, raw: &Section<RawDestination>) -> Option<DestinationConfig> {
        let Section(at, raw) = raw;
        let service = self.required(*at, "service", raw.service, scalar::service_name);
        let hosts = self.hosts(raw.hosts.as_ref());
        let upstream = self.present(*at, "upstream", raw.upstream.as_ref());
        let upstream = upstream.and_then(|section| self.upstream(section, None));
        Some(DestinationConfig {
            service: service?,
            hosts: hosts?,
            upstream: upstream?,
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
