//! What all listeners of a sidecar share, and how each of them gets its place at every worker.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use wayleave_authz::{Direction, PolicyStore};
use wayleave_certs::tls::{
    ClientTls, ClientTlsOptions, HandshakeError, ServerTls, ServerTlsOptions, WebRoots,
    WebRootsError, WebTls,
};
use wayleave_certs::{Alpn, IdentityReader};

use crate::config::{
    self, AllowedAddresses, DestinationConfig, HostPattern, InboundConfig, InboundMode,
    LimitsConfig, OutboundConfig, OutboundKind, UpstreamConfig, UpstreamProtocol, UpstreamTls,
};
use crate::drain::Drain;
use crate::enforce::Enforcer;
use crate::forward::{Dialer, Pool, UpstreamTlsClient};
use crate::gate::Gate;
use crate::inbound::Inbound;
use crate::listener::{Entrance, Listener};
use crate::outbound::addresses::AddressTable;
use crate::outbound::guard::Guard;
use crate::outbound::originals::Originals;
use crate::outbound::table::HostTable;
use crate::outbound::transparent::Transparent;
use crate::outbound::{Kind, Outbound};
use crate::record::Recorder;
use crate::record::metrics::Metrics;
use crate::route::{Place, Route, Routes, Table};
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
    /// Where this sidecar listens, admin included.
    pub(crate) own: Arc<[SocketAddr]>,
}

