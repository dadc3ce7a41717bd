//! What all listeners of a sidecar share, and how each of them gets its place at every worker.

use std::io;
use std::net::TcpListener;
use std::sync::Arc;

use tokio::runtime::Handle;
use wayleave_authz::{Direction, PolicyStore};
use wayleave_certs::Alpn;
use wayleave_certs::IdentityReader;
use wayleave_certs::tls::{ServerTls, ServerTlsOptions};

use crate::admission::Admission;
use crate::config::{
    DestinationConfig, InboundConfig, InboundMode, LimitsConfig, ListenerProtocol, OutboundConfig,
    OutboundKind,
};
use crate::connection::{Roster, sweep_interval};
use crate::drain::{Drain, Shutdown};
use crate::enforce::Enforcer;
use crate::forward::Upstreams;
use crate::gate::Gate;
use crate::inbound::Inbound;
use crate::leads::{Leads, Ways};
use crate::listener::{Doors, Entrance, Listener};
use crate::listeners::ListenerConfig;
use crate::memory::Memory;
use crate::outbound::addresses::AddressTable;
use crate::outbound::guard::Own;
use crate::outbound::transparent::Transparent;
use crate::outbound::{Kind, Outbound};
use crate::policy_switch::ListenerPolicies;
use crate::record::Recorder;
use crate::record::metrics::Metrics;
use crate::review::Changes;
use crate::standing::Standing;
use crate::worker::{Seat, Workers};

/// What every listener serves with.
pub(crate) struct Fleet {
    pub(crate) identity: IdentityReader,
    /// The policies in force.
    pub(crate) policies: PolicyStore,
    /// What decisions depend on, counted.
    pub(crate) changes: Arc<Changes>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) recorder: Recorder,
    pub(crate) shutdown: Shutdown,
    pub(crate) workers: Workers,
    pub(crate) memory: Arc<Memory>,
    /// Where work in the background is done.
    pub(crate) control: Handle,
    pub(crate) upstreams: Arc<Upstreams>,
    /// Where this sidecar listens itself.
    pub(crate) own: Own,
    /// What is known against principals.
    pub(crate) standing: Arc<Standing>,
}

/// What a gate is made from, whichever way calls go.
struct Plan<'a> {
    name: &'a Arc<str>,
    policies: &'a Arc<ListenerPolicies>,
    direction: Direction,
    mode: InboundMode,
    show_reason: bool,
    limits: &'a LimitsConfig,
    is_proxy: bool,
    ways: Ways,
    admission: Arc<Admission>,
}

impl Fleet {
    /// What a listener serves with, at every worker; `port` is the one that callers reach, and
    /// `leads` are those of its configuration.
    pub(crate) fn doors(
        &self,
        config: &ListenerConfig,
        leads: Leads,
        port: u16,
        admission: Arc<Admission>,
    ) -> Doors {
        let ways = self.begin(leads, config.name(), port);
        let policies = Arc::new(ListenerPolicies::new(&self.policies));
        let seats = match config {
            ListenerConfig::Inbound(config) => self.inbound(config, ways, &policies, &admission),
            ListenerConfig::Outbound(config, destinations) => {
                self.outbound(config, destinations, ways, &policies, &admission)
            }
        };
        Doors {
            seats,
            policies,
            admission,
            metrics: Arc::clone(&self.metrics),
            drain: self.drain(config.direction()).generation(),
        }
    }

    /// What a listener takes on by these limits; nothing is held yet.
    pub(crate) fn admission(&self, limits: &LimitsConfig) -> Arc<Admission> {
        Arc::new(Admission::new(limits, Arc::clone(&self.memory)))
    }

    /// What everything of a direction is drained by.
    pub(crate) fn drain(&self, direction: Direction) -> &Drain {
        match direction {
            Direction::Inbound => &self.shutdown.inbound,
            Direction::Outbound => &self.shutdown.outbound,
        }
    }

