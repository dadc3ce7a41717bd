//! Puts the house together: binds, starts workers, admin and writer, and takes them down
//! in the right order.

use std::io;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use wayleave_authz::{Direction, LoadErrors};
use wayleave_certs::IdentityReader;
use wayleave_certs::tls::{FipsError, check_fips};

use crate::admin::{Admin, Loads, Started};
use crate::config::{MaxMemory, ProbesConfig, SignalsConfig};
use crate::config_loads::ConfigLoads;
use crate::control_doors::{AdminDoor, ProbesDoor, ProbesStep};
use crate::drain::{DrainTimes, Shutdown};
use crate::fleet::Fleet;
use crate::listeners::{self, ListenerConfig, Listeners, Plan, PlanError};
use crate::memory::Memory;
use crate::outbound::guard::Own;
use crate::policies::{LoadedPolicies, PolicyFiles, PolicyReloader};
use crate::policy_loads::PolicyLoads;
use crate::policy_switch::PolicySwitch;
use crate::record::metrics::Metrics;
use crate::record::{Output, Queue, Recent, Recorder, Writer};
use crate::review::Changes;
use crate::sockets::{PassedSocket, Sockets};
use crate::ssf::{self, Effects, SsfError};
use crate::standing::control::{Control, ControlError};
use crate::standing::store::{SetupError, Store};
use crate::standing::{Journal, JournalError, Standing, watch_signals};
use crate::worker::Workers;

/// What a sidecar is started with.
pub(crate) struct Start {
    /// Who we are and whom we trust.
    pub identity: IdentityReader,
    /// Where the policies are.
    pub policies: PolicyFiles,
    /// The listeners; at least one.
    pub listeners: Vec<ListenerConfig>,
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
    /// Where listening sockets come from.
    pub sockets: Sockets,
    /// What became of the configuration file, where there is one.
    pub config: Option<Arc<ConfigLoads>>,
    /// How the behaviour of principals is followed.
    pub signals: SignalsConfig,
    /// Where operators start and lift quarantines.
    pub control: Option<PathBuf>,
}

