//! Away from the workload: it talks plainly to us on loopback, so its calls are decided as those
//! of our own SVID.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpStream;
use wayleave_certs::Alpn;

use crate::caller::Caller;
use crate::config::ListenerProtocol;
use crate::connection::{self, Connection};
use crate::drain::Drain;
use crate::gate::Gate;
use crate::stream::Stream;

/// One outbound listener, as one worker holds it.
#[derive(Debug)]
pub(crate) struct Outbound {
    pub(crate) gate: Arc<Gate>,
    pub(crate) protocol: ListenerProtocol,
}

impl Outbound {
    /// Serves one accepted socket until it closes or `drain` has run its course.
    pub(crate) async fn serve(&self, socket: TcpStream, source: SocketAddr, drain: Drain) {
        let caller = match self.gate.identity.current() {
            Some(identity) => Caller::Workload(identity),
            None => Caller::Unidentified,
        };
        let gate = Arc::clone(&self.gate);
        let connection = Arc::new(Connection::new(gate, caller, source, None, drain));
        let stream = Stream::from(socket);
        match self.protocol {
            ListenerProtocol::Http => {
                connection::http::serve(stream, Alpn::Http1, connection).await;
            }
            ListenerProtocol::Tcp => connection::tcp::serve(stream, connection, "").await,
            ListenerProtocol::Auto => {
                connection::serve(stream, self.protocol, None, "", connection).await;
            }
        }
    }
}
