//! HTTP/2 towards an endpoint: calls share connections, each up to the streams that the upstream
//! allows for. A connection that went away, stalls or is not trusted any more gets no new call;
//! the calls on it finish.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant, SystemTime};

use http::Request;
use hyper::client::conn::http2;
use hyper::ext::Protocol;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::sync::{Notify, OwnedSemaphorePermit};

use super::slot::{Held, Slot};
use super::{Answer, Unanswered, copy};
use crate::config::{UpstreamConfig, UpstreamProtocol};
use crate::forward::circuit::Admission;
use crate::forward::error::{ForwardError, is_of_one_stream, is_unprocessed};
use crate::forward::request_body::RequestBody;
use crate::forward::tunnel::Bytes;
use crate::forward::vouch::Vouched;
use crate::protocol::http2::{CONNECTION_WINDOW, STREAM_WINDOW};
use crate::stream::Stream;

type Connection = http2::Connection<TokioIo<Stream>, RequestBody, TokioExecutor>;

/// What h2 says of the streams allowed for until the upstream has said it: no number that one
/// could send.
const UNSAID: usize = usize::MAX - 1;
/// How often it is looked whether the upstream has.
const GLANCE: Duration = Duration::from_millis(1);
/// How long a PING may stay unanswered.
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// How often a request is sent again that the upstream did not process.
const RESENDS: u32 = 3;
/// Idle for longer, a connection may have been lost without a word.
const FRESH: Duration = Duration::from_millis(500);

/// The shared connections to one endpoint.
#[derive(Debug, Default)]
pub(super) struct Shared {
    all: Mutex<Vec<Arc<Conn>>>,
    /// Callers wait for one connection attempt instead of each making their own.
    dialing: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct Conn {
    sender: http2::SendRequest<RequestBody>,
    vouched: Option<Box<Vouched>>,
    /// Whether the upstream takes extended CONNECT (RFC 8441 section 3).
    takes_websockets: bool,
    /// Streams that the upstream allows for.
    most: Arc<AtomicUsize>,
    active: AtomicUsize,
    /// Response heads so far.
    answers: AtomicU64,
    /// Gets no new call.
    retired: AtomicBool,
    used: Mutex<Instant>,
    /// To be told when a place becomes free, where calls may have to wait for one.
    freed: Option<Arc<Notify>>,
}

/// One call's place on a connection.
#[derive(Debug)]
pub(super) struct Use(Arc<Conn>);

/// A call that waits for its response head.
struct Waiting {
    conn: Arc<Conn>,
    answers: u64,
    since: Instant,
    patience: Duration,
    over: bool,
}

impl Slot {
    pub(super) async fn send_http2(
        &self,
        mut request: Request<RequestBody>,
    ) -> Result<Answer, Unanswered> {
        let mut resends = 0;
        loop {
            let (place, idle_for) = match self.place().await {
                Ok(place) => place,
                Err(error) => return Err(Unanswered::unsent(error, request)),
            };
            if request.extensions().get::<Protocol>().is_some() && !place.0.takes_websockets {
                return Err(Unanswered::given_up(ForwardError::NoExtendedConnect));
            }
            let stale = idle_for > FRESH && request.method().is_idempotent();
            let patience = self.upstream.config.connect_timeout;
            match place.send(request, stale, patience).await {
                Err(Unanswered {
                    unsent: Some(again),
                    ..
                }) if resends < RESENDS => request = again,
                sent => return sent,
            }
            resends += 1;
        }
    }

    /// A place on a connection that has one, and how long that was idle.
    async fn place(&self) -> Result<(Use, Duration), ForwardError> {
        match self.shared.find() {
            Some(place) => Ok(place),
            None => Box::pin(self.wait_for_place()).await,
        }
    }

