//! Security events of a transmitter of the Shared Signals Framework: pushed by curl over TLS, and
//! fetched from a transmitter in this process. What the sidecar lets through is asked before and
//! after, and so is what it acknowledges.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::task::{JoinHandle, JoinSet};

use crate::support::client;
use crate::support::pki::workload;
use crate::support::service::{How, Service};
use crate::support::setup::{POLICY, Setup, Sidecar};
use crate::support::tool;
use crate::support::upstream::{Speaks, Upstream};
use crate::support::{eventually, within};

pub(super) const REVOKED: &str = "session-revoked";
const RISK: &str = "risk-level-change";

fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Somebody who signs events.
pub(super) struct Signer(EcdsaKeyPair);

impl Signer {
    pub(super) fn new() -> Self {
        Self(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap())
    }

    pub(super) fn key_set(&self) -> String {
        let (x, y) = self.0.public_key().as_ref()[1..].split_at(32);
        let (x, y) = (b64(x), b64(y));
        json!({"keys": [{"kty": "EC", "crv": "P-256", "kid": "k1", "x": x, "y": y}]}).to_string()
    }

    /// An event about a workload.
    pub(super) fn token(&self, jti: &str, event: &str, about: &str, content: Value) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let event = format!("https://schemas.openid.net/secevent/caep/event-type/{event}");
        let claims = json!({
            "iss": "https://idp.example",
            "aud": "urn:orders",
            "iat": now.as_secs(),
            "jti": jti,
            "sub_id": {"format": "uri", "uri": workload(about)},
            "events": {event: content},
        });
        let header = json!({"typ": "secevent+jwt", "alg": "ES256", "kid": "k1"});
        let message = format!("{}.{}", b64(header.to_string()), b64(claims.to_string()));
        let signature = self.0.sign(&SystemRandom::new(), message.as_bytes());
        format!("{message}.{}", b64(signature.unwrap()))
    }
}

/// A sidecar that a transmitter pushes to.
fn setup(upstream: impl ToString, signer: &Signer, way: &str) -> Setup {
    let mut setup = Setup::new(upstream);
    let backend = POLICY
        .replace("sa/frontend", "sa/backend")
        .replace("frontend-calls-app", "backend-calls-app");
    let risky = r#"@id("risky") forbid (principal, action, resource)
        when { context.signals.risk == "HIGH" };"#;
    setup.write_policy(&format!("{POLICY}{backend}{risky}"));
    std::fs::write(setup.path("jwks.json"), signer.key_set()).unwrap();
    std::fs::write(setup.path("token"), "s3cret\n").unwrap();
    let config = setup.config("127.0.0.1:0")
        + &format!(
            "signals:
  state_dir: state
  ssf:
    - name: idp
      issuer: https://idp.example
      audience: [urn:orders]
      jwks: jwks.json
      trust_domains: [test.example]
      {way}
"
        );
    setup.text = Some(config);
    setup
}

pub(super) const PUSH: &str = "push: { listen: '127.0.0.1:0', path: /ssf/idp, token_file: token, tls: { certificate: own/svid.pem, key: own/key.pem } }";

/// Where events are pushed to, as the sidecar has logged it.
async fn push_url(sidecar: &Sidecar) -> String {
    let line = sidecar.process.stderr.json("the address", |line| {
        let fields = [line, &line["fields"]];
        fields.iter().any(|fields| fields["listener"] == "ssf:idp")
    });
    let line = line.await;
    let address = [&line["address"], &line["fields"]["address"]];
    let address = address.iter().find_map(|value| value.as_str()).unwrap();
    let (_, port) = address.rsplit_once(':').unwrap();
    format!("https://localhost:{port}/ssf/idp")
}

/// The status, the head and the body of what curl was answered.
async fn curl(sidecar: &Sidecar, url: &str, body: &str, more: &[&str]) -> (u16, String, String) {
    let mut command = Command::new("curl");
    command
        .args(["--silent", "--show-error", "--include", "--max-time", "20"])
        .arg("--cacert")
        .arg(&sidecar.setup.own.bundle)
        .args(["--data-binary", body])
        .args(more)
        .arg(url);
    let answer = tool::run(&mut command).await.successful().stdout();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, head.to_lowercase(), body.to_owned())
}