    /// For callers from elsewhere.
    fn inbound(
        &self,
        config: &InboundConfig,
        ways: Ways,
        policies: &Arc<ListenerPolicies>,
        admission: &Arc<Admission>,
    ) -> Vec<(Seat, Arc<Entrance>)> {
        let tls = Arc::new(ServerTls::new(
            self.identity.clone(),
            ServerTlsOptions {
                alpn: match config.protocol {
                    ListenerProtocol::Tcp => Vec::new(),
                    ListenerProtocol::Http | ListenerProtocol::Auto => {
                        vec![Alpn::Http2, Alpn::Http1]
                    }
                },
                require_post_quantum: config.tls.require_post_quantum,
                trust_domains: config.trust_domains.clone(),
                ..ServerTlsOptions::default()
            },
        ));
        let plan = Plan {
            name: &config.name,
            policies,
            direction: Direction::Inbound,
            mode: config.mode,
            show_reason: config.show_reason,
            limits: &config.limits,
            is_proxy: false,
            ways,
            admission: Arc::clone(admission),
        };
        self.seats(|seat| {
            Entrance::Inbound(Inbound {
                gate: self.gate(&plan, seat),
                tls: Arc::clone(&tls),
                protocol: config.protocol,
                mode: config.tls.mode,
            })
        })
    }

    /// For the workload's own calls.
    fn outbound(
        &self,
        config: &OutboundConfig,
        destinations: &[DestinationConfig],
        ways: Ways,
        policies: &Arc<ListenerPolicies>,
        admission: &Arc<Admission>,
    ) -> Vec<(Seat, Arc<Entrance>)> {
        let addresses = matches!(config.kind, OutboundKind::Transparent).then(|| {
            let addresses = AddressTable::of(destinations);
            let refreshed = Arc::downgrade(&addresses);
            self.control.spawn(AddressTable::refresh(refreshed));
            addresses
        });
        let plan = Plan {
            name: &config.name,
            policies,
            direction: Direction::Outbound,
            mode: config.mode,
            show_reason: config.show_reason,
            limits: &config.limits,
            is_proxy: matches!(config.kind, OutboundKind::ForwardProxy),
            ways,
            admission: Arc::clone(admission),
        };
        self.seats(|seat| {
            Entrance::Outbound(Outbound {
                gate: self.gate(&plan, seat),
                kind: match &addresses {
                    Some(addresses) => {
                        Kind::Transparent(Transparent::new(Arc::clone(addresses), self.own.clone()))
                    }
                    None => Kind::Asked(config.protocol),
                },
            })
        })
    }

    fn seats(&self, entrance: impl Fn(&Seat) -> Entrance) -> Vec<(Seat, Arc<Entrance>)> {
        let seats = self.workers.seats();
        seats
            .map(|seat| (seat.clone(), Arc::new(entrance(seat))))
            .collect()
    }

    /// Registers a socket where it will be accepted on: at the first worker.
    ///
    /// # Errors
    /// When the system refuses.
    pub(crate) fn seat(&self, socket: TcpListener) -> io::Result<tokio::net::TcpListener> {
        let _runtime = self.workers.first().runtime().enter();
        tokio::net::TcpListener::from_std(socket)
    }

    /// Starts to accept; until `closing`, or until its direction drains.
    pub(crate) fn accept(
        &self,
        direction: Direction,
        socket: tokio::net::TcpListener,
        listener: Listener,
    ) {
        let runtime = self.workers.first().runtime();
        let drain = self.drain(direction);
        drain.spawn_door(listener.run(socket), runtime);
    }

    fn gate(&self, plan: &Plan<'_>, seat: &Seat) -> Arc<Gate> {
        let roster = Roster::default();
        let interval = sweep_interval(plan.limits);
        seat.runtime().spawn(roster.sweep(interval));
        Arc::new(Gate {
            name: Arc::clone(plan.name),
            limits: plan.limits.clone(),
            enforcer: Arc::new(Enforcer {
                policies: Arc::clone(plan.policies),
                direction: plan.direction,
                mode: plan.mode,
                show_reason: plan.show_reason,
                changes: Arc::clone(&self.changes),
                live: Arc::clone(seat.live()),
                standing: Arc::clone(&self.standing),
            }),
            routes: plan.ways.at(seat),
            is_proxy: plan.is_proxy,
            identity: self.identity.clone(),
            recorder: self.recorder.clone(),
            metrics: Arc::clone(&self.metrics),
            admission: Arc::clone(&plan.admission),
            roster,
        })
    }
}