/// Why a sidecar did not start. Each is the user's to mend: exit status 2.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    /// A listener cannot be had.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The policies have problems.
    #[error("the policies cannot be loaded")]
    Policies(#[source] LoadErrors),
    /// This build is for FIPS mode and does not run in it.
    #[error(transparent)]
    Fips(#[from] FipsError),
    /// The system refused a thread or a runtime.
    #[error("the system refuses a thread or socket: {0}")]
    System(#[from] io::Error),
    /// What is known against principals cannot be read or kept.
    #[error(transparent)]
    Standing(#[from] JournalError),
    /// Security events cannot be received.
    #[error(transparent)]
    Ssf(#[from] SsfError),
    /// The admin socket cannot be had.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The store of a fleet cannot be connected to, ever.
    #[error(transparent)]
    Store(#[from] SetupError),
}

/// Why a running sidecar does not change; it stays as it is.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChangeError {
    /// A listener cannot be had.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The policies have problems.
    #[error("the policies cannot be loaded")]
    Policies(#[source] LoadErrors),
    /// Loading the policies ended in a panic.
    #[error("loading the policies ended in a panic")]
    Panic,
}

/// Everything that a change needs and that may fail, done.
pub(crate) struct Prepared {
    plan: Plan,
    probes: ProbesStep,
    policies: Option<LoadedPolicies>,
}

/// A running sidecar.
pub(crate) struct Sidecar {
    listeners: Listeners,
    sockets: Sockets,
    policies: Policies,
    admin: AdminDoor,
    probes: Option<ProbesDoor>,
    metrics: Arc<Metrics>,
    shutdown: Shutdown,
    writer: Writer,
    ssf: ssf::Receiver,
}

/// The policies in force, and what keeps them so.
struct Policies {
    switch: PolicySwitch,
    loads: Arc<PolicyLoads>,
    reloader: JoinHandle<()>,
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
            listeners: wanted,
            admin,
            output,
            workers,
            probes,
            max_memory,
            mut sockets,
            config,
            signals,
            control,
        } = start;
        check_fips()?;
        let started = Started::now();
        let metrics = Arc::new(Metrics::new());
        let loaded = policies.open().map_err(StartError::Policies)?;
        let policies = Policies::start(loaded, &metrics);
        let changes = Arc::clone(policies.switch.changes());
        let standing = standing(&signals, &changes, &metrics)?;
        let store = signals
            .store
            .clone()
            .map(|config| Store::new(config, &standing, metrics.standing().store().clone()));
        let store = store.transpose()?;
        let control = control.as_deref().map(Control::bind).transpose()?;
        let (queue, recent) = (Arc::new(Queue::default()), Arc::new(Recent::default()));
        let fleet = Fleet {
            identity: identity.clone(),
            policies: policies.switch.store().clone(),
            metrics: Arc::clone(&metrics),
            recorder: Recorder::new(Arc::clone(&queue)),
            memory: Arc::new(Memory::with_limit(max_memory)),
            shutdown: Shutdown::default(),
            workers: Workers::start(workers, &changes)?,
            changes: Arc::clone(&changes),
            standing: Arc::clone(&standing),
            control: Handle::current(),
            upstreams: Arc::default(),
            own: Own::default(),
        };
        let own = fleet.own.clone();
        let shutdown = fleet.shutdown.clone();
        let memory = Arc::clone(&fleet.memory);
        let upstreams = Arc::clone(&fleet.upstreams);
        tokio::spawn(Arc::clone(&memory).watch());
        tokio::spawn(Arc::clone(&changes).watch_clock(policies.switch.store().clone()));
        let lives = fleet.workers.seats().map(|seat| Arc::clone(seat.live()));
        let in_force = policies.switch.store().clone();
        tokio::spawn(watch_signals(
            in_force,
            lives.collect(),
            Arc::clone(&changes),
        ));
        if let Some(every) = signals.reauthorize_every {
            tokio::spawn(changes.reauthorize(every));
        }
        tokio::spawn(Arc::clone(&standing).watch_clock());
        let shared = store.as_ref().map(Store::health);
        if let Some(store) = store {
            tokio::spawn(store.run());
        }
        if let Some(control) = control {
            tokio::spawn(control.run(Arc::clone(&standing)));
        }
        let mut listeners = Listeners::new(fleet);
        // Every socket is bound before any of them is served, so that a mistake ends it early.
        let plan = listeners.plan(wanted, &mut sockets)?;
        let admin = AdminDoor::bind(admin, &mut sockets).map_err(PlanError::from)?;
        let probes = ProbesStep::plan(probes, None, &mut sockets).map_err(PlanError::from)?;
        let effects: Arc<dyn Effects> = standing;
        let ssf = ssf::Opened::new(&signals, &effects, &metrics, &mut sockets)?;
        // SECURITY: before anything is served that could connect there.
        let others = [admin.address].into_iter().chain(probes.address());
        own.add(others.chain(ssf.addresses()));
        let writer = Writer::start(queue, output, Arc::clone(&recent), Arc::clone(&metrics))?;
        listeners.apply(plan, None::<fn()>, Duration::ZERO);
        admin.tell(&listeners);
        let service = Admin {
            identity,
            policies: policies.switch.store().clone(),
            loads: Arc::clone(&policies.loads),
            config,
            listeners: Arc::clone(&admin.listening),
            destinations: Arc::clone(&admin.destinations),
            load: Loads {
                memory,
                listeners: Arc::clone(&admin.loads),
            },
            started,
            metrics: Arc::clone(&metrics),
            recent,
            shutdown: shutdown.clone(),
            upstreams,
            store: shared,
            ssf: ssf.told(),
        };
        admin.open(service)?;
        let mut probing = None;
        probes.apply(&mut probing, &metrics)?;
        let ssf = ssf.run()?;
        Ok(Self {
            listeners,
            sockets,
            policies,
            admin,
            probes: probing,
            metrics,
            shutdown,
            writer,
            ssf,
        })
    }

    /// The listeners of a direction by name, with the addresses that they were given.
    pub(crate) fn listening(&self, direction: Direction) -> Vec<(String, SocketAddr)> {
        let all = self.admin.listening.load();
        let of = all.iter().filter(|l| l.direction == direction.as_str());
        of.map(|l| (l.name.clone(), l.address)).collect()
    }

    /// Where the admin listener is.
    pub(crate) fn admin(&self) -> SocketAddr {
        self.admin.address
    }

    /// Where probes are answered, if they are.
    pub(crate) fn probes(&self) -> Option<SocketAddr> {
        self.probes.as_ref().map(|probes| probes.address)
    }

    /// What is measured.
    pub(crate) fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Does all of a change that may fail: binds what is new, and loads policies from other
    /// files where such are given. Nothing that is in force changes.
    ///
    /// # Errors
    /// When a socket or the policies cannot be had.
    pub(crate) async fn prepare(
        &mut self,
        listeners: Vec<ListenerConfig>,
        probes: Option<ProbesConfig>,
        policies: Option<PolicyFiles>,
    ) -> Result<Prepared, ChangeError> {
        let policies = match policies {
            None => None,
            Some(files) => {
                let opened = tokio::task::spawn_blocking(move || files.open()).await;
                let opened = opened.map_err(|_| ChangeError::Panic)?;
                Some(opened.map_err(ChangeError::Policies)?)
            }
        };
        let plan = self.listeners.plan(listeners, &mut self.sockets)?;
        let probes = ProbesStep::plan(probes, self.probes.as_ref(), &mut self.sockets)
            .map_err(PlanError::from)?;
        Ok(Prepared {
            plan,
            probes,
            policies,
        })
    }

    /// Puts a change in force. What is open under the old configuration has `limit` to finish.
    pub(crate) fn apply(&mut self, prepared: Prepared, limit: Duration) -> listeners::Changes {
        let Prepared {
            plan,
            probes,
            policies,
        } = prepared;
        let replace = policies.map(|loaded| || self.policies.replace(loaded, &self.metrics));
        self.listeners.own().add(probes.address());
        let changes = self.listeners.apply(plan, replace, limit);
        if let Err(error) = probes.apply(&mut self.probes, &self.metrics) {
            tracing::error!(%error, "the listener for probes stays as it was");
        }
        let probing = self.probes.as_ref().map(|probes| probes.address);
        let others = [self.admin.address].into_iter().chain(probing);
        self.listeners.tell_own(others.chain(self.ssf.addresses()));
        self.admin.tell(&self.listeners);
        changes
    }

    /// Sends decision records elsewhere from now on.
    pub(crate) fn record_to(&self, output: Output) {
        self.writer.redirect(output);
    }

    /// All listening sockets, for the process that takes our place.
    ///
    /// # Errors
    /// When the system has no more descriptors.
    pub(crate) fn sockets(&self) -> io::Result<Vec<PassedSocket>> {
        let mut sockets = self.listeners.sockets()?;
        sockets.push(self.admin.socket()?);
        if let Some(probes) = &self.probes {
            sockets.push(probes.socket()?);
        }
        sockets.extend(self.ssf.sockets()?);
        Ok(sockets)
    }

    /// Leaves probes, status and metrics to the process that has taken our place.
    pub(crate) fn leave_to_successor(&self) {
        self.admin.close();
        self.ssf.close();
        if let Some(probes) = &self.probes {
            probes.close();
        }
    }

    /// Takes no new connection, lets the calls in flight finish for a time at most or until
    /// `hurry` completes, and ends.
    pub(crate) async fn drain(self, times: DrainTimes, hurry: impl Future<Output = ()>) {
        let fleet = self.listeners.let_go();
        self.shutdown.run(times, hurry).await;
        self.policies.reloader.abort();
        let writer = self.writer;
        let ended = tokio::task::spawn_blocking(move || {
            fleet.workers.stop();
            writer.finish();
        });
        if ended.await.is_err() {
            tracing::error!("the sidecar did not end cleanly");
        }
    }
}

impl Policies {
    fn start(loaded: LoadedPolicies, metrics: &Arc<Metrics>) -> Self {
        let (switch, loads) = (PolicySwitch::default(), Arc::new(PolicyLoads::default()));
        let reloader = run(loaded, &switch, &loads, metrics);
        Self {
            switch,
            loads,
            reloader,
        }
    }

    /// Puts policies from other files in force.
    fn replace(&mut self, loaded: LoadedPolicies, metrics: &Arc<Metrics>) {
        self.reloader.abort();
        self.reloader = run(loaded, &self.switch, &self.loads, metrics);
    }
}

/// What is known against principals, as the state directory remembers it.
fn standing(
    config: &SignalsConfig,
    changes: &Arc<Changes>,
    metrics: &Arc<Metrics>,
) -> Result<Arc<Standing>, JournalError> {
    let remembered = config.state_dir.as_deref().map(Journal::open).transpose()?;
    Ok(Arc::new(Standing::new(
        config.max_principals,
        Arc::clone(changes),
        Arc::clone(metrics),
        remembered,
    )))
}

fn run(
    loaded: LoadedPolicies,
    switch: &PolicySwitch,
    loads: &Arc<PolicyLoads>,
    metrics: &Arc<Metrics>,
) -> JoinHandle<()> {
    let (metrics, loads) = (Arc::clone(metrics), Arc::clone(loads));
    let reloader = PolicyReloader::start(loaded, switch.clone(), metrics, loads);
    tokio::spawn(reloader.run())
}
