//! Puts the house together: binds, starts workers, admin and writer, and takes them down
//! in the right order.

use std::io;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use wayleave_authz::{LoadErrors, PolicyStore};
use wayleave_certs::IdentityReader;
use wayleave_certs::tls::{FipsError, ServerTls, ServerTlsOptions, check_fips};

use crate::admin::{Admin, Listening, Started};
use crate::config::InboundConfig;
use crate::drain::Drain;
use crate::enforce::Enforcer;
use crate::forward::Pool;
use crate::inbound::Inbound;
use crate::listener::{self, Listener};
use crate::policies::{PolicyFiles, PolicyReloader};
use crate::policy_loads::PolicyLoads;
use crate::record::metrics::Metrics;
use crate::record::{Output, Queue, Recent, Recorder, Writer};
use crate::worker::Workers;

/// How often idle upstream connections are looked through for old ones.
const POOL_SWEEP: Duration = Duration::from_secs(10);

/// What a sidecar is started with.
pub(crate) struct Start {
    /// Who we are and whom we trust.
    pub identity: IdentityReader,
    /// Where the policies are.
    pub policies: PolicyFiles,
    /// The listeners; at least one.
    pub inbound: Vec<InboundConfig>,
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
    admin: SocketAddr,
    drain: Drain,
    workers: Workers,
    writer: Writer,
}

/// The sockets of a sidecar, bound before anything runs so that a mistake ends it early.
struct Bound {
    inbound: Vec<(InboundConfig, std::net::TcpListener)>,
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
        let bound = Bound::new(inbound, admin)?;
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
        };
        let mut addresses = Vec::new();
        let mut listeners = Vec::new();
        for (config, socket) in bound.inbound {
            let address = socket.local_addr()?;
            addresses.push((Arc::clone(&config.name), address));
            listeners.push(Listening::new(&config, address));
            fleet.listen(config, socket)?;
        }
        let admin = bound.admin.local_addr()?;
        let service = Admin {
            identity,
            policies: store,
            loads,
            listeners,
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
    fn new(inbound: Vec<InboundConfig>, admin: SocketAddr) -> Result<Self, StartError> {
        let inbound = inbound
            .into_iter()
            .map(|config| {
                let socket = bind(&config.name, config.listen)?;
                Ok((config, socket))
            })
            .collect::<Result<_, StartError>>()?;
        let admin = tokio::net::TcpListener::from_std(bind("admin", admin)?)?;
        Ok(Self { inbound, admin })
    }
}

fn bind(listener: &str, address: SocketAddr) -> Result<std::net::TcpListener, StartError> {
    listener::bind(address).map_err(|source| StartError::Bind {
        listener: listener.to_owned(),
        address,
        source,
    })
}

/// What all listeners of a sidecar share.
struct Fleet {
    identity: IdentityReader,
    store: PolicyStore,
    metrics: Arc<Metrics>,
    recorder: Recorder,
    drain: Drain,
    workers: Workers,
}

impl Fleet {
    /// Starts to accept on one listener.
    fn listen(&self, config: InboundConfig, socket: std::net::TcpListener) -> io::Result<()> {
        let port = socket.local_addr()?.port();
        let tls = Arc::new(ServerTls::new(
            self.identity.clone(),
            ServerTlsOptions {
                require_post_quantum: config.tls.require_post_quantum,
                ..ServerTlsOptions::default()
            },
        ));
        let seats: Vec<_> = self
            .workers
            .seats()
            .map(|seat| {
                let inbound = self.inbound(&config, port, Arc::clone(&tls));
                seat.runtime().spawn(sweep(Arc::clone(&inbound.pool)));
                (seat.clone(), inbound)
            })
            .collect();
        let Some((first, _)) = seats.first().cloned() else {
            return Ok(());
        };
        let listener = Listener {
            seats,
            connections: Arc::new(Semaphore::new(config.limits.max_connections)),
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

    fn inbound(&self, config: &InboundConfig, port: u16, tls: Arc<ServerTls>) -> Arc<Inbound> {
        Arc::new(Inbound {
            name: Arc::clone(&config.name),
            limits: config.limits.clone(),
            enforcer: Enforcer {
                policies: self.store.clone(),
                service: Arc::clone(&config.service),
                hosts: config.hosts.clone(),
                port,
                mode: config.mode,
                show_reason: config.show_reason,
            },
            pool: Pool::new(config.upstream.clone()),
            tls,
            identity: self.identity.clone(),
            recorder: self.recorder.clone(),
            metrics: Arc::clone(&self.metrics),
        })
    }
}

async fn sweep(pool: Arc<Pool>) {
    loop {
        tokio::time::sleep(POOL_SWEEP).await;
        pool.expire();
    }
}
