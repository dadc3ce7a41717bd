//! What all listeners of a sidecar share, and how each of them gets its place at every worker.

use std::io;
use std::net::TcpListener;
use std::sync::Arc;

use tokio::runtime::Handle;
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
use crate::drain::Drain;
use crate::enforce::Enforcer;
use crate::forward::{MutualTls, Pool, SystemResolver, Upstream, Upstreams};
use crate::gate::Gate;
use crate::inbound::Inbound;
use crate::listener::{Entrance, Listener};
use crate::outbound::Outbound;
use crate::record::Recorder;
use crate::record::metrics::Metrics;
use crate::route::{Route, Routes};
use crate::worker::{Seat, Workers};

/// What every listener serves with.
pub(crate) struct Fleet {
    pub(crate) identity: IdentityReader,
    pub(crate) store: PolicyStore,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) recorder: Recorder,
    pub(crate) drain: Drain,
    pub(crate) workers: Workers,
    /// Where work in the background is done.
    pub(crate) control: Handle,
    pub(crate) upstreams: Arc<Upstreams>,
}

/// What a gate is made from, whichever way calls go.
struct Plan<'a> {
    name: &'a Arc<str>,
    direction: Direction,
    mode: InboundMode,
    show_reason: bool,
    limits: &'a LimitsConfig,
    service: &'a Arc<str>,
    hosts: &'a [String],
    port: u16,
    upstream: Arc<Upstream>,
    admission: Arc<Admission>,
}

impl Fleet {
    /// Starts to accept callers from elsewhere.
    pub(crate) fn listen_inbound(
        &self,
        config: &InboundConfig,
        socket: TcpListener,
        admission: &Arc<Admission>,
    ) -> io::Result<()> {
        let port = socket.local_addr()?.port();
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
            direction: Direction::Inbound,
            mode: config.mode,
            show_reason: config.show_reason,
            limits: &config.limits,
            service: &config.service,
            hosts: &config.hosts,
            port,
            upstream: self.upstream(&config.name, &config.service, &config.upstream),
            admission: Arc::clone(admission),
        };
        self.listen(socket, admission, |seat| {
            Entrance::Inbound(Inbound {
                gate: self.gate(&plan, seat),
                tls: Arc::clone(&tls),
                protocol: config.protocol,
                mode: config.tls.mode,
            })
        })
    }

    /// Starts to accept the workload's own calls.
    pub(crate) fn listen_outbound(
        &self,
        config: &OutboundConfig,
        socket: TcpListener,
        admission: &Arc<Admission>,
    ) -> io::Result<()> {
        let destination = &config.destination;
        let plan = Plan {
            name: &config.name,
            direction: Direction::Outbound,
            mode: config.mode,
            show_reason: config.show_reason,
            limits: &config.limits,
            service: &destination.service,
            hosts: &destination.hosts,
            port: destination.upstream.port(),
            upstream: self.upstream(&config.name, &destination.service, &destination.upstream),
            admission: Arc::clone(admission),
        };
        self.listen(socket, admission, |seat| {
            Entrance::Outbound(Outbound {
                gate: self.gate(&plan, seat),
                protocol: config.protocol,
            })
        })
    }

    /// Gives a listener a place at every worker, and has the first one accept.
    fn listen(
        &self,
        socket: TcpListener,
        admission: &Arc<Admission>,
        entrance: impl Fn(&Seat) -> Entrance,
    ) -> io::Result<()> {
        let seats: Vec<_> = self
            .workers
            .seats()
            .map(|seat| (seat.clone(), Arc::new(entrance(seat))))
            .collect();
        let Some((first, _)) = seats.first().cloned() else {
            return Ok(());
        };
        let listener = Listener {
            seats,
            connections: Arc::clone(&admission.connections),
            metrics: Arc::clone(&self.metrics),
            drain: self.drain.clone(),
        };
        first.runtime().spawn(async move {
            match tokio::net::TcpListener::from_std(socket) {
                Ok(socket) => listener.run(socket).await,
                Err(error) => tracing::error!(%error, "cannot listen"),
            }
        });
        Ok(())
    }

    fn gate(&self, plan: &Plan<'_>, seat: &Seat) -> Arc<Gate> {
        let pool = Pool::new(Arc::clone(&plan.upstream));
        seat.runtime().spawn(Arc::clone(&pool).tend());
        let roster = Roster::default();
        let interval = sweep_interval(plan.limits);
        seat.runtime().spawn(roster.clone().sweep(interval));
        Arc::new(Gate {
            name: Arc::clone(plan.name),
            limits: plan.limits.clone(),
            enforcer: Enforcer {
                policies: self.store.clone(),
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

    /// The upstream behind a listener's service.
    fn upstream(
        &self,
        listener: &Arc<str>,
        service: &Arc<str>,
        config: &UpstreamConfig,
    ) -> Arc<Upstream> {
        let upstream = Upstream::start(
            config.clone(),
            self.tls_towards(config),
            self.metrics.upstreams().of(service),
            Arc::new(SystemResolver),
            &self.control,
        );
        self.upstreams.add(listener, &upstream);
        upstream
    }

    fn tls_towards(&self, config: &UpstreamConfig) -> Option<MutualTls> {
        let UpstreamTls::Mutual(expected) = &config.tls else {
            return None;
        };
        let alpn = match config.protocol {
            UpstreamProtocol::Http1 => Alpn::Http1,
            UpstreamProtocol::Http2 => Alpn::Http2,
        };
        let mut options = ClientTlsOptions::new(expected.clone());
        options.alpn = vec![alpn];
        Some(MutualTls {
            client: ClientTls::new(self.identity.clone(), options),
            identity: self.identity.clone(),
        })
    }
}
