//! A server of the Workload API for the X509-SVID profile, on a unix socket.
//!
//! For development: it does not attest its callers. Whoever can open the socket is given what
//! is served there, so the socket's directory must keep others out. JWT-SVIDs are not issued.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::{Future, ready};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, header};
use http_body_util::BodyExt;
use http_body_util::Empty;
use http_body_util::combinators::BoxBody;
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::authority::LocalAuthority;
use super::grpc::{
    CONTENT_TYPE, Code, FETCH_X509_BUNDLES, FETCH_X509_SVID, GRPC_MESSAGE, GRPC_STATUS,
    SECURITY_HEADER, frame,
};
use super::{X509Bundles, X509Context};

/// What is served now.
pub type Served = X509Context;

/// The most callers at once; more wait to be accepted.
const MAX_CALLERS: usize = 256;

/// How often a silent caller is asked whether it lives, and how long it may take.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// How long to wait when a caller cannot be accepted (out of file descriptors).
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

type Body = BoxBody<Bytes, Infallible>;

/// Serves on a socket for as long as it is polled; every change is sent to all callers.
pub async fn serve(listener: UnixListener, served: watch::Receiver<Served>) {
    let mut callers = JoinSet::new();
    loop {
        while callers.len() >= MAX_CALLERS {
            callers.join_next().await;
        }
        tokio::select! {
            Some(_) = callers.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => drop(callers.spawn(serve_caller(stream, served.clone()))),
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a caller of the Workload API");
                    tokio::time::sleep(ACCEPT_AGAIN).await;
                }
            },
        }
    }
}

async fn serve_caller(stream: UnixStream, served: watch::Receiver<Served>) {
    let service = service_fn(move |request| {
        let served = served.clone();
        async move { Ok::<_, Infallible>(answer(&request, served)) }
    });
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .serve_connection(TokioIo::new(LocalAuthority::new(stream)), service);
    if let Err(error) = connection.await {
        tracing::debug!(%error, "a caller of the Workload API left");
    }
}

fn answer(request: &Request<Incoming>, served: watch::Receiver<Served>) -> Response<Body> {
    let is_true = |value: &HeaderValue| value == "true";
    // SECURITY: a browser that was tricked into calling cannot set this header.
    if !request.headers().get(SECURITY_HEADER).is_some_and(is_true) {
        let message = "security header missing from request";
        return refuse(Code::InvalidArgument, message);
    }
    if request.method() != Method::POST {
        return refuse(Code::Unimplemented, "not a call");
    }
    match request.uri().path() {
        FETCH_X509_SVID => stream(served, X509Context::encode),
        FETCH_X509_BUNDLES => stream(served, |context| bundles(context).encode()),
        _ => refuse(
            Code::Unimplemented,
            "only the X509-SVID profile is served here",
        ),
    }
}

/// The bundles alone, for those who need no SVID.
fn bundles(context: &X509Context) -> X509Bundles {
    let own = context.svids.iter().filter_map(|svid| {
        let id: wayleave_identity::SpiffeId = svid.spiffe_id.parse().ok()?;
        Some((
            format!("spiffe://{}", id.trust_domain()),
            svid.bundle.clone(),
        ))
    });
    let mut bundles: BTreeMap<_, _> = context.federated_bundles.clone();
    bundles.extend(own);
    X509Bundles {
        crls: context.crls.clone(),
        bundles,
    }
}

fn stream(served: watch::Receiver<Served>, encode: Encode) -> Response<Body> {
    let messages = Messages {
        encode,
        next: Box::pin(ready(Some(served))),
        ended: false,
    };
    let mut response = Response::new(messages.boxed());
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
    response
}

type Encode = fn(&X509Context) -> Vec<u8>;

/// A body of messages: what is served now, and again after each change. It ends when the
/// server does, and is dropped with the caller's connection.
struct Messages {
    encode: Encode,
    /// Resolves when there is something to send, or to none when there will be nothing more.
    next: Pin<Box<dyn Future<Output = Option<watch::Receiver<Served>>> + Send + Sync>>,
    ended: bool,
}

impl hyper::body::Body for Messages {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let Some(mut served) = std::task::ready!(self.next.as_mut().poll(cx)) else {
            self.ended = true;
            let trailers = status(Code::Unavailable, "shutting down");
            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
        };
        let message = frame(&(self.encode)(&served.borrow_and_update()));
        self.next = Box::pin(async move { served.changed().await.ok().map(|()| served) });
        Poll::Ready(Some(Ok(Frame::data(message))))
    }
}

/// An answer without messages: the status is in the headers.
fn refuse(code: Code, message: &'static str) -> Response<Body> {
    let mut response = Response::new(Empty::new().boxed());
    *response.headers_mut() = status(code, message);
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
    response
}

fn status(code: Code, message: &'static str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(GRPC_STATUS, HeaderValue::from(code.number()));
    headers.insert(GRPC_MESSAGE, HeaderValue::from_static(message));
    headers
}
