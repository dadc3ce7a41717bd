//! TLS alone: mutual TLS in, and the upstream's answer back for every piece that is read, whatever
//! it says. No HTTP, no upstream: the bound beneath every proxy on this stack.

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::papers;
use crate::upstream::BODY;

/// Requests of the measurements are smaller, and come in one piece each.
const PIECE: usize = 4_096;

/// How a request ends that wants the connection closed.
const LAST: &[u8] = b"connection: close\r\n\r\n";

/// Serves until it is ended. Its address is told on standard output.
pub(crate) async fn serve(papers: &Path) -> Result<()> {
    let acceptor = TlsAcceptor::from(Arc::new(papers::server_tls(papers)?));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    println!("{}", listener.local_addr()?);
    let answer: Arc<[u8]> = answer().into();
    let accepting = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            tokio::spawn(connection(acceptor.clone(), stream, Arc::clone(&answer)));
        }
    });
    accepting.await?
}

fn answer() -> Vec<u8> {
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", BODY.len());
    [head.as_bytes(), BODY].concat()
}

/// A connection that ends is one whose client is done.
async fn connection(acceptor: TlsAcceptor, stream: TcpStream, answer: Arc<[u8]>) {
    if let Ok(stream) = acceptor.accept(stream).await {
        let _ = echo(stream, &answer).await;
    }
}

async fn echo(mut stream: TlsStream<TcpStream>, answer: &[u8]) -> std::io::Result<()> {
    let mut piece = [0; PIECE];
    loop {
        let bytes = stream.read(&mut piece).await?;
        let asked = piece.get(..bytes).unwrap_or_default();
        if asked.is_empty() {
            return Ok(());
        }
        stream.write_all(answer).await?;
        stream.flush().await?;
        if asked.ends_with(LAST) {
            return stream.shutdown().await;
        }
    }
}
