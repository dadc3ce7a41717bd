//! The two listeners of the control runtime, admin and probes, as the rest of the sidecar holds
//! them: their sockets, and how they are closed.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio_util::sync::CancellationToken;

use crate::admin::{Admin, Destination, Listening, Load};
use crate::config::ProbesConfig;
use crate::listeners::Listeners;
use crate::probes::Probes;
use crate::record::metrics::Metrics;
use crate::sockets::{BindError, PassedSocket, SocketName, Sockets};

/// The admin listener.
pub(crate) struct AdminDoor {
    pub(crate) address: SocketAddr,
    /// The same socket as the one that is accepted on.
    socket: TcpListener,
    closing: CancellationToken,
    /// What it tells of the listeners.
    pub(crate) listening: Arc<ArcSwap<Vec<Listening>>>,
    /// Where outbound ones lead.
    pub(crate) destinations: Arc<ArcSwap<Vec<Destination>>>,
    /// How much of their limits is used.
    pub(crate) loads: Arc<ArcSwap<Vec<Load>>>,
}

/// The listener for probes.
pub(crate) struct ProbesDoor {
    config: ProbesConfig,
    pub(crate) address: SocketAddr,
    /// The same socket as the one that is accepted on.
    socket: TcpListener,
    closing: CancellationToken,
}

/// What becomes of the listener for probes.
pub(crate) enum ProbesStep {
    Stay,
    Close,
    Open(ProbesConfig, TcpListener),
}

impl AdminDoor {
    /// Binds.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub(crate) fn bind(address: SocketAddr, sockets: &mut Sockets) -> Result<Self, BindError> {
        let bound = sockets.admin(address);
        let opened = bound.and_then(|socket| Ok((socket.local_addr()?, socket)));
        let (address, socket) = opened.map_err(named("admin", address))?;
        Ok(Self {
            address,
            socket,
            closing: CancellationToken::new(),
            listening: Arc::default(),
            destinations: Arc::default(),
            loads: Arc::default(),
        })
    }

    /// Tells of these listeners from now on.
    pub(crate) fn tell(&self, listeners: &Listeners) {
        self.listening.store(Arc::new(listeners.status()));
        self.destinations.store(Arc::new(listeners.destinations()));
        self.loads.store(Arc::new(listeners.loads()));
    }

    /// Begins to answer.
    ///
    /// # Errors
    /// When the system refuses.
    pub(crate) fn open(&self, admin: Admin) -> io::Result<()> {
        let accepting = tokio::net::TcpListener::from_std(self.socket.try_clone()?)?;
        tokio::spawn(Arc::new(admin).run(accepting, self.closing.clone()));
        Ok(())
    }

    /// Answers nobody who comes from now on.
    pub(crate) fn close(&self) {
        self.closing.cancel();
    }

    /// The socket, for another process.
    ///
    /// # Errors
    /// When the system has no more descriptors.
    pub(crate) fn socket(&self) -> io::Result<PassedSocket> {
        Ok(PassedSocket {
            name: SocketName::Admin,
            socket: self.socket.try_clone()?,
        })
    }
}

impl ProbesStep {
    /// Finds out what is to be done, and binds what is new.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub(crate) fn plan(
        wanted: Option<ProbesConfig>,
        open: Option<&ProbesDoor>,
        sockets: &mut Sockets,
    ) -> Result<Self, BindError> {
        let Some(config) = wanted else {
            return Ok(Self::Close);
        };
        let socket = match open {
            Some(open) if open.config == config => return Ok(Self::Stay),
            Some(open) if open.config.listen == config.listen => open.socket.try_clone(),
            _ => sockets.probes(config.listen),
        };
        let socket = socket.map_err(named("probes", config.listen))?;
        Ok(Self::Open(config, socket))
    }

    /// Where it will listen, where that is new.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Stay | Self::Close => None,
            Self::Open(_, socket) => socket.local_addr().ok(),
        }
    }

    /// Does it.
    ///
    /// # Errors
    /// When the system refuses; what was open then stays.
    pub(crate) fn apply(
        self,
        open: &mut Option<ProbesDoor>,
        metrics: &Arc<Metrics>,
    ) -> io::Result<()> {
        let next = match self {
            Self::Stay => return Ok(()),
            Self::Close => None,
            Self::Open(config, socket) => Some(ProbesDoor::open(config, socket, metrics)?),
        };
        if let Some(before) = std::mem::replace(open, next) {
            before.close();
        }
        Ok(())
    }
}

impl ProbesDoor {
    fn open(config: ProbesConfig, socket: TcpListener, metrics: &Arc<Metrics>) -> io::Result<Self> {
        let accepting = tokio::net::TcpListener::from_std(socket.try_clone()?)?;
        let closing = CancellationToken::new();
        let probes = Arc::new(Probes {
            config: config.clone(),
            metrics: Arc::clone(metrics),
        });
        tokio::spawn(probes.run(accepting, closing.clone()));
        Ok(Self {
            address: socket.local_addr()?,
            config,
            socket,
            closing,
        })
    }

    /// Answers nobody who comes from now on.
    pub(crate) fn close(&self) {
        self.closing.cancel();
    }

    /// The socket, for another process.
    ///
    /// # Errors
    /// When the system has no more descriptors.
    pub(crate) fn socket(&self) -> io::Result<PassedSocket> {
        Ok(PassedSocket {
            name: SocketName::Probes,
            socket: self.socket.try_clone()?,
        })
    }
}

fn named(listener: &'static str, address: SocketAddr) -> impl Fn(io::Error) -> BindError {
    move |source| BindError {
        listener: listener.to_owned(),
        address,
        source,
    }
}
