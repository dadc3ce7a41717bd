//! A server under test and one handshake with it, in memory.

use std::sync::Arc;

use rustls::ClientConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;
use wayleave_certs::tls::{HandshakeError, ServerTls, ServerTlsOptions};
use wayleave_certs::{IdentityPublisher, Peer, TrustBundles};

use super::Root;

/// A server with an SVID of `root`, and whom it trusts.
pub fn server(root: &Root, bundles: TrustBundles) -> (ServerTls, IdentityPublisher) {
    let (mut publisher, reader) = IdentityPublisher::new();
    let svid = root.issue("spiffe://shop.example/ns/web/sa/orders").svid();
    publisher.publish(Arc::new(svid), bundles);
    (
        ServerTls::new(reader, ServerTlsOptions::default()),
        publisher,
    )
}

/// One handshake; what the server made of it, and the error that the client saw.
pub async fn handshake(
    server: &ServerTls,
    client: ClientConfig,
) -> (Result<Peer, HandshakeError>, Option<rustls::Error>) {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let name = "orders.shop.example".try_into().unwrap();
    let connect = async {
        let mut stream = TlsConnector::from(Arc::new(client))
            .connect(name, far)
            .await?;
        stream.write_all(b"hello").await?;
        let mut answer = [0; 2];
        stream.read_exact(&mut answer).await.map(|_| ())
    };
    let accept = async {
        let (mut stream, peer) = server.accept(near).await?;
        let mut greeting = [0; 5];
        stream
            .read_exact(&mut greeting)
            .await
            .map_err(HandshakeError::Io)?;
        stream.write_all(b"ok").await.map_err(HandshakeError::Io)?;
        Ok(peer)
    };
    let (accepted, connected) = tokio::join!(accept, connect);
    let seen = connected
        .err()
        .and_then(|error| error.downcast::<rustls::Error>().ok());
    (accepted, seen)
}
