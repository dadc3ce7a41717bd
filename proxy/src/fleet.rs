//! What all listeners of a sidecar share, and how each of them gets its place at every worker.

use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use wayleave_authz::{Direction, PolicyStore};
use wayleave_certs::Alpn;
use wayleave_certs::IdentityReader;
use wayleave_certs::tls::{ClientTls, ClientTlsOptions, ServerTls, ServerTlsOptions};

use crate::admission::Admission;
use crate::config::{
    InboundConfig, InboundMode, LimitsConfig, OutboundConfig, UpstreamConfig, UpstreamProtocol,
    UpstreamTls,
};
use crate::connection::{Roster, sweep_interval};
use crate::drain::Drain;
use crate::enforce::Enforcer;
use crate::forward::{Dialer, Pool};
use crate::gate::Gate;
use crate::inbound::Inbound;
use crate::listener::{Entrance, Listener};
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
    pub(crate) store: PolicyStore,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) recorder: Recorder,
    pub(crate) drain: Drain,
    pub(crate) workers: Workers,
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
    dialer: Arc<Dialer>,
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
                require_post_quantum: config.tls.require_post_quantum,
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
            dialer: self.dialer(&config.upstream),
            admission: Arc::clone(admission),
        };
        self.listen(socket, admission, |seat| {
            Entrance::Inbound(Inbound {
                gate: self.gate(&plan, seat),
                tls: Arc::clone(&tls),
                protocol: config.protocol,
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
            dialer: self.dialer(&destination.upstream),
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
            admission: Arc::clone(admission),
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
        let pool = Pool::new(Arc::clone(&plan.dialer));
        seat.runtime().spawn(sweep(Arc::clone(&pool)));
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

async fn sweep(pool: Arc<Pool>) {
    loop {
        tokio::time::sleep(POOL_SWEEP).await;
        pool.expire();
    }
}
