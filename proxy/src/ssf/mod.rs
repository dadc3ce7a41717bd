//! A receiver of the OpenID Shared Signals Framework 1.0 and its profile CAEP 1.0: what the rest
//! of an organisation knows about principals comes into force here.
//!
//! A transmitter pushes its security event tokens ([`push`]) or they are fetched ([`poll`]).
//! Either way a token goes through the same steps: its form, its signature and its claims
//! ([`set`], [`keys`]), what it says ([`event`]) and about whom ([`subject`]), whether that is
//! news ([`ledger`]). Its effects come into force and onto disk ([`effects`], [`journal`]) before
//! it is acknowledged ([`intake`]). It runs on the control runtime and cannot delay a call.

mod effects;
mod event;
mod fetch;
mod health;
mod intake;
mod journal;
mod json;
mod jwks;
mod keys;
mod ledger;
pub(crate) mod metrics;
mod poll;
mod push;
mod refusal;
mod set;
mod subject;
#[cfg(test)]
mod tests;
mod token;
mod transmitter;
mod watched;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use tokio_util::sync::CancellationToken;
use wayleave_certs::disk;
use wayleave_certs::tls::WebServerTls;

use crate::config::{JwksSource, PushConfig, PushTls, SignalsConfig};
use crate::record::metrics::Metrics;
use crate::sockets::{BindError, PassedSocket, SocketName, Sockets};
use fetch::Fetcher;
use health::Health;
use intake::Intake;
use jwks::Keys;
use poll::Poller;
use push::{Certificate, Door, Shown, Way};
use set::since_epoch;
use token::Bearer;
use transmitter::Transmitter;
use watched::Watched;

pub(crate) use effects::Effects;
pub(crate) use health::TransmitterStatus;
pub(crate) use journal::JournalError;

/// Why no events can be received. Each is the user's to mend: exit status 2.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SsfError {
    /// Which events were taken cannot be read or kept.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// An address cannot be bound.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// A file of a transmitter cannot be used.
    #[error("the transmitter `{transmitter}` cannot be listened to: {why}")]
    File { transmitter: String, why: String },
    /// The system refuses a socket.
    #[error("the system refuses a socket: {0}")]
    System(#[from] io::Error),
}

/// Everything that is received with, opened and not running yet.
pub(crate) struct Opened {
    doors: Vec<Door>,
    pollers: Vec<Poller>,
    receiver: Receiver,
}

/// The transmitters that are listened to.
#[derive(Default)]
pub(crate) struct Receiver {
    transmitters: Arc<[Arc<Transmitter>]>,
    /// The sockets that are accepted on, with the names by which another process asks for them.
    sockets: Vec<(String, std::net::TcpListener)>,
    closing: CancellationToken,
}

/// What can be told of the transmitters.
#[derive(Debug, Clone, Default)]
pub(crate) struct Told(Arc<[Arc<Transmitter>]>);

impl Opened {
    /// Reads and binds everything. To be called on the control runtime.
    ///
    /// # Errors
    /// When a file or an address cannot be had.
    pub(crate) fn new(
        config: &SignalsConfig,
        effects: &Arc<dyn Effects>,
        metrics: &Metrics,
        sockets: &mut Sockets,
    ) -> Result<Self, SsfError> {
        let mut opened = Self {
            doors: Vec::new(),
            pollers: Vec::new(),
            receiver: Receiver::default(),
        };
        let Some(folder) = config
            .state_dir
            .as_deref()
            .filter(|_| !config.ssf.is_empty())
        else {
            return Ok(opened);
        };
        let (journal, ledger) = journal::Journal::open(folder, since_epoch(SystemTime::now()))?;
        let intake = Intake::start(journal, ledger, Arc::clone(effects));
        let mut transmitters = Vec::new();
        for config in &config.ssf {
            let failed = |why| SsfError::File {
                transmitter: config.name.to_string(),
                why,
            };
            let keys = Keys::open(&config.jwks).map_err(failed)?;
            let health = Health::new(metrics.ssf().of(&config.name));
            let transmitter = Transmitter::new(config.clone(), keys, health, intake.clone());
            let transmitter = Arc::new(transmitter);
            if let Some(push) = &config.push {
                let token = bearer(push.token_file.as_ref()).map_err(failed)?;
                let way = Way {
                    path: push.path.clone(),
                    transmitter: Arc::clone(&transmitter),
                    token,
                };
                opened.add_way(push, way, sockets)?;
            }
            if let Some(poll) = &config.poll {
                opened.pollers.push(Poller {
                    config: poll.clone(),
                    transmitter: Arc::clone(&transmitter),
                    token: bearer(poll.token_file.as_ref()).map_err(failed)?,
                    fetcher: Fetcher::new(poll.url.clone(), poll.ca_file.clone()),
                });
            }
            transmitters.push(transmitter);
        }
        opened.receiver.transmitters = transmitters.into();
        Ok(opened)
    }

