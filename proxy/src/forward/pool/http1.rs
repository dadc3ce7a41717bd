//! HTTP/1.1 towards an endpoint: one call at a time on a connection.

use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use http::Request;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;

use super::slot::{Held, Slot};
use super::{Answer, Unanswered, copy};
use crate::config::{UpstreamConfig, UpstreamProtocol};
use crate::forward::circuit::Admission;
use crate::forward::error::ForwardError;
use crate::forward::last_words::LastWords;
use crate::forward::request_body::RequestBody;
use crate::forward::times::Alarm;
use crate::forward::tunnel::Bytes;
use crate::forward::vouch::Vouched;

/// A connection that was used within this time is taken for alive; an older one may have
/// been closed under us, so a request on it is prepared to be sent again.
const FRESH: Duration = Duration::from_millis(500);

/// How many fields of a response hyper reads without an allocation.
const FIELDS_FOR_FREE: usize = 100;

/// A connection between two calls or during one.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) sender: http1::SendRequest<RequestBody>,
    vouched: Option<Box<Vouched>>,
    /// Kept from call to call.
    pub(super) alarm: Alarm,
}

/// A connection that waits for its next call.
#[derive(Debug)]
pub(super) struct Idle {
    pub(super) kept: Kept,
    since: Instant,
}

impl Idle {
    /// Whether it may have been closed under us.
    pub(super) fn is_stale(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.since) > FRESH
    }
}

impl Kept {
    /// Whether it is trusted for another call.
    fn holds(&self) -> bool {
        let mut vouched = self.vouched.iter();
        vouched.all(|vouched| vouched.holds(SystemTime::now()))
    }
}

impl Slot {
    pub(super) async fn send_http1(
        self: &Arc<Self>,
        mut request: Request<RequestBody>,
    ) -> Result<Answer, Unanswered> {
        loop {
            let (mut kept, idle_for) = match self.take(Instant::now()) {
                Some(Idle { kept, since }) => (kept, Some(since.elapsed())),
                // Boxed: a call that finds a connection need not carry what it takes to make one.
                None => match Box::pin(self.connect_http1()).await {
                    Ok((kept, idle_for)) => (kept, idle_for),
                    Err(error) => return Err(Unanswered::unsent(error, request)),
                },
            };
            let stale = idle_for.is_some_and(|time| time > FRESH || self.is_wary());
            let spare = (stale && request.method().is_idempotent())
                .then(|| copy(&request))
                .flatten();
            let mut error = match kept.sender.try_send_request(request).await {
                Ok(response) => {
                    let held = Held::http1(self, kept);
                    return Ok(Answer { response, held });
                }
                Err(error) => error,
            };
            if idle_for.is_some() {
                self.found_dead();
            }
            // Closed before a byte was sent, or safe to send again.
            let unsent = error.take_message();
            match (unsent, spare, idle_for) {
                (Some(unsent), _, Some(_)) | (None, Some(unsent), _) => request = unsent,
                (unsent, _, _) => {
                    return Err(Unanswered {
                        error: ForwardError::Broke(error.into_error()),
                        unsent,
                    });
                }
            }
        }
    }

    /// The most recently used idle connection that is alive and trusted.
    pub(super) fn take(&self, now: Instant) -> Option<Idle> {
        let limit = self.upstream.config.pool_idle_timeout;
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(candidate) = idle.pop() {
            if now.saturating_duration_since(candidate.since) > limit {
                // What lies below is older still.
                idle.clear();
                return None;
            }
            if candidate.kept.sender.is_ready() && candidate.kept.holds() {
                return Some(candidate);
            }
        }
        None
    }

    /// Keeps a connection for the next call, unless somebody else needs its place.
    pub(super) fn keep(&self, kept: Kept) {
        if kept.sender.is_closed() || self.is_retired() {
            return;
        }
        let waited_for = self.upstream.circuit.is_waited_for();
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() >= self.upstream.config.pool_max_idle {
            return;
        }
        // A call that waits at this endpoint is told; one that waits elsewhere needs the place.
        if waited_for && !self.has_waiters() {
            return;
        }
        idle.push(Idle {
            kept,
            since: Instant::now(),
        });
        drop(idle);
        self.tell_freed();
    }

    /// Closes connections that have been idle for too long or are not trusted any more.
    pub(super) fn sweep_http1(&self, now: SystemTime) {
        let limit = self.upstream.config.pool_idle_timeout;
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|idle| {
            let trusted = idle.kept.vouched.iter().all(|vouched| vouched.holds(now));
            trusted && !idle.kept.sender.is_closed() && idle.since.elapsed() <= limit
        });
    }

    /// A new connection, or one that became free while its turn to open was waited for.
    async fn connect_http1(&self) -> Result<(Kept, Option<Duration>), ForwardError> {
        let _pending = self.pending();
        loop {
            match self.admit().await? {
                Admission::Open(permit) => {
                    let connect = async {
                        let dialed = self
                            .open(permit, Bytes::Plain)
                            .await?
                            .speaks(UpstreamProtocol::Http1)?;
                        let (sender, connection) = builder(&self.upstream.config)
                            .handshake(TokioIo::new(LastWords::of(dialed.stream)))
                            .await
                            .map_err(ForwardError::Handshake)?;
                        tokio::spawn(async move {
                            if let Err(error) = connection.with_upgrades().await {
                                tracing::debug!(%error, "upstream connection ended");
                            }
                        });
                        let vouched = dialed.vouched;
                        Ok(Kept {
                            sender,
                            vouched,
                            alarm: Alarm::default(),
                        })
                    };
                    return Ok((self.in_time(connect).await?, None));
                }
                Admission::LookAgain => {
                    if let Some(Idle { kept, since }) = self.take(Instant::now()) {
                        return Ok((kept, Some(since.elapsed())));
                    }
                }
            }
        }
    }
}

fn builder(config: &UpstreamConfig) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder.max_header_size(config.max_response_header_bytes);
    if config.max_response_headers != FIELDS_FOR_FREE {
        builder.max_headers(config.max_response_headers);
    }
    builder
}
