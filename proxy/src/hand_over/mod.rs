//! How a new process takes the place of a running one without a connection being refused: the
//! listening sockets themselves are given to it, over a unix socket, so that they are never
//! closed and what waits in their queues is served by whoever accepts first.
//!
//! The new process asks, gets the sockets, becomes able to serve, accepts, and says so; only then
//! does the old one stop accepting, and drains. When the new one ends before that, nothing has
//! happened. SECURITY: sockets are given to processes of the same user and of root only.

mod give;
mod take;
mod wire;

use std::io;
use std::path::PathBuf;

pub(crate) use give::{Giver, Successor};
pub(crate) use take::{Predecessor, take};

/// Why sockets are not given or taken over. At a start it is the user's to mend: exit status 2.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandOverError {
    /// The place where processes meet cannot be used.
    #[error("cannot use the socket `{}` (runtime.hand_over): {source}", path.display())]
    Socket {
        /// The socket's path.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Something that is no socket is in the way.
    #[error("`{}` (runtime.hand_over) is not a socket; remove it or name another path", .0.display())]
    NotASocket(PathBuf),
    /// The running process broke off.
    #[error("the sidecar at `{}` does not hand over: {source}; see its log, or stop it first", path.display())]
    Broke {
        /// The socket's path.
        path: PathBuf,
        /// What went wrong.
        #[source]
        source: io::Error,
    },
}