    async fn wait_for_place(&self) -> Result<(Use, Duration), ForwardError> {
        let _pending = self.pending();
        let limit = self.upstream.config.connect_timeout;
        loop {
            // Somebody else's attempt is waited for as long as one's own might take.
            let turn = tokio::time::timeout(limit, self.shared.dialing.lock()).await;
            let turn = turn.map_err(|_| ForwardError::ConnectTimeout(limit))?;
            if let Some(place) = self.shared.find() {
                return Ok(place);
            }
            let admission = match self.upstream.circuit.try_connection() {
                Some(admission) => admission,
                None => {
                    drop(turn);
                    self.admit().await?
                }
            };
            if let Admission::Open(permit) = admission {
                let place = self.in_time(self.connect_http2(permit)).await?;
                return Ok((place, Duration::ZERO));
            }
        }
    }

    fn freed_of_limits(&self) -> Option<Arc<Notify>> {
        let limited = self.upstream.circuit.limits_connections();
        limited.then(|| Arc::clone(&self.freed))
    }

    async fn connect_http2(
        &self,
        permit: Option<OwnedSemaphorePermit>,
    ) -> Result<Use, ForwardError> {
        let dialed = self
            .open(permit, Bytes::Plain)
            .await?
            .speaks(UpstreamProtocol::Http2)?;
        let (sender, mut connection) = builder(&self.upstream.config)
            .handshake(TokioIo::new(dialed.stream))
            .await
            .map_err(ForwardError::Handshake)?;
        let streams = preface(&mut connection).await?;
        let most = Arc::new(AtomicUsize::new(streams));
        let takes_websockets = connection.is_extended_connect_protocol_enabled();
        tokio::spawn(drive(connection, Arc::clone(&most)));
        let conn = Arc::new(Conn {
            sender,
            vouched: dialed.vouched,
            takes_websockets,
            most,
            active: AtomicUsize::new(0),
            answers: AtomicU64::new(0),
            retired: AtomicBool::new(false),
            used: Mutex::new(Instant::now()),
            freed: self.freed_of_limits(),
        });
        let place = Use::of(&conn).ok_or(ForwardError::NoStreams)?;
        if !self.is_retired() {
            self.shared.lock().push(conn);
        }
        Ok(place)
    }
}

/// Waits until the upstream has said how many streams it allows for, which is also the proof
/// that it speaks HTTP/2 (RFC 9113 section 3.4). Nothing is sent before.
async fn preface(connection: &mut Connection) -> Result<usize, ForwardError> {
    loop {
        let polled = poll_fn(|cx| Poll::Ready(Pin::new(&mut *connection).poll(cx)));
        match polled.await {
            Poll::Ready(Err(error)) => return Err(ForwardError::Handshake(error)),
            Poll::Ready(Ok(())) => return Err(ForwardError::NoPreface),
            Poll::Pending => {}
        }
        match connection.current_max_send_streams() {
            UNSAID => tokio::time::sleep(GLANCE).await,
            streams => return Ok(streams),
        }
    }
}

/// Drives a connection to its end, and tells how many streams it may have.
async fn drive(mut connection: Connection, most: Arc<AtomicUsize>) {
    let ended = poll_fn(|cx| {
        let polled = Pin::new(&mut connection).poll(cx);
        if polled.is_pending() {
            most.store(connection.current_max_send_streams(), Ordering::Relaxed);
        }
        polled
    });
    if let Err(error) = ended.await {
        tracing::debug!(%error, "upstream connection ended");
    }
}

fn builder(config: &UpstreamConfig) -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    let header_bytes = u32::try_from(config.max_response_header_bytes).unwrap_or(u32::MAX);
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(Some(STREAM_WINDOW))
        .initial_connection_window_size(Some(CONNECTION_WINDOW))
        .initial_max_send_streams(UNSAID)
        .max_header_list_size(header_bytes);
    if let Some(interval) = config.keepalive {
        builder
            .keep_alive_interval(interval)
            .keep_alive_timeout(interval.min(PING_TIMEOUT))
            .keep_alive_while_idle(true);
    }
    builder
}

