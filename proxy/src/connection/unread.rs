//! What becomes of an HTTP/1.1 connection when a request is answered before its body was
//! read: a short body is read and thrown away, so that the connection serves the next
//! request; otherwise the answer says that it closes.

use std::time::Duration;

use http::Version;
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};

use crate::denial::Afterwards;

/// Bytes of an unwanted body that are worth a kept connection.
const WORTH_READING: u64 = 64 * 1024;
/// Time that they may take.
const WORTH_WAITING: Duration = Duration::from_secs(1);

/// Reads what is left of a refused request's body, if that is little and the caller does
/// not wait (`expects`) to be told to send it.
pub(super) async fn after(version: Version, expects: bool, body: Incoming) -> Afterwards {
    if when_dropped(version, &body) == Afterwards::Open {
        return Afterwards::Open;
    }
    let short = body
        .size_hint()
        .exact()
        .is_some_and(|bytes| bytes <= WORTH_READING);
    // Reading would make hyper ask for the body with 100 Continue.
    if !short || expects {
        return Afterwards::Closes;
    }
    match tokio::time::timeout(WORTH_WAITING, spend(body)).await {
        Ok(Ok(())) => Afterwards::Open,
        Ok(Err(_)) | Err(_) => Afterwards::Closes,
    }
}

/// What follows when the body is dropped as it is.
pub(super) fn when_dropped(version: Version, body: &Incoming) -> Afterwards {
    match version >= Version::HTTP_2 || body.is_end_stream() {
        true => Afterwards::Open,
        false => Afterwards::Closes,
    }
}

async fn spend(mut body: Incoming) -> Result<(), hyper::Error> {
    while let Some(frame) = body.frame().await {
        frame?;
    }
    Ok(())
}
