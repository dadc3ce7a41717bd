//! The admin listener: health, status, metrics and the latest decisions. Read-only, and closed to
//! browsers: a page from elsewhere must not read it, by cross-site request or by DNS
//! rebinding.

mod load;
mod status;

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HOST, HeaderName, ORIGIN};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use wayleave_authz::PolicyStore;
use wayleave_certs::IdentityReader;

pub(crate) use load::{ListenerLoad, Load, LoadStatus, Loads};
pub(crate) use status::{
    BundleStatus, ConfigStatus, Destination, FailedLoadStatus, IdentityStatus, Listening,
    PolicyStatus, Source, Started, Status, SvidStatus, protocol, tls_mode,
};

use crate::config_loads::ConfigLoads;
use crate::drain::Shutdown;
use crate::forward::Upstreams;
use crate::policy_loads::PolicyLoads;
use crate::record::Recent;
use crate::record::metrics::Metrics;
use crate::ssf::Told;
use crate::standing::store::StoreHealth;

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";
/// Admin connections open at once; more wait.
const MAX_CONNECTIONS: usize = 64;
/// How long a client may take over a request's head, or stay idle.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// Decisions in one answer of `/decisions` unless `limit` says otherwise.
const DECISIONS: usize = 50;

type Answer = Response<Full<Bytes>>;

/// What the admin listener can tell about.
#[derive(Debug)]
pub(crate) struct Admin {
    pub(crate) identity: IdentityReader,
    pub(crate) policies: PolicyStore,
    pub(crate) loads: Arc<PolicyLoads>,
    /// None where there is no configuration file.
    pub(crate) config: Option<Arc<ConfigLoads>>,
    pub(crate) listeners: Arc<ArcSwap<Vec<Listening>>>,
    /// Where the outbound ones lead.
    pub(crate) destinations: Arc<ArcSwap<Vec<Destination>>>,
    pub(crate) load: Loads,
    pub(crate) started: Started,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) recent: Arc<Recent>,
    pub(crate) shutdown: Shutdown,
    pub(crate) upstreams: Arc<Upstreams>,
    /// None where this sidecar is for itself.
    pub(crate) store: Option<Arc<StoreHealth>>,
    pub(crate) ssf: Told,
}

