//! One worker's connections to one upstream, and which of its endpoints a call goes to. HTTP/1.1
//! connections are handed out one call at a time and kept idle in between; HTTP/2 calls share
//! connections up to what the upstream allows for.

mod http1;
mod http2;
mod slot;
mod straight;
#[cfg(test)]
mod tests;

use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use ::http::{Request, Response};
use hyper::body::{Body, Incoming};
use tokio::runtime::Handle;

use super::balance::Balancer;
use super::endpoint::Endpoint;
use super::error::ForwardError;
use super::request_body::RequestBody;
use super::tunnel::Bytes;
use super::upstream::Upstream;
use crate::config::{UpstreamConfig, UpstreamProtocol};
use crate::stream::Stream;
pub(super) use slot::Held;
use slot::Slot;
pub(super) use straight::{Sent, Straight};

/// How often connections are looked through for those that nobody should use any more.
const SWEEP: Duration = Duration::from_secs(10);

/// The connections of one worker to one upstream.
#[derive(Debug)]
pub(crate) struct Pool {
    upstream: Arc<Upstream>,
    /// The one endpoint of an upstream that can have no other: nothing to choose, nothing to
    /// follow.
    only: Option<Arc<Slot>>,
    several: Mutex<Several>,
    balancer: Balancer,
}

/// The endpoints as this worker knows them.
#[derive(Debug, Default)]
struct Several {
    generation: u64,
    slots: Vec<Arc<Slot>>,
}

/// A response whose body still streams, and the connection it streams on.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) response: Response<Incoming>,
    pub(super) held: Held,
}

/// A request that got no answer.
#[derive(Debug)]
pub(super) struct Unanswered {
    pub(super) error: ForwardError,
    /// The request as it was, where not a byte of it was sent.
    pub(super) unsent: Option<Request<RequestBody>>,
}

/// Where one call has been, as long as there are several places to go to.
#[derive(Debug, Default)]
pub(super) struct Tried {
    failed: Vec<Arc<Endpoint>>,
    current: Option<Arc<Endpoint>>,
    /// Where it goes next, if that has been chosen already.
    chosen: Option<Arc<Slot>>,
}

impl Tried {
    /// The last attempt went wrong: the next one should go elsewhere.
    pub(super) fn fail(&mut self) {
        if let Some(current) = self.current.take()
            && !self.has(&current)
        {
            self.failed.push(current);
        }
    }

    fn has(&self, endpoint: &Arc<Endpoint>) -> bool {
        let mut failed = self.failed.iter();
        failed.any(|failed| Arc::ptr_eq(failed, endpoint))
    }
}

impl Unanswered {
    /// Nobody waits for the answer any longer.
    pub(super) fn given_up(error: ForwardError) -> Self {
        Self {
            error,
            unsent: None,
        }
    }

    fn unsent(error: ForwardError, request: Request<RequestBody>) -> Self {
        Self {
            error,
            unsent: Some(request),
        }
    }
}

impl Pool {
    /// An empty pool for one upstream.
    fn new(upstream: Arc<Upstream>) -> Arc<Self> {
        let only = upstream.only();
        let only = only.map(|endpoint| Slot::new(Arc::clone(&upstream), endpoint, false));
        // Every RandomState is seeded anew.
        let seed = RandomState::new().hash_one(0_u8);
        Arc::new(Self {
            balancer: Balancer::new(upstream.config.balance, seed),
            several: Mutex::default(),
            only,
            upstream,
        })
    }

    /// The upstream's settings.
    pub(crate) fn config(&self) -> &UpstreamConfig {
        &self.upstream.config
    }

    /// A number below `count`, for waits that should differ.
    pub(super) fn random_below(&self, count: usize) -> usize {
        self.balancer.below(count)
    }

    pub(super) fn upstream(&self) -> &Arc<Upstream> {
        &self.upstream
    }

    /// An empty pool that is kept in order on this runtime.
    pub(crate) fn tended(upstream: Arc<Upstream>, on: &Handle) -> Arc<Self> {
        let pool = Self::new(upstream);
        on.spawn(Self::tend(Arc::downgrade(&pool)));
        pool
    }

    /// A connection of its own, for bytes that are not looked into.
    pub(super) async fn dial(&self, bytes: Bytes) -> Result<Stream, ForwardError> {
        let mut tried = Tried::default();
        loop {
            let slot = self.choose(&mut tried).await?;
            match slot.dial(bytes).await {
                Ok(stream) => {
                    slot.succeeded();
                    return Ok(stream);
                }
                Err(error) => {
                    slot.failed_with(&error);
                    tried.fail();
                    if !error.is_connect() || !self.has_untried(&tried) {
                        return Err(error);
                    }
                }
            }
        }
    }

    /// Sends a request and waits for the response's head. Where an endpoint cannot be connected
    /// to, the next one is tried at once, those that were `tried` last.
    pub(super) async fn send(
        &self,
        mut request: Request<RequestBody>,
        tried: &mut Tried,
    ) -> Result<Answer, Unanswered> {
        loop {
            let chosen;
            let slot = match &self.only {
                Some(slot) => slot,
                None => match self.choose(tried).await {
                    Ok(slot) => {
                        chosen = slot;
                        &chosen
                    }
                    Err(error) => return Err(Unanswered::unsent(error, request)),
                },
            };
            let load = slot.enter();
            let sent = match self.config().protocol {
                UpstreamProtocol::Http1 => slot.send_http1(request).await,
                UpstreamProtocol::Http2 => slot.send_http2(request).await,
            };
            let mut unanswered = match sent {
                Ok(mut answer) => {
                    slot.answered(answer.response.status());
                    answer.held.load = load;
                    return Ok(answer);
                }
                Err(unanswered) => unanswered,
            };
            slot.failed_with(&unanswered.error);
            if !unanswered.error.is_connect() {
                return Err(unanswered);
            }
            tried.fail();
            match unanswered.unsent.take() {
                Some(unsent) if self.has_untried(tried) => request = unsent,
                unsent => {
                    unanswered.unsent = unsent;
                    return Err(unanswered);
                }
            }
        }
    }

