//! The listeners that are open, and what a new configuration makes of them.
//!
//! A change comes in two steps. [`Listeners::plan`] does all that can fail, and changes nothing
//! that is open; [`Listeners::apply`] cannot fail. A listener that is the same stays as it is,
//! with its connections; one whose address is the same keeps its socket.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio_util::sync::CancellationToken;
use wayleave_authz::Direction;

use crate::admin::{Destination, Listening, Load};
use crate::config::{
    Config, DestinationConfig, InboundConfig, LimitsConfig, OutboundConfig, OutboundKind,
};
use crate::fleet::Fleet;
use crate::leads::{Leads, WebTlsError};
use crate::listener::{Doors, Listener};
use crate::outbound::guard::Own;
use crate::sockets::{BindError, PassedSocket, SocketName, Sockets};

/// A listener's configuration, whichever way its calls go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ListenerConfig {
    Inbound(Box<InboundConfig>),
    /// With the destinations that it finds by their hosts, where it does.
    Outbound(Box<OutboundConfig>, Arc<[DestinationConfig]>),
}

/// Why the listeners that are wanted cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PlanError {
    /// A listening socket could not be bound.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// A listener leads to an upstream whose authorities cannot be read.
    #[error("`{listener}` cannot be served: {source}")]
    Upstream {
        listener: String,
        #[source]
        source: WebTlsError,
    },
}

impl ListenerConfig {
    /// All listeners of a configuration.
    pub(crate) fn all(config: &Config) -> Vec<Self> {
        let inbound = config.inbound.iter().cloned().map(Box::new);
        let inbound = inbound.map(Self::Inbound);
        let (none, every) = (Arc::default(), Arc::from(config.destinations.as_slice()));
        let outbound = config.outbound.iter().map(|outbound| {
            let destinations = match outbound.kind {
                OutboundKind::Explicit(_) => &none,
                OutboundKind::ForwardProxy | OutboundKind::Transparent => &every,
            };
            Self::Outbound(Box::new(outbound.clone()), Arc::clone(destinations))
        });
        inbound.chain(outbound).collect()
    }

    pub(crate) fn name(&self) -> &Arc<str> {
        match self {
            Self::Inbound(config) => &config.name,
            Self::Outbound(config, _) => &config.name,
        }
    }

    pub(crate) fn direction(&self) -> Direction {
        match self {
            Self::Inbound(_) => Direction::Inbound,
            Self::Outbound(..) => Direction::Outbound,
        }
    }

    pub(crate) fn listen(&self) -> SocketAddr {
        match self {
            Self::Inbound(config) => config.listen,
            Self::Outbound(config, _) => config.listen,
        }
    }

    fn limits(&self) -> &LimitsConfig {
        match self {
            Self::Inbound(config) => &config.limits,
            Self::Outbound(config, _) => &config.limits,
        }
    }

    fn status(&self, address: SocketAddr) -> Listening {
        match self {
            Self::Inbound(config) => Listening::inbound(config, address),
            Self::Outbound(config, _) => Listening::outbound(config, address),
        }
    }

    /// Where its calls may go, where it is outbound.
    fn destinations(&self) -> &[DestinationConfig] {
        match self {
            Self::Inbound(_) => &[],
            Self::Outbound(config, destinations) => match &config.kind {
                OutboundKind::Explicit(destination) => std::slice::from_ref(destination),
                OutboundKind::ForwardProxy | OutboundKind::Transparent => destinations,
            },
        }
    }

    /// Whether a listener by this configuration can go on with the other's socket. Port 0 is
    /// whichever port the listener of that name was given.
    fn shares_socket_with(&self, other: &Self) -> bool {
        self.listen() == other.listen()
            && (self.listen().port() != 0 || self.name() == other.name())
    }
}

/// One open listener.
#[derive(Debug)]
struct Open {
    config: ListenerConfig,
    address: SocketAddr,
    /// The same socket as the one that is accepted on: for a listener that takes its place here
    /// or in another process.
    socket: TcpListener,
    doors: Arc<ArcSwap<Doors>>,
    closing: CancellationToken,
}

/// Every open listener, and what they share.
pub(crate) struct Listeners {
    fleet: Fleet,
    open: Vec<Open>,
}

/// What becomes of the listeners: one step for each that is wanted; what has none is closed.
///
/// INVARIANT: places in the list are good as long as nothing else is applied in between.
pub(crate) struct Plan(Vec<(ListenerConfig, Step)>);

