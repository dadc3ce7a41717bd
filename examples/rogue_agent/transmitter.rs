//! What tells the sidecar that a session is revoked: a transmitter of the OpenID Shared Signals
//! Framework, which pushes Security Event Tokens (RFC 8935).

use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;

const SESSION_REVOKED: &str = "https://schemas.openid.net/secevent/caep/event-type/session-revoked";

pub(crate) struct Transmitter {
    key: EcdsaKeyPair,
}

impl Transmitter {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)?;
        Ok(Self { key })
    }

    /// Its public key, as the sidecar is told it beforehand.
    pub(crate) fn jwks(&self) -> String {
        // An uncompressed point: 4, x, y.
        let point = self.key.public_key().as_ref();
        let (x, y) = (point.get(1..33), point.get(33..65));
        let coordinate = |bytes: Option<&[u8]>| URL_SAFE_NO_PAD.encode(bytes.unwrap_or_default());
        let key = json!({
            "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": "security-1",
            "x": coordinate(x), "y": coordinate(y),
        });
        json!({ "keys": [key] }).to_string()
    }

    /// Tells the sidecar that the session of a workload is revoked.
    pub(crate) async fn revoke(&self, sidecar: SocketAddr, id: &str) -> anyhow::Result<()> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let set = self.sign(&json!({
            "iss": "https://security.shop.example",
            "aud": "https://orders.shop.example",
            "jti": "756e69717565206964",
            "iat": now,
            "sub_id": { "format": "uri", "uri": id },
            "events": { SESSION_REVOKED: { "event_timestamp": now, "reason_admin": { "en": "laptop stolen" } } },
        }))?;
        let stream = TcpStream::connect(sidecar).await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let request = Request::post("/events")
            .header("host", sidecar.to_string())
            .header("content-type", "application/secevent+jwt")
            .body(Full::new(Bytes::from(set)))?;
        let answer = sender.send_request(request).await?;
        let status = answer.status();
        let body = answer.into_body().collect().await?.to_bytes();
        let body = String::from_utf8_lossy(&body);
        anyhow::ensure!(status == 202, "the event was refused: {status} {body}");
        Ok(())
    }

    fn sign(&self, claims: &Value) -> anyhow::Result<String> {
        let header = json!({ "typ": "secevent+jwt", "alg": "ES256", "kid": "security-1" });
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let text = format!("{}.{}", part(&header), part(claims));
        let signature = self.key.sign(&SystemRandom::new(), text.as_bytes());
        let signature = signature.ok().context("cannot sign")?;
        Ok(format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}
