//! An upgraded connection: bytes both ways until either side ends. Nothing is carried
//! before the upstream has said 101 and the caller has been told.

use http::{Response, Version};
use hyper::body::Incoming;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::copy_bidirectional;

use super::body::ResponseBody;
use super::headers;
use crate::enforce::Lease;
use crate::record::Failure;

/// Answers 101 and carries bytes from then on, for as long as the lease holds.
pub(super) fn open(
    mut lease: Lease,
    mut response: Response<Incoming>,
    downstream: OnUpgrade,
) -> Response<ResponseBody> {
    lease.answered(response.status());
    let upstream = hyper::upgrade::on(&mut response);
    tokio::spawn(carry(lease, downstream, upstream));
    let (mut head, _) = response.into_parts();
    head.version = Version::HTTP_11;
    headers::strip_hop_by_hop(&mut head.headers, headers::Upgrade::WebSocket);
    Response::from_parts(head, ResponseBody::empty())
}

async fn carry(mut lease: Lease, downstream: OnUpgrade, upstream: OnUpgrade) {
    let (downstream, upstream) = match tokio::try_join!(downstream, upstream) {
        Ok(sides) => sides,
        Err(error) => {
            tracing::debug!(%error, "upgrade failed");
            return lease.failed(Failure::UpstreamBroke);
        }
    };
    match join(downstream, upstream).await {
        Ok(_) => lease.completed(),
        Err(error) => {
            tracing::debug!(%error, "tunnel ended");
            lease.failed(Failure::UpstreamBroke);
        }
    }
}

async fn join(downstream: Upgraded, upstream: Upgraded) -> std::io::Result<(u64, u64)> {
    let (mut downstream, mut upstream) = (TokioIo::new(downstream), TokioIo::new(upstream));
    copy_bidirectional(&mut downstream, &mut upstream).await
}
