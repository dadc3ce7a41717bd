//! A Workload API whose answers the test changes: one that serves SVIDs, and one that ends
//! every call with a status.

use std::convert::Infallible;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use http::{HeaderValue, Response};
use http_body_util::Empty;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use wayleave_certs::workload_api::{X509Context, X509Svid, serve};

use super::pki::{Ca, Leaf};

/// A Workload API on a socket. It goes away when dropped.
pub(crate) struct Agent {
    pub(crate) socket: PathBuf,
    served: watch::Sender<X509Context>,
    task: JoinHandle<()>,
}

impl Agent {
    /// Serves what is in `context`.
    pub(crate) fn start(socket: &Path, context: X509Context) -> Self {
        let (served, changes) = watch::channel(context);
        let listener = listen(socket);
        Self {
            socket: socket.to_owned(),
            served,
            task: tokio::spawn(serve(listener, changes)),
        }
    }

    /// Ends every call with a gRPC status.
    pub(crate) fn refuse(socket: &Path, code: u16) -> Self {
        let (served, _) = watch::channel(X509Context::default());
        let listener = listen(socket);
        Self {
            socket: socket.to_owned(),
            served,
            task: tokio::spawn(refuse(listener, code)),
        }
    }

    pub(crate) fn send(&self, context: X509Context) {
        self.served.send_replace(context);
    }

    /// Goes away, and takes its callers' connections along.
    pub(crate) async fn stop(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

fn listen(socket: &Path) -> UnixListener {
    let _ = std::fs::remove_file(socket);
    UnixListener::bind(socket).unwrap()
}

/// What an agent says of one SVID and its trust domain.
pub(crate) fn context(ca: &Ca, leaf: &Leaf) -> X509Context {
    let issued = ca.issue(leaf);
    X509Context {
        svids: vec![X509Svid {
            spiffe_id: leaf.uris[0].clone(),
            x509_svid: issued.der,
            x509_svid_key: issued.key_der,
            bundle: ca.der(),
            hint: String::new(),
        }],
        ..X509Context::default()
    }
}

async fn refuse(listener: UnixListener, code: u16) {
    let mut callers = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let service = service_fn(move |_| async move {
            let mut response = Response::new(Empty::<Bytes>::new());
            let headers = response.headers_mut();
            headers.insert("content-type", HeaderValue::from_static("application/grpc"));
            headers.insert("grpc-status", HeaderValue::from(code));
            headers.insert("grpc-message", HeaderValue::from_static("told by the test"));
            Ok::<_, Infallible>(response)
        });
        let connection = http2::Builder::new(TokioExecutor::new());
        callers.spawn(connection.serve_connection(TokioIo::new(stream), service));
    }
}
