//! Where the calls of a listener go. All that can fail of it is done for [`Leads`]; what is begun
//! from there is shared by all workers, and each of them gets its own connections.

use std::sync::Arc;

use tokio::runtime::Handle;
use wayleave_certs::Alpn;
use wayleave_certs::tls::{
    ClientTls, ClientTlsOptions, HandshakeError, WebRoots, WebRootsError, WebTls,
};

use crate::config::{
    self, DestinationConfig, HostPattern, OutboundKind, UpstreamConfig, UpstreamProtocol,
    UpstreamTls,
};
use crate::fleet::Fleet;
use crate::forward::{Blueprint, MutualTls, Pool, SystemResolver, Upstream, UpstreamTlsClient};
use crate::listeners::ListenerConfig;
use crate::outbound::guard::Guard;
use crate::outbound::originals::Originals;
use crate::outbound::table::HostTable;
use crate::route::{Place, Route, Routes, Table};
use crate::worker::Seat;

/// Where the calls of a listener go, before anything is begun.
pub(crate) enum Leads {
    To(Box<Lead>),
    ByHost(Vec<(DestinationConfig, Lead)>),
}

/// One service, and how it is reached.
pub(crate) struct Lead {
    service: Arc<str>,
    hosts: Vec<HostPattern>,
    /// The port that callers reach it on; that of the listener where there is none.
    port: Option<u16>,
    upstream: UpstreamConfig,
    tls: Option<UpstreamTlsClient>,
}

/// Where the calls of a listener go, as all workers share it.
pub(crate) enum Ways {
    One(Box<Way>),
    ByHost(Vec<(DestinationConfig, Way)>),
}

/// One service, as all workers share it.
pub(crate) struct Way {
    service: Arc<str>,
    hosts: Vec<HostPattern>,
    port: u16,
    to: To,
}

enum To {
    Fixed(Arc<Upstream>),
    Original(Box<Blueprint>),
}

