//! Towards the workload: callers prove who they are in a TLS handshake before anything is read.
//! A permissive listener serves those without TLS too, as anonymous ones; others tell them what is missing.

use std::fmt::Display;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpStream;
use wayleave_certs::tls::{HandshakeError, ServerTls};
use wayleave_certs::{Alpn, Peer};

use crate::caller::Caller;
use crate::config::{ListenerProtocol, TlsMode};
use crate::connection::{self, Connection};
use crate::drain::Drain;
use crate::forward::headers;
use crate::gate::Gate;
use crate::handshakes::Handshake;
use crate::plaintext;
use crate::stream::Stream;

/// One inbound listener, as one worker holds it.
#[derive(Debug)]
pub(crate) struct Inbound {
    pub(crate) gate: Arc<Gate>,
    pub(crate) tls: Arc<ServerTls>,
    pub(crate) protocol: ListenerProtocol,
    pub(crate) mode: TlsMode,
}

/// The type of a TLS record that a handshake begins with (RFC 8446 section 5.1).
const TLS_HANDSHAKE: u8 = 0x16;

/// How a connection begins.
enum Arrival {
    /// With a handshake in which the caller proved who it is.
    Proved(Stream, Peer),
    /// Without TLS, where that is allowed.
    Plain(TcpStream),
    /// Without TLS, where that is not allowed: it was told so.
    Unproved,
    /// It closed before it said a word.
    Gone,
}

impl Inbound {
    /// Serves one accepted socket until it closes or `drain` has run its course.
    pub(crate) async fn serve(
        &self,
        socket: TcpStream,
        source: SocketAddr,
        turn: Option<Handshake>,
        drain: Drain,
    ) {
        let limit = self.gate.limits.handshake_timeout;
        let arriving = tokio::time::timeout(limit, self.arrive(socket));
        let arrived = tokio::select! {
            arrived = arriving => arrived,
            () = connection::overdue(&drain) => return,
            () = gives_way(turn.as_ref()) => {
                let why = "it was the oldest of as many as there may be, and gave way to a new one";
                return self.refused(source, "too_many_handshakes", why);
            }
        };
        drop(turn);
        match arrived {
            Ok(Ok(Arrival::Proved(stream, peer))) => {
                // Boxed: what serves a connection is large, and the handshake need not carry it along.
                Box::pin(self.admit(stream, peer, source, drain)).await;
            }
            Ok(Ok(Arrival::Plain(socket))) => {
                Box::pin(self.admit_plain(socket, source, drain)).await;
            }
            Ok(Ok(Arrival::Unproved)) => {
                let why =
                    "it speaks HTTP without TLS, which `tls.mode: permissive` alone would serve";
                self.refused(source, plaintext::REASON_CODE, why);
            }
            Ok(Ok(Arrival::Gone)) => {}
            Ok(Err(error)) => self.refused(source, error.reason_code(), error),
            Err(_) => {
                let why = format!("no complete handshake within {limit:?}");
                self.refused(source, "handshake_timeout", why);
            }
        }
    }

    /// Runs the handshake, but where this is a caller without TLS that is served, or understands why
    /// it is not.
    async fn arrive(&self, socket: TcpStream) -> Result<Arrival, HandshakeError> {
        // Where nothing hangs on it, nobody looks.
        let first = match self.mode == TlsMode::Permissive || self.speaks_http() {
            true => first_byte(&socket).await,
            false => None,
        };
        match (self.mode, first) {
            (_, Some(TLS_HANDSHAKE)) => {}
            (TlsMode::Permissive, Some(_)) => return Ok(Arrival::Plain(socket)),
            (TlsMode::Permissive, None) => return Ok(Arrival::Gone),
            (TlsMode::Strict, Some(byte)) if plaintext::is_http(byte) => {
                plaintext::answer(socket).await;
                return Ok(Arrival::Unproved);
            }
            // What is left is no TLS, and TLS says so.
            (TlsMode::Strict, _) => {}
        }
        let (stream, peer) = self.tls.accept(socket).await?;
        Ok(Arrival::Proved(stream.into(), peer))
    }

    fn speaks_http(&self) -> bool {
        self.protocol != ListenerProtocol::Tcp
    }

    async fn admit(&self, stream: Stream, peer: Peer, source: SocketAddr, drain: Drain) {
        let tls = peer.tls();
        self.gate.metrics.handshake_completed(tls.key_exchange);
        tracing::debug!(listener = &*self.gate.name, %source, peer = %peer.id(), "connection");
        // Whoever agrees on nothing speaks HTTP/1.1, where HTTP is what is spoken.
        let agreed = match self.protocol {
            ListenerProtocol::Http => Some(tls.alpn.unwrap_or(Alpn::Http1)),
            ListenerProtocol::Tcp | ListenerProtocol::Auto => tls.alpn,
        };
        let own = self.gate.identity.current();
        let xfcc = headers::xfcc(own.as_ref().map(|own| &**own.svid()), &peer);
        let (gate, caller) = (Arc::clone(&self.gate), Caller::Peer(peer.clone()));
        let connection = Arc::new(Connection::new(gate, caller, source, xfcc, drain));
        let host = tls.sni.as_deref().unwrap_or_default();
        connection::serve(stream, self.protocol, agreed, host, connection).await;
    }

    /// Serves somebody who proved nothing and is called so: no header of its own can name it.
    async fn admit_plain(&self, socket: TcpStream, source: SocketAddr, drain: Drain) {
        self.gate.metrics.plaintext_connection(&self.gate.name);
        tracing::debug!(listener = &*self.gate.name, %source, "connection without TLS");
        let gate = Arc::clone(&self.gate);
        let connection = Connection::new(gate, Caller::Anonymous, source, None, drain);
        connection::serve(socket.into(), self.protocol, None, "", Arc::new(connection)).await;
    }

    fn refused(&self, source: SocketAddr, reason_code: &'static str, why: impl Display) {
        self.gate.metrics.handshake_refused(reason_code);
        tracing::warn!(
            listener = &*self.gate.name,
            %source,
            reason_code,
            error = %why,
            "handshake refused"
        );
    }
}

/// The first byte of a connection, which stays there to be read; none where it closed.
async fn first_byte(socket: &TcpStream) -> Option<u8> {
    let mut byte = [0];
    match socket.peek(&mut byte).await {
        Ok(1) => byte.first().copied(),
        Ok(_) | Err(_) => None,
    }
}

/// Completes when the handshake has to give way to a newer one.
async fn gives_way(turn: Option<&Handshake>) {
    match turn {
        Some(turn) => turn.gives_way().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_for_each_connection_stays_small() {
        fn size<F>(
            _: impl Fn(&'static Inbound, TcpStream, SocketAddr, Option<Handshake>, Drain) -> F,
        ) -> usize {
            size_of::<F>()
        }
        let future = size(Inbound::serve);
        assert!(future <= 6_144, "{future}");
    }
}
