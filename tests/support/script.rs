//! An upstream that answers with given bytes and closes: for answers that no well-behaved
//! server gives.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

pub(crate) struct Scripted {
    pub(crate) address: SocketAddr,
    requests: Arc<AtomicUsize>,
}

impl Scripted {
    /// Each connection gets one answer, and is then closed.
    pub(crate) async fn start(answer: &'static [u8]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&requests);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer_once(stream, answer, Arc::clone(&counted)));
            }
        });
        Self { address, requests }
    }

    /// How many requests were read whole.
    pub(crate) fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

async fn answer_once(mut stream: TcpStream, answer: &[u8], requests: Arc<AtomicUsize>) {
    let mut head = Vec::new();
    let mut buffer = [0; 4_096];
    while !head.windows(4).any(|window| window == b"\r\n\r\n") {
        match stream.read(&mut buffer).await {
            Ok(length) if length > 0 => head.extend_from_slice(&buffer[..length]),
            _ => return,
        }
    }
    requests.fetch_add(1, Ordering::SeqCst);
    let _ = stream.write_all(answer).await;
    let _ = stream.shutdown().await;
    // Until the other side has closed as well, so that nothing it still sends is reset.
    while matches!(stream.read(&mut buffer).await, Ok(length) if length > 0) {}
}