    /// Where transmitters push to.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.receiver.addresses()
    }

    /// What can be told of the transmitters.
    pub(crate) fn told(&self) -> Told {
        Told(Arc::clone(&self.receiver.transmitters))
    }

    /// Begins to listen.
    ///
    /// # Errors
    /// When the system refuses.
    pub(crate) fn run(self) -> io::Result<Receiver> {
        let closing = &self.receiver.closing;
        for transmitter in &*self.receiver.transmitters {
            let (closing, own) = (closing.clone(), Arc::clone(transmitter));
            tokio::spawn(async move {
                let keeping = own.keys.keep(&own.health);
                closing.run_until_cancelled(keeping).await;
            });
        }
        for door in self.doors {
            door.open(closing.clone())?;
        }
        for poller in self.pollers {
            let closing = closing.clone();
            tokio::spawn(async move { closing.run_until_cancelled(poller.run()).await });
        }
        Ok(self.receiver)
    }

    /// Adds a way to the door at its address, which is opened for the first.
    fn add_way(
        &mut self,
        push: &PushConfig,
        way: Way,
        sockets: &mut Sockets,
    ) -> Result<(), SsfError> {
        let same = |door: &&mut Door| {
            let address = door.socket.local_addr();
            push.listen.port() != 0 && address.is_ok_and(|address| address == push.listen)
        };
        if let Some(door) = self.doors.iter_mut().find(same) {
            door.ways.push(way);
            return Ok(());
        }
        // A listener's own name has no colon.
        let name = format!("ssf:{}", way.transmitter.config.name);
        let bound = sockets.listener(&name, push.listen);
        let socket = bound.map_err(|source| BindError {
            listener: name.clone(),
            address: push.listen,
            source,
        })?;
        let certificate = push.tls.as_ref().map(certificate).transpose();
        let certificate: Certificate = certificate.map_err(|why| SsfError::File {
            transmitter: way.transmitter.config.name.to_string(),
            why,
        })?;
        if let Ok(address) = socket.local_addr() {
            tracing::info!(listener = name, %address, "listening");
        }
        self.receiver.sockets.push((name, socket.try_clone()?));
        self.doors.push(Door {
            socket,
            certificate,
            ways: vec![way],
        });
        Ok(())
    }
}

impl Receiver {
    /// Where transmitters push to.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        let sockets = self.sockets.iter();
        sockets.filter_map(|(_, socket)| socket.local_addr().ok())
    }

    /// The sockets, for another process.
    ///
    /// # Errors
    /// When the system has no more descriptors.
    pub(crate) fn sockets(&self) -> io::Result<Vec<PassedSocket>> {
        let passed = self.sockets.iter().map(|(name, socket)| {
            Ok(PassedSocket {
                name: SocketName::Listener(name.clone()),
                socket: socket.try_clone()?,
            })
        });
        passed.collect()
    }

    /// Leaves events to another process.
    pub(crate) fn close(&self) {
        self.closing.cancel();
    }
}

impl Told {
    /// How the transmitters are doing.
    pub(crate) fn statuses(&self) -> Vec<TransmitterStatus> {
        self.0.iter().map(|one| one.status()).collect()
    }

    /// Whether the keys or the events of one cannot be fetched.
    pub(crate) fn is_failing(&self) -> bool {
        self.0.iter().any(|one| one.health.is_failing())
    }
}

impl fmt::Debug for Receiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Receiver").finish_non_exhaustive()
    }
}

/// What is wrong with the files of transmitters, as far as that can be told without asking
/// anybody.
pub(crate) fn unreadable(config: &SignalsConfig) -> Vec<String> {
    let mut problems = Vec::new();
    for one in &config.ssf {
        let told = |why| {
            format!(
                "the transmitter `{}` cannot be listened to: {why}",
                one.name
            )
        };
        if let JwksSource::File(path) = &one.jwks {
            problems.extend(jwks::read(path).err().map(told));
        }
        let tls = one.push.as_ref().and_then(|push| push.tls.as_ref());
        problems.extend(tls.and_then(|tls| shown(tls).err()).map(told));
        let push = one.push.as_ref().and_then(|push| push.token_file.as_ref());
        let poll = one.poll.as_ref().and_then(|poll| poll.token_file.as_ref());
        let tokens = push.into_iter().chain(poll);
        problems.extend(tokens.filter_map(|path| Bearer::read(path).err()).map(told));
    }
    problems
}

fn bearer(path: Option<&PathBuf>) -> Result<Option<Arc<Watched<Bearer>>>, String> {
    let Some(path) = path else { return Ok(None) };
    let own = path.clone();
    Watched::open(std::slice::from_ref(path), move || Bearer::read(&own)).map(Some)
}

fn certificate(files: &PushTls) -> Result<Arc<Watched<Shown>>, String> {
    let paths = [files.certificate.clone(), files.key.clone()];
    let own = files.clone();
    Watched::open(&paths, move || shown(&own))
}

fn shown(own: &PushTls) -> Result<Shown, String> {
    let tls = WebServerTls::load(&own.certificate, &own.key);
    let tls = tls.map_err(|error| error.to_string())?;
    let files = [&own.certificate, &own.key].map(|path| disk::read(path));
    let files: io::Result<Vec<_>> = files.into_iter().collect();
    let files = files.map_err(|error| error.to_string())?;
    Ok(Shown { tls, files })
}