/// TLS with hosts of the web cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WebTlsError {
    /// The authorities of an upstream's `tls.roots` cannot be used.
    #[error("the certificate authorities of an upstream cannot be used: {0}")]
    Roots(#[from] WebRootsError),
    /// rustls refuses.
    #[error("TLS with hosts of the web cannot be had: {0}")]
    Tls(#[from] HandshakeError),
}

impl Fleet {
    /// Reads what is needed to reach the services of a listener.
    ///
    /// # Errors
    /// When authorities cannot be read.
    pub(crate) fn leads(&self, config: &ListenerConfig) -> Result<Leads, WebTlsError> {
        let (config, destinations) = match config {
            ListenerConfig::Inbound(config) => {
                let hosts = config.hosts.iter().cloned().map(HostPattern::Exact);
                let lead = Lead {
                    service: Arc::clone(&config.service),
                    hosts: hosts.collect(),
                    port: None,
                    tls: self.tls(&config.upstream)?,
                    upstream: config.upstream.clone(),
                };
                return Ok(Leads::To(Box::new(lead)));
            }
            ListenerConfig::Outbound(config, destinations) => (config, destinations),
        };
        match &config.kind {
            OutboundKind::Explicit(destination) => Ok(Leads::To(Box::new(self.lead(destination)?))),
            OutboundKind::ForwardProxy | OutboundKind::Transparent => {
                let lead = |each: &DestinationConfig| Ok((each.clone(), self.lead(each)?));
                let leads: Result<_, WebTlsError> = destinations.iter().map(lead).collect();
                Ok(Leads::ByHost(leads?))
            }
        }
    }

    fn lead(&self, destination: &DestinationConfig) -> Result<Lead, WebTlsError> {
        let upstream = &destination.upstream;
        Ok(Lead {
            service: Arc::clone(&destination.service),
            // Found by its host, or by the listener: either way every host is for it.
            hosts: Vec::new(),
            port: Some(upstream.port()),
            tls: self.tls(upstream)?,
            upstream: upstream.clone(),
        })
    }

    fn tls(&self, config: &UpstreamConfig) -> Result<Option<UpstreamTlsClient>, WebTlsError> {
        let alpn = match config.protocol {
            UpstreamProtocol::Http1 => Alpn::Http1,
            UpstreamProtocol::Http2 => Alpn::Http2,
        };
        Ok(match &config.tls {
            UpstreamTls::Off => None,
            UpstreamTls::Mutual(expected) => {
                let mut options = ClientTlsOptions::new(expected.clone());
                options.alpn = vec![alpn];
                Some(UpstreamTlsClient::Mutual(Arc::new(MutualTls {
                    client: ClientTls::new(self.identity.clone(), options),
                    identity: self.identity.clone(),
                })))
            }
            UpstreamTls::Web(roots) => {
                let tls = WebTls::new(&read_roots(roots)?, alpn)?;
                Some(UpstreamTlsClient::Web(Arc::new(tls)))
            }
        })
    }

    /// Begins what is done in the background for the services of the listener `name`.
    pub(crate) fn begin(&self, leads: Leads, name: &Arc<str>, port: u16) -> Ways {
        match leads {
            Leads::To(lead) => Ways::One(Box::new(self.way(*lead, name, port))),
            Leads::ByHost(leads) => Ways::ByHost(
                leads
                    .into_iter()
                    .map(|(destination, lead)| (destination, self.way(lead, name, port)))
                    .collect(),
            ),
        }
    }

    fn way(&self, lead: Lead, name: &Arc<str>, port: u16) -> Way {
        let original = lead.upstream.original;
        let metrics = self.metrics.upstreams().of(&lead.service);
        let blueprint = Blueprint::new(lead.upstream, lead.tls, metrics, Arc::new(SystemResolver));
        let to = match original {
            Some(allowed) => {
                let guard = Guard::new(allowed, self.own.clone());
                To::Original(Box::new(blueprint.guarded(guard)))
            }
            None => {
                let upstream = blueprint.start(&self.control);
                self.upstreams.add(name, &upstream);
                To::Fixed(upstream)
            }
        };
        Way {
            service: lead.service,
            hosts: lead.hosts,
            port: lead.port.unwrap_or(port),
            to,
        }
    }
}

impl Ways {
    /// The services as one worker reaches them.
    pub(crate) fn at(&self, seat: &Seat) -> Routes {
        let runtime = seat.runtime();
        match self {
            Self::One(way) => match way.at(runtime) {
                Place::Fixed(route) => Routes::One(route),
                // No listener leads to such a one alone; where it is asked for, it is found.
                place @ Place::Original(_) => {
                    let mut hosts = HostTable::new();
                    hosts.add(&[HostPattern::Any], &[], &place);
                    let places = vec![place];
                    Routes::Table(Table { hosts, places })
                }
            },
            Self::ByHost(ways) => {
                let (mut hosts, mut places) = (HostTable::new(), Vec::new());
                for (destination, way) in ways {
                    let place = way.at(runtime);
                    hosts.add(&destination.hosts, &destination.ports, &place);
                    places.push(place);
                }
                Routes::Table(Table { hosts, places })
            }
        }
    }
}

impl Way {
    fn at(&self, runtime: &Handle) -> Place {
        let service = Arc::clone(&self.service);
        match &self.to {
            To::Fixed(upstream) => Place::Fixed(Arc::new(Route {
                service,
                hosts: self.hosts.clone(),
                port: self.port,
                pool: Pool::tended(Arc::clone(upstream), runtime),
            })),
            To::Original(blueprint) => {
                let originals =
                    Originals::new(service, Blueprint::clone(blueprint), runtime.clone());
                let originals = Arc::new(originals);
                runtime.spawn(Originals::tend(Arc::downgrade(&originals)));
                Place::Original(originals)
            }
        }
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