impl Admin {
    /// Serves until dropped, and accepts until `closing`.
    pub(crate) async fn run(self: Arc<Self>, listener: TcpListener, closing: CancellationToken) {
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else {
                return;
            };
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = closing.cancelled() => return,
            };
            match accepted {
                Ok((socket, _)) => {
                    let admin = Arc::clone(&self);
                    tokio::spawn(async move {
                        admin.serve(socket).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::error!(%error, "admin listener cannot accept");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    async fn serve(self: Arc<Self>, socket: TcpStream) {
        let service = tower::service_fn(move |request: Request<hyper::body::Incoming>| {
            let answer = self.answer(&request);
            async move { Ok::<_, Infallible>(answer) }
        });
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .serve_connection(TokioIo::new(socket), TowerToHyperService::new(service))
            .await;
        if let Err(error) = served {
            tracing::debug!(%error, "admin connection ended");
        }
    }

    fn answer<B>(&self, request: &Request<B>) -> Answer {
        if let Err(refusal) = check_caller(request) {
            return text(StatusCode::FORBIDDEN, refusal);
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
            answer
                .headers_mut()
                .insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return answer;
        }
        match request.uri().path() {
            "/healthz" => text(StatusCode::OK, "ok\n"),
            "/readyz" => self.readyz(),
            "/metrics" => self.metrics(),
            "/version" => version(),
            "/status" => self.status(),
            "/decisions" => self.decisions(request.uri().query()),
            _ => text(
                StatusCode::NOT_FOUND,
                "try /healthz /readyz /status /metrics /version /decisions\n",
            ),
        }
    }

    /// Ready when a call can be decided: with an SVID, with policies, and not draining.
    fn readyz(&self) -> Answer {
        let reasons = self.not_ready(SystemTime::now());
        let ready = reasons.is_empty();
        let status = if ready {
            StatusCode::OK
        } else {
            StatusCode::SERVICE_UNAVAILABLE
        };
        let warnings = self.warnings();
        let document = json!({ "ready": ready, "reasons": reasons, "warnings": warnings });
        respond(status, JSON, format!("{document}\n"))
    }

    /// Why no call can be decided; nothing when one can.
    fn not_ready(&self, now: SystemTime) -> Vec<&'static str> {
        let mut reasons = Vec::new();
        if self.shutdown.is_begun() {
            reasons.push("draining");
        }
        if !self.identity.is_usable(now) {
            reasons.push("no_usable_svid");
        }
        if self.policies.current().is_none() {
            reasons.push("no_policy");
        }
        if self.store.as_ref().is_some_and(|store| store.is_awaited()) {
            reasons.push("reading_signal_store");
        }
        reasons
    }

    /// What is wrong although calls can be decided.
    fn warnings(&self) -> Vec<&'static str> {
        let mut warnings = Vec::new();
        if self
            .config
            .as_ref()
            .is_some_and(|config| config.failed_load().is_some())
        {
            warnings.push("config_failed");
        }
        if self.loads.failed_load().is_some() {
            warnings.push("policies_failed");
        }
        if self
            .store
            .as_ref()
            .is_some_and(|store| !store.is_connected())
        {
            warnings.push("signal_store_unreachable");
        }
        if self.ssf.is_failing() {
            warnings.push("ssf_failing");
        }
        warnings
    }

    fn status(&self) -> Answer {
        let status = Status::of(self, SystemTime::now());
        // Strings, numbers and lists: there is nothing here that JSON cannot say.
        let text = serde_json::to_string_pretty(&status).unwrap_or_default();
        respond(StatusCode::OK, JSON, text + "\n")
    }

    fn metrics(&self) -> Answer {
        self.metrics.identity(&self.identity);
        LoadStatus::of(&self.load).measure(&self.metrics);
        respond(StatusCode::OK, OPENMETRICS, self.metrics.encode())
    }

    fn decisions(&self, query: Option<&str>) -> Answer {
        match limit(query.unwrap_or("")) {
            Ok(limit) => respond(StatusCode::OK, JSON, self.recent.to_json(limit)),
            Err(why) => text(StatusCode::BAD_REQUEST, why),
        }
    }
}

fn version() -> Answer {
    let document = json!({ "name": "wayleave", "version": env!("CARGO_PKG_VERSION") });
    respond(StatusCode::OK, JSON, format!("{document}\n"))
}

fn limit(query: &str) -> Result<usize, &'static str> {
    const USAGE: &str = "/decisions takes one parameter: limit, a whole number such as limit=20\n";
    match query.split_once('=') {
        None if query.is_empty() => Ok(DECISIONS),
        Some(("limit", number)) => number.parse().map_err(|_| USAGE),
        _ => Err(USAGE),
    }
}

/// SECURITY: a browser can be made to send requests here from any page. It then names that
/// page's host in `Host`, or tells by `Origin` and `Sec-Fetch-Site` that it crosses sites.
fn check_caller<B>(request: &Request<B>) -> Result<(), &'static str> {
    let headers = request.headers();
    let host = headers.get(HOST).and_then(|host| host.to_str().ok());
    if !host.is_some_and(names_an_address) {
        return Err("the admin listener answers to localhost or an IP address as Host only\n");
    }
    let same_site = |value: &HeaderValue| value == "same-origin" || value == "none";
    if headers.contains_key(ORIGIN) || !headers.get_all(SEC_FETCH_SITE).iter().all(same_site) {
        return Err("the admin listener refuses cross-site requests\n");
    }
    Ok(())
}

/// A name can be made to point here by whoever owns it; an address and `localhost` cannot.
fn names_an_address(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.parse::<u16>().is_ok() => name,
        _ => host,
    };
    let literal = name
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(name);
    name.eq_ignore_ascii_case("localhost") || literal.parse::<IpAddr>().is_ok()
}

fn text(status: StatusCode, body: &'static str) -> Answer {
    respond(status, TEXT, body)
}

fn respond(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(
        "x-content-type-options",
        HeaderValue::from_static("nosniff"),
    );
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(headers: &[(&str, &str)]) -> Request<()> {
        let mut builder = Request::get("/healthz");
        for (name, value) in headers {
            builder = builder.header(*name, *value);
        }
        builder.body(()).unwrap()
    }

    #[test]
    fn answers_to_addresses_and_localhost() {
        for host in [
            "127.0.0.1:15000",
            "localhost:15000",
            "LOCALHOST",
            "[::1]:15000",
            "10.1.2.3",
        ] {
            assert!(check_caller(&request(&[("host", host)])).is_ok(), "{host}");
        }
    }

    #[test]
    fn rejects_dns_rebinding_and_cross_site_requests() {
        assert!(check_caller(&request(&[])).is_err());
        for host in [
            "evil.example",
            "127.0.0.1.evil.example:15000",
            "localhost.evil.example",
        ] {
            assert!(check_caller(&request(&[("host", host)])).is_err(), "{host}");
        }
        let origin = [("host", "localhost"), ("origin", "https://evil.example")];
        assert!(check_caller(&request(&origin)).is_err());
        let fetch = [("host", "localhost"), ("sec-fetch-site", "cross-site")];
        assert!(check_caller(&request(&fetch)).is_err());
        let own = [("host", "localhost"), ("sec-fetch-site", "same-origin")];
        assert!(check_caller(&request(&own)).is_ok());
    }

    #[test]
    fn reads_the_limit_or_says_how_to_write_it() {
        assert_eq!(limit(""), Ok(DECISIONS));
        assert_eq!(limit("limit=3"), Ok(3));
        assert!(limit("limit=x").is_err());
        assert!(limit("max=3").is_err());
    }
}