enum Step {
    /// Nothing changes.
    Stay(usize),
    /// The socket stays, with new doors.
    Swap(usize, Leads),
    /// A socket that is accepted on from now on, and the handle that is kept of it.
    Open(tokio::net::TcpListener, TcpListener, Leads),
}

/// What a [`Plan`] has done.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Changes {
    pub(crate) unchanged: usize,
    pub(crate) changed: usize,
    pub(crate) added: usize,
    pub(crate) removed: usize,
}

impl Plan {
    /// Where it opens listeners.
    fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.0.iter().filter_map(|(_, step)| match step {
            Step::Open(_, socket, _) => socket.local_addr().ok(),
            Step::Stay(_) | Step::Swap(..) => None,
        })
    }
}

impl Listeners {
    /// No listener yet.
    pub(crate) fn new(fleet: Fleet) -> Self {
        Self {
            fleet,
            open: Vec::new(),
        }
    }

    /// Finds out what is to be done, and binds what is new.
    ///
    /// # Errors
    /// When an address cannot be bound, or authorities cannot be read; nothing has changed then.
    pub(crate) fn plan(
        &self,
        wanted: Vec<ListenerConfig>,
        sockets: &mut Sockets,
    ) -> Result<Plan, PlanError> {
        let mut steps = Vec::new();
        for config in wanted {
            let step = self.step(&config, sockets)?;
            steps.push((config, step));
        }
        Ok(Plan(steps))
    }

    fn step(&self, config: &ListenerConfig, sockets: &mut Sockets) -> Result<Step, PlanError> {
        let mut open = self.open.iter().enumerate();
        let place = open.find(|(_, open)| config.shares_socket_with(&open.config));
        let socket = match place {
            Some((place, open)) if open.config == *config => return Ok(Step::Stay(place)),
            Some((place, open)) if open.config.direction() == config.direction() => {
                return Ok(Step::Swap(place, self.leads(config)?));
            }
            // What goes the other way is counted and drained elsewhere.
            Some((_, open)) => open.socket.try_clone(),
            None => sockets.listener(config.name(), config.listen()),
        };
        let opened = socket.and_then(|socket| {
            let kept = socket.try_clone()?;
            Ok((self.fleet.seat(socket)?, kept))
        });
        let (accepting, kept) = opened.map_err(|source| BindError {
            listener: config.name().to_string(),
            address: config.listen(),
            source,
        })?;
        Ok(Step::Open(accepting, kept, self.leads(config)?))
    }

    fn leads(&self, config: &ListenerConfig) -> Result<Leads, PlanError> {
        let leads = self.fleet.leads(config);
        leads.map_err(|source| PlanError::Upstream {
            listener: config.name().to_string(),
            source,
        })
    }

    /// Carries a plan out, and has `policies` put others in force where there are such.
    /// Connections that came by what is changed or closed have `limit` to finish.
    ///
    /// SECURITY: in this order, every call that is allowed to begin is allowed by the old
    /// configuration as a whole or by the new one. First what does not stay is left: a call that
    /// begins there from now on must be allowed by the policies of now too, not only by those that
    /// come. Then the policies, which also decide every open call again. Then the listeners, so
    /// that no call comes in by a new one and is decided by old policies. What does not hold: a
    /// call that only the new configuration as a whole allows may be denied at what does not stay,
    /// where it is still for the old service; and what else an open connection came under (its
    /// limits, its mode, its upstream) stays with it until it has finished.
    pub(crate) fn apply(
        &mut self,
        plan: Plan,
        policies: Option<impl FnOnce()>,
        limit: Duration,
    ) -> Changes {
        self.leave_all_but(&plan);
        if let Some(policies) = policies {
            policies();
        }
        // SECURITY: before it can be connected to.
        self.fleet.own.add(plan.addresses());
        let mut changes = Changes::default();
        let mut before: Vec<_> = self.open.drain(..).map(Some).collect();
        let mut take = |place: usize| before.get_mut(place).and_then(Option::take);
        for (config, step) in plan.0 {
            let open = match step {
                Step::Stay(place) => {
                    changes.unchanged += 1;
                    take(place)
                }
                Step::Swap(place, leads) => {
                    changes.changed += 1;
                    take(place).map(|open| self.swap(open, config, leads, limit))
                }
                Step::Open(accepting, socket, leads) => {
                    changes.added += 1;
                    Some(self.open(config, leads, accepting, socket))
                }
            };
            self.open.extend(open);
        }
        for open in before.into_iter().flatten() {
            changes.removed += 1;
            close(open, limit);
        }
        changes
    }

