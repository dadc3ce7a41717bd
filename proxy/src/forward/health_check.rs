//! Asks the endpoints of an upstream whether they are well, on the control runtime, over
//! connections of its own.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use bytes::Bytes;
use http::header::{HOST, USER_AGENT};
use http::{Request, StatusCode};
use http_body_util::Empty;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::task::JoinSet;

use super::dial::dial;
use super::endpoint::{Endpoint, Target};
use super::error::ForwardError;
use super::headers;
use super::tunnel;
use super::upstream::Upstream;
use crate::config::{HealthCheckConfig, UpstreamProtocol};

const NAME: &str = concat!("wayleave-health-check/", env!("CARGO_PKG_VERSION"));

/// Answers in a row of one kind.
#[derive(Debug, Clone, Copy, Default)]
struct Run {
    healthy: bool,
    length: u32,
}

/// Asks again and again, for as long as somebody uses the upstream.
pub(super) async fn keep_asking(upstream: Weak<Upstream>, config: HealthCheckConfig) {
    let mut runs: HashMap<Target, Run> = HashMap::new();
    loop {
        let Some(upstream) = upstream.upgrade() else {
            return;
        };
        let endpoints = upstream.endpoints();
        let known = |target: &Target| endpoints.iter().any(|one| one.target == *target);
        runs.retain(|target, _| known(target));
        let mut asked = JoinSet::new();
        for endpoint in endpoints.iter() {
            asked.spawn(ask(
                Arc::clone(&upstream),
                Arc::clone(endpoint),
                config.clone(),
            ));
        }
        drop(upstream);
        while let Some(Ok((endpoint, healthy))) = asked.join_next().await {
            let run = runs.entry(endpoint.target.clone()).or_default();
            note(&endpoint, run.with(healthy), &config);
        }
        tokio::time::sleep(config.interval).await;
    }
}

impl Run {
    /// The run after another answer.
    fn with(&mut self, healthy: bool) -> Self {
        let length = if self.healthy == healthy {
            self.length
        } else {
            0
        };
        *self = Self {
            healthy,
            length: length.saturating_add(1),
        };
        *self
    }
}

fn note(endpoint: &Endpoint, run: Run, config: &HealthCheckConfig) {
    let needed = match run.healthy {
        true => config.healthy_after,
        false => config.unhealthy_after,
    };
    if run.length < needed || !endpoint.checked(run.healthy) {
        return;
    }
    match run.healthy {
        true => tracing::info!(endpoint = %endpoint.target, "endpoint healthy"),
        false => tracing::warn!(endpoint = %endpoint.target, "endpoint unhealthy"),
    }
}

async fn ask(
    upstream: Arc<Upstream>,
    endpoint: Arc<Endpoint>,
    config: HealthCheckConfig,
) -> (Arc<Endpoint>, bool) {
    let status = status(&upstream, &endpoint, &config.path);
    let answer = tokio::time::timeout(config.timeout, status).await;
    let healthy = match answer {
        Ok(Ok(status)) => status.is_success(),
        Ok(Err(error)) => {
            let error = &error as &dyn std::error::Error;
            tracing::debug!(endpoint = %endpoint.target, error, "health check failed");
            false
        }
        Err(_) => false,
    };
    (endpoint, healthy)
}

async fn status(
    upstream: &Upstream,
    endpoint: &Endpoint,
    path: &str,
) -> Result<StatusCode, ForwardError> {
    let protocol = upstream.config.protocol;
    let dialed = dial(upstream, endpoint, tunnel::Bytes::Plain)
        .await?
        .speaks(protocol)?;
    let io = TokioIo::new(dialed.stream);
    let host = authority(&endpoint.host);
    let request = Request::get(path).header(USER_AGENT, NAME);
    let request = match protocol {
        UpstreamProtocol::Http1 => request.header(HOST, host),
        UpstreamProtocol::Http2 => {
            let scheme = headers::scheme(&upstream.config);
            request.uri(format!("{scheme}://{host}{path}"))
        }
    };
    let Ok(request) = request.body(Empty::<Bytes>::new()) else {
        return Err(ForwardError::ServerName(endpoint.host.to_string()));
    };
    // A sender that is dropped ends its connection.
    let response = match protocol {
        UpstreamProtocol::Http1 => {
            let (mut sender, connection) = http1::handshake(io)
                .await
                .map_err(ForwardError::Handshake)?;
            tokio::spawn(connection);
            sender.send_request(request).await
        }
        UpstreamProtocol::Http2 => {
            let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io)
                .await
                .map_err(ForwardError::Handshake)?;
            tokio::spawn(connection);
            sender.send_request(request).await
        }
    };
    Ok(response.map_err(ForwardError::Broke)?.status())
}

/// A host as it stands in a URL.
fn authority(host: &str) -> String {
    match host.contains(':') {
        true => format!("[{host}]"),
        false => host.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_the_other_kind_begin_a_new_run() {
        let mut run = Run::default();
        let lengths: Vec<u32> = [true, true, false, false, true]
            .map(|healthy| run.with(healthy).length)
            .to_vec();
        assert_eq!(lengths, [1, 2, 1, 2, 1]);
    }
}
