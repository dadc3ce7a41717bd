//! `/ws`: a WebSocket (RFC 6455) that sends every text and binary message back, answers
//! pings and closes when the client does. Messages are limited; a larger one ends the
//! socket with close code 1009.

use std::sync::Arc;

use futures_util::{SinkExt, StreamExt};
use http::header::{
    CONNECTION, HeaderName, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::OwnedSemaphorePermit;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};

use super::{Body, full, problem};

/// The largest message, and the largest frame, in bytes.
pub(super) const MAX_MESSAGE_BYTES: usize = 1 << 20;

/// Answers 101 and echoes until the socket closes; 426 where the request asks for no
/// WebSocket of version 13. The socket keeps its connection's slot.
pub(super) fn upgrade(
    mut request: Request<Incoming>,
    slot: Arc<OwnedSemaphorePermit>,
) -> Response<Body> {
    let Some(accept) = accept_key(request.headers()) else {
        return upgrade_required();
    };
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        echo_upgraded(upgraded).await;
        drop(slot);
    });
    let mut response = full("");
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    response
}

fn accept_key(headers: &HeaderMap) -> Option<HeaderValue> {
    let asks = has_token(headers, CONNECTION, "upgrade")
        && has_token(headers, UPGRADE, "websocket")
        && headers
            .get(SEC_WEBSOCKET_VERSION)
            .is_some_and(|version| version == "13");
    let key = headers.get(SEC_WEBSOCKET_KEY).filter(|_| asks)?;
    HeaderValue::try_from(derive_accept_key(key.as_bytes())).ok()
}

fn has_token(headers: &HeaderMap, name: HeaderName, token: &str) -> bool {
    let values = headers.get_all(name);
    let mut tokens = values
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|v| v.split(','));
    tokens.any(|candidate| candidate.trim().eq_ignore_ascii_case(token))
}

fn upgrade_required() -> Response<Body> {
    let detail = "`/ws` is a WebSocket: ask with `Connection: Upgrade`, `Upgrade: websocket`, \
                  `Sec-WebSocket-Version: 13` and a `Sec-WebSocket-Key`, over HTTP/1.1";
    let mut response = problem(StatusCode::UPGRADE_REQUIRED, detail);
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    response
}

async fn echo_upgraded(upgraded: OnUpgrade) {
    // Where the upgrade fails the connection is gone, and there is nobody to tell.
    if let Ok(upgraded) = upgraded.await {
        let _ = echo(TokioIo::new(upgraded)).await;
    }
}

/// Sends every message back until the peer closes. Reading waits for the echo to be
/// written, so a client that does not read is not read from.
///
/// # Errors
/// The connection broke, or the client did not speak WebSocket.
async fn echo<IO: AsyncRead + AsyncWrite + Unpin>(io: IO) -> Result<(), Error> {
    let limits = WebSocketConfig::default()
        .max_message_size(Some(MAX_MESSAGE_BYTES))
        .max_frame_size(Some(MAX_MESSAGE_BYTES));
    let mut socket = WebSocketStream::from_raw_socket(io, Role::Server, Some(limits)).await;
    while let Some(message) = socket.next().await {
        match message {
            // Pings and closes are answered by the protocol as it reads on.
            Ok(message @ (Message::Text(_) | Message::Binary(_))) => socket.send(message).await?,
            Ok(_) => {}
            Err(Error::Capacity(_)) => return socket.close(Some(too_big())).await,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn too_big() -> CloseFrame {
    let reason = format!("a message may have {MAX_MESSAGE_BYTES} bytes at most");
    CloseFrame {
        code: CloseCode::Size,
        reason: reason.into(),
    }
}
