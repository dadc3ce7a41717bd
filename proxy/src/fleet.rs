//! What all listeners of a sidecar share, and how each of them gets its place at every worker.

use std::io;
use std::net::TcpListener;
use std::sync::{Arc, Weak};
use std::time::Duration;

use wayleave_authz::{Direction, PolicyStore};
use wayleave_certs::Alpn;
use wayleave_certs::IdentityReader;
use wayleave_certs::tls::{ClientTls, ClientTlsOptions, ServerTls, ServerTlsOptions};

use crate::admission::Admission;
use crate::config::{
    InboundConfig, InboundMode, LimitsConfig, ListenerProtocol, OutboundConfig, UpstreamConfig,
    UpstreamProtocol, UpstreamTls,
};
use crate::connection::{Roster, sweep_interval};
use crate::drain::{Drain, Shutdown};
use crate::enforce::Enforcer;
use crate::forward::{Dialer, Pool};
use crate::gate::Gate;
use crate::inbound::Inbound;
use crate::listener::{Doors, Entrance, Listener};
use crate::listeners::ListenerConfig;
use crate::memory::Memory;
use crate::outbound::Outbound;
use crate::record::Recorder;
use crate::record::metrics::Metrics;
use crate::route::{Route, Routes};
use crate::worker::{Seat, Workers};

/// How often idle upstream connections are looked through for old ones.
const POOL_SWEEP: Duration = Duration::from_secs(10);

/// What every listener serves with.
pub(crate) struct Fleet {
    pub(crate) identity: IdentityReader,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) recorder: Recorder,
    pub(crate) shutdown: Shutdown,
    pub(crate) workers: Workers,
    pub(crate) memory: Arc<Memory>,
}

/// What a gate is made from, whichever way calls go.
struct Plan<'a> {
    name: &'a Arc<str>,
    policies: &'a PolicyStore,
    direction: Direction,
    mode: InboundMode,
    show_reason: bool,
    limits: &'a LimitsConfig,
    service: &'a Arc<str>,
    hosts: &'a [String],
    port: u16,
    dialer: Arc<Dialer>,
    admission: Arc<Admission>,
}

impl Fleet {
    /// What a listener serves with, at every worker; `port` is the one that callers reach.
    pub(crate) fn doors(
        &self,
        config: &ListenerConfig,
        port: u16,
        policies: &PolicyStore,
        admission: Arc<Admission>,
    ) -> Doors {
        let seats = match config {
            ListenerConfig::Inbound(config) => self.inbound(config, port, policies, &admission),
            ListenerConfig::Outbound(config) => self.outbound(config, policies, &admission),
        };
        Doors {
            seats,
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
        port: u16,
        policies: &PolicyStore,
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
            service: &config.service,
            hosts: &config.hosts,
            port,
            dialer: self.dialer(&config.upstream),
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
        policies: &PolicyStore,
        admission: &Arc<Admission>,
    ) -> Vec<(Seat, Arc<Entrance>)> {
        let destination = &config.destination;
        let plan = Plan {
            name: &config.name,
            policies,
            direction: Direction::Outbound,
            mode: config.mode,
            show_reason: config.show_reason,
            limits: &config.limits,
            service: &destination.service,
            hosts: &destination.hosts,
            port: destination.upstream.port(),
            dialer: self.dialer(&destination.upstream),
            admission: Arc::clone(admission),
        };
        self.seats(|seat| {
            Entrance::Outbound(Outbound {
                gate: self.gate(&plan, seat),
                protocol: config.protocol,
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
        let pool = Pool::new(Arc::clone(&plan.dialer));
        seat.runtime().spawn(sweep(Arc::downgrade(&pool)));
        let roster = Roster::default();
        let interval = sweep_interval(plan.limits);
        seat.runtime().spawn(roster.sweep(interval));
        Arc::new(Gate {
            name: Arc::clone(plan.name),
            limits: plan.limits.clone(),
            enforcer: Enforcer {
                policies: plan.policies.clone(),
                direction: plan.direction,
                mode: plan.mode,
                show_reason: plan.show_reason,
            },
            routes: Routes::One(Arc::new(Route {
                service: Arc::clone(plan.service),
                hosts: plan.hosts.to_vec(),
                port: plan.port,
                pool,
            })),
            identity: self.identity.clone(),
            recorder: self.recorder.clone(),
            metrics: Arc::clone(&self.metrics),
            admission: Arc::clone(&plan.admission),
            roster,
        })
    }

    fn dialer(&self, config: &UpstreamConfig) -> Arc<Dialer> {
        let tls = match &config.tls {
            UpstreamTls::Off => None,
            UpstreamTls::Mutual(expected) => {
                let alpn = match config.protocol {
                    UpstreamProtocol::Http1 => Alpn::Http1,
                    UpstreamProtocol::Http2 => Alpn::Http2,
                };
                let mut options = ClientTlsOptions::new(expected.clone());
                options.alpn = vec![alpn];
                Some(ClientTls::new(self.identity.clone(), options))
            }
        };
        Arc::new(Dialer::new(config.clone(), tls))
    }
}

async fn sweep(pool: Weak<Pool>) {
    loop {
        tokio::time::sleep(POOL_SWEEP).await;
        match pool.upgrade() {
            Some(pool) => pool.expire(),
            None => return,
        }
    }
}