    /// From now on, calls that begin at what does not stay need an allow by the policies of now.
    fn leave_all_but(&self, plan: &Plan) {
        let stays = |place: usize| {
            let mut steps = plan.0.iter();
            steps.any(|(_, step)| matches!(step, Step::Stay(stays) if *stays == place))
        };
        for (place, open) in self.open.iter().enumerate() {
            if !stays(place) {
                open.doors.load().policies.leave();
            }
        }
    }

    fn open(
        &self,
        config: ListenerConfig,
        leads: Leads,
        accepting: tokio::net::TcpListener,
        socket: TcpListener,
    ) -> Open {
        let address = socket.local_addr().unwrap_or(config.listen());
        let admission = self.fleet.admission(config.limits());
        let doors = self.fleet.doors(&config, leads, address.port(), admission);
        let doors = Arc::new(ArcSwap::from_pointee(doors));
        let closing = self.fleet.drain(config.direction()).closing();
        let listener = Listener {
            doors: Arc::clone(&doors),
            closing: closing.clone(),
        };
        self.fleet.accept(config.direction(), accepting, listener);
        Open {
            config,
            address,
            socket,
            doors,
            closing,
        }
    }

    /// Lets new connections in by the new configuration, and those that are open finish.
    fn swap(&self, open: Open, config: ListenerConfig, leads: Leads, limit: Duration) -> Open {
        let before = open.doors.load_full();
        // What finishes counts against the same limits, where those have not changed.
        let admission = match config.limits() == open.config.limits() {
            true => Arc::clone(&before.admission),
            false => self.fleet.admission(config.limits()),
        };
        let port = open.address.port();
        let doors = self.fleet.doors(&config, leads, port, admission);
        open.doors.store(Arc::new(doors));
        tokio::spawn(before.drain.clone().retire(limit));
        Open { config, ..open }
    }

    /// What the listeners are called and where they are, for people and programs.
    pub(crate) fn status(&self) -> Vec<Listening> {
        let open = self.open.iter();
        open.map(|open| open.config.status(open.address)).collect()
    }

    /// The services that outbound listeners lead to, each told once.
    pub(crate) fn destinations(&self) -> Vec<Destination> {
        let mut told: Vec<Destination> = Vec::new();
        for config in self.open.iter().flat_map(|open| open.config.destinations()) {
            if told.iter().all(|one| *one.service != *config.service) {
                told.push(Destination::new(config));
            }
        }
        told
    }

    /// Where the sidecar listens.
    pub(crate) fn own(&self) -> &Own {
        &self.fleet.own
    }

    /// Says where the sidecar listens, which is here and at `others`.
    pub(crate) fn tell_own(&self, others: impl Iterator<Item = SocketAddr>) {
        let here = self.open.iter().map(|open| open.address);
        self.fleet.own.set(here.chain(others).collect());
    }

    /// How much of their limits the listeners use.
    pub(crate) fn loads(&self) -> Vec<Load> {
        let open = self.open.iter();
        open.map(|open| {
            let admission = Arc::clone(&open.doors.load().admission);
            (Arc::clone(open.config.name()), admission)
        })
        .collect()
    }

    /// The sockets of all listeners, for the process that takes our place.
    pub(crate) fn sockets(&self) -> io::Result<Vec<PassedSocket>> {
        let open = self.open.iter();
        open.map(|open| {
            Ok(PassedSocket {
                name: SocketName::Listener(open.config.name().to_string()),
                socket: open.socket.try_clone()?,
            })
        })
        .collect()
    }

    /// Leaves the sockets to what accepts on them, so that they are closed when that ends.
    pub(crate) fn let_go(self) -> Fleet {
        self.fleet
    }
}

fn close(open: Open, limit: Duration) {
    // First: the one who accepts closes the last handle, when it has taken the last connections.
    drop(open.socket);
    open.closing.cancel();
    let drain = open.doors.load().drain.clone();
    tokio::spawn(drain.retire(limit));
}

#[cfg(test)]
mod tests;