const SET: [&str; 4] = [
    "-H",
    "content-type: application/secevent+jwt",
    "-H",
    "authorization: Bearer s3cret",
];

pub(super) async fn push(sidecar: &Sidecar, token: &str) -> (u16, String, String) {
    curl(sidecar, &push_url(sidecar).await, token, &SET).await
}

fn ticking() -> Response<crate::support::service::Body> {
    let ticks = futures_util::stream::unfold((), |()| async {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        let tick = Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"tick\n")));
        Some((tick, ()))
    });
    Response::new(StreamBody::new(ticks).boxed_unsync())
}

#[tokio::test]
async fn a_pushed_revocation_ends_what_is_open_and_outlives_a_crash() {
    let service = Service::start(How::http1(), |asked| async move {
        match asked.path.as_str() {
            "/ticks" => ticking(),
            _ => crate::support::service::say(200, "app"),
        }
    });
    let service = service.await;
    let signer = Signer::new();
    let sidecar = setup(&service.address, &signer, PUSH).start().await;
    let mut open = Vec::new();
    for caller in ["frontend", "backend"] {
        let mut http2 = sidecar.http2(caller).await;
        let request = client::get(&sidecar.url("/ticks"));
        let response = within("the head", http2.0.send_request(request))
            .await
            .unwrap();
        assert_eq!(response.status(), 200);
        open.push((http2, response.into_body()));
    }

    let token = signer.token(
        "jti-1",
        REVOKED,
        "frontend",
        json!({"reason_admin": {"en": "stolen"}}),
    );
    let (status, _, body) = push(&sidecar, &token).await;
    assert_eq!((status, body.as_str()), (202, ""));
    assert_eq!(sidecar.get("frontend", "/").await.status, 403);
    assert_eq!(sidecar.get("backend", "/").await.status, 200);
    let frontend = &mut open[0].1;
    within("the end of the revoked one's stream", async {
        while let Some(Ok(_)) = frontend.frame().await {}
    })
    .await;
    let still = within("the other's stream", open[1].1.frame()).await;
    assert!(still.unwrap().is_ok());

    // A replay is acknowledged, and nothing happens.
    assert_eq!(push(&sidecar, &token).await.0, 202);
    let series = |result| {
        format!(
            "wayleave_ssf_events_total{{transmitter=\"idp\",event=\"session_revoked\",result=\"{result}\"}}"
        )
    };
    assert_eq!(sidecar.metric(&series("effect")).await, 1.0);
    assert_eq!(sidecar.metric(&series("replayed")).await, 1.0);
    let status = sidecar.admin_get("/status").await.unwrap().json();
    let one = &status["ssf"][0];
    assert_eq!((&one["name"], &one["keys"]), (&json!("idp"), &json!(1)));
    assert_eq!(one["last_event"]["result"], "replayed");

    let Sidecar { setup, process, .. } = sidecar;
    process.signal("KILL").await;
    drop(process);
    let sidecar = setup.start().await;
    assert_eq!(sidecar.get("frontend", "/").await.status, 403);
    assert_eq!(push(&sidecar, &token).await.0, 202);
    assert_eq!(sidecar.metric(&series("replayed")).await, 1.0);
    assert_eq!(sidecar.metric(&series("effect")).await, 0.0);
}

