//! Checks the `probes`: what may be asked for without a certificate, and where that leads.

use super::defaults as default;
use super::limits::PEER_TIME;
use super::listeners::{Listeners, overlap};
use super::problem::{Wrong, quoted};
use super::raw::{RawConfig, RawProbe, RawProbes, Section};
use super::tree::Node;
use super::validate::Validator;
use super::{
    Address, AdminConfig, InboundConfig, ListenerProtocol, ProbeConfig, ProbesConfig,
    UpstreamProtocol, UpstreamTls, scalar,
};
use crate::protocol::canonical;

impl Validator<'_> {
    /// The probes: the outer `None` is a problem, the inner one their absence.
    pub(super) fn probes(
        &mut self,
        raw: &RawConfig,
        listeners: Option<&Listeners>,
        admin: Option<&AdminConfig>,
    ) -> Option<Option<ProbesConfig>> {
        let Some(Section(at, raw)) = &raw.probes else {
            return Some(None);
        };
        let listen = self.required(*at, "listen", raw.listen, scalar::listen);
        let timeout = self.time(raw.timeout, default::PROBE_TIMEOUT, &PEER_TIME);
        let section = self.present(*at, "paths", raw.paths.as_ref());
        let first = listeners.map(|listeners| listeners.inbound.first());
        let paths: Option<Vec<_>> = section.and_then(|Section(at, sections)| {
            self.not_empty(*at, sections, "path");
            let paths: Vec<_> = sections.iter().map(|raw| self.probe(raw, first)).collect();
            self.probes_differ(sections, &paths);
            paths.into_iter().collect()
        });
        let config = ProbesConfig {
            listen: listen?,
            paths: paths?,
            timeout: timeout?,
        };
        self.probes_have_their_port(raw, &config, listeners, admin);
        Some(Some(config))
    }

    /// `first` is the first inbound listener, as far as the listeners are good.
    fn probe(
        &mut self,
        raw: &Section<RawProbe>,
        first: Option<Option<&InboundConfig>>,
    ) -> Option<ProbeConfig> {
        let Section(at, raw) = raw;
        let base = self.base;
        let path = self.required(*at, "path", raw.path, probe_path);
        let upstream_path = self.maybe(raw.upstream_path, probe_path);
        let upstream = self.maybe(raw.upstream, |node| scalar::address(node, base))?;
        let (addresses, protocol) = match (upstream, first?) {
            (Some(address), _) => (vec![address], UpstreamProtocol::Http1),
            (None, first) => match first.and_then(probed_by_default) {
                Some(upstream) => upstream,
                None => {
                    let wrong = Wrong::new("the first listener's upstream cannot be probed");
                    let help = "name the address of an HTTP endpoint as `upstream`";
                    self.note(raw.path, wrong.help(help));
                    return None;
                }
            },
        };
        let path = path?;
        Some(ProbeConfig {
            upstream_path: upstream_path?.unwrap_or_else(|| path.clone()),
            path,
            addresses,
            protocol,
        })
    }

    fn probes_differ(&mut self, sections: &[Section<RawProbe>], paths: &[Option<ProbeConfig>]) {
        for (index, (Section(_, raw), later)) in sections.iter().zip(paths).enumerate() {
            let Some(later) = later else { continue };
            let mut earlier = paths.iter().take(index).flatten();
            if earlier.any(|earlier| earlier.path == later.path) {
                let wrong = Wrong::new(format!("`{}` is probed already", quoted(&later.path)));
                self.note(raw.path, wrong.help("name each path once"));
            }
        }
    }

    fn probes_have_their_port(
        &mut self,
        raw: &RawProbes,
        probes: &ProbesConfig,
        listeners: Option<&Listeners>,
        admin: Option<&AdminConfig>,
    ) {
        let inbound = listeners.iter().flat_map(|all| &all.inbound);
        let outbound = listeners.iter().flat_map(|all| &all.outbound);
        let taken = inbound
            .map(|listener| (&*listener.name, listener.listen))
            .chain(outbound.map(|listener| (&*listener.name, listener.listen)))
            .chain(admin.map(|admin| ("admin", admin.listen)));
        for (name, listen) in taken {
            if overlap(probes.listen, listen) {
                let wrong = Wrong::new(format!(
                    "`{}` is taken by the listener `{name}`",
                    probes.listen
                ));
                self.note(raw.listen, wrong.help("give the probes their own port"));
            }
        }
    }
}

/// The upstream of a listener, where a plain HTTP request can be sent to it.
fn probed_by_default(first: &InboundConfig) -> Option<(Vec<Address>, UpstreamProtocol)> {
    let upstream = &first.upstream;
    let plain = upstream.tls == UpstreamTls::Off && first.protocol != ListenerProtocol::Tcp;
    plain.then(|| (upstream.addresses.clone(), upstream.protocol))
}

/// A path, and the query if it has one, in the form in which it is asked for.
fn probe_path(node: &Node) -> Result<String, Wrong> {
    let expected = "a path, such as `/healthz`";
    let written = scalar::text(node, expected)?;
    let path = written.split_once('?').map_or(written, |(path, _)| path);
    let wrong = || Wrong::new(format!("`{}` is not a path", quoted(written)));
    canonical::check_path(path)
        .map_err(|why| wrong().help(format!("expected {expected}: {why}")))?;
    match written.parse::<http::uri::PathAndQuery>() {
        Ok(parsed) if parsed.as_str() == written => Ok(written.to_owned()),
        _ => Err(wrong().help(format!("expected {expected}"))),
    }
}
