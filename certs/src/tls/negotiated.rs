//! What a completed handshake agreed on, on either side of it.

use std::sync::Arc;

use rustls::CommonState;

use super::handshake_error::HandshakeError;
use super::provider::{group_name, is_post_quantum};
use crate::verify::Verified;
use crate::{Alpn, Peer, TlsInfo};

/// Makes the peer of a completed handshake.
///
/// INVARIANT: `verified` is what was found in the handshake of this very connection.
pub(super) fn peer(
    connection: &CommonState,
    sni: Option<Box<str>>,
    verified: Arc<Verified>,
) -> Result<Peer, HandshakeError> {
    let group = connection
        .negotiated_key_exchange_group()
        .ok_or(HandshakeError::Unverified)?
        .name();
    let alpn = match connection.alpn_protocol() {
        Some(b"h2") => Some(Alpn::Http2),
        Some(b"http/1.1") => Some(Alpn::Http1),
        _ => None,
    };
    let tls = TlsInfo {
        version: "1.3",
        key_exchange: group_name(group),
        post_quantum: is_post_quantum(group),
        alpn,
        sni,
    };
    Ok(Peer::new(verified, tls))
}
