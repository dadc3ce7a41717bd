//! What two processes say to each other: lines of text, and sockets beside them.
//!
//! The one who takes over leads: it sends one word a line, and the other answers each with one
//! line of JSON. So no two messages are ever in flight, and sockets belong to the line that they
//! came with.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::FdFlags;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::net::UnixStream;

use crate::sockets::SocketName;

/// Sockets that go with one line; the kernel takes 253.
pub(super) const BATCH: usize = 64;
/// Longest line, in bytes: a batch of the longest names.
const LONGEST_LINE: usize = 16 * 1024;

/// What the one who takes over asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Word {
    /// The sockets, or more of them. The first word also names the protocol.
    SocketsV1,
    /// It accepts on them; the other is to stop.
    Serving,
}

/// The sockets of one line, in the order in which they come beside it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Batch {
    pub(super) sockets: Vec<SocketName>,
    /// Whether there are more to ask for.
    pub(super) more: bool,
}

/// The last answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Farewell {
    /// The process that drains from now on.
    pub(super) draining: u32,
}

/// Sends a line, with sockets beside it.
pub(super) async fn send(
    stream: &UnixStream,
    line: &impl Serialize,
    sockets: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let mut line = serde_json::to_vec(line)?;
    line.push(b'\n');
    let mut sent = 0;
    while let Some(rest) = line.get(sent..).filter(|rest| !rest.is_empty()) {
        // Sockets go with the first byte.
        let beside = if sent == 0 { sockets } else { &[] };
        sent += stream
            .async_io(Interest::WRITABLE, || send_some(stream, rest, beside))
            .await?;
    }
    Ok(())
}

fn send_some(stream: &UnixStream, bytes: &[u8], sockets: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !sockets.is_empty() && !control.push(SendAncillaryMessage::ScmRights(sockets)) {
        return Err(io::Error::other("too many sockets for one message"));
    }
    let bytes = [IoSlice::new(bytes)];
    let sent = rustix::net::sendmsg(stream.as_fd(), &bytes, &mut control, SendFlags::NOSIGNAL)?;
    Ok(sent)
}

/// Receives a line and what came beside it; none when the other has gone.
pub(super) async fn receive<T>(stream: &UnixStream) -> io::Result<Option<(T, Vec<OwnedFd>)>>
where
    T: for<'a> Deserialize<'a>,
{
    let (mut line, mut sockets) = (Vec::new(), Vec::new());
    while line.last() != Some(&b'\n') {
        let some = || receive_some(stream, &mut line, &mut sockets);
        let received = stream.async_io(Interest::READABLE, some).await?;
        match received {
            0 if line.is_empty() => return Ok(None),
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            _ if line.len() > LONGEST_LINE => {
                return Err(io::Error::other("the line is too long"));
            }
            _ => {}
        }
    }
    Ok(Some((serde_json::from_slice(&line)?, sockets)))
}

fn receive_some(
    stream: &UnixStream,
    line: &mut Vec<u8>,
    sockets: &mut Vec<OwnedFd>,
) -> io::Result<usize> {
    let mut bytes = [0; 1024];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut into = [IoSliceMut::new(&mut bytes)];
    let received =
        rustix::net::recvmsg(stream.as_fd(), &mut into, &mut control, RecvFlags::empty())?;
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            sockets.extend(received);
        }
    }
    for socket in sockets.iter() {
        // A program that is started later is not to inherit them.
        rustix::io::fcntl_setfd(socket, FdFlags::CLOEXEC)?;
    }
    line.extend(bytes.iter().take(received.bytes));
    Ok(received.bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[tokio::test]
    async fn sockets_arrive_with_their_line_and_are_the_same_sockets() {
        let (near, far) = UnixStream::pair().unwrap();
        let listeners: Vec<_> = (0..BATCH)
            .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
            .collect();
        let names = |index| SocketName::Listener(format!("{index:063}"));
        let batch = Batch {
            sockets: (0..BATCH).map(names).collect(),
            more: true,
        };
        let descriptors: Vec<_> = listeners.iter().map(AsFd::as_fd).collect();
        let (sent, received) = tokio::join!(send(&near, &batch, &descriptors), receive(&far));
        sent.unwrap();
        let (line, sockets): (Batch, _) = received.unwrap().unwrap();
        assert_eq!(line, batch);
        let at = |listener: &TcpListener| listener.local_addr().unwrap();
        let received: Vec<_> = sockets.into_iter().map(TcpListener::from).collect();
        assert_eq!(
            received.iter().map(at).collect::<Vec<_>>(),
            listeners.iter().map(at).collect::<Vec<_>>()
        );
        drop(near);
        assert!(receive::<Batch>(&far).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn a_line_that_does_not_end_is_refused() {
        let (near, far) = UnixStream::pair().unwrap();
        let flood = async {
            let _ = send(&near, &"x".repeat(LONGEST_LINE * 4), &[]).await;
        };
        let (_, received) = tokio::join!(
            async {
                tokio::select! { () = flood => {}, () = tokio::time::sleep(std::time::Duration::from_secs(20)) => {} }
            },
            async {
                let received = receive::<Batch>(&far).await;
                drop(far);
                received
            }
        );
        assert!(received.is_err());
    }
}
