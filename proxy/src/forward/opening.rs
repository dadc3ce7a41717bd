//! Opening handshakes of WebSockets, carried from one version of HTTP to the other: an upgrade
//! with a key and its proof (RFC 6455 section 4), or an extended CONNECT without them (RFC 8441
//! section 5).

use http::header::{CONTENT_LENGTH, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY};
use http::request::Request;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Version, response};
use hyper::body::Incoming;
use hyper::ext::Protocol;
use hyper::upgrade::OnUpgrade;
use tokio_tungstenite::tungstenite::handshake::client::generate_key;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::headers::{self, Upgrade};
use crate::config::UpstreamProtocol;

/// A handshake that was sent on, and how its answer is understood and told.
pub(super) struct Handshake {
    /// The caller's connection, once it was told.
    caller: OnUpgrade,
    caller_speaks: Version,
    upstream_speaks: UpstreamProtocol,
    /// The proof that the upstream owes for a key of ours.
    owed: Option<HeaderValue>,
    /// The proof that we owe for the caller's key.
    owing: Option<HeaderValue>,
}

impl Handshake {
    /// Makes the caller's request the one that the upstream understands. To be called before
    /// the request's address is written for the upstream.
    pub(super) fn begin<B>(request: &mut Request<B>, upstream_speaks: UpstreamProtocol) -> Self {
        let caller_speaks = request.version();
        let caller = hyper::upgrade::on(&mut *request);
        let (mut owed, mut owing) = (None, None);
        match (caller_speaks, upstream_speaks) {
            // The caller's own key, whose proof the caller checks.
            (Version::HTTP_11, UpstreamProtocol::Http1) => {}
            (Version::HTTP_11, UpstreamProtocol::Http2) => {
                let key = request.headers_mut().remove(SEC_WEBSOCKET_KEY);
                owing = key.and_then(|key| proof(key.as_bytes()));
                *request.method_mut() = Method::CONNECT;
                let websocket = Protocol::from_static("websocket");
                request.extensions_mut().insert(websocket);
            }
            (_, UpstreamProtocol::Http1) => {
                let key = generate_key();
                owed = proof(key.as_bytes());
                if let Ok(key) = HeaderValue::try_from(key) {
                    request.headers_mut().insert(SEC_WEBSOCKET_KEY, key);
                }
                *request.method_mut() = Method::GET;
                request.extensions_mut().remove::<Protocol>();
            }
            (_, UpstreamProtocol::Http2) => {
                request.headers_mut().remove(SEC_WEBSOCKET_KEY);
            }
        }
        Self {
            caller,
            caller_speaks,
            upstream_speaks,
            owed,
            owing,
        }
    }

    /// What the upstream made of it.
    pub(super) fn outcome(&self, response: &Response<Incoming>) -> Outcome {
        let opened = match self.upstream_speaks {
            UpstreamProtocol::Http1 => response.status() == StatusCode::SWITCHING_PROTOCOLS,
            UpstreamProtocol::Http2 => response.status() == StatusCode::OK,
        };
        match opened {
            true if self.is_proved(response.headers()) => Outcome::Opened,
            // SECURITY: without the proof it is no WebSocket that answered, but perhaps a cache.
            true => Outcome::Broken,
            // To a caller's CONNECT any success says that it is open.
            false if self.caller_speaks == Version::HTTP_2 && response.status().is_success() => {
                Outcome::Broken
            }
            false => Outcome::Declined,
        }
    }

    fn is_proved(&self, headers: &HeaderMap) -> bool {
        match &self.owed {
            Some(owed) => headers.get(SEC_WEBSOCKET_ACCEPT) == Some(owed),
            None => true,
        }
    }

    /// The answer by which the caller learns that it is open, from the upstream's.
    pub(super) fn answer(&self, head: &mut response::Parts) {
        head.version = Version::HTTP_11;
        if self.caller_speaks == Version::HTTP_2 {
            headers::strip_hop_by_hop(&mut head.headers, Upgrade::Strip);
            head.headers.remove(SEC_WEBSOCKET_ACCEPT);
            head.status = StatusCode::OK;
        } else {
            headers::strip_hop_by_hop(&mut head.headers, Upgrade::WebSocket);
            if let Some(owing) = &self.owing {
                head.headers.insert(SEC_WEBSOCKET_ACCEPT, owing.clone());
            }
            head.status = StatusCode::SWITCHING_PROTOCOLS;
        }
        head.headers.remove(CONTENT_LENGTH);
    }

    /// The caller's connection, which is open once it has its answer.
    pub(super) fn into_caller(self) -> OnUpgrade {
        self.caller
    }
}

/// What came of a handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The WebSocket is open.
    Opened,
    /// The upstream answered something else, which the caller is told.
    Declined,
    /// The answer makes no sense.
    Broken,
}

/// The proof for a key (RFC 6455 section 4.2.2).
fn proof(key: &[u8]) -> Option<HeaderValue> {
    HeaderValue::try_from(derive_accept_key(key)).ok()
}
