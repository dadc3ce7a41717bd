//! A server with mutual TLS that answers the exchange of each number after the delay that it is given:
//! requests over HTTP/1.1 and HTTP/2, messages of gRPC streams, and bytes.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::{Bytes, BytesMut};
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::body::Body;
use crate::papers::{self, Papers};
use crate::upstream::BODY;

/// What `load call` sends in a message unless it is told otherwise, and the prefix of gRPC.
const MESSAGE: usize = 64;
const PREFIX: usize = 5;

/// Whom it refuses, and how; bytes are closed, as they cannot be told anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    Nobody,
    /// By 403, after the delay.
    Forbidden,
    /// By an end.
    Closed,
}

type Delay = Arc<dyn Fn(u64) -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// Ends with the runtime that it was started on.
pub(super) struct Server {
    pub(super) address: SocketAddr,
}

#[derive(Clone)]
struct Answering {
    refusal: Refusal,
    number: Arc<AtomicU64>,
    delay: Delay,
}

impl Server {
    pub(super) async fn start<D>(
        papers: &Papers,
        refusal: Refusal,
        delay: impl Fn(u64) -> D + Send + Sync + 'static,
    ) -> Self
    where
        D: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let tls = TlsAcceptor::from(Arc::new(papers::server_tls(papers.path()).unwrap()));
        let answering = Answering {
            refusal,
            number: Arc::default(),
            delay: Arc::new(move |number| Box::pin(delay(number))),
        };
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (tls, answering) = (tls.clone(), answering.clone());
                tokio::spawn(async move {
                    stream.set_nodelay(true).unwrap();
                    if let Ok(stream) = tls.accept(stream).await {
                        answering.serve(stream).await;
                    }
                });
            }
        });
        Self { address }
    }

    /// An address at which nobody listens.
    pub(super) fn nobody() -> Self {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        Self { address }
    }
}

impl Answering {
    async fn wait(&self) {
        (self.delay)(self.number.fetch_add(1, Ordering::Relaxed)).await;
    }

    // However a connection ends is its client's affair.
    async fn serve(self, stream: TlsStream<TcpStream>) {
        let agreed = stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
        let service = service_fn(|request| {
            let answering = self.clone();
            async move { answering.answer(request).await }
        });
        match agreed.as_deref() {
            Some(b"h2") => {
                let server = http2::Builder::new(TokioExecutor::new());
                let io = TokioIo::new(stream);
                let _ = server.serve_connection(io, service).await;
            }
            Some(_) => {
                let io = TokioIo::new(stream);
                let _ = http1::Builder::new().serve_connection(io, service).await;
            }
            None => self.echo(stream).await,
        }
    }

    async fn answer(self, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
        let grpc = request.headers().contains_key("te");
        if grpc && self.refusal == Refusal::Nobody {
            let (sender, body) = Body::piped();
            tokio::spawn(async move { self.messages(request.into_body(), sender).await });
            return Ok(Response::new(body));
        }
        self.wait().await;
        let mut response = Response::new(Body::Whole(Bytes::from_static(BODY)));
        if self.refusal != Refusal::Nobody {
            *response.status_mut() = http::StatusCode::FORBIDDEN;
        }
        Ok(response)
    }

    /// Echoes the messages of a stream, each after its delay. The first opens the stream.
    async fn messages(
        &self,
        mut asked: Incoming,
        answer: tokio::sync::mpsc::UnboundedSender<Bytes>,
    ) {
        let mut unread = BytesMut::new();
        let mut is_open = false;
        while let Some(Ok(frame)) = asked.frame().await {
            unread.extend_from_slice(frame.data_ref().unwrap());
            while unread.len() >= PREFIX + MESSAGE {
                let message = unread.split_to(PREFIX + MESSAGE).freeze();
                if is_open {
                    self.wait().await;
                }
                is_open = true;
                let _ = answer.send(message);
            }
        }
    }

    async fn echo(&self, mut stream: TlsStream<TcpStream>) {
        let mut message = [0; MESSAGE];
        while self.refusal == Refusal::Nobody && stream.read_exact(&mut message).await.is_ok() {
            self.wait().await;
            if stream.write_all(&message).await.is_err() {
                return;
            }
        }
    }
}
