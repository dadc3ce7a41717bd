//! Towards the workload: callers prove who they are in a TLS handshake before anything is read.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpStream;
use wayleave_certs::Peer;
use wayleave_certs::tls::{HandshakeError, ServerTls};

use crate::caller::Caller;
use crate::config::ListenerProtocol;
use crate::connection::{self, Connection};
use crate::drain::Drain;
use crate::forward::headers;
use crate::gate::Gate;
use crate::handshakes::Handshake;
use crate::stream::Stream;

/// One inbound listener, as one worker holds it.
#[derive(Debug)]
pub(crate) struct Inbound {
    pub(crate) gate: Arc<Gate>,
    pub(crate) tls: Arc<ServerTls>,
    pub(crate) protocol: ListenerProtocol,
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
        let handshake = tokio::time::timeout(limit, self.tls.accept(socket));
        let accepted = tokio::select! {
            accepted = handshake => accepted,
            // Nothing was asked yet, so nothing is lost.
            () = drain.begun() => return,
            () = gives_way(turn.as_ref()) => return self.gave_way(source),
        };
        drop(turn);
        let (stream, peer) = match accepted {
            Ok(Ok(accepted)) => accepted,
            Ok(Err(error)) => return self.refused(source, &error),
            Err(_) => return self.timed_out(source),
        };
        self.gate
            .metrics
            .handshake_completed(peer.tls().key_exchange);
        tracing::debug!(listener = &*self.gate.name, %source, peer = %peer.id(), "connection");
        self.admit(stream.into(), peer, source, drain).await;
    }

    async fn admit(&self, stream: Stream, peer: Peer, source: SocketAddr, drain: Drain) {
        let own = self.gate.identity.current();
        let xfcc = headers::xfcc(own.as_ref().map(|own| &**own.svid()), &peer);
        let (gate, caller) = (Arc::clone(&self.gate), Caller::Peer(peer.clone()));
        let connection = Arc::new(Connection::new(gate, caller, source, xfcc, drain));
        match self.protocol {
            ListenerProtocol::Http => {
                connection::http::serve(stream, peer.tls().alpn, connection).await;
            }
            ListenerProtocol::Tcp => {
                let name = peer.tls().sni.as_deref().unwrap_or_default();
                connection::tcp::serve(stream, connection, name).await;
            }
        }
    }

    fn refused(&self, source: SocketAddr, error: &HandshakeError) {
        let reason_code = error.reason_code();
        self.gate.metrics.handshake_refused(reason_code);
        tracing::warn!(listener = &*self.gate.name, %source, reason_code, %error, "handshake refused");
    }

    fn gave_way(&self, source: SocketAddr) {
        let reason_code = "too_many_handshakes";
        self.gate.metrics.handshake_refused(reason_code);
        tracing::warn!(
            listener = &*self.gate.name,
            %source,
            reason_code,
            error = "it was the oldest of as many as there may be, and gave way to a new one",
            "handshake refused"
        );
    }

    fn timed_out(&self, source: SocketAddr) {
        self.gate.metrics.handshake_refused("handshake_timeout");
        tracing::warn!(
            listener = &*self.gate.name,
            %source,
            reason_code = "handshake_timeout",
            error = format!("no complete handshake within {:?}", self.gate.limits.handshake_timeout),
            "handshake refused"
        );
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
