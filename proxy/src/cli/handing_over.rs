//! Both ends of a hand-over, as `wayleave run` meets them: the process whose place it takes, if
//! one runs, and the one that takes its own place later.

use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use tokio::sync::oneshot;

use crate::hand_over::{self, Giver, HandOverError, Predecessor, Successor};
use crate::sockets::{PassedSocket, Sockets};

/// The state of handing over; nothing happens where the configuration names no place for it.
#[derive(Debug, Default)]
pub(super) struct HandingOver {
    path: Option<PathBuf>,
    predecessor: Option<Predecessor>,
    sockets: Vec<PassedSocket>,
    listener: Option<UnixListener>,
    giver: Option<Giver>,
}

impl HandingOver {
    /// Asks the process at `path`, if there is one, for its sockets.
    ///
    /// # Errors
    /// When a process is there and does not give them.
    pub(super) async fn begin(path: Option<&Path>) -> Result<Self, HandOverError> {
        let Some(path) = path else {
            return Ok(Self::default());
        };
        let mut handing = Self {
            path: Some(path.to_owned()),
            ..Self::default()
        };
        if let Some(taken) = hand_over::take(path).await? {
            tracing::info!(
                sockets = taken.sockets.len(),
                "taking over from a running sidecar"
            );
            handing.predecessor = Some(taken.predecessor);
            handing.sockets = taken.sockets;
            handing.listener = taken.listener;
        }
        Ok(handing)
    }

    /// Whether there is a process whose place is taken.
    pub(super) fn has_predecessor(&self) -> bool {
        self.predecessor.is_some()
    }

    /// Where the listening sockets come from.
    pub(super) fn sockets(&mut self, reuse_port: bool) -> Sockets {
        Sockets::new(reuse_port, std::mem::take(&mut self.sockets))
    }

    /// To be called when the sidecar accepts: tells the predecessor to stop, and waits for a
    /// successor from now on.
    ///
    /// # Errors
    /// When no successor could ask, because the socket cannot be bound.
    pub(super) async fn serve(&mut self) -> Result<(), HandOverError> {
        if let Some(predecessor) = self.predecessor.take() {
            match predecessor.replace().await {
                Ok(pid) => tracing::info!(pid, "taken over; the process before this one drains"),
                Err(error) => tracing::warn!(%error, "the process before this one has gone"),
            }
        }
        if let Some(path) = self.path.clone() {
            self.giver = Some(Giver::start(path, self.listener.take())?);
        }
        Ok(())
    }

    /// The next step of a successor; may be dropped and called again.
    pub(super) async fn successor(&mut self) -> Successor {
        match &mut self.giver {
            Some(giver) => giver.next().await,
            None => std::future::pending().await,
        }
    }

    /// Lets the successor know that we accept nothing any more, and leaves it the socket.
    pub(super) fn leave(&mut self, stopped: oneshot::Sender<()>) {
        tracing::info!("a successor serves");
        if let Some(giver) = self.giver.take() {
            giver.leave();
        }
        let _ = stopped.send(());
    }
}
