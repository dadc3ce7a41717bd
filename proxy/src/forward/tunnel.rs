//! Connections whose bytes are carried and not looked into: TCP, and HTTP that was upgraded.
//! Nothing is carried of the latter before the upstream has said 101 and the caller was told.

use std::time::Duration;

use http::Response;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

use super::carry::{self, Moved};
use super::opening::Handshake;
use super::pool::{Held, Pool};
use super::response_body::ResponseBody;
use super::websocket::{Framed, To};
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

/// Connects an allowed connection to its upstream and carries bytes until both sides have ended,
/// or none moved for `idle`. What does not end well is reset on both sides, so that neither
/// takes what it got for the whole.
pub(crate) async fn dial(
    mut lease: Lease,
    mut downstream: Stream,
    pool: &Pool,
    tenure: Tenure,
    idle: Duration,
) {
    let mut upstream = match pool.dial().await {
        Ok(upstream) => upstream,
        Err(error) => {
            tracing::debug!(error = &error as &dyn std::error::Error, "upstream failed");
            lease.failed(error.failure());
            return downstream.reset();
        }
    };
    let moved = Moved::default();
    let exchange = async {
        tokio::select! {
            ended = carry::both_ways(&mut downstream, &mut upstream, &moved, None) => ended,
            () = moved.idled(idle) => Err(Failure::IdleTimeout),
        }
    };
    let ended = hold(exchange, &mut lease, tenure).await;
    lease.carried(moved.so_far());
    match ended {
        Ok(()) => lease.completed(),
        Err(failure) => {
            lease.failed(failure);
            downstream.reset();
            upstream.reset();
        }
    }
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
    let moved = Moved::default();
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
