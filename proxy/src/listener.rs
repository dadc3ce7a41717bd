//! Accepts connections and hands each to the least loaded worker.
//!
//! What a listener serves with may change while it accepts: its [`Doors`] are replaced, and
//! its socket stays.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use socket2::TcpKeepalive;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;

use crate::admission::Admission;
use crate::drain::Drain;
use crate::handshakes::Handshake;
use crate::inbound::Inbound;
use crate::outbound::Outbound;
use crate::policy_switch::ListenerPolicies;
use crate::record::metrics::Metrics;
use crate::worker::Seat;

/// How long to wait when the system cannot give another socket.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Connections that wait to be accepted at most.
const BACKLOG: i32 = 1024;

/// When a silent peer is asked whether it is still there: after a minute, six times, ten seconds
/// apart.
const KEEPALIVE: TcpKeepalive = TcpKeepalive::new()
    .with_time(Duration::from_secs(60))
    .with_interval(Duration::from_secs(10))
    .with_retries(6);

/// Binds a listening socket; `shared` lets other processes of this user bind it too.
///
/// # Errors
/// When the address is in use or not ours to bind.
pub(crate) fn bind(address: SocketAddr, shared: bool) -> io::Result<std::net::TcpListener> {
    let domain = socket2::Domain::for_address(address);
    let socket = socket2::Socket::new(domain, socket2::Type::STREAM, Some(socket2::Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.set_nonblocking(true)?;
    // Inherited by what is accepted: a peer whose machine is gone is noticed during a call too.
    socket.set_tcp_keepalive(&KEEPALIVE)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// How a listener lets connections in.
#[derive(Debug)]
pub(crate) enum Entrance {
    Inbound(Inbound),
    Outbound(Outbound),
}

impl Entrance {
    /// Takes a place among the handshakes, where there is one to be done.
    fn handshake(&self) -> Option<Handshake> {
        match self {
            Self::Inbound(inbound) => Some(inbound.gate.admission.handshakes.begin()),
            Self::Outbound(_) => None,
        }
    }

    async fn serve(
        &self,
        socket: TcpStream,
        source: SocketAddr,
        handshake: Option<Handshake>,
        drain: Drain,
    ) {
        match self {
            Self::Inbound(inbound) => inbound.serve(socket, source, handshake, drain).await,
            Self::Outbound(outbound) => outbound.serve(socket, source, drain).await,
        }
    }
}

/// One listener as one version of the configuration has it, with a place at every worker.
#[derive(Debug)]
pub(crate) struct Doors {
    /// The listener as each worker serves it; never empty.
    pub(crate) seats: Vec<(Seat, Arc<Entrance>)>,
    /// What they decide with, all of them.
    pub(crate) policies: Arc<ListenerPolicies>,
    pub(crate) admission: Arc<Admission>,
    pub(crate) metrics: Arc<Metrics>,
    /// What came in by these doors.
    pub(crate) drain: Drain,
}

/// What accepts.
pub(crate) struct Listener {
    /// INVARIANT: one load gives all that a connection is served with.
    pub(crate) doors: Arc<ArcSwap<Doors>>,
    pub(crate) closing: CancellationToken,
}

impl Listener {
    /// Accepts until it is to close. Runs on the first worker.
    pub(crate) async fn run(self, socket: TcpListener) {
        loop {
            let accepted = async {
                // One load for the wait: a reload may bring other limits at any time.
                let admission = Arc::clone(&self.doors.load().admission);
                admission.handshakes.room().await;
                socket.accept().await
            };
            let accepted = tokio::select! {
                accepted = accepted => accepted,
                () = self.closing.cancelled() => break,
            };
            match accepted {
                Ok((stream, source)) => self.doors.load().admit(stream, source),
                Err(error) if is_the_callers(&error) => {}
                Err(error) => {
                    tracing::error!(%error, "cannot accept; waiting before the next attempt");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        if let Err(error) = self.take_the_last(socket) {
            tracing::debug!(%error, "the last connections of a closing listener");
        }
    }

    /// Takes the connections that the system has accepted for us: closing the socket would
    /// reset them.
    fn take_the_last(&self, socket: TcpListener) -> io::Result<()> {
        let socket = socket.into_std()?;
        // Bounded: where another process has the socket too, its queue may never be empty.
        for _ in 0..BACKLOG {
            match socket.accept() {
                Ok((stream, source)) => {
                    stream.set_nonblocking(true)?;
                    self.doors
                        .load()
                        .admit(TcpStream::from_std(stream)?, source);
                }
                Err(error) if is_the_callers(&error) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl Doors {
    /// Takes a connection on, or closes it at once when there are too many.
    fn admit(&self, stream: TcpStream, source: SocketAddr) {
        let Ok(permit) = Arc::clone(&self.admission.connections).try_acquire_owned() else {
            self.metrics.handshake_refused("too_many_connections");
            return;
        };
        let least = self
            .seats
            .iter()
            .enumerate()
            .min_by_key(|(_, (seat, _))| seat.load());
        let Some((index, (seat, entrance))) = least else {
            return;
        };
        let _ = stream.set_nodelay(true);
        let place = Place::take(seat, permit, &self.metrics);
        let (entrance, drain) = (Arc::clone(entrance), self.drain.clone());
        let handshake = entrance.handshake();
        if index == 0 {
            let serve = async move {
                entrance.serve(stream, source, handshake, drain).await;
                drop(place);
            };
            self.drain.spawn(serve);
            return;
        }
        let stream = match stream.into_std() {
            Ok(stream) => stream,
            Err(error) => return tracing::error!(%error, "cannot hand a connection over"),
        };
        let serve = async move {
            match TcpStream::from_std(stream) {
                Ok(stream) => entrance.serve(stream, source, handshake, drain).await,
                Err(error) => tracing::error!(%error, "cannot take a connection over"),
            }
            drop(place);
        };
        self.drain.spawn_on(serve, seat.runtime());
    }
}

/// A connection that went away before it was accepted is no trouble of ours.
fn is_the_callers(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
    )
}

/// One connection's share of the limits; given back when dropped.
struct Place {
    seat: Seat,
    metrics: Arc<Metrics>,
    _permit: OwnedSemaphorePermit,
}

impl Place {
    fn take(seat: &Seat, permit: OwnedSemaphorePermit, metrics: &Arc<Metrics>) -> Self {
        seat.enter();
        metrics.connections().inc();
        Self {
            seat: seat.clone(),
            metrics: Arc::clone(metrics),
            _permit: permit,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.seat.leave();
        self.metrics.connections().dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{LimitsConfig, MaxMemory};
    use crate::memory::Memory;
    use wayleave_authz::PolicyStore;

    #[tokio::test]
    async fn connections_that_wait_when_a_listener_closes_are_taken() {
        let socket = bind(([127, 0, 0, 1], 0).into(), false).unwrap();
        let address = socket.local_addr().unwrap();
        let waiting: Vec<_> = (0..3)
            .map(|_| std::net::TcpStream::connect(address).unwrap())
            .collect();
        // Where there is no room, each that is taken is counted.
        let metrics = Arc::new(Metrics::new());
        let nothing = LimitsConfig {
            max_connections: 0,
            ..LimitsConfig::default()
        };
        let memory = Arc::new(Memory::with_limit(MaxMemory::Off));
        let doors = Doors {
            seats: Vec::new(),
            policies: Arc::new(ListenerPolicies::new(&PolicyStore::empty())),
            admission: Arc::new(Admission::new(&nothing, memory)),
            metrics: Arc::clone(&metrics),
            drain: Drain::default(),
        };
        let closing = CancellationToken::new();
        closing.cancel();
        let listener = Listener {
            doors: Arc::new(ArcSwap::from_pointee(doors)),
            closing,
        };
        listener.run(TcpListener::from_std(socket).unwrap()).await;
        let told = metrics.encode();
        assert!(
            told.contains("result=\"too_many_connections\"} 3"),
            "{told}"
        );
        assert!(std::net::TcpStream::connect(address).is_err());
        drop(waiting);
    }
}
