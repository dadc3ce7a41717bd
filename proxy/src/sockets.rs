//! The listening sockets: bound here, or taken over from the process whose place we take.

use std::io;
use std::net::{SocketAddr, TcpListener};

use serde::{Deserialize, Serialize};

use crate::listener;

/// What a socket is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum SocketName {
    Admin,
    /// The listener of this name.
    Listener(String),
    Probes,
    /// Where the process that takes our place asks for all the others.
    HandOver,
}

/// A listening socket on its way to another process.
#[derive(Debug)]
pub(crate) struct PassedSocket {
    pub(crate) name: SocketName,
    pub(crate) socket: TcpListener,
}

/// Where listening sockets come from.
#[derive(Debug, Default)]
pub(crate) struct Sockets {
    reuse_port: bool,
    taken_over: Vec<PassedSocket>,
}

/// A listening socket could not be bound.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} for `{listener}`: {}", words(source))]
pub(crate) struct BindError {
    /// Which listener.
    pub(crate) listener: String,
    /// Where.
    pub(crate) address: SocketAddr,
    /// Why.
    #[source]
    pub(crate) source: io::Error,
}

fn words(error: &io::Error) -> String {
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

impl Sockets {
    /// Sockets that are bound, with SO_REUSEPORT where that is asked for, unless they are among
    /// those that were taken over.
    pub(crate) fn new(reuse_port: bool, taken_over: Vec<PassedSocket>) -> Self {
        Self {
            reuse_port,
            taken_over,
        }
    }

    /// The socket of a listener.
    ///
    /// # Errors
    /// When the address is in use or not ours to bind.
    pub(crate) fn listener(&mut self, name: &str, address: SocketAddr) -> io::Result<TcpListener> {
        self.socket(&SocketName::Listener(name.to_owned()), address)
    }

    /// The socket of the admin listener.
    ///
    /// # Errors
    /// When the address is in use or not ours to bind.
    pub(crate) fn admin(&mut self, address: SocketAddr) -> io::Result<TcpListener> {
        self.socket(&SocketName::Admin, address)
    }

    /// The socket of the listener for probes.
    ///
    /// # Errors
    /// When the address is in use or not ours to bind.
    pub(crate) fn probes(&mut self, address: SocketAddr) -> io::Result<TcpListener> {
        self.socket(&SocketName::Probes, address)
    }

    fn socket(&mut self, name: &SocketName, address: SocketAddr) -> io::Result<TcpListener> {
        let mut taken_over = self.taken_over.iter();
        match taken_over.position(|passed| passed.serves(name, address)) {
            Some(place) => Ok(self.taken_over.swap_remove(place).socket),
            None => listener::bind(address, self.reuse_port),
        }
    }
}

impl PassedSocket {
    /// Whether this is the socket for an address. Port 0 is whichever port was given to what has
    /// the name.
    fn serves(&self, name: &SocketName, address: SocketAddr) -> bool {
        let Ok(bound) = self.socket.local_addr() else {
            return false;
        };
        match address.port() {
            0 => self.name == *name && bound.ip() == address.ip(),
            _ => bound == address,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loopback(port: u16) -> SocketAddr {
        ([127, 0, 0, 1], port).into()
    }

    fn passed(name: SocketName) -> (PassedSocket, SocketAddr) {
        let socket = TcpListener::bind(loopback(0)).unwrap();
        let address = socket.local_addr().unwrap();
        (PassedSocket { name, socket }, address)
    }

    #[test]
    fn a_socket_that_was_taken_over_is_found_by_its_address_and_by_name_for_port_0() {
        let (admin, admin_at) = passed(SocketName::Admin);
        let (a, a_at) = passed(SocketName::Listener("a".into()));
        let (b, b_at) = passed(SocketName::Listener("b".into()));
        let mut sockets = Sockets::new(false, vec![admin, a, b]);
        let at = |socket: io::Result<TcpListener>| socket.unwrap().local_addr().unwrap();
        assert_eq!(at(sockets.listener("renamed", a_at)), a_at);
        assert_eq!(at(sockets.listener("b", loopback(0))), b_at);
        assert_eq!(at(sockets.admin(loopback(0))), admin_at);
        assert_ne!(at(sockets.listener("b", loopback(0))), b_at);
    }

    #[test]
    fn an_address_is_shared_only_where_that_is_asked_for() {
        let first = Sockets::new(false, Vec::new()).listener("a", loopback(0));
        let taken = first.as_ref().unwrap().local_addr().unwrap();
        assert!(
            Sockets::new(false, Vec::new())
                .listener("b", taken)
                .is_err()
        );
        assert!(Sockets::new(true, Vec::new()).listener("b", taken).is_err());
        let first = Sockets::new(true, Vec::new()).listener("a", loopback(0));
        let shared = first.as_ref().unwrap().local_addr().unwrap();
        assert!(Sockets::new(true, Vec::new()).listener("b", shared).is_ok());
    }
}
