//! Puts the house together: binds, starts workers, admin and writer, and takes them down
//! in the right order.

use std::io;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use wayleave_authz::{LoadErrors, PolicyStore};
use wayleave_certs::IdentityReader;
use wayleave_certs::tls::{FipsError, check_fips};

use crate::admin::{Admin, Destination, Listening, Started};
use crate::config::{DestinationConfig, InboundConfig, OutboundConfig};
use crate::drain::Drain;
use crate::fleet::{Fleet, FleetError};
use crate::listener;
use crate::policies::{PolicyFiles, PolicyReloader};
use crate::policy_loads::PolicyLoads;
use crate::record::metrics::Metrics;
use crate::record::{Output, Queue, Recent, Recorder, Writer};
use crate::worker::Workers;

/// What a sidecar is started with.
pub(crate) struct Start {
    /// Who we are and whom we trust.
    pub identity: IdentityReader,
    /// Where the policies are.
    pub policies: PolicyFiles,
    /// The listeners; at least one.
    pub inbound: Vec<InboundConfig>,
    /// Those that the workload calls out through.
    pub outbound: Vec<OutboundConfig>,
    /// Where those lead.
    pub destinations: Vec<DestinationConfig>,
    /// Where the admin listener binds.
    pub admin: SocketAddr,
    /// Where decision records go.
    pub output: Output,
    /// How many workers serve calls.
    pub workers: NonZeroUsize,
}

