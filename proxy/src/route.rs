//! Where a call may go: the service that policy knows it by, and the connections to it.

use std::borrow::Cow;
use std::sync::Arc;

use crate::config::{HostPattern, UpstreamProtocol};
use crate::forward::Pool;
use crate::outbound::originals::Originals;
use crate::outbound::table::HostTable;
use crate::protocol::Call;

/// One service that calls are carried to.
#[derive(Debug)]
pub(crate) struct Route {
    /// The Cedar `Service` that calls are decided on.
    pub(crate) service: Arc<str>,
    /// Hosts that are served; empty serves every host.
    pub(crate) hosts: Vec<HostPattern>,
    /// The port that callers reach the service on.
    pub(crate) port: u16,
    /// This worker's connections to the service.
    pub(crate) pool: Arc<Pool>,
}

impl Route {
    /// Whether calls to this host are for the service.
    fn serves(&self, host: &str) -> bool {
        self.hosts.is_empty() || self.hosts.iter().any(|served| served.matches(host))
    }
}

/// A service that is found by what a call asks for.
#[derive(Debug, Clone)]
pub(crate) enum Place {
    /// At addresses of its own.
    Fixed(Arc<Route>),
    /// Where the caller says.
    Original(Arc<Originals>),
}

/// The services behind one listener, as one worker reaches them.
#[derive(Debug)]
pub(crate) enum Routes {
    /// One service, whatever is asked for.
    One(Arc<Route>),
    /// Several, told apart by what is asked for.
    Table(Table),
}

/// Several services.
#[derive(Debug)]
pub(crate) struct Table {
    /// By the host and port that are asked for.
    pub(crate) hosts: HostTable<Place>,
    /// In the order of the configuration.
    pub(crate) places: Vec<Place>,
}

/// The service that a call is for, and the port that it is called on.
#[derive(Debug)]
pub(crate) struct Found<'a> {
    port: u16,
    at: At<'a>,
}

#[derive(Debug)]
enum At<'a> {
    Fixed(&'a Arc<Route>),
    Original(&'a Arc<Originals>),
}

impl Routes {
    /// The service that a call is for. `port` is asked only where a port makes a difference.
    pub(crate) fn find(&self, call: &Call, port: impl FnOnce() -> u16) -> Option<Found<'_>> {
        match self {
            Self::One(route) => Some(Found::fixed(route)).filter(|_| route.serves(call.host())),
            Self::Table(table) => {
                let port = port();
                let place = table.hosts.find(call.host(), port)?;
                Some(Found::at(place, port))
            }
        }
    }

    /// The service that is called by a name, for bytes that are not looked into.
    pub(crate) fn named(&self, name: &str, port: u16) -> Option<Found<'_>> {
        let place = self.table()?.hosts.find(name, port)?;
        Some(Found::at(place, port))
    }

    /// The service at this place in the configuration.
    pub(crate) fn at(&self, place: usize, port: u16) -> Option<Found<'_>> {
        let place = self.table()?.places.get(place)?;
        Some(Found::at(place, port))
    }

    /// The service for bytes that are going to this address and name nobody.
    pub(crate) fn at_address(&self, host: &str, port: u16) -> Option<Found<'_>> {
        let hosts = &self.table()?.hosts;
        let place = hosts.find_exact(host, port).or_else(|| {
            let any = hosts.find(host, port)?;
            // They cannot say to a fixed upstream where they were going.
            matches!(any, Place::Original(_)).then_some(any)
        })?;
        Some(Found::at(place, port))
    }

    fn table(&self) -> Option<&Table> {
        match self {
            Self::One(_) => None,
            Self::Table(table) => Some(table),
        }
    }

    /// The service that a connection without a call in it is for.
    pub(crate) fn only(&self) -> Option<&Arc<Route>> {
        match self {
            Self::One(route) => Some(route),
            Self::Table(_) => None,
        }
    }
}

impl<'a> Found<'a> {
    /// A service by itself, on its own port.
    pub(crate) fn fixed(route: &'a Arc<Route>) -> Self {
        Self {
            port: route.port,
            at: At::Fixed(route),
        }
    }

    /// A service on the port that was asked for.
    pub(crate) fn at(place: &'a Place, port: u16) -> Self {
        let at = match place {
            Place::Fixed(route) => At::Fixed(route),
            Place::Original(originals) => At::Original(originals),
        };
        Self { port, at }
    }

    /// What policy knows the service by.
    pub(crate) fn service(&self) -> &'a Arc<str> {
        match self.at {
            At::Fixed(route) => &route.service,
            At::Original(originals) => originals.service(),
        }
    }

    /// The port that policy sees.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// What the service speaks.
    pub(crate) fn protocol(&self) -> UpstreamProtocol {
        match self.at {
            At::Fixed(route) => route.pool.config().protocol,
            At::Original(originals) => originals.protocol(),
        }
    }

    /// The connections to the service, where it is called by `host`.
    pub(crate) fn pool(&self, host: &str) -> Cow<'a, Arc<Pool>> {
        match self.at {
            At::Fixed(route) => Cow::Borrowed(&route.pool),
            At::Original(originals) => Cow::Owned(originals.pool(host, self.port)),
        }
    }
}
