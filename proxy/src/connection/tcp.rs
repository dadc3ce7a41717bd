//! Serves a connection whose bytes are not looked into: decided once, as a whole, and then
//! carried both ways until either side ends.

use std::sync::Arc;

use ::http::HeaderMap;

use super::Connection;
use crate::enforce::Ask;
use crate::forward::tunnel;
use crate::protocol::Call;
use crate::stream::Stream;

/// Decides and carries. `host` is what the caller asked for, as far as it said: the server name
/// of its handshake, or nothing.
pub(crate) async fn serve(stream: Stream, connection: Arc<Connection>, host: &str) {
    if connection.is_unwelcome() {
        return;
    }
    let mut entry = connection.gate.recorder.open(&connection.origin);
    let call = Call::tcp(host);
    if let Some(excess) = connection.origin.calls.excess() {
        entry.refused(excess.reason_code(), Some(call), None);
        return;
    }
    let Some(route) = connection.gate.routes.only() else {
        entry.refused("host_not_served", Some(call), None);
        return;
    };
    let headers = HeaderMap::new();
    let ask = Ask {
        call,
        origin: &connection.origin,
        route,
        headers: &headers,
    };
    // A denied connection is closed; there is no answer that every protocol would understand.
    let Ok(lease) = connection.gate.enforcer.enforce(entry, ask) else {
        return;
    };
    tunnel::dial(lease, stream, &route.pool, connection.tenure()).await;
}
