//! Connections whose bytes are carried and not looked into: TCP, `CONNECT`, and HTTP that was
//! upgraded. Nothing is carried of the latter two before the upstream has said 101, or is
//! connected to, and the caller was told.

use std::time::Duration;

use http::Response;
use hyper::body::Incoming;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::carry::{self, Moved};
use super::opening::Handshake;
use super::pool::{Held, Pool};
use super::response_body::ResponseBody;
use super::websocket::{Framed, To};
use crate::denial::Denial;
use crate::drain::Drain;
use crate::enforce::Lease;
use crate::record::Failure;
use crate::stream::Stream;
use crate::trust::Trust;

/// How long a tunnel may last, whatever is carried.
pub(crate) struct Tenure {
    pub(crate) trust: Trust,
    pub(crate) drain: Drain,
}

/// How long one side of a WebSocket may go on after the other has closed its connection: the
/// protocol ends with a message of its own, so there is nothing to wait for.
const HALF_CLOSED: Duration = Duration::from_secs(10);

/// Tells the caller that its WebSocket is open, and carries bytes from then on, for as long as
/// the lease holds.
pub(super) fn open(
    mut lease: Lease,
    mut response: Response<Incoming>,
    held: Held,
    handshake: Handshake,
    tenure: Tenure,
) -> Response<ResponseBody> {
    let upstream = hyper::upgrade::on(&mut response);
    let (mut head, _) = response.into_parts();
    handshake.answer(&mut head);
    lease.answered(head.status);
    let drain = tenure.drain.clone();
    drain.spawn(async move {
        switch(lease, handshake.into_caller(), upstream, tenure).await;
        // A tunnel counts as a request in flight until its end.
        drop(held);
    });
    Response::from_parts(head, ResponseBody::own(bytes::Bytes::new()))
}

/// Whose TLS goes through a connection that is not looked into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bytes {
    /// None, or some that is no affair of ours: what the upstream wants is put around them.
    Plain,
    /// The caller's own, where it talks to a host of the web: only mutual TLS is put around them.
    OfCaller,
}

/// Connects an allowed connection to its upstream and carries bytes until both sides have ended,
/// or none moved for `idle`. What does not end well is reset on both sides, so that neither
/// takes what it got for the whole.
pub(crate) async fn dial(
    mut lease: Lease,
    mut downstream: Stream,
    pool: &Pool,
    bytes: Bytes,
    tenure: Tenure,
    idle: Duration,
) {
    match pool.dial(bytes).await {
        Ok(upstream) => {
            if carry(lease, &mut downstream, upstream, tenure, idle)
                .await
                .is_err()
            {
                downstream.reset();
            }
        }
        Err(error) => {
            lease.failed(error.failure());
            error.tell(lease.end().id(), pool.config());
            downstream.reset();
        }
    }
}

/// The connection of a caller who has asked for a tunnel.
pub(crate) struct Downstream {
    pub(crate) upgrade: OnUpgrade,
    /// Cuts it, so that the caller does not take what it got for the whole.
    pub(crate) reset: fn(Upgraded),
}

/// Connects an allowed `CONNECT` to its upstream, answers 200 once that is done, and carries bytes
/// from then on.
///
/// # Errors
/// A [`Denial`] where the upstream cannot be connected to.
pub(crate) async fn connect(
    mut lease: Lease,
    downstream: Downstream,
    pool: &Pool,
    tenure: Tenure,
    idle: Duration,
) -> Result<Response<ResponseBody>, Denial> {
    let upstream = match pool.dial(Bytes::OfCaller).await {
        Ok(upstream) => upstream,
        Err(error) => return Err(super::failed(lease, pool, &error)),
    };
    let response = Response::new(ResponseBody::own(bytes::Bytes::new()));
    lease.answered(response.status());
    let drain = tenure.drain.clone();
    drain.spawn(async move {
        match downstream.upgrade.await {
            Ok(upgraded) => {
                let mut stream = TokioIo::new(upgraded);
                let ended = carry(lease, &mut stream, upstream, tenure, idle).await;
                if ended.is_err() {
                    (downstream.reset)(stream.into_inner());
                }
            }
            Err(error) => {
                tracing::debug!(%error, "upgrade failed");
                lease.failed(Failure::CallerGone);
            }
        }
    });
    Ok(response)
}

/// Carries bytes until both sides have ended, or none moved for `idle`; an upstream that did not
/// end well is reset.
async fn carry(
    mut lease: Lease,
    downstream: impl AsyncRead + AsyncWrite,
    mut upstream: Stream,
    tenure: Tenure,
    idle: Duration,
) -> Result<(), Failure> {
    let moved = Moved::of(&lease);
    let exchange = async {
        tokio::select! {
            ended = carry::both_ways(downstream, &mut upstream, &moved, None) => ended,
            () = moved.idled(idle) => Err(Failure::IdleTimeout),
        }
    };
    let ended = hold(exchange, &mut lease, tenure).await;
    lease.carried(moved.so_far());
    match ended {
        Ok(()) => lease.completed(),
        Err(failure) => {
            lease.failed(failure);
            upstream.reset();
        }
    }
    ended
}

async fn switch(mut lease: Lease, downstream: OnUpgrade, upstream: OnUpgrade, tenure: Tenure) {
    let (mut downstream, mut upstream) = match tokio::try_join!(downstream, upstream) {
        Ok((downstream, upstream)) => (
            Framed::new(TokioIo::new(downstream)),
            Framed::new(TokioIo::new(upstream)),
        ),
        Err(error) => {
            tracing::debug!(%error, "upgrade failed");
            return lease.failed(Failure::UpstreamBroke);
        }
    };
    let moved = Moved::of(&lease);
    let exchange = carry::both_ways(&mut downstream, &mut upstream, &moved, Some(HALF_CLOSED));
    let ended = hold(exchange, &mut lease, tenure).await;
    lease.carried(moved.so_far());
    match ended {
        Ok(()) => lease.completed(),
        Err(failure) => {
            lease.failed(failure);
            tokio::join!(
                downstream.close(To::Client, failure),
                upstream.close(To::Server, failure)
            );
        }
    }
}

/// Lets an exchange go on for as long as the lease holds.
async fn hold(
    exchange: impl Future<Output = Result<(), Failure>>,
    lease: &mut Lease,
    tenure: Tenure,
) -> Result<(), Failure> {
    tokio::select! {
        ended = exchange => ended,
        _ = std::future::poll_fn(|cx| lease.poll_ended(cx)) => Err(Failure::LeaseEnded),
        why = tenure.trust.ended() => {
            tracing::warn!(reason_code = why.reason_code(), error = %why, "peer no longer trusted, tunnel closed");
            Err(Failure::TrustEnded)
        }
        () = tenure.drain.cut() => Err(Failure::Drained),
    }
}
