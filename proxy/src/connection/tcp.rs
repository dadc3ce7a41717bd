//! Serves a connection whose bytes are not looked into: decided once, as a whole, and then
//! carried both ways until both sides have ended.

use std::sync::Arc;

use ::http::HeaderMap;
use wayleave_authz::Direction;

use super::Connection;
use crate::enforce::Ask;
use crate::forward::tunnel::{self, Bytes};
use crate::protocol::Call;
use crate::route::Found;
use crate::stream::Stream;

/// Decides and carries. `host` is what the caller asked for, as far as it said: the server name
/// of its handshake, or nothing.
pub(crate) async fn serve(stream: Stream, connection: Arc<Connection>, host: &str) {
    let found = found(&connection, host);
    carry(stream, &connection, host, found, Bytes::Plain).await;
}

/// Decides on what was `found` for the connection, and carries.
pub(crate) async fn carry(
    stream: Stream,
    connection: &Connection,
    host: &str,
    found: Option<Found<'_>>,
    bytes: Bytes,
) {
    if connection.is_unwelcome() {
        return stream.reset();
    }
    let mut entry = connection.gate.recorder.open(&connection.origin);
    let call = Call::tcp(host);
    if let Some(excess) = connection.origin.calls.excess() {
        entry.refused(excess.reason_code(), Some(call), None);
        entry.completed();
        return stream.reset();
    }
    // A denied connection is cut; there is no answer that every protocol would understand.
    let Some(found) = found else {
        connection.not_found(entry, call).unanswered();
        return stream.reset();
    };
    let headers = HeaderMap::new();
    let ask = Ask {
        call,
        origin: &connection.origin,
        service: found.service(),
        port: found.port(),
        headers: &headers,
    };
    let lease = match connection.gate.enforcer.enforce(entry, ask) {
        Ok(lease) => lease,
        Err(denial) => {
            denial.unanswered();
            return stream.reset();
        }
    };
    let (pool, idle) = (found.pool(host), connection.gate.limits.tcp_idle_timeout);
    tunnel::dial(lease, stream, &pool, bytes, connection.tenure(), idle).await;
}

/// Refuses a connection whose first bytes did not tell what it is.
pub(super) fn undetected(stream: Stream, connection: &Connection, host: &str) {
    let mut entry = connection.gate.recorder.open(&connection.origin);
    entry.refused("protocol_undetected", Some(Call::tcp(host)), None);
    entry.completed();
    stream.reset();
}

/// The service that is called. A caller from elsewhere names it in its handshake; the workload
/// beside us is plain and names none.
fn found<'a>(connection: &'a Connection, host: &str) -> Option<Found<'a>> {
    let routes = &connection.gate.routes;
    match connection.gate.enforcer.direction {
        Direction::Inbound => routes.find(&Call::tcp(host), || 0),
        Direction::Outbound => routes.only().map(Found::fixed),
    }
}
