//! The running process: gives its sockets to the one that asks.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::HandOverError;
use super::wire::{self, BATCH, Batch, Farewell, Word};
use crate::sockets::{PassedSocket, SocketName};
use crate::unix_socket;

/// What the process that gives is asked for.
#[derive(Debug)]
pub(crate) enum Successor {
    /// Another process wants the sockets.
    Asks(oneshot::Sender<io::Result<Vec<PassedSocket>>>),
    /// It accepts on them. It is told that we do not any more when the sender is used.
    Serves(oneshot::Sender<()>),
}

/// The place where a successor asks. Removed when dropped, unless a successor has it.
#[derive(Debug)]
pub(crate) struct Giver {
    successors: mpsc::Receiver<Successor>,
    task: Option<JoinHandle<()>>,
    path: Option<PathBuf>,
}

impl Giver {
    /// Waits for successors at `path`; at `listener` where that was taken over.
    ///
    /// # Errors
    /// When no socket can be bound there.
    pub(crate) fn start(
        path: PathBuf,
        listener: Option<std::os::unix::net::UnixListener>,
    ) -> Result<Self, HandOverError> {
        let bound = match listener {
            Some(listener) => UnixListener::from_std(listener),
            None => {
                unix_socket::bind(&path).map_err(|_| HandOverError::NotASocket(path.clone()))?
            }
        };
        let listener = bound.map_err(|source| HandOverError::Socket {
            path: path.clone(),
            source,
        })?;
        let (tell, successors) = mpsc::channel(1);
        Ok(Self {
            successors,
            task: Some(tokio::spawn(serve(listener, tell))),
            path: Some(path),
        })
    }

    /// The next step of a successor; may be dropped and called again.
    pub(crate) async fn next(&mut self) -> Successor {
        match self.successors.recv().await {
            Some(successor) => successor,
            None => std::future::pending().await,
        }
    }

    /// Leaves the place to the successor, who is still to be told.
    pub(crate) fn leave(mut self) {
        self.path = None;
        self.task = None;
    }
}

impl Drop for Giver {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
        if let Some(path) = &self.path {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// One successor at a time: two would each take half of the connections.
async fn serve(listener: UnixListener, tell: mpsc::Sender<Successor>) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::error!(%error, "cannot hand over");
                return;
            }
        };
        match give(&listener, &stream, &tell).await {
            Ok(true) => return,
            Ok(false) => tracing::warn!("the successor has gone before it served; going on"),
            Err(error) => tracing::warn!(%error, "the hand-over broke off; going on"),
        }
    }
}

/// Gives everything to one successor; false when it goes before it serves.
async fn give(
    listener: &UnixListener,
    stream: &UnixStream,
    tell: &mpsc::Sender<Successor>,
) -> io::Result<bool> {
    // SECURITY: who has our sockets gets our callers' connections.
    unix_socket::same_user(stream)?;
    let Some((Word::SocketsV1, _)) = wire::receive(stream).await? else {
        return Ok(false);
    };
    let (answer, sockets) = oneshot::channel();
    let gone = |_| io::Error::other("the sidecar ends");
    tell.send(Successor::Asks(answer))
        .await
        .map_err(|_| io::Error::other("the sidecar ends"))?;
    let mut sockets = sockets
        .await
        .map_err(gone)??
        .into_iter()
        .map(own)
        .collect::<Vec<_>>();
    sockets.push((SocketName::HandOver, listener.as_fd().try_clone_to_owned()?));
    let mut batches = sockets.chunks(BATCH).peekable();
    while let Some(batch) = batches.next() {
        send_batch(stream, batch, batches.peek().is_some()).await?;
        match wire::receive(stream).await? {
            Some((Word::SocketsV1, _)) if batches.peek().is_some() => {}
            Some((Word::Serving, _)) if batches.peek().is_none() => break,
            Some(_) => {
                return Err(io::Error::other(
                    "the successor does not keep to the protocol",
                ));
            }
            None => return Ok(false),
        }
    }
    let (stopped, stop) = oneshot::channel();
    tell.send(Successor::Serves(stopped))
        .await
        .map_err(|_| io::Error::other("the sidecar ends"))?;
    let _ = stop.await;
    let farewell = Farewell {
        draining: std::process::id(),
    };
    // Whether the successor hears it or not: it serves.
    let _ = wire::send(stream, &farewell, &[]).await;
    Ok(true)
}

async fn send_batch(
    stream: &UnixStream,
    batch: &[(SocketName, OwnedFd)],
    more: bool,
) -> io::Result<()> {
    let line = Batch {
        sockets: batch.iter().map(|(name, _)| name.clone()).collect(),
        more,
    };
    let sockets: Vec<BorrowedFd<'_>> = batch.iter().map(|(_, socket)| socket.as_fd()).collect();
    wire::send(stream, &line, &sockets).await
}

fn own(passed: PassedSocket) -> (SocketName, OwnedFd) {
    (passed.name, passed.socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[tokio::test]
    async fn what_is_not_a_socket_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notes");
        std::fs::write(&path, "keep me").unwrap();
        let refused = Giver::start(path.clone(), None);
        assert!(matches!(refused, Err(HandOverError::NotASocket(_))));
        assert_eq!(std::fs::read_to_string(path).unwrap(), "keep me");
    }

    #[tokio::test]
    async fn the_socket_is_for_its_owner_and_goes_with_the_process() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hand-over.sock");
        let giver = Giver::start(path.clone(), None).unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        drop(giver);
        assert!(!path.exists());
    }
}