#[tokio::test]
async fn rejects_a_push_that_breaks_a_rule_with_the_error_of_the_rfc() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let (signer, stranger) = (Signer::new(), Signer::new());
    let sidecar = setup(upstream.address, &signer, PUSH).start().await;
    let url = push_url(&sidecar).await;
    let token = |jti: &str| signer.token(jti, REVOKED, "frontend", json!({}));
    let forged = stranger.token("f", REVOKED, "frontend", json!({}));
    let (status, head, body) = push(&sidecar, &forged).await;
    assert_eq!(status, 400);
    assert!(head.contains("content-type: application/json"), "{head}");
    assert!(head.contains("content-language: en"), "{head}");
    let error: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(error["err"], "authentication_failed");
    assert!(!error["description"].as_str().unwrap().is_empty());

    let code = |answer: (u16, String, String)| {
        let body: Value = serde_json::from_str(&answer.2).unwrap();
        (answer.0, body["err"].as_str().unwrap().to_owned())
    };
    let bearer = ["-H", SET[1], "-H", "authorization: Bearer guess"];
    let jwt = ["-H", "content-type: application/jwt", "-H", SET[3]];
    let large = "x".repeat((64 << 10) + 1);
    let table = [
        (token("a"), &bearer[..], (400, "authentication_failed")),
        (token("b"), &SET[..2], (400, "authentication_failed")),
        (token("c"), &jwt[..], (400, "invalid_request")),
        ("rubbish".to_owned(), &SET[..], (400, "invalid_request")),
        (large, &SET[..], (413, "invalid_request")),
    ];
    for (body, headers, (status, err)) in table {
        let answer = code(curl(&sidecar, &url, &body, headers).await);
        assert_eq!(answer, (status, err.to_owned()), "{headers:?}");
    }
    let other = signer.token("d", REVOKED, "frontend", json!({}));
    let path = curl(&sidecar, &format!("{url}/x"), &other, &SET).await;
    assert_eq!(path.0, 404);
    let mut put = SET.to_vec();
    put.extend(["--request", "PUT"]);
    let put = curl(&sidecar, &url, &other, &put).await;
    assert_eq!(put.0, 405);
    assert!(put.1.contains("allow: post"), "{}", put.1);
    // Nothing of it had an effect.
    assert_eq!(sidecar.get("frontend", "/").await.status, 200);
    assert_eq!(push(&sidecar, &token("e")).await.0, 202);
    assert_eq!(sidecar.get("frontend", "/").await.status, 403);
}

/// A transmitter that is polled.
struct Polled {
    address: std::net::SocketAddr,
    state: Arc<Mutex<PolledState>>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct PolledState {
    /// What is to be fetched, until it is acknowledged or refused.
    sets: BTreeMap<String, String>,
    acknowledged: Vec<String>,
    refused: BTreeMap<String, Value>,
    /// How many of the next polls fail.
    failing: usize,
    seen: Vec<Value>,
}

impl Polled {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(PolledState::default()));
        let shared = Arc::clone(&state);
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let shared = Arc::clone(&shared);
                connections.spawn(async move {
                    let service = service_fn(|request| poll(request, &shared));
                    let http = hyper::server::conn::http1::Builder::new();
                    let _ = http.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self {
            address,
            state,
            task,
        }
    }

    fn offer(&self, jti: &str, token: String) {
        let mut state = self.state.lock().unwrap();
        state.sets.insert(jti.to_owned(), token);
    }

    async fn until(&self, what: &str, holds: impl Fn(&PolledState) -> bool) {
        eventually(what, || async {
            holds(&self.state.lock().unwrap()).then_some(())
        })
        .await;
    }
}

impl Drop for Polled {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn poll(
    request: Request<Incoming>,
    state: &Mutex<PolledState>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let authorized = request
        .headers()
        .get("authorization")
        .is_some_and(|v| v == "Bearer s3cret");
    let asked = request.into_body().collect().await.unwrap().to_bytes();
    let asked: Value = serde_json::from_slice(&asked).unwrap();
    let mut state = state.lock().unwrap();
    if state.failing > 0 || !authorized {
        state.failing = state.failing.saturating_sub(1);
        return Ok(Response::builder()
            .status(503)
            .body(Full::default())
            .unwrap());
    }
    for jti in asked["ack"].as_array().unwrap() {
        let jti = jti.as_str().unwrap();
        state.sets.remove(jti);
        state.acknowledged.push(jti.to_owned());
    }
    for (jti, error) in asked["setErrs"].as_object().unwrap() {
        state.sets.remove(jti);
        state.refused.insert(jti.clone(), error["err"].clone());
    }
    state.seen.push(asked);
    let answer = json!({"sets": state.sets, "moreAvailable": false}).to_string();
    Ok(Response::new(Full::from(answer)))
}

#[tokio::test]
async fn polled_events_take_effect_and_are_acknowledged_or_refused_each() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let (signer, stranger) = (Signer::new(), Signer::new());
    let polled = Polled::start().await;
    polled.state.lock().unwrap().failing = 1;
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let level = |level: &str, ago: u64| json!({"principal": "USER", "current_level": level, "event_timestamp": now - ago});
    let high = level("HIGH", 10);
    polled.offer("good", signer.token("good", RISK, "frontend", high.clone()));
    polled.offer(
        "forged",
        stranger.token("forged", REVOKED, "backend", json!({})),
    );
    polled.offer(
        "misnamed",
        signer.token("other", REVOKED, "backend", json!({})),
    );
    let way = format!(
        "poll: {{ url: 'http://{}/poll', interval: 1s, long_poll: false, token_file: token }}",
        polled.address
    );
    let sidecar = setup(upstream.address, &signer, &way).start().await;
    polled
        .until("the acknowledgement", |state| {
            state.acknowledged == ["good"]
        })
        .await;
    let refused = polled.state.lock().unwrap().refused.clone();
    assert_eq!(refused["forged"], "authentication_failed");
    assert_eq!(refused["misnamed"], "invalid_request");
    let first = polled.state.lock().unwrap().seen[0].clone();
    assert_eq!(first["returnImmediately"], true);
    assert_eq!(first["maxEvents"], 32);

