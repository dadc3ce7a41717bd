//! Serves a connection whose bytes are not looked into: decided once, as a whole, and then
//! carried both ways until either side ends.

use std::sync::Arc;

use ::http::HeaderMap;

use super::Connection;
use crate::enforce::Ask;
use crate::forward::tunnel::{self, Bytes};
use crate::protocol::Call;
use crate::route::Found;
use crate::stream::Stream;

/// Decides and carries. `host` is what the caller asked for, as far as it said: the server name
/// of its handshake, or nothing.
pub(crate) async fn serve(stream: Stream, connection: Arc<Connection>, host: &str) {
    let found = connection.gate.routes.only().map(Found::fixed);
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
    let entry = connection.gate.recorder.open(&connection.origin);
    let call = Call::tcp(host);
    // A denied connection is closed; there is no answer that every protocol would understand.
    let Some(found) = found else {
        return connection.not_found(entry, call).close();
    };
    let headers = HeaderMap::new();
    let ask = Ask {
        call,
        origin: &connection.origin,
        service: found.service(),
        port: found.port(),
        headers: &headers,
    };
    match connection.gate.enforcer.enforce(entry, ask) {
        Ok(lease) => {
            let pool = found.pool(host);
            tunnel::dial(lease, stream, &pool, bytes, connection.tenure()).await;
        }
        Err(denial) => denial.close(),
    }
}
