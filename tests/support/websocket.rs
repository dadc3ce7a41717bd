//! An upstream that takes WebSockets over one version of HTTP, echoes, and remembers the
//! handshakes that reached it.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::ext::Protocol;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

/// How an upstream answers a handshake.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Takes {
    /// Over HTTP/1.1, as it should.
    Http1,
    /// Over HTTP/1.1, without having understood the key.
    WrongProof,
    /// Over HTTP/1.1, as a request like any other.
    Ignores,
    /// With 403, over HTTP/1.1.
    Refuses,
    /// Over HTTP/2, as it should.
    Http2,
    /// Speaks HTTP/2 without RFC 8441.
    Http2Not,
}

/// A handshake as the upstream saw it.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) method: Method,
    pub(crate) target: String,
    pub(crate) protocol: Option<String>,
    pub(crate) headers: HeaderMap,
}

pub(crate) struct WebSocketUpstream {
    pub(crate) address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
    task: JoinHandle<()>,
}

impl WebSocketUpstream {
    pub(crate) async fn start(takes: Takes) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let task = tokio::spawn(accept(listener, takes, Arc::clone(&asked)));
        Self {
            address,
            asked,
            task,
        }
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

impl Drop for WebSocketUpstream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, takes: Takes, asked: Arc<Mutex<Vec<Asked>>>) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        connections.spawn(serve(stream, takes, Arc::clone(&asked)));
    }
}

async fn serve(stream: TcpStream, takes: Takes, asked: Arc<Mutex<Vec<Asked>>>) {
    let io = TokioIo::new(stream);
    let service = service_fn(move |request| {
        let answer = answer(request, takes, &asked);
        async move { Ok::<_, Infallible>(answer) }
    });
    // How a connection ends is its test's affair.
    match takes {
        Takes::Http2 | Takes::Http2Not => {
            let mut server = http2::Builder::new(TokioExecutor::new());
            if takes == Takes::Http2 {
                server.enable_connect_protocol();
            }
            let _ = server.serve_connection(io, service).await;
        }
        _ => {
            let server = http1::Builder::new();
            let _ = server.serve_connection(io, service).with_upgrades().await;
        }
    }
}

fn answer(
    mut request: Request<Incoming>,
    takes: Takes,
    asked: &Mutex<Vec<Asked>>,
) -> Response<Full<Bytes>> {
    let target = request.uri().path_and_query().map(ToString::to_string);
    let protocol = request.extensions().get::<Protocol>();
    asked.lock().unwrap().push(Asked {
        method: request.method().clone(),
        target: target.unwrap_or_default(),
        protocol: protocol.map(|protocol| protocol.as_str().to_owned()),
        headers: request.headers().clone(),
    });
    let mut response = Response::new(Full::default());
    let proof = match takes {
        Takes::Ignores => return Response::new(Full::from("no WebSocket here")),
        Takes::Refuses => {
            *response.status_mut() = StatusCode::FORBIDDEN;
            return response;
        }
        Takes::Http2 | Takes::Http2Not => None,
        Takes::WrongProof => Some("bm90IHlvdXIga2V5IGF0IGFsbCE=".to_owned()),
        Takes::Http1 => {
            let key = request.headers().get("sec-websocket-key");
            key.map(|key| derive_accept_key(key.as_bytes()))
        }
    };
    if let Some(proof) = proof {
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert("connection", HeaderValue::from_static("upgrade"));
        headers.insert("upgrade", HeaderValue::from_static("websocket"));
        headers.insert("sec-websocket-accept", proof.parse().unwrap());
    }
    let chosen = HeaderValue::from_static("chat");
    response
        .headers_mut()
        .insert("sec-websocket-protocol", chosen);
    let upgrading = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let Ok(upgraded) = upgrading.await else {
            return;
        };
        let io = TokioIo::new(upgraded);
        let mut socket = WebSocketStream::from_raw_socket(io, Role::Server, None).await;
        while let Some(Ok(message)) = socket.next().await {
            if (message.is_text() || message.is_binary()) && socket.send(message).await.is_err() {
                return;
            }
        }
    });
    response
}