    assert_eq!(sidecar.get("frontend", "/").await.status, 403);
    assert_eq!(sidecar.get("backend", "/").await.status, 200);
    let low = level("LOW", 5);
    polled.offer("low", signer.token("low", RISK, "frontend", low));
    polled
        .until("the second one", |state| state.acknowledged.len() == 2)
        .await;
    assert_eq!(sidecar.get("frontend", "/").await.status, 200);

    let failures = "wayleave_ssf_polls_total{transmitter=\"idp\",result=\"failed\"}";
    assert_eq!(sidecar.metric(failures).await, 1.0);
    polled.state.lock().unwrap().failing = usize::MAX;
    eventually("the warning", || async {
        let readiness = sidecar.admin_get("/readyz").await?.json();
        let warnings = readiness["warnings"].as_array()?;
        warnings.contains(&json!("ssf_failing")).then_some(())
    })
    .await;
    let status = sidecar.admin_get("/status").await.unwrap().json();
    let failure = status["ssf"][0]["failures"][0].as_str().unwrap();
    assert!(failure.starts_with("poll: the answer is 503"), "{failure}");
}

#[tokio::test]
async fn keys_are_fetched_from_a_url_and_anew_for_one_that_is_not_known() {
    let upstream = Upstream::start(Speaks::Http1).await;
    let (old, new) = (Signer::new(), Signer::new());
    let served = Arc::new(Mutex::new(old.key_set()));
    let keys = Arc::clone(&served);
    let host = Service::start(How::http1(), move |_| {
        let body = keys.lock().unwrap().clone();
        async move { Response::new(Full::from(body).boxed_unsync()) }
    })
    .await;
    let mut setup = setup(upstream.address, &old, PUSH);
    let text = setup.text.take().unwrap();
    let url = format!("jwks: 'http://{}/jwks.json'", host.address);
    setup.text = Some(text.replace("jwks: jwks.json", &url));
    let sidecar = setup.start().await;
    eventually("the keys", || async {
        let status = sidecar.admin_get("/status").await?.json();
        (status["ssf"][0]["keys"] == 1).then_some(())
    })
    .await;
    let revoked = |signer: &Signer| signer.token("a", REVOKED, "frontend", json!({}));
    // The same name, so that nothing is fetched and the signature is wrong.
    assert_eq!(push(&sidecar, &revoked(&new)).await.0, 400);
    assert_eq!(host.requests(), 1);
    // Another name, and they were fetched a moment ago: later, not never.
    *served.lock().unwrap() = new.key_set().replace("k1", "k2");
    let header = json!({"typ": "secevent+jwt", "alg": "ES256", "kid": "k2"});
    let unknown = revoked(&new);
    let unknown = format!(
        "{}.{}",
        b64(header.to_string()),
        unknown.split_once('.').unwrap().1
    );
    let (status, head, _) = push(&sidecar, &unknown).await;
    assert_eq!(status, 503);
    assert!(head.contains("retry-after: "), "{head}");
    assert_eq!(host.requests(), 1);
    assert_eq!(push(&sidecar, &revoked(&old)).await.0, 202);
}
