//! Puts the house together: binds, starts workers, admin and writer, and takes them down
//! in the right order.

use std::io;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use wayleave_authz::{LoadErrors, PolicyStore};
use wayleave_certs::IdentityReader;
use wayleave_certs::tls::{FipsError, check_fips};

use crate::admin::{Admin, Listening, Loads, Started};
use crate::admission::Admission;
use crate::config::{InboundConfig, MaxMemory, OutboundConfig, ProbesConfig};
use crate::drain::Drain;
use crate::fleet::Fleet;
use crate::listener;
use crate::memory::Memory;
use crate::policies::{PolicyFiles, PolicyReloader};
use crate::policy_loads::PolicyLoads;
use crate::probes::Probes;
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
    /// Where the admin listener binds.
    pub admin: SocketAddr,
    /// Where decision records go.
    pub output: Output,
    /// How many workers serve calls.
    pub workers: NonZeroUsize,
    /// What may be probed without a certificate.
    pub probes: Option<ProbesConfig>,
    /// How much memory may be held before calls are refused.
    pub max_memory: MaxMemory,
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
    probes: Option<SocketAddr>,
    drain: Drain,
    workers: Workers,
    writer: Writer,
}

/// The sockets of a sidecar, bound before anything runs so that a mistake ends it early.
struct Bound {
    inbound: Vec<(InboundConfig, std::net::TcpListener)>,
    outbound: Vec<(OutboundConfig, std::net::TcpListener)>,
    admin: tokio::net::TcpListener,
    probes: Option<(ProbesConfig, tokio::net::TcpListener)>,
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
            admin,
            output,
            workers,
            probes,
            max_memory,
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
        let bound = Bound::new(inbound, outbound, admin, probes)?;
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
            control: Handle::current(),
            upstreams: Arc::default(),
        };
        let memory = Arc::new(Memory::with_limit(max_memory));
        tokio::spawn(Arc::clone(&memory).watch());
        let mut loads_of = Vec::new();
        let mut addresses = Vec::new();
        let mut listeners = Vec::new();
        for (config, socket) in bound.inbound {
            let address = socket.local_addr()?;
            addresses.push((Arc::clone(&config.name), address));
            listeners.push(Listening::inbound(&config, address));
            let admission = Arc::new(Admission::new(&config.limits, Arc::clone(&memory)));
            fleet.listen_inbound(&config, socket, &admission)?;
            loads_of.push((Arc::clone(&config.name), admission));
        }
        let mut outbound = Vec::new();
        for (config, socket) in bound.outbound {
            let address = socket.local_addr()?;
            outbound.push((Arc::clone(&config.name), address));
            listeners.push(Listening::outbound(&config, address));
            let admission = Arc::new(Admission::new(&config.limits, Arc::clone(&memory)));
            fleet.listen_outbound(&config, socket, &admission)?;
            loads_of.push((Arc::clone(&config.name), admission));
        }
        let admin = bound.admin.local_addr()?;
        let service = Admin {
            identity,
            policies: store,
            loads,
            listeners,
            load: Loads {
                memory,
                listeners: loads_of,
            },
            started,
            metrics,
            recent,
            upstreams: Arc::clone(&fleet.upstreams),
            drain: fleet.drain.clone(),
        };
        tokio::spawn(Arc::new(service).run(bound.admin));
        tokio::spawn(reloader.run());
        let mut probes = None;
        if let Some((config, socket)) = bound.probes {
            probes = Some(socket.local_addr()?);
            let metrics = Arc::clone(&fleet.metrics);
            tokio::spawn(Arc::new(Probes { config, metrics }).run(socket));
        }
        let Fleet { drain, workers, .. } = fleet;
        Ok(Self {
            inbound: addresses,
            outbound,
            admin,
            probes,
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

    /// Where probes are answered, if they are.
    pub(crate) fn probes(&self) -> Option<SocketAddr> {
        self.probes
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
        probes: Option<ProbesConfig>,
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
        let probes = match probes {
            Some(config) => {
                let socket = bind("probes", config.listen)?;
                Some((config, tokio::net::TcpListener::from_std(socket)?))
            }
            None => None,
        };
        Ok(Self {
            inbound,
            outbound,
            admin,
            probes,
        })
    }
}

fn bind(listener: &str, address: SocketAddr) -> Result<std::net::TcpListener, StartError> {
    listener::bind(address).map_err(|source| StartError::Bind {
        listener: listener.to_owned(),
        address,
        source,
    })
}
