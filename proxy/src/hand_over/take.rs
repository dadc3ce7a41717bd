//! The new process: takes the sockets of the one that runs.

use std::io;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::UnixStream;

use super::HandOverError;
use super::wire::{self, BATCH, Batch, Farewell, Word};
use crate::sockets::{PassedSocket, SocketName};

/// How long the running process may take over each answer.
const ANSWER: Duration = Duration::from_secs(30);

/// The process whose place is taken, while it still serves.
#[derive(Debug)]
pub(crate) struct Predecessor {
    path: PathBuf,
    stream: UnixStream,
}

/// What a predecessor has given.
#[derive(Debug)]
pub(crate) struct TakenOver {
    pub(crate) predecessor: Predecessor,
    pub(crate) sockets: Vec<PassedSocket>,
    /// Where the next successor will ask.
    pub(crate) listener: Option<UnixListener>,
}

/// Asks the process at `path` for its sockets; none when no process is there.
///
/// # Errors
/// When a process is there and does not give them.
pub(crate) async fn take(path: &Path) -> Result<Option<TakenOver>, HandOverError> {
    let stream = match UnixStream::connect(path).await {
        Ok(stream) => stream,
        Err(error) if is_nobody(&error) => return Ok(None),
        Err(source) => {
            let path = path.to_owned();
            return Err(HandOverError::Socket { path, source });
        }
    };
    let predecessor = Predecessor {
        path: path.to_owned(),
        stream,
    };
    match predecessor.sockets().await {
        Ok((sockets, listener)) => Ok(Some(TakenOver {
            predecessor,
            sockets,
            listener,
        })),
        Err(source) => Err(predecessor.broke(source)),
    }
}

/// A path without a process behind it: none has been there, or it is gone.
fn is_nobody(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
    )
}

impl Predecessor {
    /// Tells the predecessor to stop accepting, and waits until it has.
    ///
    /// # Errors
    /// When it has gone; we serve all the same.
    pub(crate) async fn replace(self) -> Result<u32, HandOverError> {
        match self.say::<Farewell>(Word::Serving).await {
            Ok((farewell, _)) => Ok(farewell.draining),
            Err(source) => Err(self.broke(source)),
        }
    }

    async fn sockets(&self) -> io::Result<(Vec<PassedSocket>, Option<UnixListener>)> {
        let (mut sockets, mut listener) = (Vec::new(), None);
        loop {
            let (batch, descriptors) = self.say::<Batch>(Word::SocketsV1).await?;
            if batch.sockets.len() != descriptors.len() || descriptors.len() > BATCH {
                return Err(io::Error::other("sockets were lost on the way"));
            }
            for (name, descriptor) in batch.sockets.into_iter().zip(descriptors) {
                match name {
                    SocketName::HandOver => listener = Some(unix(descriptor)?),
                    name => sockets.push(PassedSocket {
                        name,
                        socket: tcp(descriptor)?,
                    }),
                }
            }
            if !batch.more {
                return Ok((sockets, listener));
            }
        }
    }

    async fn say<T>(&self, word: Word) -> io::Result<(T, Vec<OwnedFd>)>
    where
        T: for<'a> serde::Deserialize<'a>,
    {
        let exchange = async {
            wire::send(&self.stream, &word, &[]).await?;
            wire::receive(&self.stream).await
        };
        let answer = tokio::time::timeout(ANSWER, exchange).await;
        let answer = answer.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        answer.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    fn broke(self, source: io::Error) -> HandOverError {
        HandOverError::Broke {
            path: self.path,
            source,
        }
    }
}

fn tcp(descriptor: OwnedFd) -> io::Result<TcpListener> {
    let socket = TcpListener::from(descriptor);
    socket.local_addr()?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn unix(descriptor: OwnedFd) -> io::Result<UnixListener> {
    let socket = UnixListener::from(descriptor);
    socket.local_addr()?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}
