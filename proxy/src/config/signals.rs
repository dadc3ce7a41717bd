//! Checks the `signals`: how the behaviour of principals is followed, what outlives a restart, and
//! who tells of principals.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::defaults as default;
use super::listeners::{Listeners, overlap};
use super::problem::Wrong;
use super::raw::{Field, RawConfig, RawSignals, RawTransmitter, Section};
use super::signal_store::SignalStoreConfig;
use super::validate::{Validator, content};
use super::{AdminConfig, ProbesConfig, TransmitterConfig, scalar};

const PRINCIPALS: RangeInclusive<u64> = 16..=10_000_000;
const PERIOD: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(86_400);

/// How the behaviour of principals is followed, and what is kept of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignalsConfig {
    /// The folder where quarantines, revocations and ratings are kept; none by default, so that a
    /// restart forgets them.
    pub state_dir: Option<PathBuf>,
    /// Principals that are followed though they are not connected; 16 to 10,000,000, 100,000 by
    /// default.
    pub max_principals: usize,
    /// How often what is open is decided again without a reason; 1 s to 1 d, never by default.
    pub reauthorize_every: Option<Duration>,
    /// The server that a fleet shares; none where each sidecar is for itself.
    pub store: Option<SignalStoreConfig>,
    /// Transmitters of security events, by distinct names; none by default.
    pub ssf: Vec<TransmitterConfig>,
}

impl Default for SignalsConfig {
    fn default() -> Self {
        Self {
            state_dir: None,
            max_principals: default::MAX_PRINCIPALS,
            reauthorize_every: None,
            store: None,
            ssf: Vec::new(),
        }
    }
}

impl Validator<'_> {
    pub(super) fn signals(
        &mut self,
        file: &RawConfig,
        listeners: Option<&Listeners>,
        admin: Option<&AdminConfig>,
        probes: Option<&Option<ProbesConfig>>,
    ) -> Option<SignalsConfig> {
        let absent = RawSignals::default();
        let raw = file.signals.as_ref().map_or(&absent, content);
        let base = self.base;
        let state_dir = self.maybe(raw.state_dir, |node| scalar::path(node, base));
        let max_principals = self.optional(raw.max_principals, default::MAX_PRINCIPALS, |node| {
            let count = scalar::integer(node, &PRINCIPALS)?;
            Ok(usize::try_from(count).unwrap_or(default::MAX_PRINCIPALS))
        });
        let reauthorize_every = self.maybe(raw.reauthorize_every, |node| {
            scalar::duration(node, &PERIOD)
        });
        let store = self.signal_store(raw.store.as_ref());
        let ssf = self.transmitters(raw, &taken(listeners, admin, probes));
        Some(SignalsConfig {
            state_dir: state_dir?,
            max_principals: max_principals?,
            reauthorize_every: reauthorize_every?,
            store: store?,
            ssf: ssf?,
        })
    }

    fn transmitters(
        &mut self,
        raw: &RawSignals,
        taken: &[(String, SocketAddr)],
    ) -> Option<Vec<TransmitterConfig>> {
        let sections: Vec<_> = raw.ssf.iter().flat_map(content).collect();
        let all = sections.iter().map(|section| self.transmitter(section));
        let all: Vec<Option<TransmitterConfig>> = all.collect();
        self.transmitters_differ(&sections, &all);
        self.pushes_have_their_port(&sections, &all, taken);
        // What is answered with 202 must outlive a crash.
        if !sections.is_empty() && raw.state_dir.is_none() {
            let field = raw.ssf.as_ref().map(|section| Field(section.0));
            let wrong = Wrong::new("accepted events must be kept, and there is no place for them");
            let help = "name a folder that outlives a restart as `signals.state_dir`, such as \
                        `/var/lib/wayleave`";
            self.note(field, wrong.help(help));
            return None;
        }
        all.into_iter().collect()
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
                self.note(
                    raw.listen,
                    wrong.help("give the transmitters their own port"),
                );
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
