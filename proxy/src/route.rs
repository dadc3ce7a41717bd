//! Where a call may go: the service that policy knows it by, and the connections to it.

use std::sync::Arc;

use crate::forward::Pool;
use crate::protocol::Call;

/// One service that calls are carried to.
#[derive(Debug)]
pub(crate) struct Route {
    /// The Cedar `Service` that calls are decided on.
    pub(crate) service: Arc<str>,
    /// Hosts that are served; empty serves every host.
    pub(crate) hosts: Vec<String>,
    /// The port that callers reach the service on.
    pub(crate) port: u16,
    /// This worker's connections to the service.
    pub(crate) pool: Arc<Pool>,
}

impl Route {
    /// Whether calls to this host are for the service.
    fn serves(&self, host: &str) -> bool {
        self.hosts.is_empty() || self.hosts.iter().any(|served| served == host)
    }
}

/// The services behind one listener, as one worker reaches them.
#[derive(Debug)]
pub(crate) enum Routes {
    /// One service, whatever is asked for.
    One(Arc<Route>),
}

impl Routes {
    /// The service that a call is for.
    pub(crate) fn find(&self, call: &Call) -> Option<&Arc<Route>> {
        match self {
            Self::One(route) => Some(route).filter(|route| route.serves(call.host())),
        }
    }

    /// The service that a connection without a call in it is for.
    pub(crate) fn only(&self) -> Option<&Arc<Route>> {
        match self {
            Self::One(route) => Some(route),
        }
    }

    /// Every service.
    pub(crate) fn all(&self) -> impl Iterator<Item = &Arc<Route>> {
        match self {
            Self::One(route) => std::iter::once(route),
        }
    }
}
