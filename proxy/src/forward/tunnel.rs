//! An upgraded connection: bytes both ways until either side ends. Nothing is carried
//! before the upstream has said 101, or is connected to, and the caller has been told.

use std::io;
use std::time::Duration;

use http::{Response, Version};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use super::error::ForwardError;
use super::headers;
use super::pool::Pool;
use super::response_body::ResponseBody;
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

/// How long one side of a tunnel may go on after the other has closed.
const HALF_CLOSED: Duration = Duration::from_secs(10);

/// Answers 101 and carries bytes from then on, for as long as the lease holds.
pub(super) fn open(
    mut lease: Lease,
    mut response: Response<Incoming>,
    downstream: OnUpgrade,
    tenure: Tenure,
) -> Response<ResponseBody> {
    lease.answered(response.status());
    let upstream = hyper::upgrade::on(&mut response);
    let drain = tenure.drain.clone();
    drain.spawn(switch(lease, downstream, upstream, tenure));
    let (mut head, _) = response.into_parts();
    head.version = Version::HTTP_11;
    headers::strip_hop_by_hop(&mut head.headers, headers::Upgrade::WebSocket);
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

async fn reach(pool: &Pool, bytes: Bytes) -> Result<Stream, ForwardError> {
    match bytes {
        Bytes::Plain => pool.dial().await,
        Bytes::OfCaller => pool.dial_for_tunnel().await,
    }
}

/// Connects an allowed connection to its upstream and carries bytes until either side ends.
pub(crate) async fn dial(
    lease: Lease,
    downstream: Stream,
    pool: &Pool,
    bytes: Bytes,
    tenure: Tenure,
) {
    match reach(pool, bytes).await {
        Ok(upstream) => carry(lease, downstream, upstream, tenure).await,
        Err(error) => {
            let mut entry = lease.end();
            error.tell(entry.id(), pool.config());
            entry.failed(error.failure());
        }
    }
}

/// Connects an allowed `CONNECT` to its upstream, answers 200 once that is done, and carries bytes
/// from then on.
///
/// # Errors
/// A [`Denial`] where the upstream cannot be connected to.
pub(crate) async fn connect(
    mut lease: Lease,
    downstream: OnUpgrade,
    pool: &Pool,
    tenure: Tenure,
) -> Result<Response<ResponseBody>, Denial> {
    let upstream = match reach(pool, Bytes::OfCaller).await {
        Ok(upstream) => upstream,
        Err(error) => {
            let entry = lease.end();
            error.tell(entry.id(), pool.config());
            return Err(Denial::upstream_failed(entry, error.failure()));
        }
    };
    let response = Response::new(ResponseBody::own(bytes::Bytes::new()));
    lease.answered(response.status());
    let drain = tenure.drain.clone();
    drain.spawn(async move {
        match downstream.await {
            Ok(downstream) => carry(lease, TokioIo::new(downstream), upstream, tenure).await,
            Err(error) => {
                tracing::debug!(%error, "upgrade failed");
                lease.failed(Failure::CallerGone);
            }
        }
    });
    Ok(response)
}

async fn switch(mut lease: Lease, downstream: OnUpgrade, upstream: OnUpgrade, tenure: Tenure) {
    match tokio::try_join!(downstream, upstream) {
        Ok((downstream, upstream)) => {
            let (downstream, upstream) = (TokioIo::new(downstream), TokioIo::new(upstream));
            carry(lease, downstream, upstream, tenure).await;
        }
        Err(error) => {
            tracing::debug!(%error, "upgrade failed");
            lease.failed(Failure::UpstreamBroke);
        }
    }
}

/// Carries for as long as the lease holds.
async fn carry(
    mut lease: Lease,
    downstream: impl AsyncRead + AsyncWrite,
    upstream: impl AsyncRead + AsyncWrite,
    tenure: Tenure,
) {
    tokio::select! {
        joined = join(downstream, upstream) => match joined {
            Ok(_) => lease.completed(),
            Err(error) => {
                tracing::debug!(%error, "tunnel ended");
                lease.failed(Failure::UpstreamBroke);
            }
        },
        why = tenure.trust.ended() => {
            tracing::warn!(reason_code = why.reason_code(), error = %why, "peer no longer trusted, tunnel closed");
            lease.failed(Failure::TrustEnded);
        }
        () = tenure.drain.cut() => lease.failed(Failure::Drained),
    }
}

/// Carries bytes both ways. Once one side has ended, the other has a moment to end too.
async fn join(
    downstream: impl AsyncRead + AsyncWrite,
    upstream: impl AsyncRead + AsyncWrite,
) -> io::Result<()> {
    let (mut from_caller, mut to_caller) = tokio::io::split(downstream);
    let (mut from_upstream, mut to_upstream) = tokio::io::split(upstream);
    let up = carry_one_way(&mut from_caller, &mut to_upstream);
    let down = carry_one_way(&mut from_upstream, &mut to_caller);
    tokio::pin!(up, down);
    tokio::select! {
        ended = &mut up => {
            ended?;
            timeout(HALF_CLOSED, down).await.unwrap_or(Ok(()))
        }
        ended = &mut down => {
            ended?;
            timeout(HALF_CLOSED, up).await.unwrap_or(Ok(()))
        }
    }
}

async fn carry_one_way(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
) -> io::Result<()> {
    tokio::io::copy(from, to).await?;
    to.shutdown().await
}
