//! Checks the `signals` section: what the rest of the organisation tells about callers.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::listeners::{Listeners, overlap};
use super::problem::Wrong;
use super::raw::{Field, RawConfig, RawTransmitter, Section};
use super::validate::{Validator, content};
use super::{AdminConfig, ProbesConfig, TransmitterConfig, scalar};

/// What the rest of the organisation tells about callers, and where it is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SignalsConfig {
    /// Transmitters of security events, by distinct names; none by default.
    pub ssf: Vec<TransmitterConfig>,
    /// The folder for what must outlive a restart; none by default.
    pub state_dir: Option<PathBuf>,
}

impl Validator<'_> {
    pub(super) fn signals(
        &mut self,
        raw: &RawConfig,
        listeners: Option<&Listeners>,
        admin: Option<&AdminConfig>,
        probes: Option<&Option<ProbesConfig>>,
    ) -> Option<SignalsConfig> {
        let Some(Section(_, signals)) = &raw.signals else {
            return Some(SignalsConfig::default());
        };
        let base = self.base;
        let state_dir = self.maybe(signals.state_dir, |node| scalar::path(node, base));
        let sections = signals.ssf.iter().flat_map(content);
        let sections: Vec<&Section<RawTransmitter>> = sections.collect();
        let ssf = sections.iter().map(|section| self.transmitter(section));
        let ssf: Vec<Option<TransmitterConfig>> = ssf.collect();
        self.transmitters_differ(&sections, &ssf);
        self.pushes_have_their_port(&sections, &ssf, &taken(listeners, admin, probes));
        let ssf: Option<Vec<_>> = ssf.into_iter().collect();
        let (ssf, state_dir) = (ssf?, state_dir?);
        // What is answered with 202 must outlive a crash.
        if !ssf.is_empty() && state_dir.is_none() {
            let field = signals.ssf.as_ref().map(|section| Field(section.0));
            let wrong = Wrong::new("accepted events must be kept, and there is no place for them");
            let help = "name a folder that outlives a restart as `signals.state_dir`, such as \
                        `/var/lib/wayleave`";
            self.note(field, wrong.help(help));
            return None;
        }
        Some(SignalsConfig { ssf, state_dir })
    }

    fn pushes_have_their_port(
        &mut self,
        sections: &[&Section<RawTransmitter>],
        transmitters: &[Option<TransmitterConfig>],
        taken: &[(String, SocketAddr)],
    ) {
        for (Section(_, raw), transmitter) in sections.iter().zip(transmitters) {
            let push = transmitter.as_ref().and_then(|t| t.push.as_ref());
            let (Some(push), Some(Section(_, raw))) = (push, &raw.push) else {
                continue;
            };
            let other = taken.iter().find(|(_, at)| overlap(push.listen, *at));
            if let Some((name, _)) = other {
                let wrong = Wrong::new(format!("`{}` is taken by `{name}`", push.listen));
                self.note(raw.listen, wrong.help("give the transmitters their own port"));
            }
        }
    }
}

/// The addresses of everything else, as far as they are known to be good.
fn taken(
    listeners: Option<&Listeners>,
    admin: Option<&AdminConfig>,
    probes: Option<&Option<ProbesConfig>>,
) -> Vec<(String, SocketAddr)> {
    let inbound = listeners.iter().flat_map(|all| &all.inbound);
    let outbound = listeners.iter().flat_map(|all| &all.outbound);
    let listeners = inbound
        .map(|listener| (listener.name.to_string(), listener.listen))
        .chain(outbound.map(|listener| (listener.name.to_string(), listener.listen)));
    let probes = probes.and_then(Option::as_ref);
    listeners
        .chain(admin.map(|admin| ("admin".to_owned(), admin.listen)))
        .chain(probes.map(|probes| ("probes".to_owned(), probes.listen)))
        .collect()
}
