//! Away from the workload: it talks plainly to us on loopback, so its calls are decided as those
//! of our own SVID.

pub(crate) mod addresses;
mod detect;
pub(crate) mod guard;
mod hello;
pub(crate) mod originals;
pub(crate) mod table;
pub(crate) mod transparent;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::net::TcpStream;

use self::transparent::Transparent;
use crate::caller::Caller;
use crate::config::ListenerProtocol;
use crate::connection::{self, Connection};
use crate::drain::Drain;
use crate::gate::Gate;

/// One outbound listener, as one worker holds it.
#[derive(Debug)]
pub(crate) struct Outbound {
    pub(crate) gate: Arc<Gate>,
    pub(crate) kind: Kind,
}

/// How a connection says what it speaks, and where it goes.
#[derive(Debug)]
pub(crate) enum Kind {
    /// It speaks what the configuration says, to the destination that the listener or each request
    /// names.
    Asked(ListenerProtocol),
    /// It was redirected here on its way elsewhere.
    Transparent(Transparent),
}

impl Outbound {
    /// Serves one accepted socket until it closes or `drain` has run its course.
    pub(crate) async fn serve(&self, socket: TcpStream, source: SocketAddr, drain: Drain) {
        match &self.kind {
            Kind::Asked(protocol) => {
                let connection = Arc::new(self.connection(source, drain));
                connection::serve(socket.into(), *protocol, None, "", connection).await;
            }
            Kind::Transparent(transparent) => {
                self.serve_redirected(transparent, socket, source, drain)
                    .await;
            }
        }
    }

    /// A connection of the workload's, under the identity that we have now.
    fn connection(&self, source: SocketAddr, drain: Drain) -> Connection {
        let now = SystemTime::now();
        let identity = self.gate.identity.current();
        // SECURITY: an SVID that is over names nobody.
        let caller = match identity.filter(|identity| identity.svid().is_valid_at(now)) {
            Some(identity) => Caller::Workload(identity),
            None => Caller::Unidentified,
        };
        let gate = Arc::clone(&self.gate);
        Connection::new(gate, caller, source, None, drain)
    }
}