impl Shared {
    /// A place on the first connection that has one, and how long that was idle.
    fn find(&self) -> Option<(Use, Duration)> {
        let mut all = self.lock();
        all.retain(|conn| conn.is_usable());
        all.iter().find_map(|conn| {
            let idle_for = match conn.is_idle() {
                true => conn.idle_for(),
                false => Duration::ZERO,
            };
            Some((Use::of(conn)?, idle_for))
        })
    }

    pub(super) fn clear(&self) {
        self.lock().clear();
    }

    /// Forgets connections that are no longer to be used, or were idle for too long.
    pub(super) fn sweep(&self, config: &UpstreamConfig, now: SystemTime) {
        self.lock().retain(|conn| {
            let idle = conn.is_idle() && conn.idle_for() > config.pool_idle_timeout;
            conn.is_alive() && conn.holds(now) && !idle
        });
    }

    /// Forgets one connection that nobody uses.
    pub(super) fn yield_one(&self) {
        let mut all = self.lock();
        if let Some(index) = all.iter().position(|conn| conn.is_idle()) {
            all.remove(index);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Conn>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Conn {
    fn is_alive(&self) -> bool {
        !self.sender.is_closed() && !self.retired.load(Ordering::Relaxed)
    }

    fn holds(&self, now: SystemTime) -> bool {
        self.vouched.iter().all(|vouched| vouched.holds(now))
    }

    fn is_usable(&self) -> bool {
        self.is_alive() && (self.vouched.is_none() || self.holds(SystemTime::now()))
    }

    fn is_idle(&self) -> bool {
        self.active.load(Ordering::Relaxed) == 0
    }

    fn retire(&self) {
        self.retired.store(true, Ordering::Relaxed);
    }

    /// How long ago the last call began or ended.
    fn idle_for(&self) -> Duration {
        let used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.elapsed()
    }

    fn touch(&self) {
        *self.used.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }
}

impl Use {
    /// Sends a request from here. It is given back where it was not sent, where the upstream did
    /// not process it, or where the connection may have been lost unseen (`stale`).
    async fn send(
        self,
        request: Request<RequestBody>,
        stale: bool,
        patience: Duration,
    ) -> Result<Answer, Unanswered> {
        let spare = copy(&request);
        let mut waiting = Waiting::on(&self, patience);
        let sent = self.0.sender.clone().try_send_request(request).await;
        waiting.over = true;
        let mut error = match sent {
            Ok(response) => {
                self.0.answers.fetch_add(1, Ordering::Relaxed);
                let held = Held::http2(self);
                return Ok(Answer { response, held });
            }
            Err(error) => error,
        };
        let unsent = error.take_message();
        let error = error.into_error();
        if !is_of_one_stream(&error) {
            self.0.retire();
        }
        let again = stale || is_unprocessed(&error);
        Err(Unanswered {
            error: ForwardError::Broke(error),
            unsent: unsent.or(spare.filter(|_| again)),
        })
    }

    /// A place, where there is one left.
    fn of(conn: &Arc<Conn>) -> Option<Self> {
        let most = conn.most.load(Ordering::Relaxed);
        if conn.active.fetch_add(1, Ordering::Relaxed) < most {
            return Some(Self(Arc::clone(conn)));
        }
        conn.active.fetch_sub(1, Ordering::Relaxed);
        None
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        self.0.touch();
        self.0.active.fetch_sub(1, Ordering::Relaxed);
        if let Some(freed) = &self.0.freed {
            freed.notify_one();
        }
    }
}

impl Waiting {
    fn on(place: &Use, patience: Duration) -> Self {
        Self {
            conn: Arc::clone(&place.0),
            answers: place.0.answers.load(Ordering::Relaxed),
            since: Instant::now(),
            patience,
            over: false,
        }
    }
}

impl Drop for Waiting {
    /// A call that was given up after long silence on the whole connection takes it along: it
    /// may be dead, and later calls should not have to find out.
    fn drop(&mut self) {
        let silent = self.answers == self.conn.answers.load(Ordering::Relaxed);
        if !self.over && silent && self.since.elapsed() >= self.patience {
            self.conn.retire();
        }
    }
}