/// Why a listener cannot serve.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FleetError {
    /// The system refused a socket.
    #[error(transparent)]
    System(#[from] io::Error),
    /// The authorities of an upstream's `tls.roots` cannot be used.
    #[error("the certificate authorities of an upstream cannot be used")]
    Roots(#[from] WebRootsError),
    /// TLS with hosts of the web cannot be had.
    #[error("TLS with hosts of the web cannot be had")]
    Tls(#[from] HandshakeError),
}

/// What a gate is made from, whichever way calls go.
struct Plan<'a> {
    name: &'a Arc<str>,
    direction: Direction,
    mode: InboundMode,
    show_reason: bool,
    limits: &'a LimitsConfig,
    is_proxy: bool,
    leads: Leads,
}

/// Where the calls of a listener go, before a worker has connections there.
enum Leads {
    To(Lead),
    ByHost(Vec<(DestinationConfig, Lead)>),
}

/// One service, as all workers reach it.
#[derive(Clone)]
struct Lead {
    service: Arc<str>,
    hosts: Vec<HostPattern>,
    port: u16,
    config: UpstreamConfig,
    tls: Option<UpstreamTlsClient>,
}

impl Fleet {
    /// Starts to accept callers from elsewhere.
    pub(crate) fn listen_inbound(
        &self,
        config: &InboundConfig,
        socket: TcpListener,
    ) -> Result<(), FleetError> {
        let port = socket.local_addr()?.port();
        let tls = Arc::new(ServerTls::new(
            self.identity.clone(),
            ServerTlsOptions {
                require_post_quantum: config.tls.require_post_quantum,
                ..ServerTlsOptions::default()
            },
        ));
        let hosts = config.hosts.iter().cloned().map(HostPattern::Exact);
        let plan = Plan {
            name: &config.name,
            direction: Direction::Inbound,
            mode: config.mode,
            show_reason: config.show_reason,
            limits: &config.limits,
            is_proxy: false,
            leads: Leads::To(Lead {
                service: Arc::clone(&config.service),
                hosts: hosts.collect(),
                port,
                config: config.upstream.clone(),
                tls: self.tls(&config.upstream)?,
            }),
        };
        self.listen(socket, &config.limits, |seat| {
            Entrance::Inbound(Inbound {
                gate: self.gate(&plan, seat),
                tls: Arc::clone(&tls),
                protocol: config.protocol,
            })
        })?;
        Ok(())
    }

    /// Starts to accept the workload's own calls.
    pub(crate) fn listen_outbound(
        &self,
        config: &OutboundConfig,
        destinations: &[DestinationConfig],
        socket: TcpListener,
    ) -> Result<(), FleetError> {
        let leads = match &config.kind {
            OutboundKind::Explicit(destination) => Leads::To(self.lead(destination)?),
            OutboundKind::ForwardProxy | OutboundKind::Transparent => {
                let lead = |each: &DestinationConfig| Ok((each.clone(), self.lead(each)?));
                let leads: Result<_, FleetError> = destinations.iter().map(lead).collect();
                Leads::ByHost(leads?)
            }
        };
        let plan = Plan {
            name: &config.name,
            direction: Direction::Outbound,
            mode: config.mode,
            show_reason: config.show_reason,
            limits: &config.limits,
            is_proxy: matches!(config.kind, OutboundKind::ForwardProxy),
            leads,
        };
        self.listen(socket, &config.limits, |seat| {
            let kind = match config.kind {
                OutboundKind::Transparent => {
                    let addresses = AddressTable::of(destinations);
                    seat.runtime().spawn(Arc::clone(&addresses).refresh());
                    Kind::Transparent(Transparent::new(addresses, Arc::clone(&self.own)))
                }
                _ => Kind::Asked(config.protocol),
            };
            Entrance::Outbound(Outbound {
                gate: self.gate(&plan, seat),
                kind,
            })
        })?;
        Ok(())
    }

    fn lead(&self, destination: &DestinationConfig) -> Result<Lead, FleetError> {
        let upstream = &destination.upstream;
        Ok(Lead {
            service: Arc::clone(&destination.service),
            // Found by its host, or by the listener: either way every host is for it.
            hosts: Vec::new(),
            port: upstream.port(),
            config: upstream.clone(),
            tls: self.tls(upstream)?,
        })
    }

    /// Gives a listener a place at every worker, and has the first one accept.
    fn listen(
        &self,
        socket: TcpListener,
        limits: &LimitsConfig,
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
            connections: Arc::new(Semaphore::new(limits.max_connections)),
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
        Arc::new(Gate {
            name: Arc::clone(plan.name),
            limits: plan.limits.clone(),
            enforcer: Enforcer {
                policies: self.store.clone(),
                direction: plan.direction,
                mode: plan.mode,
                show_reason: plan.show_reason,
            },
            routes: match &plan.leads {
                Leads::To(lead) => Routes::One(route(lead, seat)),
                Leads::ByHost(leads) => Routes::Table(self.table(leads, seat)),
            },
            is_proxy: plan.is_proxy,
            identity: self.identity.clone(),
            recorder: self.recorder.clone(),
            metrics: Arc::clone(&self.metrics),
        })
    }

    fn table(&self, leads: &[(DestinationConfig, Lead)], seat: &Seat) -> Table {
        let (mut hosts, mut places) = (HostTable::new(), Vec::new());
        for (destination, lead) in leads {
            let place = match lead.config.original {
                None => Place::Fixed(route(lead, seat)),
                Some(allowed) => Place::Original(self.originals(lead, allowed, seat)),
            };
            hosts.add(&destination.hosts, &destination.ports, &place);
            places.push(place);
        }
        Table { hosts, places }
    }

    fn originals(&self, lead: &Lead, allowed: AllowedAddresses, seat: &Seat) -> Arc<Originals> {
        let guard = Guard::new(allowed, Arc::clone(&self.own));
        let service = Arc::clone(&lead.service);
        let originals = Originals::new(service, lead.config.clone(), lead.tls.clone(), guard);
        let originals = Arc::new(originals);
        let swept = Arc::clone(&originals);
        seat.runtime().spawn(sweep(move || swept.expire()));
        originals
    }

    fn tls(&self, config: &UpstreamConfig) -> Result<Option<UpstreamTlsClient>, FleetError> {
        let alpn = match config.protocol {
            UpstreamProtocol::Http1 => Alpn::Http1,
            UpstreamProtocol::Http2 => Alpn::Http2,
        };
        Ok(match &config.tls {
            UpstreamTls::Off => None,
            UpstreamTls::Mutual(expected) => {
                let mut options = ClientTlsOptions::new(expected.clone());
                options.alpn = vec![alpn];
                let tls = ClientTls::new(self.identity.clone(), options);
                Some(UpstreamTlsClient::Mutual(Arc::new(tls)))
            }
            UpstreamTls::Web(roots) => {
                let tls = WebTls::new(&read_roots(roots)?, alpn)?;
                Some(UpstreamTlsClient::Web(Arc::new(tls)))
            }
        })
    }
}

/// The authorities that hosts of the web are verified with.
///
/// # Errors
/// When they cannot be read, or there are none.
pub(crate) fn read_roots(roots: &config::WebRoots) -> Result<WebRoots, WebRootsError> {
    match roots {
        config::WebRoots::System => WebRoots::system(),
        config::WebRoots::File(path) => WebRoots::file(path),
    }
}

fn route(lead: &Lead, seat: &Seat) -> Arc<Route> {
    let dialer = Dialer::new(lead.config.clone(), lead.tls.clone());
    let pool = Pool::new(Arc::new(dialer));
    let swept = Arc::clone(&pool);
    seat.runtime().spawn(sweep(move || swept.expire()));
    Arc::new(Route {
        service: Arc::clone(&lead.service),
        hosts: lead.hosts.clone(),
        port: lead.port,
        pool,
    })
}

async fn sweep(expire: impl Fn()) {
    loop {
        tokio::time::sleep(POOL_SWEEP).await;
        expire();
    }
}
