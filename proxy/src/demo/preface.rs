//! Tells HTTP/2 with prior knowledge from HTTP/1.1 by the connection's first bytes
//! (RFC 9113 section 3.4), and gives those bytes back to whoever reads the connection.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// What every HTTP/2 client sends first; no HTTP/1 request begins like it.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Http1,
    Http2,
}

/// Reads until the protocol is certain: at most 24 bytes for HTTP/2, mostly one or two for
/// HTTP/1.1.
///
/// # Errors
/// The connection could not be read, or ended before it said what it speaks.
pub(super) async fn detect(mut stream: TcpStream) -> io::Result<(Protocol, Replay)> {
    let mut seen = BytesMut::with_capacity(PREFACE.len());
    while seen.len() < PREFACE.len() {
        if (&mut stream)
            .take(missing(&seen))
            .read_buf(&mut seen)
            .await?
            == 0
        {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if !PREFACE.starts_with(&seen) {
            return Ok((
                Protocol::Http1,
                Replay {
                    seen: seen.freeze(),
                    stream,
                },
            ));
        }
    }
    Ok((
        Protocol::Http2,
        Replay {
            seen: seen.freeze(),
            stream,
        },
    ))
}

fn missing(seen: &BytesMut) -> u64 {
    PREFACE.len().saturating_sub(seen.len()) as u64
}

/// A connection whose first bytes were read already, and are read again.
pub(super) struct Replay {
    seen: Bytes,
    stream: TcpStream,
}

impl AsyncRead for Replay {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.seen.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buffer);
        }
        let length = self.seen.len().min(buffer.remaining());
        buffer.put_slice(&self.seen.split_to(length));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Replay {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, data)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, data)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap());
        let (client, accepted) = tokio::join!(client, listener.accept());
        (client.unwrap(), accepted.unwrap().0)
    }

    async fn detected(pieces: &[&[u8]]) -> (Protocol, Vec<u8>) {
        let (mut client, server) = pair().await;
        client.set_nodelay(true).unwrap();
        let send = async {
            for piece in pieces {
                client.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
            client.shutdown().await.unwrap();
        };
        let read = async {
            let (protocol, mut replay) = detect(server).await.unwrap();
            let mut all = Vec::new();
            replay.read_to_end(&mut all).await.unwrap();
            (protocol, all)
        };
        tokio::join!(send, read).1
    }

    #[tokio::test]
    async fn tells_the_protocol_and_loses_no_byte() {
        let h2: &[&[u8]] = &[b"PRI * HT", b"TP/2.0\r\n\r\nSM\r\n\r\n", b"settings"];
        let cases: &[(&[&[u8]], Protocol)] = &[
            (&[b"GET / HTTP/1.1\r\n\r\n"], Protocol::Http1),
            (&[b"P", b"UT / HTTP/1.1\r\n\r\n"], Protocol::Http1),
            (&[b"PRI * HTTP/1.1\r\n\r\n"], Protocol::Http1),
            (h2, Protocol::Http2),
        ];
        for (pieces, expected) in cases {
            let (protocol, all) = detected(pieces).await;
            assert_eq!(protocol, *expected);
            assert_eq!(all, pieces.concat());
        }
    }

    #[tokio::test]
    async fn a_connection_that_says_nothing_is_an_error() {
        let (client, server) = pair().await;
        drop(client);
        assert!(detect(server).await.is_err());
    }
}
