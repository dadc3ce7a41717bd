//! The Workload API of the development CA, so that any SPIFFE client library works against it
//! on a laptop without SPIRE.
//!
//! There is no attestation: which socket is opened decides who the caller is, and the
//! directory's mode decides who may open one.

use std::path::{Path, PathBuf};

use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::directory::{Directory, io_error};
use super::error::DevError;
use crate::workload_api::{self, Served, X509Svid};

const SOCKET: &str = "workload.sock";

/// What each socket serves.
#[derive(Debug, Default)]
pub(super) struct Views {
    all: watch::Sender<Served>,
    each: std::collections::BTreeMap<String, watch::Sender<Served>>,
}

impl Views {
    /// Takes the SVIDs of all callers and wakes those who follow one that changed.
    pub(super) fn update(&mut self, svids: Vec<X509Svid>) {
        for svid in &svids {
            let view = self.each.entry(svid.hint.clone()).or_default();
            replace(view, vec![svid.clone()]);
        }
        replace(&self.all, svids);
    }

    fn of(&self, name: &str) -> Option<watch::Receiver<Served>> {
        self.each.get(name).map(watch::Sender::subscribe)
    }
}

fn replace(view: &watch::Sender<Served>, svids: Vec<X509Svid>) {
    let new = Served {
        svids,
        ..Served::default()
    };
    view.send_if_modified(|served| {
        let changed = *served != new;
        *served = new;
        changed
    });
}

/// The opened sockets.
#[derive(Debug)]
pub struct DevWorkloadApi {
    sockets: Vec<Socket>,
}

#[derive(Debug)]
struct Socket {
    path: PathBuf,
    listener: UnixListener,
    served: watch::Receiver<Served>,
}

impl DevWorkloadApi {
    pub(super) fn open<'a>(
        directory: &Directory,
        views: &Views,
        names: impl Iterator<Item = &'a str>,
    ) -> Result<Self, DevError> {
        let mut sockets = vec![Socket::open(directory, SOCKET, views.all.subscribe())?];
        for name in names {
            if let Some(served) = views.of(name) {
                let path = format!("svids/{name}/{SOCKET}");
                sockets.push(Socket::open(directory, &path, served)?);
            }
        }
        Ok(Self { sockets })
    }

    /// The sockets, that of all callers first, as `SPIFFE_ENDPOINT_SOCKET` names them after
    /// `unix://`.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.sockets.iter().map(|socket| socket.path.as_path())
    }

    /// Serves for as long as it is polled; the sockets are removed when it is dropped.
    pub async fn serve(self) {
        let mut tasks = JoinSet::new();
        for socket in self.sockets {
            tasks.spawn(socket.serve());
        }
        while tasks.join_next().await.is_some() {}
    }
}

impl Socket {
    fn open(
        directory: &Directory,
        name: &str,
        served: watch::Receiver<Served>,
    ) -> Result<Self, DevError> {
        let path = directory.make_way_for_socket(name)?;
        let listener = UnixListener::bind(&path)
            .map_err(|error| io_error("listen on the socket", &path, error))?;
        Ok(Self {
            path: std::path::absolute(&path).unwrap_or(path),
            listener,
            served,
        })
    }

    async fn serve(self) {
        let _removed_at_the_end = RemoveFile(self.path);
        workload_api::serve(self.listener, self.served).await;
    }
}

struct RemoveFile(PathBuf);

impl Drop for RemoveFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}