    /// Notes that a call was given up: silence is the endpoint's failure, a caller's is not.
    pub(super) fn given_up(&self, tried: &Tried, why: &ForwardError) {
        if let ForwardError::ResponseTimeout(_) = why
            && let Some(endpoint) = &tried.current
        {
            self.upstream.failed_at(endpoint);
        }
    }

    /// Whether there is an endpoint that the call has not been to.
    pub(super) fn has_untried(&self, tried: &Tried) -> bool {
        let several = self.lock();
        let mut slots = several.slots.iter();
        slots.any(|slot| !tried.has(&slot.endpoint))
    }

    /// The endpoint for the next attempt of a call.
    async fn choose(&self, tried: &mut Tried) -> Result<Arc<Slot>, ForwardError> {
        if let Some(slot) = &self.only {
            return Ok(Arc::clone(slot));
        }
        if let Some(slot) = tried.chosen.take() {
            return Ok(slot);
        }
        if self.upstream.generation() == 0 {
            Box::pin(self.upstream.resolved()).await?;
        }
        let slot = self.pick(tried).ok_or(ForwardError::NoAddress)?;
        tried.current = Some(Arc::clone(&slot.endpoint));
        Ok(slot)
    }

    /// SECURITY: an endpoint that is left out is used all the same when there is no other: a
    /// judgement on all of them says more about the judge (as Envoy's panic mode).
    fn pick(&self, tried: &Tried) -> Option<Arc<Slot>> {
        let several = self.follow();
        let slots = &several.slots;
        if let [slot] = slots.as_slice() {
            return Some(Arc::clone(slot));
        }
        let now = Instant::now();
        let pick = |usable: &dyn Fn(&Arc<Slot>) -> bool| {
            self.balancer
                .pick(slots, |slot| usable(slot), |slot| slot.load())
        };
        let picked = pick(&|slot| slot.endpoint.is_available(now) && !tried.has(&slot.endpoint))
            .or_else(|| pick(&|slot| !tried.has(&slot.endpoint)))
            .or_else(|| pick(&|slot| slot.endpoint.is_available(now)))
            .or_else(|| pick(&|_| true));
        picked.map(Arc::clone)
    }

    /// The endpoints, brought up to date where they have changed.
    fn follow(&self) -> std::sync::MutexGuard<'_, Several> {
        let mut several = self.lock();
        let generation = self.upstream.generation();
        if several.generation != generation {
            several.generation = generation;
            several.update(&self.upstream);
        }
        several
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Several> {
        self.several.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps the pool in order for as long as anybody has it: connections that were idle for too
    /// long, of endpoints that are gone, or to peers that are not trusted any more are closed.
    async fn tend(pool: Weak<Self>) {
        let Some((mut changes, mut wanted, mut identity)) = pool.upgrade().map(|pool| {
            let upstream = &pool.upstream;
            let tls = upstream.tls.as_ref();
            let identity = tls.and_then(|tls| tls.identity()).cloned();
            (upstream.changes(), upstream.circuit.wanted(), identity)
        }) else {
            return;
        };
        loop {
            let trust = async {
                match &mut identity {
                    Some(identity) => identity.changed().await,
                    None => std::future::pending().await,
                }
            };
            let yields = tokio::select! {
                () = tokio::time::sleep(SWEEP) => false,
                Ok(_) = changes.changed() => false,
                () = trust => false,
                Ok(()) = wanted.changed() => true,
            };
            let Some(pool) = pool.upgrade() else { return };
            for slot in pool.slots() {
                match yields {
                    true => slot.yield_one(),
                    false => slot.sweep(),
                }
            }
        }
    }

    fn slots(&self) -> Vec<Arc<Slot>> {
        match &self.only {
            Some(slot) => vec![Arc::clone(slot)],
            None => self.follow().slots.clone(),
        }
    }
}

impl Several {
    /// Keeps the slots of endpoints that are still there, and retires the others.
    fn update(&mut self, upstream: &Arc<Upstream>) {
        let mut before = std::mem::take(&mut self.slots);
        for endpoint in upstream.endpoints().iter() {
            let known = before
                .iter()
                .position(|slot| Arc::ptr_eq(&slot.endpoint, endpoint));
            self.slots.push(match known {
                Some(index) => before.swap_remove(index),
                None => Slot::new(Arc::clone(upstream), Arc::clone(endpoint), true),
            });
        }
        before.iter().for_each(|slot| slot.retire());
    }
}

/// A copy of a request without a body, to be sent a second time.
fn copy(request: &Request<RequestBody>) -> Option<Request<RequestBody>> {
    let opens_tunnel = request.method() == ::http::Method::CONNECT
        || request.headers().contains_key(::http::header::UPGRADE);
    if !request.body().is_end_stream() || opens_tunnel {
        return None;
    }
    Some(super::retry::with_body(request, RequestBody::empty()))
}
