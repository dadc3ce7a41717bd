//! The admin socket: a unix socket by which an operator says things against principals, and takes
//! them back. HTTP/1.1, `GET` and `POST /standing`; for our own user and root alone.

use std::convert::Infallible;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde_json::json;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;

use super::{KeepError, Order, Ordered, Standing, now_ms};
use crate::unix_socket;

/// Where orders are sent to.
pub(crate) const PATH: &str = "/standing";
/// Connections open at once; more wait.
const MAX_CONNECTIONS: usize = 16;
/// How long a client may take over a request.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The largest order, in bytes.
const LARGEST: usize = 16 << 10;

type Answer = Response<Full<Bytes>>;

/// The place where orders are taken.
#[derive(Debug)]
pub(crate) struct Control {
    listener: UnixListener,
    path: PathBuf,
}

/// Why the admin socket cannot be had. It is the user's to mend: exit status 2.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ControlError {
    /// The system refuses.
    #[error("cannot use the socket `{}` (admin.socket): {source}", path.display())]
    Socket {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// Something that is no socket is in the way.
    #[error("`{}` (admin.socket) is not a socket; remove it or name another path", .0.display())]
    NotASocket(PathBuf),
}

impl Control {
    /// Binds.
    ///
    /// # Errors
    /// When no socket can be bound there.
    pub(crate) fn bind(path: &Path) -> Result<Self, ControlError> {
        let bound =
            unix_socket::bind(path).map_err(|_| ControlError::NotASocket(path.to_owned()))?;
        let listener = bound.map_err(|source| ControlError::Socket {
            path: path.to_owned(),
            source,
        })?;
        let path = path.to_owned();
        Ok(Self { listener, path })
    }

    /// Takes orders until dropped.
    pub(crate) async fn run(self, standing: Arc<Standing>) {
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else {
                return;
            };
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let standing = Arc::clone(&standing);
                    tokio::spawn(async move {
                        serve(stream, standing).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    let path = self.path.display();
                    tracing::error!(%error, %path, "the admin socket cannot accept");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

async fn serve(stream: UnixStream, standing: Arc<Standing>) {
    let user = match unix_socket::same_user(&stream) {
        Ok(user) => user,
        Err(error) => return tracing::warn!(%error, "admin socket: refused"),
    };
    let by: Arc<str> = format!("operator:uid={user}").into();
    let service = tower::service_fn(move |request: Request<Incoming>| {
        let (standing, by) = (Arc::clone(&standing), Arc::clone(&by));
        async move { Ok::<_, Infallible>(answer(request, &standing, &by).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(TIMEOUT)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
    if let Err(error) = served.await {
        tracing::debug!(%error, "admin socket: connection ended");
    }
}

async fn answer(request: Request<Incoming>, standing: &Standing, by: &str) -> Answer {
    if request.uri().path() != PATH {
        return refusal(StatusCode::NOT_FOUND, "try GET or POST /standing");
    }
    match *request.method() {
        Method::GET => respond(StatusCode::OK, &json!(standing.known())),
        Method::POST => match read(request).await {
            Ok(order) => carry_out(order, standing, by).await,
            Err(why) => refusal(StatusCode::BAD_REQUEST, &why),
        },
        _ => refusal(StatusCode::METHOD_NOT_ALLOWED, "only GET and POST"),
    }
}

async fn read(request: Request<Incoming>) -> Result<Order, String> {
    let body = Limited::new(request.into_body(), LARGEST).collect();
    let body = tokio::time::timeout(TIMEOUT, body).await;
    let body = body.map_err(|_| "the order did not come in time".to_owned())?;
    let body = body.map_err(|error| format!("the order cannot be read: {error}"))?;
    serde_json::from_slice(&body.to_bytes()).map_err(|error| format!("this is no order: {error}"))
}

async fn carry_out(order: Order, standing: &Standing, by: &str) -> Answer {
    let change = match order.change(by, now_ms()) {
        Ok(change) => change,
        Err(why) => return refusal(StatusCode::BAD_REQUEST, &why.to_string()),
    };
    match standing.keep(change).await {
        Ok(concerned) => respond(StatusCode::OK, &json!(Ordered::of(&concerned))),
        Err(error @ KeepError::Full(_)) => {
            refusal(StatusCode::INSUFFICIENT_STORAGE, &error.to_string())
        }
        Err(error @ KeepError::Journal(_)) => {
            refusal(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string())
        }
    }
}

fn refusal(status: StatusCode, why: &str) -> Answer {
    respond(status, &json!({ "error": why }))
}

fn respond(status: StatusCode, document: &serde_json::Value) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(format!("{document}\n"))));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}
