//! Checks the destinations: the services that the workload calls, and that it is never in doubt
//! which of them a host and a port stand for.

use std::sync::Arc;

use super::problem::{Wrong, quoted};
use super::raw::{Field, RawConfig, RawDestination, RawOutbound, Section};
use super::upstream::reaches;
use super::validate::Validator;
use super::{Address, DestinationConfig, HostPattern, OutboundConfig, OutboundKind, hosts, scalar};

impl Validator<'_> {
    pub(super) fn destinations(&mut self, raw: &RawConfig) -> Vec<Option<DestinationConfig>> {
        let sections = sections(raw);
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
        let hosts = match &raw.hosts {
            Some(Section(_, fields)) => self.distinct(fields, "host", hosts::host_pattern),
            None => Some(Vec::new()),
        };
        let ports = match &raw.ports {
            Some(Section(_, fields)) => self.distinct(fields, "port", |node| {
                let port = scalar::integer(node, &(1..=u64::from(u16::MAX)))?;
                Ok(u16::try_from(port).unwrap_or(u16::MAX))
            }),
            None => Some(Vec::new()),
        };
        let upstream = self.present(*at, "upstream", raw.upstream.as_ref());
        let upstream = upstream.and_then(|section| self.upstream(section, None));
        Some(DestinationConfig {
            service: service?,
            hosts: hosts?,
            ports: ports?,
            upstream: upstream?,
        })
    }

    /// The destination that an explicit listener names; nothing, and no second complaint, where
    /// the one that is meant has a mistake of its own.
    pub(super) fn destination_of(
        &mut self,
        field: Option<Field>,
        service: &Arc<str>,
        destinations: &[Option<DestinationConfig>],
    ) -> Option<DestinationConfig> {
        let mut good = destinations.iter().flatten();
        let found = good.find(|destination| destination.service == *service);
        match found {
            None if destinations.iter().all(Option::is_some) => {
                let wrong = Wrong::new(format!("there is no destination `{}`", quoted(service)));
                self.note(
                    field,
                    wrong.help("name one of the `destinations`, or add it there"),
                );
            }
            Some(found) if found.upstream.original.is_some() => {
                let wrong = Wrong::new(format!(
                    "the upstream of `{service}` is `original`, and a caller of this listener asks \
                     for no address"
                ));
                let help = "give the destination an address, or this listener the kind \
                            `forward_proxy`";
                self.note(field, wrong.help(help));
                return None;
            }
            _ => {}
        }
        found.cloned()
    }

    /// What must hold where a call is told by its host which destination it is for.
    pub(super) fn destinations_are_told_apart(
        &mut self,
        raw: &RawConfig,
        destinations: &[DestinationConfig],
        outbound: &[OutboundConfig],
    ) {
        let by_host =
            |listener: &&OutboundConfig| !matches!(listener.kind, OutboundKind::Explicit(_));
        let sections = sections(raw);
        if let Some(listener) = outbound.iter().find(by_host) {
            self.hosts_differ(sections, destinations);
            if !destinations.iter().any(|each| !each.hosts.is_empty()) {
                self.note_no_hosts(raw, &listener.name);
            }
        }
        for (Section(_, raw), destination) in sections.iter().zip(destinations) {
            self.leads_elsewhere(raw, destination, outbound);
        }
    }

    fn hosts_differ(
        &mut self,
        sections: &[Section<RawDestination>],
        destinations: &[DestinationConfig],
    ) {
        for (index, (Section(_, raw), later)) in sections.iter().zip(destinations).enumerate() {
            for earlier in destinations.iter().take(index) {
                let Some(host) = shared(earlier, later) else {
                    continue;
                };
                let wrong = Wrong::new(format!(
                    "`{host}` leads to the destination `{}` already",
                    earlier.service
                ));
                let help = "give each host and port to one destination; `ports` tells two apart";
                let field = raw.hosts.as_ref().map(|section| Field(section.0));
                self.note(field, wrong.help(help));
            }
        }
    }

    fn note_no_hosts(&mut self, raw: &RawConfig, listener: &str) {
        let section = raw.outbound.as_ref();
        let field = section.map(|section| Field(section.0));
        let wrong = Wrong::new(format!(
            "the listener `{listener}` finds destinations by their hosts, and none has any"
        ));
        self.note(
            field,
            wrong.help("add `hosts` to the `destinations` that it serves"),
        );
    }

    /// SECURITY: a destination that is an outbound listener of ours would be called in circles.
    fn leads_elsewhere(
        &mut self,
        raw: &RawDestination,
        destination: &DestinationConfig,
        outbound: &[OutboundConfig],
    ) {
        for address in &destination.upstream.addresses {
            let Address::Tcp(tcp) = address else { continue };
            let Some(listener) = outbound.iter().find(|each| reaches(tcp, each.listen)) else {
                continue;
            };
            let wrong = Wrong::new(format!(
                "`{address}` is the outbound listener `{}`, so calls would go in circles",
                listener.name
            ));
            let field = raw.upstream.as_ref().map(|section| Field(section.0));
            self.note(field, wrong.help("name the address of the service itself"));
        }
    }
}

fn sections(raw: &RawConfig) -> &[Section<RawDestination>] {
    raw.destinations
        .as_ref()
        .map_or(&[], |section| section.1.as_slice())
}

/// The outbound listeners as they are written.
pub(super) fn outbound_sections(raw: &RawConfig) -> &[Section<RawOutbound>] {
    raw.outbound
        .as_ref()
        .map_or(&[], |section| section.1.as_slice())
}

/// A host that both destinations are called by on the same port. One that names its ports goes
/// before one that takes all.
fn shared<'a>(one: &DestinationConfig, other: &'a DestinationConfig) -> Option<&'a HostPattern> {
    let ports_meet = match (one.ports.is_empty(), other.ports.is_empty()) {
        (true, true) => true,
        (false, false) => one.ports.iter().any(|port| other.ports.contains(port)),
        _ => false,
    };
    let mut hosts = other.hosts.iter();
    hosts.find(|host| ports_meet && one.hosts.contains(host))
}