/// Why a sidecar did not start. Each is the user's to mend: exit status 2.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    /// A listening socket could not be bound.
    #[error("cannot listen on {address} for `{listener}`: {}", bind_words(source))]
    Bind {
        /// Which listener.
        listener: String,
        /// Where.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The policies have problems.
    #[error("the policies cannot be loaded")]
    Policies(#[source] LoadErrors),
    /// A listener cannot serve as it is configured.
    #[error(transparent)]
    Listener(#[from] FleetError),
    /// This build is for FIPS mode and does not run in it.
    #[error(transparent)]
    Fips(#[from] FipsError),
    /// The system refused a thread or a runtime.
    #[error("the system refuses a thread or socket: {0}")]
    System(#[from] io::Error),
}

fn bind_words(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "the port is in use; stop what listens there or choose another".into()
        }
        io::ErrorKind::PermissionDenied => {
            "not permitted; ports below 1024 need CAP_NET_BIND_SERVICE".into()
        }
        io::ErrorKind::AddrNotAvailable => "this machine does not have that address".into(),
        _ => error.to_string(),
    }
}

/// A running sidecar.
pub(crate) struct Sidecar {
    inbound: Vec<(Arc<str>, SocketAddr)>,
    outbound: Vec<(Arc<str>, SocketAddr)>,
    admin: SocketAddr,
    drain: Drain,
    workers: Workers,
    writer: Writer,
}

/// The sockets of a sidecar, bound before anything runs so that a mistake ends it early.
struct Bound {
    inbound: Vec<(InboundConfig, std::net::TcpListener)>,
    outbound: Vec<(OutboundConfig, std::net::TcpListener)>,
    admin: tokio::net::TcpListener,
}

impl Sidecar {
    /// Binds and starts everything. To be called on the control runtime, which admin and
    /// watching stay on.
    ///
    /// # Errors
    /// When a socket, a policy or a thread cannot be had.
    pub(crate) fn start(start: Start) -> Result<Self, StartError> {
        let Start {
            identity,
            policies,
            inbound,
            outbound,
            destinations,
            admin,
            output,
            workers,
        } = start;
        check_fips()?;
        let started = Started::now();
        let metrics = Arc::new(Metrics::new());
        let loads = Arc::new(PolicyLoads::default());
        let store = PolicyStore::empty();
        let reloader = PolicyReloader::start(
            policies,
            store.clone(),
            Arc::clone(&metrics),
            Arc::clone(&loads),
        )
        .map_err(StartError::Policies)?;
        let bound = Bound::new(inbound, outbound, admin)?;
        let (queue, recent) = (Arc::new(Queue::default()), Arc::new(Recent::default()));
        let writer = Writer::start(
            Arc::clone(&queue),
            output,
            Arc::clone(&recent),
            Arc::clone(&metrics),
        )?;
        let fleet = Fleet {
            identity: identity.clone(),
            store: store.clone(),
            metrics: Arc::clone(&metrics),
            recorder: Recorder::new(queue),
            drain: Drain::default(),
            workers: Workers::start(workers)?,
            own: bound.addresses()?,
        };
        let mut addresses = Vec::new();
        let mut listeners = Vec::new();
        for (config, socket) in bound.inbound {
            let address = socket.local_addr()?;
            addresses.push((Arc::clone(&config.name), address));
            listeners.push(Listening::inbound(&config, address));
            fleet.listen_inbound(&config, socket)?;
        }
        let mut outbound = Vec::new();
        for (config, socket) in bound.outbound {
            let address = socket.local_addr()?;
            outbound.push((Arc::clone(&config.name), address));
            listeners.push(Listening::outbound(&config, address));
            fleet.listen_outbound(&config, &destinations, socket)?;
        }
        let admin = bound.admin.local_addr()?;
        let service = Admin {
            identity,
            policies: store,
            loads,
            listeners,
            destinations: destinations.iter().map(Destination::new).collect(),
            started,
            metrics,
            recent,
            drain: fleet.drain.clone(),
        };
        tokio::spawn(Arc::new(service).run(bound.admin));
        tokio::spawn(reloader.run());
        let Fleet { drain, workers, .. } = fleet;
        Ok(Self {
            inbound: addresses,
            outbound,
            admin,
            drain,
            workers,
            writer,
        })
    }

    /// The listeners by name, with the addresses that they were given.
    pub(crate) fn inbound(&self) -> &[(Arc<str>, SocketAddr)] {
        &self.inbound
    }

    /// The outbound listeners, likewise.
    pub(crate) fn outbound(&self) -> &[(Arc<str>, SocketAddr)] {
        &self.outbound
    }

    /// Where the admin listener is.
    pub(crate) fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// Takes no new connection, lets the calls in flight finish for `limit` at most or until
    /// `hurry` completes, and ends.
    pub(crate) async fn drain(self, limit: Duration, hurry: impl Future<Output = ()>) {
        self.drain.run(limit, hurry).await;
        let (workers, writer) = (self.workers, self.writer);
        let ended = tokio::task::spawn_blocking(move || {
            workers.stop();
            writer.finish();
        });
        if ended.await.is_err() {
            tracing::error!("the sidecar did not end cleanly");
        }
    }
}

impl Bound {
    fn new(
        inbound: Vec<InboundConfig>,
        outbound: Vec<OutboundConfig>,
        admin: SocketAddr,
    ) -> Result<Self, StartError> {
        let inbound = inbound
            .into_iter()
            .map(|config| {
                let socket = bind(&config.name, config.listen)?;
                Ok((config, socket))
            })
            .collect::<Result<_, StartError>>()?;
        let outbound = outbound
            .into_iter()
            .map(|config| {
                let socket = bind(&config.name, config.listen)?;
                Ok((config, socket))
            })
            .collect::<Result<_, StartError>>()?;
        let admin = tokio::net::TcpListener::from_std(bind("admin", admin)?)?;
        Ok(Self {
            inbound,
            outbound,
            admin,
        })
    }

    /// Where all of them are.
    fn addresses(&self) -> io::Result<Arc<[SocketAddr]>> {
        let inbound = self.inbound.iter().map(|(_, socket)| socket.local_addr());
        let outbound = self.outbound.iter().map(|(_, socket)| socket.local_addr());
        let admin = std::iter::once(self.admin.local_addr());
        inbound.chain(outbound).chain(admin).collect()
    }
}

fn bind(listener: &str, address: SocketAddr) -> Result<std::net::TcpListener, StartError> {
    listener::bind(address).map_err(|source| StartError::Bind {
        listener: listener.to_owned(),
        address,
        source,
    })
}
